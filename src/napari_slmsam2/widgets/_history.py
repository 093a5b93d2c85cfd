"""Undo and redo: of runs, and of what a person said about a label."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from napari_slmsam2.core.prompts import SlicePrompt

if TYPE_CHECKING:
    from napari_slmsam2.session import SegmentationSession
    from napari_slmsam2.widgets._annotation import Annotation
    from napari_slmsam2.widgets._labels_sink import LabelsSink


@dataclass(frozen=True, slots=True)
class Mark:
    """Where a label begins and ends, where it is absent, or a seed that is taken back.

    Attributes
    ----------
    label : int
    extent : tuple of int or None
        First and last slice of the label.
    seeds : mapping of slice index to SlicePrompt or None
        Seeds to set, or to take back.
    pixels : mapping of slice index to bytes
        Packed masks of the label, to bring back where nothing else lies now.
    """

    label: int
    extent: tuple[int, int] | None
    seeds: Mapping[int, SlicePrompt | None] = field(default_factory=dict)
    pixels: Mapping[int, bytes] = field(default_factory=dict)

    def apply(self, annotation: Annotation, sink: LabelsSink) -> Mark:
        """Say so, and bring the labels in line with it.

        Returns
        -------
        Mark
            The way back, with the pixels that were removed.
        """
        label, prompts = self.label, annotation.prompts
        extent = prompts.extents.get(label)
        seeds = {index: prompts.get(label, index) for index in self.seeds}
        annotation.say(label, self.extent, self.seeds)
        removed = {}
        first, last = annotation.prompts.extents.get(label, (0, annotation.volume.n_slices))
        for index in range(annotation.volume.n_slices):
            if index not in self.pixels and index not in self.seeds and first <= index <= last:
                continue
            plane = sink.read(index)
            before = plane == label
            if index in self.pixels:
                plane[_unpacked(self.pixels[index], plane.shape) & (plane == 0)] = label
            elif not before.any() and index not in self.seeds:
                continue
            sink.write_plane(index, plane)
            lost = before & (sink.read(index) != label)
            if lost.any():
                removed[index] = np.packbits(lost).tobytes()
        return Mark(label, extent, seeds, removed)


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
        """``run``, ``mark``, or None: what `undo` takes back."""
        return _word(self._done)

    @property
    def to_redo(self) -> str | None:
        """``run``, ``mark``, or None: what `redo` brings back."""
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
            ``run``, ``mark``, or None where there was nothing.
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
                return "mark"
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
    return "run" if isinstance(steps[-1], Run) else "mark"


def _unpacked(packed: bytes, shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    bits = np.unpackbits(np.frombuffer(packed, np.uint8), count=int(np.prod(shape)))
    return bits.reshape(shape).astype(bool)
