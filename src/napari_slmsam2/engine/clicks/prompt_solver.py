"""The mask of one slice from points and a box, with any model."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field

from napari_slmsam2.core.errors import PromptError, SlmSam2Warning
from napari_slmsam2.core.intensity import IntensityWindow
from napari_slmsam2.core.prompts import PromptKind, PromptSet, SlicePrompt
from napari_slmsam2.core.segmenter import SliceSegmenter
from napari_slmsam2.core.volume import Volume
from napari_slmsam2.engine.propagation.embedding_cache import EmbeddingCache
from napari_slmsam2.engine.propagation.memory_fallback import MemoryFallback
from napari_slmsam2.engine.propagation.slice_encoding import encode_slice


@dataclass(frozen=True, slots=True)
class PromptSolver:
    """Computes masks from prompts on the slices of a volume; embeddings are cached.

    Parameters
    ----------
    segmenter : SliceSegmenter
    volume : Volume
    window : IntensityWindow
    embeddings : EmbeddingCache, optional
        Of this segmenter, volume and window. Default: a cache of 256 MiB.
    """

    segmenter: SliceSegmenter
    volume: Volume
    window: IntensityWindow
    embeddings: EmbeddingCache = field(default_factory=lambda: EmbeddingCache(2**28))

    def find(self, prompt: SlicePrompt) -> SlicePrompt:
        """The prompt with the mask that the model finds for its points and box.

        Raises
        ------
        PromptError
            It does not fit the volume, or the model finds nothing there.

        Warns
        -----
        SlmSam2Warning
            Memory ran out, and the model was moved to the CPU.
        """
        volume, shape = self.volume, self.volume.slice_shape
        PromptSet().with_prompt(prompt).check(volume.n_slices, shape)
        where = f"{prompt.kind.value} of label {prompt.label} on slice {prompt.index}"
        if prompt.kind is not PromptKind.POINTS:
            raise PromptError(where, "has no points and no box", expected="points or a box")
        fallback = MemoryFallback(self.segmenter, self.embeddings, batch_size=1)
        embedding = encode_slice(
            self.segmenter, volume, self.window, prompt.index, self.embeddings, fallback.call
        )
        found = fallback.call(
            lambda: self.segmenter.encode_seed(embedding, prompt.unanswered(), shape)
        )
        notes = fallback.take_notes()
        if notes:
            warnings.warn(f"{'; '.join(notes)}.", SlmSam2Warning, stacklevel=2)
        mask = found.patch.mask(shape)
        if not mask.any():
            raise PromptError(
                where,
                f"the model {self.segmenter.name!r} finds no object",
                hint="Click in the middle of the object, draw a box, or paint it.",
            )
        return prompt.answered(mask)
