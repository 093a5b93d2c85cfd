"""Clips of training objects, for fine-tuning of the compact network."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from napari_slmsam2.core.errors import VolumeError
from napari_slmsam2.engine.compact.network import CompactNetwork
from napari_slmsam2.training.data.clip import Clip
from napari_slmsam2.training.data.shards import FIELDS, cut_clips
from napari_slmsam2.training.data.split import DataSplit
from napari_slmsam2.training.data.sweep import never_absent

_MOST_FAILURES = 20
"""Draws without a clip in a row, for every training object, before cutting stops."""


class ClipCutter:
    """Cuts clips of the training objects in turn; the same seed gives the same clips.

    Parameters
    ----------
    data_split : DataSplit
    network : CompactNetwork
        The network that is adapted: clips start from the rollout states of its sweeps.
    seed : int
    """

    def __init__(self, data_split: DataSplit, network: CompactNetwork, seed: int) -> None:
        self._objects = data_split.training_objects
        self._segmenter = never_absent(network)
        self._rng = np.random.default_rng((seed, 1))
        self._order = itertools.cycle(self._rng.permutation(len(self._objects)))
        scans = dict.fromkeys(id(x.scan) for x in self._objects)
        self._set_names = {scan: str(number) for number, scan in enumerate(scans)}
        self._clips: list[Clip] = []
        self._names: list[str] = []

    def __len__(self) -> int:
        return len(self._clips)

    def cut(self, most: int, is_enough: Callable[[int], bool] = lambda n: False) -> None:
        """Cut clips until there are ``most``.

        Parameters
        ----------
        most : int
        is_enough : callable
            Called after every training object with the number of clips; True stops.

        Raises
        ------
        VolumeError
            No clip could be cut.
        """
        failures = 0
        while len(self._clips) < most and failures <= _MOST_FAILURES * len(self._objects):
            chosen = self._objects[next(self._order)]
            stack = chosen.stack(self._rng)
            found = cut_clips(stack, self._segmenter, self._rng, is_part=chosen.is_part)
            self._clips += found
            self._names += [self._set_names[id(chosen.scan)]] * len(found)
            failures = 0 if found else failures + 1
            if is_enough(len(self._clips)):
                break
        if not self._clips:
            raise VolumeError(
                "labels",
                "change too little or too much from slice to slice to train on them",
                hint="Check the slice axis, or give volumes with larger objects.",
            )

    def clips(self, most: int | None = None) -> dict[str, npt.NDArray[np.generic]]:
        """The first clips, field by field, with ``set_names``: the number of the volume.

        Parameters
        ----------
        most : int, optional
            Default: all.
        """
        chosen = self._clips[:most]
        fields = {f: np.stack([getattr(clip, f) for clip in chosen]) for f in FIELDS}
        return {**fields, "set_names": np.array(self._names[:most])}
