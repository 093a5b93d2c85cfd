"""From the pixels that a person changed on a slice to a seed, and back when strokes are undone."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from napari_slmsam2.core.prompts import PromptKind, PromptSet, SlicePrompt

_Mask = npt.NDArray[np.bool_]


class Strokes:
    """What each label looked like before it became a seed.

    Painting programs undo strokes by restoring pixels. A label that is restored to its pixels
    from before it was a seed is no seed any more; one that is restored to the mask found for
    clicks has those clicks again.

    Attributes
    ----------
    drawn : set of int
        Labels to which a person added pixels or clicks.
    """

    def __init__(self) -> None:
        self.drawn: set[int] = set()
        self._before: dict[tuple[int, int], bytes] = {}
        self._clicked: dict[tuple[int, int], SlicePrompt] = {}

    def take(
        self, prompts: PromptSet, label: int, index: int, before: _Mask, now: _Mask
    ) -> PromptSet:
        """The seeds after a stroke changed the pixels of a label on a slice.

        Parameters
        ----------
        prompts : PromptSet
        label, index : int
        before, now : ndarray of bool, shape (H, W)
            The pixels of the label; they differ.

        Returns
        -------
        PromptSet
            Pixels outside the label's extent widen the extent.
        """
        key = label, index
        seed = prompts.get(label, index)
        if seed is None:
            self._before[key] = _packed(before)
        elif seed.kind is PromptKind.POINTS:
            self._clicked[key] = seed
        clicked = self._clicked.get(key)
        if clicked is not None and clicked.mask is not None and (clicked.mask == now).all():
            return prompts.with_prompt(clicked)
        if self._before.get(key) == _packed(now):
            self.forget(label, index)
            return prompts.without(label, index)
        if (now & ~before).any():
            self.drawn.add(label)
        extent = prompts.extents.get(label)
        if extent and now.any() and not extent[0] <= index <= extent[1]:
            # Painting takes precedence over a mark.
            prompts = prompts.with_extent(label, min(extent[0], index), max(extent[1], index))
        return prompts.with_prompt(SlicePrompt.from_mask(label, index, now))

    def set_seed(self, prompt: SlicePrompt) -> None:
        """A seed is set that is not painted: there are no strokes of it to undo."""
        self.forget(prompt.label, prompt.index)
        if prompt.kind is not PromptKind.ABSENT:
            self.drawn.add(prompt.label)

    def forget(self, label: int, index: int) -> None:
        """The pixels from before a seed no longer matter."""
        self._before.pop((label, index), None)
        self._clicked.pop((label, index), None)

    def forget_before(self) -> None:
        """From now on an empty slice means absent, also where it was empty before it was painted.

        Called at the end of a run: the label has been there since.
        """
        self._before.clear()

    def reset(self, prompts: PromptSet) -> None:
        """Start again from the seeds of an earlier session."""
        self.drawn = {p.label for p in prompts if p.kind is not PromptKind.ABSENT}
        self._before.clear()
        self._clicked.clear()


def _packed(mask: npt.NDArray[Any]) -> bytes:
    return np.packbits(mask).tobytes()
