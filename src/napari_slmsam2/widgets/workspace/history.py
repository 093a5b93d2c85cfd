"""Undo and redo: of runs, and of what a person said about a label."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from napari_slmsam2.core.prompts import SlicePrompt

if TYPE_CHECKING:
    from napari_slmsam2.session.session import SegmentationSession
    from napari_slmsam2.widgets.workspace.annotation import Annotation
    from napari_slmsam2.widgets.workspace.labels_sink import LabelsSink


@dataclass(frozen=True, slots=True)
class Change:
    """The pixels of a slice that a mark changed, packed.

    Attributes
    ----------
    where : bytes
    before, after : bytes
        Their labels.
    """

    where: bytes
    before: bytes
    after: bytes

    @classmethod
    def between(cls, before: npt.NDArray[Any], after: npt.NDArray[Any]) -> Self | None:
        """What differs between two states of a slice, shape (H, W); None where nothing does."""
        changed = before != after
        if not changed.any():
            return None
        values = (plane[changed].astype(np.int64).tobytes() for plane in (before, after))
        return cls(zlib.compress(np.packbits(changed).tobytes()), *map(zlib.compress, values))

    def take_back(self, plane: npt.NDArray[Any]) -> None:
        """Bring back what was there, in place, where the change has not been changed since."""
        bits = np.frombuffer(zlib.decompress(self.where), np.uint8)
        changed = np.unpackbits(bits, count=plane.size).reshape(plane.shape).astype(bool)
        before, after = (
            np.frombuffer(zlib.decompress(values), np.int64) for values in (self.before, self.after)
        )
        plane[changed] = np.where(plane[changed] == after, before, plane[changed])


@dataclass(frozen=True, slots=True)
class Mark:
    """Where a label begins and ends, where it is absent, a seed of clicks, or one taken back.

    Attributes
    ----------
    label : int
    extent : tuple of int or None
        First and last slice of the label.
    seeds : mapping of slice index to SlicePrompt or None
        Seeds to set, or to take back.
    pixels : mapping of slice index to Change
        To take back.
    word : str
        What a person calls it.
    """

    label: int
    extent: tuple[int, int] | None
    seeds: Mapping[int, SlicePrompt | None] = field(default_factory=dict)
    pixels: Mapping[int, Change] = field(default_factory=dict)
    word: str = "mark"

    def apply(self, annotation: Annotation, sink: LabelsSink) -> Mark:
        """Say so, and bring the labels in line with it.

        Returns
        -------
        Mark
            The way back, with the pixels that changed.
        """
        label, prompts = self.label, annotation.prompts
        extent = prompts.extents.get(label)
        seeds = {index: prompts.get(label, index) for index in self.seeds}
        annotation.set_prompts(label, self.extent, self.seeds)
        changes = {}
        first, last = annotation.prompts.extents.get(label, (0, annotation.volume.n_slices))
        for index in range(annotation.volume.n_slices):
            if index not in self.pixels and index not in self.seeds and first <= index <= last:
                continue
            plane = sink.read(index)
            before = plane.copy()
            if index in self.pixels:
                self.pixels[index].take_back(plane)
            elif index not in self.seeds and not (plane == label).any():
                continue
            sink.write_plane(index, plane)
            change = Change.between(before, sink.read(index))
            if change is not None:
                changes[index] = change
        return Mark(label, extent, seeds, changes, self.word)


@dataclass(frozen=True, slots=True)
class Run:
    """A run of a session."""

    session: SegmentationSession


class History:
    """What was done to one stack of slices, apart from brush strokes, which have their own undo."""

    def __init__(self) -> None:
        self._done: list[Mark | Run] = []
        self._undone: list[Mark | Run] = []

    @property
    def to_undo(self) -> str | None:
        """``run``, ``mark``, ``click`` or None: what `undo` takes back."""
        return _word(self._done)

    @property
    def to_redo(self) -> str | None:
        """``run``, ``mark``, ``click`` or None: what `redo` brings back."""
        return _word(self._undone)

    def mark(self, mark: Mark, annotation: Annotation, sink: LabelsSink) -> None:
        """Apply a mark."""
        self._done.append(mark.apply(annotation, sink))
        self._undone.clear()

    def note_run(self, session: SegmentationSession) -> None:
        """A session has begun a run."""
        self._done.append(Run(session))
        self._undone.clear()

    def undo(self, annotation: Annotation, sink: LabelsSink) -> str | None:
        """Take back the last run or mark.

        Returns
        -------
        str or None
            ``run``, ``mark``, ``click``, or None where there was nothing.
        """
        return self._go(self._done, self._undone, annotation, sink)

    def redo(self, annotation: Annotation, sink: LabelsSink) -> str | None:
        """Bring back what was taken back last; see `undo`."""
        return self._go(self._undone, self._done, annotation, sink)

    def _go(
        self,
        source: list[Mark | Run],
        target: list[Mark | Run],
        annotation: Annotation,
        sink: LabelsSink,
    ) -> str | None:
        while source:
            step = source.pop()
            if isinstance(step, Mark):
                target.append(step.apply(annotation, sink))
                return step.word
            # The image of an earlier session is gone.
            if step.session is not annotation.session:
                continue
            target.append(step)
            if _swap_run(annotation, sink, undo=target is self._undone):
                return "run"
        return None


def _swap_run(annotation: Annotation, sink: LabelsSink, *, undo: bool) -> bool:
    """Undo, or redo, the session's last run; whether that changed a slice."""
    session = annotation.session
    assert session is not None
    annotation.bring_in_line(session, annotation.prompts)
    changed = session.undo() if undo else session.redo()
    for index in changed:
        sink.write_plane(index, np.array(session.labels[session.volume.slicer(index)]))
    return bool(changed)


def _word(steps: list[Mark | Run]) -> str | None:
    if not steps:
        return None
    return "run" if isinstance(steps[-1], Run) else steps[-1].word
