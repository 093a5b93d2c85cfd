"""A volume with its labels, its seeds, and what was propagated from them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from napari_slmsam2.core.errors import GridMismatchError, PromptError
from napari_slmsam2.core.prompts import PromptSet, SlicePrompt
from napari_slmsam2.core.quality import SliceQuality, Suggestion, rank_slices
from napari_slmsam2.core.seed_planes import warn_of_other_planes
from napari_slmsam2.core.volume import Volume
from napari_slmsam2.engine.propagation.result import PropagationResult


class AnnotatedVolume:
    """Labels and seeds of a volume; seeds are written into the labels at once.

    Parameters
    ----------
    volume : Volume
    labels : ndarray of int, shape of the volume, optional
        Labels to start from; written in place, until a label does not fit their dtype: then
        `labels` becomes a wider copy. Default: an empty volume.

    Raises
    ------
    GridMismatchError
        The labels have another shape than the volume.
    """

    def __init__(self, volume: Volume, labels: npt.NDArray[np.integer] | None = None) -> None:
        self.volume = volume
        if labels is not None:
            self._check_shape(labels, "labels")
        self.labels = np.zeros(volume.shape, dtype=np.uint8) if labels is None else labels
        self._prompts = PromptSet()
        self._touched: set[tuple[int, int]] = set()
        self._result = PropagationResult()

    def _check_shape(self, array: npt.NDArray[np.integer], what: str) -> None:
        if tuple(array.shape) != self.volume.shape:
            raise GridMismatchError(
                what,
                "differ in shape from the image",
                expected=self.volume.shape,
                found=tuple(array.shape),
            )

    @property
    def prompts(self) -> PromptSet:
        """All seeds and extents."""
        return self._prompts

    @property
    def touched(self) -> frozenset[tuple[int, int]]:
        """``(label, index)`` of the seeds that changed since they were last run."""
        return frozenset(self._touched)

    @property
    def quality(self) -> Mapping[int, Mapping[int, SliceQuality]]:
        """Scores of every propagated slice, by label and slice index."""
        return self._result.quality

    def logits_on_slice(self, index: int) -> dict[int, npt.NDArray[np.float32]]:
        """Mask logits of every label that was propagated to a slice, before overlaps.

        Returns
        -------
        dict of label to ndarray of float32, shape (H, W)
            Within -8 and 8; above 0 is the object.
        """
        return self._result.label_logits(index)

    def suggestions(self) -> tuple[Suggestion, ...]:
        """Slices to look at, most urgent first."""
        seeds = {label: self._prompts.seeds(label) for label in self._prompts.labels}
        return rank_slices(self.quality, seeds)

    def add_prompt(self, prompt: SlicePrompt) -> None:
        """Annotate one slice of one label.

        A mask is written into the labels at once; points and boxes without one (see
        `SegmentationSession.answer`) at the next run.

        Raises
        ------
        PromptError
            It does not fit the volume or the extent of its label.
        """
        prompts = self._prompts.with_prompt(prompt)
        prompts.check(self.volume.n_slices, self.volume.slice_shape)
        self._prompts = prompts
        self._touch(prompt.label, prompt.index)
        if not prompt.is_open:
            self._write_seed(prompt)

    def add_seed_volume(self, seeds: npt.NDArray[np.integer]) -> None:
        """Take every non-empty slice of a label volume as a seed, for each label on it.

        Parameters
        ----------
        seeds : ndarray of int, shape of the volume

        Raises
        ------
        GridMismatchError
            The shape differs from the volume's.
        PromptError
            All voxels are 0.

        Warns
        -----
        SlmSam2Warning
            The seeds were drawn on planes of another axis.
        """
        self._check_shape(seeds, "seeds")
        warn_of_other_planes(seeds, self.volume.axis)
        found = False
        for index in range(self.volume.n_slices):
            plane = np.asarray(seeds[self.volume.slicer(index)])
            for label in np.unique(plane[plane != 0]).tolist():
                self.add_prompt(SlicePrompt.from_mask(label, index, plane == label))
                found = True
        if not found:
            raise PromptError(
                "seeds",
                "hold no label",
                expected="at least one annotated slice",
                found="only background",
            )

    def remove_prompt(self, label: int, index: int) -> None:
        """Take a seed back; the next run fills its slice like any other."""
        self._prompts = self._prompts.without(label, index)
        self._touch(label, index)

    def set_extent(self, label: int, first: int, last: int) -> None:
        """Say on which slices a label begins and ends; what lies outside is removed.

        Raises
        ------
        PromptError
            The extent leaves out a seed or the volume.
        """
        prompts = self._prompts.with_extent(label, first, last)
        prompts.check(self.volume.n_slices, self.volume.slice_shape)
        self._prompts = prompts
        self._clear_outside(label, first, last)
        self._touched |= {(label, index) for index in prompts.seeds(label)}

    def clear_extent(self, label: int) -> None:
        """Say that the ends of a label are not known."""
        self._prompts = self._prompts.without_extent(label)
        self._touched |= {(label, index) for index in self._prompts.seeds(label)}

    def _clear_outside(self, label: int, first: int, last: int) -> None:
        for index in range(self.volume.n_slices):
            if not first <= index <= last:
                self._result.forget(label, index)
                plane = self.labels[self.volume.slicer(index)]
                plane[plane == label] = 0

    def _touch(self, label: int, index: int) -> None:
        self._touched.add((label, index))
        self._result.forget(label, index)

    def _widen(self, label: int) -> None:
        if label > np.iinfo(self.labels.dtype).max:
            self.labels = self.labels.astype(np.min_scalar_type(label))

    def _write_seed(self, prompt: SlicePrompt) -> None:
        self._widen(prompt.label)
        plane = self.labels[self.volume.slicer(prompt.index)]
        plane[plane == prompt.label] = 0
        if prompt.mask is not None:
            plane[prompt.mask] = prompt.label
