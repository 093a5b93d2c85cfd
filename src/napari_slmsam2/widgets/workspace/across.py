"""Strokes in another plane than that of the slices: found, protected, and asked about."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
from napari.layers import Labels
from qtpy.QtCore import QObject

from napari_slmsam2.session.across import StrokesAcross
from napari_slmsam2.session.label_array import Plane
from napari_slmsam2.widgets.workspace.stacks import Stack
from napari_slmsam2.widgets.workspace.workspace import Workspace


@dataclass(frozen=True, slots=True)
class PlaneAcross:
    """A plane across the slices.

    Attributes
    ----------
    axis : int
        Of the three axes of the volume, the one that is constant on the plane.
    index : int
        Where the plane is.
    """

    axis: int
    index: int


def is_line(changed: npt.NDArray[np.bool_]) -> bool:
    """Whether all that changed on a slice, shape (H, W), is in one row or one column."""
    return bool(changed.any()) and 1 in (
        np.count_nonzero(changed.any(axis=0)),
        np.count_nonzero(changed.any(axis=1)),
    )


def find_plane_across(stack: Stack, indices: Iterable[int]) -> PlaneAcross | None:
    """The plane on which everything lies that a person changed on several slices.

    Parameters
    ----------
    stack : Stack
    indices : iterable of int
        Slices that differ from the accepted labels.

    Returns
    -------
    PlaneAcross or None
        None where the changes lie on one slice, or on no single plane of another axis.
    """
    annotation = stack.annotation
    height, width = annotation.volume.slice_shape
    occupied = [np.zeros(height, bool), np.zeros(width, bool)]
    n_changed = 0
    for index in indices:
        changed = stack.sink.read(index) != annotation.plane(index)
        occupied[0] |= changed.any(axis=1)
        occupied[1] |= changed.any(axis=0)
        n_changed += bool(changed.any())
    if n_changed < 2:
        return None
    for axis, places in zip(annotation.volume.plane_axes, occupied, strict=True):
        if np.count_nonzero(places) == 1:
            return PlaneAcross(axis, int(places.argmax()))
    return None


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """What strokes across the slices are to be.

    Attributes
    ----------
    strokes : StrokesAcross
    slices, painted : Stack
        Along which the slices run, and on which the strokes lie.
    """

    strokes: StrokesAcross
    slices: Stack
    painted: Stack


class PaintedAcross(QObject):
    """Series of strokes across the slices of Labels layers, until it is decided what they are.

    Parameters
    ----------
    workspace : Workspace
    """

    def __init__(self, workspace: Workspace) -> None:
        super().__init__(workspace)
        self._workspace = workspace
        self._questions: WeakKeyDictionary[Labels, list[Question]] = WeakKeyDictionary()

    @property
    def question(self) -> Question | None:
        """The latest open question about the voxels on screen."""
        here, labels = self._workspace.stack, self._workspace.labels
        if here is None or labels is None:
            return None
        for found in reversed(self._questions.get(labels, [])):
            same = found.painted.annotation.key == here.annotation.key
            if same and found.painted in self._workspace.stacks and found.strokes.planes:
                return found
        return None

    def take(self, stack: Stack, index: int, plane: Plane) -> tuple[int, ...]:
        """Take over what a person changed on a slice of a stack, see `Annotation.take_edit`.

        It belongs to a question where the stack is not the one on screen, or where it has no seeds
        so far and the same voxels have seeds on slices along another axis.

        Returns
        -------
        tuple of int
            The labels that changed.
        """
        if np.array_equal(plane, stack.annotation.plane(index)):
            return ()
        questions = self._questions.setdefault(stack.sink.layer, [])
        found = next(
            (x for x in reversed(questions) if x.painted is stack and x.strokes.planes), None
        )
        if found is None:
            slices = self._slices_beside(stack)
            if slices is None:
                return stack.annotation.take_edit(index, plane)
            found = Question(StrokesAcross(slices.annotation, stack.annotation), slices, stack)
            # Strokes that were undone are those of the new series where they are redone.
            questions[:] = [x for x in questions if x.strokes.count_crossed()[0]]
            questions.append(found)
        return found.strokes.take(index, plane)

    def _slices_beside(self, stack: Stack) -> Stack | None:
        """The stack whose slices are meant where another one is painted on; None for itself."""
        here, key = self._workspace.stack, stack.annotation.key
        if here is not stack:
            return here
        others = [x for x in self._workspace.stacks if x is not stack and x.annotation.key == key]
        if len(stack.annotation.prompts) or not others:
            return None
        most = max(others, key=lambda other: len(other.annotation.prompts))
        return most if len(most.annotation.prompts) else None

    # -- answers

    def correct(self, question: Question) -> None:
        """The strokes correct the slices that they cross, see `StrokesAcross.correct`."""
        self._workspace.show_stack(question.slices)
        self._workspace.show(question.strokes.correct())

    def run_along(self, question: Question) -> None:
        """The painted planes are the slices from now on."""
        for one in self._questions.get(question.painted.sink.layer, ()):
            if one.painted is question.painted:
                one.strokes.settled = True
        self._workspace.show_stack(question.painted)
        self._workspace.seeds_changed.emit()

    def remove(self, question: Question) -> None:
        """Remove the strokes, see `StrokesAcross.remove`."""
        self._workspace.show_stack(question.slices)
        self._workspace.show(question.strokes.remove())
