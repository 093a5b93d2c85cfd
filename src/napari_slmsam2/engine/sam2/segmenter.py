"""A network as a `SliceSegmenter`: one slice and a batch of labels at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from napari_slmsam2.core.errors import DeviceMemoryError
from napari_slmsam2.core.memory import MemoryBank
from napari_slmsam2.core.prompts import PromptKind, SlicePrompt
from napari_slmsam2.core.segmenter import SegmentedSlice, SweepContext
from napari_slmsam2.core.soft_masks import LogitPatch
from napari_slmsam2.engine.clicks.as_clicks import as_clicks
from napari_slmsam2.engine.device import (
    computing,
    free_cached_memory,
    free_memory,
    move_to_cpu,
)
from napari_slmsam2.engine.propagation.embedding_files import EmbeddingFiles
from napari_slmsam2.engine.sam2.label_memory import bytes_per_label, labels_that_fit
from napari_slmsam2.engine.sam2.masks import MeasuredMasks, copy_masks, measure_masks, read_masks
from napari_slmsam2.engine.sam2.memory import (
    ConfidentMemory,
    LongTermMemory,
    MemorySelection,
    ShortTermMemory,
)
from napari_slmsam2.engine.sam2.network import SliceNetwork, encode_distances
from napari_slmsam2.engine.sam2.preprocess import SlicePreprocessor
from napari_slmsam2.engine.sam2.repeated import CapturedCall, RepeatedCall, capture_cuda_graph
from napari_slmsam2.engine.sam2.tensors import ImageEmbedding, MemoryTokens, SliceOutput

#: Slices that are encoded together on CUDA, ahead of the sweep.
_AHEAD = 4


@dataclass(slots=True)
class SliceMemory:
    """What a network remembers of one label on one slice.

    Attributes
    ----------
    map : Tensor, shape (M, h, w)
        Memory map.
    pointer : Tensor, shape (C,)
        Object pointer.
    descriptor : Tensor of float32, shape (C,), on the CPU, or None
        Pooled image feature of the slice, of unit length; only confident memory needs it.
    """

    map: Tensor
    pointer: Tensor
    descriptor: Tensor | None = None


class NetworkSegmenter:
    """Runs a `SliceNetwork` slice by slice.

    Parameters
    ----------
    network : SliceNetwork
        With its weights loaded. It is moved to the device and set to evaluation mode.
    name : str
        For reports.
    device : torch.device
    dtype : torch.dtype
        Of the computation.
    memory_dtype : torch.dtype
        Of the stored memory maps; SAM 2 stores bfloat16.
    memory : {"standard", "confident"}
        What the long-term memory attention reads: see `LongTermMemory` and `ConfidentMemory`.
    files : EmbeddingFiles, optional
        Where embeddings are kept for later sessions. Not used on CUDA, which encodes a slice in
        less time than a disk stores it.
    """

    bidirectional = True
    default_merge = "sweeps"
    prompt_kinds = frozenset(PromptKind)

    def __init__(
        self,
        network: SliceNetwork,
        *,
        name: str,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        memory_dtype: torch.dtype = torch.bfloat16,
        memory: str = "standard",
        files: EmbeddingFiles | None = None,
    ) -> None:
        self.name = name
        self._files = files
        self.network = network.to(device).eval()
        self.dtype = dtype
        self.memory_dtype = memory_dtype
        views = {"standard": LongTermMemory, "confident": ConfidentMemory}
        self.long_term: LongTermMemory = views[memory](network.config)
        self.short_term = ShortTermMemory(network.config)
        self.reach = max(self.long_term.reach, self.short_term.reach)
        self.neighbours = network.config.encoded_slices // 2
        self._use_device(device)
        self._storage = device

    def _use_device(self, device: torch.device) -> None:
        self.device = device
        self.preprocessor = SlicePreprocessor(self.network.config.image_size, device)
        self.ahead = _AHEAD if device.type == "cuda" else 0
        self.use_calls(_captured if device.type == "cuda" else RepeatedCall)

    def use_calls(self, make: Callable[[Callable[..., tuple[Tensor, ...]]], RepeatedCall]) -> None:
        """Compute the parts of the network with calls of one kind, see `RepeatedCall`."""
        self._encode = make(self._compute_embedding)
        self._track = make(self._compute_masks)
        self._encode_memory = make(self._compute_maps)
        self._measure = make(measure_masks)

    def captured_calls(self) -> dict[str, int]:
        """How many kinds of calls run as CUDA graphs, and how many could not; empty without any."""
        counts: Counter[str] = Counter()
        for call in (self._encode, self._track, self._encode_memory, self._measure):
            counts.update(call.summary())
        return dict(counts)

    def _compute_embedding(self, _: object, images: Tensor) -> tuple[Tensor, ...]:
        embedding = self.network.encode_image(images)
        return embedding.feature, *embedding.high_res

    def _compute_masks(
        self,
        rows: tuple[tuple[int, ...], tuple[int, ...]],
        feature: Tensor,
        fine: Tensor,
        middle: Tensor,
        *memory: Tensor | None,
    ) -> tuple[Tensor, ...]:
        long, short = (
            MemoryTokens(maps, known, pointers, distances)
            for known, (maps, pointers, distances) in zip(
                rows, (memory[:3], memory[3:]), strict=True
            )
        )
        output = self.network.track(ImageEmbedding(feature, (fine, middle)), long, short)
        return output.low_res_logits, output.presence_logit, output.pointer, output.predicted_iou

    def _compute_maps(
        self, prompted: bool, feature: Tensor, low_res: Tensor, presence: Tensor
    ) -> tuple[Tensor, ...]:
        return (self.network.encode_memory(feature, low_res, presence, prompted=prompted),)

    def encode_image(self, image: npt.NDArray[np.float32]) -> ImageEmbedding:
        """See `SliceSegmenter.encode_image`."""
        return self.encode_images([image])[0]

    def encode_images(self, images: Sequence[npt.NDArray[np.float32]]) -> list[ImageEmbedding]:
        """The embeddings of several slices, as one batch; see `SliceSegmenter.encode_image`."""
        files = None if self.device.type == "cuda" else self._files
        if files is None:
            return self._encode_images(images)
        size = self.network.config.image_size
        keys = [files.key(image, size, self.dtype, self.device.type) for image in images]
        stored = {key: tensors for key in keys if (tensors := files.get(key)) is not None}
        found = {key: ImageEmbedding.of(stored[key]).to(self._storage) for key in stored}
        missing = {key: image for key, image in zip(keys, images, strict=True) if key not in found}
        if missing:
            new = self._encode_images(list(missing.values()))
            found |= zip(missing, new, strict=True)
            for key in missing:
                files.put(key, found[key].tensors())
        return [found[key] for key in keys]

    def _encode_images(self, images: Sequence[npt.NDArray[np.float32]]) -> list[ImageEmbedding]:
        with computing(self.device, self.dtype):
            slices = [
                self.preprocessor.image(one)
                for image in images
                for one in image.reshape(-1, *image.shape[-2:])
            ]
            feature, fine, middle = self._encode(None, torch.cat(slices))
            embeddings = ImageEmbedding(feature, (fine, middle)).split()
            if len(images) > 1:  # a view would keep the whole batch alive
                embeddings = [embedding.clone() for embedding in embeddings]
            return [embedding.to(self._storage) for embedding in embeddings]

    def encode_seed(
        self, embedding: ImageEmbedding, prompt: SlicePrompt, shape: tuple[int, int]
    ) -> SegmentedSlice:
        """See `SliceSegmenter.encode_seed`."""
        with computing(self.device, self.dtype):
            embedding = embedding.to(self.device)
            output = self.answer(embedding, prompt, shape)
            content = self.remember(embedding, output, prompted=True)
            [result] = read_masks(copy_masks([self._measured(output, shape)]), content)
        if prompt.mask is not None:
            result.patch = LogitPatch.of_mask(prompt.mask)
            result.area = result.centroid = None
        return result

    def segment(
        self,
        embedding: ImageEmbedding,
        index: int,
        direction: int,
        banks: Sequence[MemoryBank],
        context: SweepContext,
    ) -> list[SegmentedSlice]:
        """See `SliceSegmenter.segment`. Labels with equal memory structure share a batch."""
        order: list[int] = []
        masks: list[MeasuredMasks] = []
        contents: list[SliceMemory] = []
        with computing(self.device, self.dtype):
            embedding = embedding.to(self.device)
            for members, memory in self.read(banks, index, direction, context.n_slices, embedding):
                output = self.track(embedding, *memory)
                order += members
                masks.append(self._measured(output, context.shape))
                contents += self.remember(embedding, output, prompted=False)
            copy = copy_masks(masks)
            self._encode_ahead(context)
            results = dict(zip(order, read_masks(copy, contents), strict=True))
        return [results[i] for i in range(len(banks))]

    def track(
        self, embedding: ImageEmbedding, long: MemoryTokens, short: MemoryTokens
    ) -> SliceOutput:
        """Segment a batch of labels from memory alone; call it inside `computing`."""
        memory = (t for m in (long, short) for t in (m.maps, m.pointers, m.distances))
        results = self._track(
            (long.rows, short.rows), embedding.feature, *embedding.high_res, *memory
        )
        return SliceOutput(*results)

    def _measured(self, output: SliceOutput, shape: tuple[int, int]) -> MeasuredMasks:
        results = self._measure(
            shape, output.low_res_logits, output.presence_logit, output.predicted_iou
        )
        return MeasuredMasks(*results)

    def _encode_ahead(self, context: SweepContext) -> None:
        """Encode the next slices while the device and the copy of the masks are at work."""
        if not self.ahead or context.encode_next is None:
            return
        try:
            context.encode_next(self.ahead, self.encode_images)
        except DeviceMemoryError:
            self.ahead = 0

    def labels_at_once(self, shape: tuple[int, int], *, seeds: int, reserved: int) -> int:
        """Labels that a call of `segment` can take, see `SliceSegmenter`."""
        per_label = bytes_per_label(self.network.config, shape, seeds)
        free = max(0, free_memory(self.device) - reserved)
        return labels_that_fit(free, per_label, self.device)

    def free_memory(self) -> str | None:
        """First keep everything but the network off the device, then compute on the CPU."""
        if self.device.type == "cpu":
            return None
        if self._storage.type != "cpu":
            self._storage = torch.device("cpu")
            self.ahead = 0
            self.use_calls(RepeatedCall)
            free_cached_memory(self.device)
            return f"{self.device} is short of memory: stored features were moved off it"
        note = move_to_cpu(self.network, self.device)
        self.network.float()
        self._use_device(torch.device("cpu"))
        self.dtype = torch.float32
        return note

    def answer(
        self,
        embedding: ImageEmbedding,
        prompt: SlicePrompt,
        shape: tuple[int, int],
        memory: tuple[MemoryTokens, MemoryTokens] | None = None,
        previous_logits: Tensor | None = None,
    ) -> SliceOutput:
        """The network's reading of one prompt; call it inside `computing`.

        Parameters
        ----------
        embedding : ImageEmbedding
        prompt : SlicePrompt
            What it refines is read first, unless ``previous_logits`` stand for it.
        shape : tuple of int
            ``(H, W)`` of the slice.
        memory : tuple of MemoryTokens, optional
            For clicks that correct a tracked slice.
        previous_logits : Tensor, shape (1, 1, S/4, S/4), optional
        """
        size = self.network.config.image_size
        if prompt.kind is PromptKind.ABSENT:
            empty = torch.zeros(1, 1, size, size, device=self.device)
            return self.network.prompt_mask(embedding, empty)
        if prompt.mask is not None:
            return self.network.prompt_mask(embedding, self.preprocessor.mask(prompt.mask))
        if previous_logits is None and prompt.previous is not None:
            earlier = self.answer(embedding, prompt.previous, shape, memory)
            previous_logits = earlier.low_res_logits
        coordinates, labels = self.preprocessor.points(as_clicks(prompt, shape), shape)
        return self.network.prompt_points(embedding, coordinates, labels, previous_logits, memory)

    def remember(
        self, embedding: ImageEmbedding, output: SliceOutput, *, prompted: bool
    ) -> list[SliceMemory]:
        """What to keep of each label of a batch; call it inside `computing`."""
        (maps,) = self._encode_memory(
            prompted, embedding.feature, output.low_res_logits, output.presence_logit
        )
        maps = maps.to(device=self._storage, dtype=self.memory_dtype)
        descriptor = self._descriptor(embedding)
        # Copies: a view would keep the whole batch alive.
        return [
            SliceMemory(memory_map.clone(), pointer.clone(), descriptor)
            for memory_map, pointer in zip(maps, output.pointer, strict=True)
        ]

    def read(
        self,
        banks: Sequence[MemoryBank],
        index: int,
        direction: int,
        n_slices: int,
        embedding: ImageEmbedding,
    ) -> list[tuple[list[int], tuple[MemoryTokens, MemoryTokens]]]:
        """Memory of each label, in groups of equal structure that can share a batch.

        Parameters
        ----------
        banks : sequence of MemoryBank
        index : int
        direction : {+1, -1}
        n_slices : int
        embedding : ImageEmbedding
            Of the slice.

        Returns
        -------
        list of (members, (long, short))
            ``members`` are positions in ``banks``.
        """
        groups: dict[object, list[tuple[int, MemorySelection, MemorySelection]]] = {}
        descriptor = self._descriptor(embedding)
        for position, bank in enumerate(banks):
            long = self._read_long_term(bank, index, direction, n_slices, descriptor)
            short = self.short_term.select(bank, index, direction, n_slices)
            groups.setdefault((long.structure, short.structure), []).append((position, long, short))
        longest = max(1, min(n_slices, self.network.config.max_pointers) - 1)
        return [
            (
                [position for position, _, _ in group],
                (
                    self._tokens([long for _, long, _ in group], longest),
                    self._tokens([short for _, _, short in group], longest),
                ),
            )
            for group in groups.values()
        ]

    def _read_long_term(
        self,
        bank: MemoryBank,
        index: int,
        direction: int,
        n_slices: int,
        descriptor: Tensor | None,
    ) -> MemorySelection:
        if descriptor is None or not isinstance(self.long_term, ConfidentMemory):
            return self.long_term.select(bank, index, direction, n_slices)
        self.long_term.admit(bank, index - direction)
        return self.long_term.select_similar(bank, index, direction, n_slices, descriptor)

    def _descriptor(self, embedding: ImageEmbedding) -> Tensor | None:
        """The image feature averaged over the slice, of unit length; shape (C,), on the CPU."""
        if not isinstance(self.long_term, ConfidentMemory):
            return None
        pooled = embedding.feature.detach().float().mean((0, 2, 3)).cpu()
        return torch.nn.functional.normalize(pooled, dim=0)

    def _tokens(self, selections: Sequence[MemorySelection], longest: int) -> MemoryTokens:
        rows, distances = selections[0].structure
        if not rows:
            return MemoryTokens()
        labels = len(selections)
        maps = [s.maps[k][0].content.map for k in range(len(rows)) for s in selections]
        tokens = MemoryTokens(self._stack(maps, labels), rows)
        if distances:
            entries = [s.pointers[k][0] for k in range(len(distances)) for s in selections]
            tokens.pointers = self._stack([entry.content.pointer for entry in entries], labels)
            channels = self.network.config.model_dim
            tokens.distances = encode_distances(distances, longest, channels, self.device)
        return tokens

    def _stack(self, tensors: Sequence[Tensor], labels: int) -> Tensor:
        """One tensor on the device, of shape (entries, labels, ...), with one copy."""
        # What was stored before memory ran out is still on the device.
        stacked = torch.stack([tensor.to(self.device) for tensor in tensors])
        return stacked.view(-1, labels, *stacked.shape[1:])


def _captured(compute: Callable[..., tuple[Tensor, ...]]) -> RepeatedCall:
    return CapturedCall(compute, capture_cuda_graph)
