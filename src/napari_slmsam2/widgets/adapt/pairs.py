"""Training data: pairs of layers or of files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from napari import Viewer
from napari.layers import Image, Labels
from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QKeyEvent
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QTableWidget, QTableWidgetItem

from napari_slmsam2.core.errors import ConfigError, SlmSam2Error
from napari_slmsam2.session.annotation import Annotation
from napari_slmsam2.widgets.adapt.task import FilePair, OpenPair
from napari_slmsam2.widgets.annotate.panel import AnnotateWidget
from napari_slmsam2.widgets.common.own_layers import is_own
from napari_slmsam2.widgets.runs.quality import confident_slices
from napari_slmsam2.widgets.workspace.grid import (
    SliceView,
    StackArray,
    axis_name,
    check_same_grid,
    make_volume,
    view_on_screen,
)


@dataclass(frozen=True, slots=True, eq=False)
class LayerPair:
    """An image and its labels in the viewer, and the stack of slices to train on.

    Attributes
    ----------
    image : Image
    labels : Labels
    view : SliceView
        As it was on screen when the pair was added.
    """

    image: Image
    labels: Labels
    view: SliceView

    @classmethod
    def on_screen(cls, image: Image, labels: Labels, viewer: Viewer) -> LayerPair:
        """The slices that the sliders walk through.

        Raises
        ------
        GridMismatchError, VolumeError
            The labels do not lie on the image, or there are no slices.
        """
        check_same_grid(image, labels)
        return cls(image, labels, view_on_screen(image, viewer.dims))

    def describe(self) -> str:
        """One sentence for the tooltip."""
        volume = make_volume(self.image, self.view)
        along = axis_name(self.view.layer_axis, self.image.axis_labels)
        return f"{volume.n_slices} slices along axis {along}, as on screen when it was added."

    def read(self, viewer: Viewer, *, seeds: bool, confident: bool = False) -> OpenPair:
        """Copy the labels as they are now.

        Parameters
        ----------
        viewer : Viewer
        seeds : bool
            Take the annotated slices only, where the panel "Annotate" knows which they are.
        confident : bool
            With ``seeds``: take the propagated slices that nothing speaks against, too.

        Raises
        ------
        ConfigError
            It is not known yet how good the propagated slices are.
        """
        known = annotated(viewer, self.labels, confident=confident) if seeds else None
        if known is not None:
            return known
        stack = StackArray(self.labels.data, self.view)
        return OpenPair(make_volume(self.image, self.view), np.array(stack[(slice(None),) * 3]))


def annotated(viewer: Viewer, labels: Labels, *, confident: bool = False) -> OpenPair | None:
    """The volume and the slices to train on, if a panel is open on this layer.

    Parameters
    ----------
    viewer : Viewer
    labels : Labels
    confident : bool
        Not the painted slices alone, see `LayerPair.read`.

    Raises
    ------
    ConfigError
        See `LayerPair.read`.
    """
    for widget in viewer.window.dock_widgets.values():
        if not isinstance(widget, AnnotateWidget) or widget.workspace.labels is not labels:
            continue
        annotation = widget.workspace.annotation
        if annotation is not None and any(p.mask is not None for p in annotation.prompts):
            if confident and widget.runner.running and widget.runner.annotation is annotation:
                raise ConfigError(
                    "confident slices",
                    "are not known during a run",
                    hint="Wait for its end or stop it, or train on the painted slices alone.",
                )
            trusted = confident_slices(annotation) if confident else {}
            return OpenPair(annotation.volume, _learned(annotation, trusted), trusted)
    return None


def _learned(
    annotation: Annotation, trusted: Mapping[int, tuple[int, ...]]
) -> npt.NDArray[np.integer]:
    """Labels on painted and on trusted slices only."""
    volume = annotation.volume
    found = np.zeros(volume.shape, np.int32)
    for label, indices in trusted.items():
        for index in indices:
            found[volume.slicer(index)][annotation.plane(index) == label] = label
    for prompt in annotation.prompts:
        if prompt.mask is not None:
            found[volume.slicer(prompt.index)][prompt.mask] = prompt.label
    return found


Pair = LayerPair | FilePair


class PairTable(QTableWidget):
    """Image and labels of every pair; Delete takes the chosen ones out."""

    changed = Signal()

    def __init__(self, viewer: Viewer) -> None:
        super().__init__(0, 2)
        self._viewer = viewer
        self._pairs: list[Pair] = []
        self.setHorizontalHeaderLabels(["Image", "Labels"])
        self.setToolTip("One to five volumes to train on. Delete removes the chosen ones.")
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        self.setWordWrap(False)
        self.verticalHeader().hide()
        self.verticalHeader().setDefaultSectionSize(22)
        self.horizontalHeader().setSectionResizeMode(QHeaderView.ResizeMode.Stretch)
        self.setFixedHeight(100)
        viewer.layers.events.removed.connect(self._on_removed)

    def close_connections(self) -> None:
        """Let go of viewer and layers."""
        self._viewer.layers.events.removed.disconnect(self._on_removed)
        self._set([])

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """What is shown."""
        return tuple(self._pairs)

    def add(self, pair: Pair) -> None:
        """Add a pair, unless it is in the table."""
        if not any(_names(pair) == _names(old) and _same(pair, old) for old in self._pairs):
            self._set([*self._pairs, pair])

    def remove_selected(self) -> None:
        """Take the chosen pairs out; the only one also where it is not chosen."""
        chosen = {index.row() for index in self.selectedIndexes()}
        if len(self._pairs) == 1:
            chosen = {0}
        self._set([pair for row, pair in enumerate(self._pairs) if row not in chosen])

    def keyPressEvent(self, event: QKeyEvent) -> None:  # noqa: N802 - Qt's name
        """Delete and Backspace take the chosen pairs out."""
        if event.key() in (Qt.Key.Key_Delete, Qt.Key.Key_Backspace):
            self.remove_selected()
        else:
            super().keyPressEvent(event)

    def _on_removed(self, event: Any) -> None:
        gone = event.value
        kept = [
            pair
            for pair in self._pairs
            if isinstance(pair, FilePair) or gone not in (pair.image, pair.labels)
        ]
        if len(kept) < len(self._pairs):
            self._set(kept)

    def _set(self, pairs: Sequence[Pair]) -> None:
        for layer in _layers(self._pairs):
            layer.events.name.disconnect(self._show)
        self._pairs = list(pairs)
        for layer in _layers(self._pairs):
            layer.events.name.connect(self._show)
        self._show()
        self.changed.emit()

    def _show(self, event: Any = None) -> None:
        self.clearSelection()
        self.setRowCount(len(self._pairs))
        for row, pair in enumerate(self._pairs):
            tips = (
                (str(pair.image), str(pair.labels))
                if isinstance(pair, FilePair)
                else (pair.describe(),) * 2
            )
            for column, (name, tip) in enumerate(zip(_names(pair), tips, strict=True)):
                item = QTableWidgetItem(name)
                item.setToolTip(tip)
                self.setItem(row, column, item)


def read_pairs(
    pairs: Sequence[Pair], viewer: Viewer, *, seeds: bool, confident: bool = False
) -> tuple[OpenPair | FilePair, ...]:
    """What a worker needs of the pairs; see `LayerPair.read`."""
    return tuple(
        pair if isinstance(pair, FilePair) else pair.read(viewer, seeds=seeds, confident=confident)
        for pair in pairs
    )


def first_pair(viewer: Viewer) -> LayerPair | None:
    """The topmost labels with a label in them, and their image."""
    for labels in reversed(viewer.layers):
        if not isinstance(labels, Labels) or labels.multiscale or is_own(labels):
            continue
        if not np.any(labels.data):
            continue
        for image in reversed(viewer.layers):
            if isinstance(image, Image):
                try:
                    return LayerPair.on_screen(image, labels, viewer)
                except SlmSam2Error:
                    continue
    return None


def _layers(pairs: Sequence[Pair]) -> list[Image | Labels]:
    """Every layer once."""
    layers = [x for p in pairs if isinstance(p, LayerPair) for x in (p.image, p.labels)]
    return list({id(layer): layer for layer in layers}.values())


def _names(pair: Pair) -> tuple[str, str]:
    return pair.image.name, pair.labels.name


def _same(one: Pair, other: Pair) -> bool:
    if isinstance(one, LayerPair) and isinstance(other, LayerPair):
        return one.labels is other.labels and one.image is other.image and one.view == other.view
    return one == other
