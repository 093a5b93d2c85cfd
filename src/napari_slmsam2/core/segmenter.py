"""The protocol between the propagator and a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from napari_slmsam2.core.memory import MemoryBank
from napari_slmsam2.core.prompts import PromptKind, SlicePrompt
from napari_slmsam2.core.soft_masks import LogitPatch

EncodeNext = Callable[[int, Callable[[Sequence[npt.NDArray[np.float32]]], Sequence[Any]]], None]


@dataclass(slots=True)
class SegmentedSlice:
    """One label on one slice, as the model sees it.

    Attributes
    ----------
    patch : LogitPatch
        Mask logits at the resolution of the slice, in the box around those above -4; above 0 is
        the object.
    presence : float
        Probability that the object is on the slice. Below 0.5 the mask does not count.
    predicted_iou : float
        0 to 1.
    stability : float
        0 to 1.
    content : object
        What a `MemoryEntry` of this slice shall hold.
    area : int or None
        Pixels of the mask, if the model has measured it on its device.
    centroid : tuple of float or None
        ``(row, column)`` of that mask; None where it is empty.
    """

    patch: LogitPatch
    presence: float
    predicted_iou: float
    stability: float
    content: Any
    area: int | None = None
    centroid: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class SliceVisit:
    """A slice to segment for a batch of labels.

    Attributes
    ----------
    embedding : object
        Of the slice, from `SliceSegmenter.encode_image`.
    index : int
    direction : {+1, -1}
        The sweep comes from ``index - direction``.
    banks : sequence of MemoryBank
        One per label.
    """

    embedding: Any
    index: int
    direction: int
    banks: Sequence[MemoryBank]


class SliceSegmenter(Protocol):
    """A model that propagates masks from slice to slice.

    Attributes
    ----------
    name : str
    reach : int
        How many slices back the memory of visited slices is read.
    bidirectional : bool
        Whether the backward sweep of a gap can differ from the forward one. If not, gaps between
        two seeds are swept once.
    default_merge : {"sweeps", "interpolation"}
        What ``merge="auto"`` means for this model.
    prompt_kinds : frozenset of PromptKind
        Seeds that the model can read.
    neighbours : int
        Slices on either side that the embedding of a slice depends on.

    A segmenter may have ``most_stored`` as well: bytes of embeddings beyond which storing them
    saves no time, less than the setting ``embedding_budget``.

    A segmenter may have ``labels_at_once(shape, *, seeds, reserved)``: labels that a call of
    `segment` can take on slices of shape (H, W), with up to ``seeds`` annotated slices per label,
    while ``reserved`` bytes stay free.

    A segmenter may have ``segment_visits(visits, context)``, which segments several `SliceVisit` as
    one batch and gives the results of all in their order: then a forward and a backward sweep run
    side by side.
    """

    name: str
    reach: int
    bidirectional: bool
    default_merge: str
    prompt_kinds: frozenset[PromptKind]
    neighbours: int

    def encode_image(self, image: npt.NDArray[np.float32]) -> Any:
        """What all labels share of one slice.

        Parameters
        ----------
        image : ndarray of float32, shape (H, W), or (2 * neighbours + 1, H, W)
            Intensities scaled to 0..1 by the volume's intensity window. A model with neighbours
            reads the slice between them.

        Returns
        -------
        object
            An embedding; ``nbytes`` is the memory that it takes.
        """
        ...

    def encode_seed(
        self, embedding: Any, prompt: SlicePrompt, shape: tuple[int, int]
    ) -> SegmentedSlice:
        """Read one annotated slice.

        Parameters
        ----------
        embedding : object
            Of the slice, from `encode_image`.
        prompt : SlicePrompt
        shape : tuple of int
            ``(H, W)`` of the slice.

        Returns
        -------
        SegmentedSlice
            For a mask the logits have its signs; for points and boxes they are the model's
            answer.
        """
        ...

    def segment(
        self,
        embedding: Any,
        index: int,
        direction: int,
        banks: Sequence[MemoryBank],
        context: SweepContext,
    ) -> list[SegmentedSlice]:
        """Segment one slice for a batch of labels.

        Parameters
        ----------
        embedding : object
            Of the slice, from `encode_image`.
        index : int
        direction : {+1, -1}
            The sweep comes from ``index - direction``.
        banks : sequence of MemoryBank
            One per label.
        context : SweepContext

        Returns
        -------
        list of SegmentedSlice
            One per bank.

        Raises
        ------
        DeviceMemoryError
            The batch does not fit; the propagator tries a smaller one.
        """
        ...

    def free_memory(self) -> str | None:
        """Make room after `DeviceMemoryError` on a single label.

        Returns
        -------
        str or None
            What was done, for the user; None where nothing is left to try.
        """
        ...


@dataclass(frozen=True, slots=True)
class SweepContext:
    """What a model may know about the sweep besides its memory.

    Attributes
    ----------
    n_slices : int
        Slices of the volume.
    shape : tuple of int
        ``(H, W)`` of a slice.
    spacing : tuple of float
        ``(slice, row, column)`` distance of the voxel centres.
    extents : mapping of label to (first, last)
        First and last slice of the labels whose ends the person marked.
    embedding_of : callable, optional
        Gives the embedding of any slice, from `SliceSegmenter.encode_image`.
    encode_next : callable, optional
        ``encode_next(count, encode)`` stores the embeddings of the next slices of the run, if the
        next one is not stored yet; ``encode(images)`` gives them for up to ``count`` images. A
        model calls it when its device is at work and the host would wait.
    """

    n_slices: int
    shape: tuple[int, int]
    spacing: tuple[float, float, float]
    extents: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    embedding_of: Callable[[int], Any] | None = None
    encode_next: EncodeNext | None = None
