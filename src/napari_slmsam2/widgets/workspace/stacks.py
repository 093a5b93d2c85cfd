"""The annotations of Labels layers: one per stack of slices, all over the same labels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, ref

import numpy as np
from napari.components import Dims
from napari.layers import Image, Labels

from napari_slmsam2.core.volume import Volume
from napari_slmsam2.io.chunked_array import compressed_labels
from napari_slmsam2.io.layer_grid import table_of
from napari_slmsam2.session.annotation import Annotation
from napari_slmsam2.session.label_array import SharedLabels
from napari_slmsam2.widgets.workspace.grid import SliceView, make_volume
from napari_slmsam2.widgets.workspace.labels_sink import LabelsSink
from napari_slmsam2.widgets.workspace.placement import PlacementWatcher

if TYPE_CHECKING:
    from napari_slmsam2.session.session import SegmentationSession


@dataclass(slots=True, eq=False)
class Stack:
    """One stack of slices of a Labels layer.

    Attributes
    ----------
    annotation : Annotation
    sink : LabelsSink
        Shows the annotation on the layer.
    session : SegmentationSession or None
        Runs the annotation; made by the first run, and used by its worker thread only.
    """

    annotation: Annotation
    sink: LabelsSink
    session: SegmentationSession | None = None


VOXELS_CHANGED = "The voxels of the image changed"


class Stacks:
    """The stacks of slices of all Labels layers that were worked on.

    Parameters
    ----------
    placement : PlacementWatcher
        Counts the versions of the voxels of an image.
    dims : Dims
        Of the viewer.
    """

    def __init__(self, placement: PlacementWatcher, dims: Dims) -> None:
        self._placement = placement
        self._dims = dims
        self._stacks: WeakKeyDictionary[Labels, dict[SliceView, Stack]] = WeakKeyDictionary()
        self._accepted: WeakKeyDictionary[Labels, SharedLabels[Annotation]] = WeakKeyDictionary()
        self._sources: WeakKeyDictionary[Annotation, tuple[ref[Image], int]] = WeakKeyDictionary()

    def of(self, labels: Labels | None) -> tuple[Stack, ...]:
        """The stacks of a Labels layer that were on screen: planes, time points."""
        return () if labels is None else tuple(self._stacks.get(labels, {}).values())

    def at(self, image: Image, labels: Labels, view: SliceView) -> Stack:
        """The stack of a view, with a new annotation where it was not on screen before."""
        stacks = self._stacks.setdefault(labels, {})
        if view not in stacks:
            if labels not in self._accepted:
                self._accepted[labels] = SharedLabels(_blank_like(labels.data, view.layer_axis))
                self._accepted[labels].table = table_of(labels.metadata)
            annotation = Annotation(
                make_volume(image, view),
                self._accepted[labels],
                key=view.key((slice(None),) * 3),
                deferred=True,
            )
            self._sources[annotation] = self._source(image)
            stacks[view] = Stack(annotation, LabelsSink(labels, view, annotation, self._dims))
        return stacks[view]

    def forget_other_shape(self, labels: Labels) -> None:
        """Drop the annotations of a layer whose array has another shape now."""
        accepted = self._accepted.get(labels)
        if accepted is not None and accepted.array.shape != labels.data.shape:
            del self._accepted[labels], self._stacks[labels]

    def renew_volumes(self, image: Image, labels: Labels) -> Iterator[tuple[Annotation, str]]:
        """Give the annotations of the labels the volume that the image is now.

        Seeds and labels stay on their voxels; what was computed from another volume is dropped.

        Yields
        ------
        annotation : Annotation
            One that has another volume now.
        what : str
            What changed, for a message.
        """
        source = self._source(image)
        for view, stack in self._stacks.get(labels, {}).items():
            annotation = stack.annotation
            volume, before = make_volume(image, view), self._sources[annotation]
            self._sources[annotation] = source
            if before[0] != source[0]:
                what = "Another image was chosen"
            elif before != source:
                what = VOXELS_CHANGED
            elif not _same_size(volume, annotation.volume):
                what = "The voxel size of the image changed"
            else:
                continue
            annotation.replace_volume(volume)
            stack.session = None
            yield annotation, what

    def with_replaced_voxels(self, image: Image, labels: Labels | None) -> Iterator[Annotation]:
        """Annotations of the labels whose image has other voxels than they were made from."""
        for stack in self.of(labels):
            made_from, version = self._sources[stack.annotation]
            if made_from() is image and version != self._placement.version(image):
                yield stack.annotation

    def _source(self, image: Image) -> tuple[ref[Image], int]:
        return ref(image), self._placement.version(image)


def _blank_like(data: Any, axis: int) -> Any:
    """Labels of zeros: compressed where those of the layer are not in memory either."""
    if type(data) is np.ndarray:
        return np.zeros(data.shape, data.dtype)
    return compressed_labels(data.shape, data.dtype, axis)


def _same_size(one: Volume, other: Volume) -> bool:
    return one.unit == other.unit and np.allclose(one.spacing, other.spacing, rtol=1e-6)
