"""SAM 2's and SLM-SAM 2's own order of work, for comparison with them.

Both directions share one state here, so that a reverse walk reads what the forward walk left
behind. The `Propagator` gives each gap and direction a state of its own instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from napari_slmsam2.core.memory import MemoryBank, MemoryEntry
from napari_slmsam2.core.prompts import PromptKind, SlicePrompt
from napari_slmsam2.engine.device import computing
from napari_slmsam2.engine.sam2.segmenter import NetworkSegmenter
from napari_slmsam2.engine.sam2.tensors import ImageEmbedding, SliceOutput


@dataclass(frozen=True, slots=True)
class ReferenceSlice:
    """One slice of a walk.

    Attributes
    ----------
    index : int
    outputs : dict of label to SliceOutput
        Batch size 1 each.
    logits : dict of label to ndarray of float32, shape (H, W)
        At the resolution of the slice.
    """

    index: int
    outputs: dict[int, SliceOutput]
    logits: dict[int, npt.NDArray[np.float32]]


class ReferenceOrder:
    """Prompts and walks as in the published predictors.

    Labels are independent of each other, as in SAM 2. (The published SLM-SAM 2 shares
    conditioning slices among its labels; the two agree when all labels are prompted on the same
    slices.)

    Parameters
    ----------
    segmenter : NetworkSegmenter
    encode : callable
        ``encode(index)`` gives the `ImageEmbedding` of a slice.
    n_slices : int
    shape : tuple of int
        ``(H, W)`` of a slice.
    keep_corrections : bool
        A click on a walked slice stays as it is in later walks (SLM-SAM 2); SAM 2 walks over it
        again and loses the correction.
    """

    def __init__(
        self,
        segmenter: NetworkSegmenter,
        encode: Callable[[int], ImageEmbedding],
        n_slices: int,
        shape: tuple[int, int],
        *,
        keep_corrections: bool = True,
    ) -> None:
        self._segmenter = segmenter
        self._encode = encode
        self._n_slices = n_slices
        self._shape = shape
        self._keep_corrections = keep_corrections
        self._banks: dict[int, MemoryBank] = {}
        self._outputs: dict[tuple[int, int], SliceOutput] = {}
        self._walked: dict[tuple[int, int], int] = {}
        self._corrected: set[tuple[int, int]] = set()

    def add_prompt(self, prompt: SlicePrompt) -> ReferenceSlice:
        """Give a prompt; on a walked slice it corrects the walk.

        Clicks feed back the logits that the slice has so far.
        """
        label, index = key = prompt.label, prompt.index
        segmenter = self._segmenter
        bank = self._banks.setdefault(label, MemoryBank(label))
        embedding = self._encode(index)
        direction = self._walked.get(key)
        with computing(segmenter.device, segmenter.dtype):
            memory = None
            if direction is not None and prompt.kind is PromptKind.POINTS:
                [(_, memory)] = segmenter.read([bank], index, direction, self._n_slices, embedding)
            earlier = self._outputs.get(key)
            output = segmenter.answer(
                embedding,
                prompt,
                self._shape,
                memory,
                None if earlier is None else earlier.low_res_logits,
            )
            [content] = segmenter.remember(embedding, output, prompted=True)
        bank.add(MemoryEntry(index, is_seed=direction is None, content=content))
        self._outputs[key] = output
        if direction is not None:
            self._corrected.add(key)
        return self._walked_slice(index, {label: output})

    def walk(
        self, start: int | None = None, *, reverse: bool = False, limit: int | None = None
    ) -> Iterator[ReferenceSlice]:
        """Walk over the slices from ``start``; prompted slices come back as stored.

        Parameters
        ----------
        start : int, optional
            Default: the first prompted slice of all labels.
        reverse : bool
            Towards lower slice indices. From slice 0 that yields nothing.
        limit : int, optional
            Slices after the first one. Default: to the end of the volume.
        """
        if start is None:
            start = min(i for bank in self._banks.values() for i in bank.seeds)
        limit = self._n_slices if limit is None else limit
        if reverse:
            indices = range(start, max(start - limit, 0) - 1, -1) if start > 0 else range(0)
        else:
            indices = range(start, min(start + limit, self._n_slices - 1) + 1)
        direction = -1 if reverse else 1
        for index in indices:
            outputs = {
                label: self._visit(bank, index, direction) for label, bank in self._banks.items()
            }
            yield self._walked_slice(index, outputs)

    def _visit(self, bank: MemoryBank, index: int, direction: int) -> SliceOutput:
        key = bank.label, index
        kept = index in bank.seeds or (self._keep_corrections and key in self._corrected)
        if not kept:
            segmenter = self._segmenter
            embedding = self._encode(index)
            with computing(segmenter.device, segmenter.dtype):
                [(_, memory)] = segmenter.read([bank], index, direction, self._n_slices, embedding)
                output = segmenter.network.track(embedding, *memory)
                [content] = segmenter.remember(embedding, output, prompted=False)
            bank.add(MemoryEntry(index, is_seed=False, content=content))
            self._outputs[key] = output
        self._walked[key] = direction
        return self._outputs[key]

    def _walked_slice(self, index: int, outputs: dict[int, SliceOutput]) -> ReferenceSlice:
        to_slice = self._segmenter.preprocessor.to_slice
        return ReferenceSlice(
            index,
            outputs,
            {
                label: to_slice(o.low_res_logits, self._shape)[0].cpu().numpy()
                for label, o in outputs.items()
            },
        )
