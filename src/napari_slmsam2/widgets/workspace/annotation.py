"""What a person has said about one stack of slices. Knows neither napari nor Qt."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_slmsam2.core.errors import PromptError
from napari_slmsam2.core.intensity import IntensityWindow, parse_window
from napari_slmsam2.core.prompts import PromptKind, PromptSet, SlicePrompt
from napari_slmsam2.core.volume import Volume
from napari_slmsam2.widgets.workspace.history import History

if TYPE_CHECKING:
    from napari_slmsam2.session.session import SegmentationSession


class SeenLabels:
    """The array of a Labels layer as it was last seen, for all that look at the layer.

    Parameters
    ----------
    shape : tuple of int
    dtype : dtype
    """

    def __init__(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
        self.array = np.zeros(shape, dtype)

    def widen(self, dtype: npt.DTypeLike) -> None:
        """Make room for the values of another dtype."""
        needed = np.promote_types(self.array.dtype, dtype)
        if needed != self.array.dtype:
            self.array = self.array.astype(needed)


class Annotation:
    """Seeds of one stack of slices, made out of what changes in its labels.

    It holds the labels as they were last seen. What differs from them was done by a person and
    becomes a seed; what the program writes is told to `note_written` and does not.

    Parameters
    ----------
    volume : Volume
    seen : SeenLabels, optional
        Shared by the annotations of one layer. Default: empty labels of the volume's shape.
    key : tuple, optional
        Where the volume lies in it.

    Attributes
    ----------
    prompts : PromptSet
        The truth about seeds and extents; a session is brought in line with it when a run starts.
    history : History
    session : SegmentationSession or None
        Made by the first run. Only a running worker may touch it while it runs.
    model, window : object, str
        What the session was last given.
    """

    def __init__(
        self, volume: Volume, seen: SeenLabels | None = None, key: tuple[Any, ...] = ()
    ) -> None:
        self.volume = volume
        self.prompts = PromptSet()
        self.history = History()
        self._seen = SeenLabels(volume.shape, np.uint8) if seen is None else seen
        self._key = key
        self.session: SegmentationSession | None = None
        self.model: object = None
        self.window = ""
        self._drawn: set[int] = set()
        self._before: dict[tuple[int, int], bytes] = {}
        self._clicked: dict[tuple[int, int], SlicePrompt] = {}
        self._windows: tuple[Volume, dict[str, IntensityWindow]] | None = None

    @property
    def touched(self) -> frozenset[tuple[int, int]]:
        """``(label, index)`` of the seeds that changed since they were last run."""
        session, now = self.session, self.prompts
        if session is None:
            return frozenset(now.prompts)
        then = session.prompts
        touched = {
            key
            for key in (*now.prompts, *then.prompts)
            if now.prompts.get(key) is not then.prompts.get(key)
        }
        moved = {
            label
            for label in (*now.extents, *then.extents)
            if now.extents.get(label) != then.extents.get(label)
        }
        touched |= {key for key in now.prompts if key[0] in moved}
        return session.touched | touched

    def intensity_window(self, text: str) -> IntensityWindow:
        """What a window means on this volume, see `parse_window`; found out once."""
        volume = self.volume
        if self._windows is None or self._windows[0] is not volume:
            self._windows = volume, {}
        found = self._windows[1]
        if text not in found:
            found[text] = parse_window(text, volume)
        return found[text]

    @property
    def known(self) -> npt.NDArray[Any]:
        """The labels as they were last seen, shape of the volume."""
        known: npt.NDArray[Any] = self._seen.array[self._key]
        return known

    def plane(self, index: int) -> npt.NDArray[Any]:
        """The labels of a slice as they were last seen, shape (H, W)."""
        plane: npt.NDArray[Any] = self.known[self.volume.slicer(index)]
        return plane

    def note_written(self, index: int, plane: npt.NDArray[Any]) -> None:
        """Take note of a slice that the program wrote."""
        self._seen.widen(plane.dtype)
        self.known[self.volume.slicer(index)] = plane

    def take_edit(self, index: int, plane: npt.NDArray[Any]) -> tuple[int, ...]:
        """Turn what a person did to a slice into seeds.

        Every label whose pixels changed becomes a seed with the pixels that it has now. A label
        that was there and is gone is absent. Where a label is back at what it was before it became
        a seed (undo), the seed is taken back; where it is back at what was found for clicks, the
        clicks are.

        Parameters
        ----------
        index : int
        plane : ndarray of int, shape (H, W)
            The labels of the slice now.

        Returns
        -------
        tuple of int
            The labels that changed.
        """
        known = self.plane(index)
        changed = plane != known
        if not changed.any():
            return ()
        values = np.union1d(np.unique(known[changed]), np.unique(plane[changed]))
        labels = tuple(int(v) for v in values if v > 0)
        for label in labels:
            self._take_label(label, index, known == label, plane == label)
        self.note_written(index, plane)
        return labels

    def _take_label(
        self, label: int, index: int, before: npt.NDArray[Any], now: npt.NDArray[Any]
    ) -> None:
        seed = self.prompts.get(label, index)
        if seed is None:
            self._before[label, index] = np.packbits(before).tobytes()
        elif seed.kind is PromptKind.POINTS:
            self._clicked[label, index] = seed
        clicked = self._clicked.get((label, index))
        if clicked is not None and clicked.mask is not None and (clicked.mask == now).all():
            self.prompts = self.prompts.with_prompt(clicked)
            return
        if self._before.get((label, index)) == np.packbits(now).tobytes():
            self.remove(label, index)
            return
        if (now & ~before).any():
            self._drawn.add(label)
        extent = self.prompts.extents.get(label)
        if extent and now.any() and not extent[0] <= index <= extent[1]:
            # The person's brush overrules the mark.
            self.prompts = self.prompts.with_extent(
                label, min(extent[0], index), max(extent[1], index)
            )
        self.prompts = self.prompts.with_prompt(SlicePrompt.from_mask(label, index, now))

    def extent_with(self, label: int, index: int, *, first: bool) -> tuple[int, int] | None:
        """The extent of a label that begins (``first``) or ends on this slice.

        The same mark again takes it back. None where neither end is known.

        Raises
        ------
        PromptError
            A seed of the label lies outside.
        """
        last_slice = self.volume.n_slices - 1
        begin, end = self.prompts.extents.get(label, (0, last_slice))
        if first:
            begin = 0 if begin == index and index > 0 else index
            end = max(begin, end)
        else:
            end = last_slice if end == index and index < last_slice else index
            begin = min(begin, end)
        if (begin, end) == (0, last_slice):
            return None
        return self.prompts.with_extent(label, begin, end).extents[label]

    def set_prompts(
        self,
        label: int,
        extent: tuple[int, int] | None,
        seeds: Mapping[int, SlicePrompt | None],
    ) -> None:
        """Set the extent of a label, and its seeds on some slices (None: there is none).

        Seeds outside widen the extent.
        """
        prompts = self.prompts.without_extent(label)
        for index, seed in seeds.items():
            self._forget(label, index)
            prompts = prompts.without(label, index)
            if seed is not None:
                prompts = prompts.with_prompt(seed)
                if not _is_absent(seed):
                    self._drawn.add(label)
        if extent is not None:
            inside = [p.index for p in prompts if p.label == label and not _is_absent(p)]
            first, last = min([extent[0], *inside]), max([extent[1], *inside])
            prompts = prompts.with_extent(label, first, last)
        self.prompts = prompts

    def remove(self, label: int, index: int) -> None:
        """Take a seed back; its pixels stay."""
        self._forget(label, index)
        self.prompts = self.prompts.without(label, index)

    def _forget(self, label: int, index: int) -> None:
        """There is no undoing of what was painted before."""
        self._before.pop((label, index), None)
        self._clicked.pop((label, index), None)

    def protect(self, index: int, plane: npt.NDArray[Any]) -> None:
        """Put every seed, and what the marks say, into a slice that is about to be written."""
        for label, (first, last) in self.prompts.extents.items():
            if not first <= index <= last:
                plane[plane == label] = 0
        for prompt in self.prompts.on_slice(index):
            if prompt.is_open:
                continue
            plane[plane == prompt.label] = 0
            if prompt.mask is not None:
                plane[prompt.mask] = prompt.label

    def labels_to_run(self) -> tuple[int, ...]:
        """Labels that a person drew, with a slice to start from.

        A label that was only painted over or erased somewhere is left alone: nobody asked to
        propagate it.

        Raises
        ------
        PromptError
            There is none.
        """
        present = {p.label for p in self.prompts if p.kind is not PromptKind.ABSENT}
        labels = tuple(sorted(present & self._drawn))
        if not labels:
            raise PromptError(
                "seeds",
                "there is nothing to propagate yet",
                hint="Paint the object on one slice of the Labels layer, then propagate.",
            )
        return labels

    def forget_undo(self) -> None:
        """From now on an empty slice means absent, also where it was empty before it was painted.

        For the end of a run: the label has been there since.
        """
        self._before.clear()

    def adopt(self, labels: Any) -> None:
        """Take labels as they are, without making seeds of them; seeds take over their pixels.

        Parameters
        ----------
        labels : array_like of int, shape of the volume
        """
        self._seen.widen(labels.dtype)
        known = self.known
        for block in _blocks(self.volume.shape):
            now = np.asarray(labels[block, :, :])
            if not np.array_equal(now, known[block]):
                known[block] = now
        for prompt in list(self.prompts):
            if prompt.is_open:
                continue
            now = self.plane(prompt.index) == prompt.label
            if not np.array_equal(now, now & False if prompt.mask is None else prompt.mask):
                self.prompts = self.prompts.with_prompt(
                    SlicePrompt.from_mask(prompt.label, prompt.index, now)
                )

    def restore(self, prompts: PromptSet) -> None:
        """Take over the seeds of an earlier session."""
        self.prompts, self.history = prompts, History()
        self._drawn = {p.label for p in prompts if p.kind is not PromptKind.ABSENT}
        self._before.clear()
        self._clicked.clear()

    def labelled_slices(self) -> tuple[int, ...]:
        """The slices that hold a label."""
        other = tuple(a for a in range(3) if a != self.volume.axis)
        return tuple(np.flatnonzero(self.known.any(axis=other)).tolist())

    def changed_slices(self, labels: Any) -> tuple[int, ...]:
        """The slices on which labels differ from what was last seen.

        Parameters
        ----------
        labels : array_like of int, shape of the volume
            Read in blocks along its first axis.
        """
        found: set[int] = set()
        axis = self.volume.axis
        for block in _blocks(self.volume.shape):
            now = np.asarray(labels[block, :, :])
            changed = now != self.known[block]
            if changed.any():
                other = tuple(a for a in range(3) if a != axis)
                start = block.start if axis == 0 else 0
                found.update((np.flatnonzero(changed.any(axis=other)) + start).tolist())
        return tuple(sorted(found))

    def bring_in_line(self, session: SegmentationSession, prompts: PromptSet) -> None:
        """Give a session these seeds, and the labels as they were last seen.

        Parameters
        ----------
        session : SegmentationSession
            Nobody else may use it meanwhile.
        prompts : PromptSet
        """
        for old in list(session.prompts):
            if prompts.get(old.label, old.index) is None:
                session.remove_prompt(old.label, old.index)
        for label in set(session.prompts.extents) - set(prompts.extents):
            session.clear_extent(label)
        for label, extent in prompts.extents.items():
            if session.prompts.extents.get(label) != extent:
                session.clear_extent(label)
        for prompt in prompts:
            if session.prompts.get(prompt.label, prompt.index) is not prompt:
                session.add_prompt(prompt)
        for label, extent in prompts.extents.items():
            if session.prompts.extents.get(label) != extent:
                session.set_extent(label, *extent)
        known = self.known
        if known.dtype.itemsize > session.labels.dtype.itemsize:
            session.labels = session.labels.astype(known.dtype)
        for block in _blocks(self.volume.shape):
            if not np.array_equal(session.labels[block], known[block]):
                session.labels[block] = known[block]


def _is_absent(prompt: SlicePrompt) -> bool:
    return prompt.kind is PromptKind.ABSENT


def _blocks(shape: tuple[int, int, int]) -> Iterator[slice]:
    """Blocks along the first axis of about a million voxels."""
    step = max(1, 2**20 // (shape[1] * shape[2]))
    for start in range(0, shape[0], step):
        yield slice(start, min(start + step, shape[0]))
