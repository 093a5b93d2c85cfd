"""Scans for adaptation, with labels on all slices or on a few."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_slmsam2.core.errors import ConfigError, GridMismatchError, VolumeError
from napari_slmsam2.core.intensity import IntensityWindow
from napari_slmsam2.core.volume import Volume
from napari_slmsam2.engine.features.interpolation import bounding_window
from napari_slmsam2.io import read_image, read_labels, with_seed_axis
from napari_slmsam2.training.synthetic.stack import LabelledStack

FEWEST_SLICES = 3
"""Smallest number of slices with a label in a volume that is trained on."""

MOST_VOLUMES = 5

_AROUND = 6
_SURROUND = 1.5


@dataclass(frozen=True, slots=True, eq=False)
class LabelledScan:
    """A volume with labels to train on.

    Attributes
    ----------
    volume : Volume
    labels : ndarray of int, shape of the volume
    window : IntensityWindow
    areas : dict of label to ndarray of int64, shape (n_slices,)
        Pixels of every label to train on, for every slice.
    seeds : bool
        Labels are known on annotated slices only; otherwise on all slices.
    confident : dict of label to tuple of int
        Propagated slices that are trusted like annotated ones; with ``seeds`` only.
    """

    volume: Volume
    labels: npt.NDArray[np.integer]
    window: IntensityWindow
    areas: dict[int, npt.NDArray[np.int64]]
    seeds: bool = False
    confident: Mapping[int, tuple[int, ...]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        volume: Volume,
        labels: npt.NDArray[np.integer],
        *,
        window: IntensityWindow | None = None,
        chosen: Collection[int] | None = None,
        seeds: bool = False,
        confident: Mapping[int, tuple[int, ...]] | None = None,
    ) -> LabelledScan:
        """Check a volume and its labels.

        Parameters
        ----------
        volume : Volume
        labels : ndarray of int, shape of the volume
        window : IntensityWindow, optional
            Default: the 0.5 and 99.5 percentiles.
        chosen : collection of int, optional
            Labels to train on. Default: all.
        seeds, confident : optional
            See the attributes.

        Raises
        ------
        GridMismatchError
            The shapes differ.
        VolumeError
            There is a single slice, or no label.
        """
        if tuple(labels.shape) != volume.shape:
            raise GridMismatchError(
                volume.name,
                "labels do not have the shape of the image",
                expected=volume.shape,
                found=tuple(labels.shape),
            )
        if volume.n_slices < FEWEST_SLICES:
            raise VolumeError(
                volume.name,
                "has too few slices to train on",
                expected=f"at least {FEWEST_SLICES} along axis {volume.axis}",
                found=volume.n_slices,
                hint="Check the slice axis.",
            )
        counted = _count(volume, labels)
        if not counted:
            raise VolumeError(f"labels of {volume.name}", "hold no label", found="only background")
        wanted = counted.keys() if chosen is None else [c for c in chosen if c in counted]
        return cls(
            volume,
            labels,
            window or IntensityWindow.from_percentiles(volume),
            {label: counted[label] for label in sorted(wanted)},
            seeds,
            confident or {},
        )

    def known(self, label: int) -> list[int]:
        """The slices with a label."""
        return [int(i) for i in np.flatnonzero(self.areas[label])]

    def image(self, index: int) -> npt.NDArray[np.float32]:
        """One slice, 0 to 1 in the intensity window."""
        return self.window.apply(self.volume.take(index))

    def mask(self, label: int, index: int) -> npt.NDArray[np.bool_]:
        """One label on one slice."""
        return np.asarray(self.labels[self.volume.slicer(index)]) == label

    def stack(self, label: int, first: int, last: int) -> LabelledStack:
        """One object with its surround, slices first.

        Parameters
        ----------
        label : int
        first, last : int
            Slices, both included; limited to `_AROUND` slices beyond the object.
        """
        known = [i for i in self.known(label) if first <= i <= last]
        slices = range(max(first, known[0] - _AROUND), min(last, known[-1] + _AROUND) + 1)
        masks = np.stack([self.mask(label, i) for i in slices])
        rows, columns = bounding_window(list(masks), 0) or (slice(None), slice(None))
        margin = round(_SURROUND * max(rows.stop - rows.start, columns.stop - columns.start)) + 16
        part = tuple(
            slice(max(0, s.start - margin), min(n, s.stop + margin))
            for s, n in zip((rows, columns), masks.shape[1:], strict=True)
        )
        return LabelledStack(
            np.stack([self.image(i)[part] for i in slices]),
            masks[:, *part],
            self.volume.slice_spacing,
            "scan",
            label,
        )

    def provenance(self) -> dict[str, Any]:
        """Hashes and geometry of the arrays, for the metadata; no names, no paths."""
        return {
            "image_sha256": _digest(self.volume, self.volume.data),
            "labels_sha256": _digest(self.volume, self.labels),
            "shape": list(self.volume.shape),
            "spacing": [float(s) for s in self.volume.spacing],
            "axis": self.volume.axis,
            "labels": list(self.areas),
            "confident": {str(label): list(indices) for label, indices in self.confident.items()},
        }


def read_pair(
    image: Path,
    labels: Path,
    *,
    axis: int | None = None,
    chosen: Collection[int] | None = None,
    seeds: bool = False,
) -> LabelledScan:
    """Read a scan and its labels from files.

    Parameters
    ----------
    image, labels : Path
    axis : int, optional
        Along which slices are stacked. Default: see `napari_slmsam2.io.with_seed_axis`.
    chosen, seeds : optional
        See `LabelledScan.of`.

    Raises
    ------
    VolumeError, GridMismatchError
        See `read_image`, `read_labels` and `LabelledScan.of`.
    """
    loaded = read_image(image, axis=axis)
    found = read_labels(labels, like=loaded)
    if axis is None:
        loaded = with_seed_axis(loaded, found)
    return LabelledScan.of(loaded.volume, found, chosen=chosen, seeds=seeds)


def check_scans(scans: Sequence[LabelledScan], chosen: Collection[int] | None) -> list[str]:
    """Check that there is something to train on.

    Parameters
    ----------
    scans : sequence of LabelledScan
    chosen : collection of int or None
        Labels that the user chose.

    Returns
    -------
    list of str
        Notes on what is left out.

    Raises
    ------
    ConfigError
        A chosen label is in no volume, or there are too many volumes or none.
    VolumeError
        No label is on enough slices, or a label is missing on many slices between its ends.
    """
    if not 1 <= len(scans) <= MOST_VOLUMES:
        raise ConfigError(
            "volumes", "are too many" if scans else "are missing",
            expected=f"1 to {MOST_VOLUMES}", found=len(scans),
        )  # fmt: skip
    present = {label for scan in scans for label in scan.areas}
    missing = sorted(set(chosen or ()) - present)
    if missing:
        raise ConfigError(
            f"label {missing[0]}", "is in none of the volumes", expected=sorted(present)
        )
    notes = []
    for scan in scans:
        absent = sorted(present - scan.areas.keys())
        if absent:
            notes.append(f"{scan.volume.name} holds no label {_listed(absent)}")
        if not scan.seeds:
            notes += _check_whole(scan)
    if not any(scan.seeds or len(scan.known(x)) >= FEWEST_SLICES
               for scan in scans for x in scan.areas):  # fmt: skip
        raise VolumeError(
            "labels",
            "are on too few slices to train on",
            expected=f"a label on at least {FEWEST_SLICES} slices of a volume",
            hint="For single annotated slices use the recipe this-volume.",
        )
    return notes


def _check_whole(scan: LabelledScan) -> list[str]:
    thin = [label for label in scan.areas if len(scan.known(label)) < FEWEST_SLICES]
    for label in scan.areas.keys() - set(thin):
        known = scan.known(label)
        length = known[-1] - known[0] + 1
        if 2 * len(known) < length:
            raise VolumeError(
                f"label {label} of {scan.volume.name}",
                "seems to be annotated on single slices only",
                expected="a mask on every slice between its first and its last one",
                found=f"{len(known)} of {length} slices",
                hint="Annotate all of them, or use the recipe this-volume.",
            )
    if not thin:
        return []
    return [f"{scan.volume.name}: label {_listed(thin)} is on fewer than {FEWEST_SLICES} slices"]


def _count(volume: Volume, labels: npt.NDArray[np.integer]) -> dict[int, npt.NDArray[np.int64]]:
    areas: dict[int, npt.NDArray[np.int64]] = {}
    for index in range(volume.n_slices):
        values, counts = np.unique(np.asarray(labels[volume.slicer(index)]), return_counts=True)
        for label, count in zip(values.tolist(), counts.tolist(), strict=True):
            if label:
                areas.setdefault(label, np.zeros(volume.n_slices, np.int64))[index] = count
    return areas


def _digest(volume: Volume, data: Any) -> str:
    """SHA-256 of dtype, shape and voxels, slice by slice along the axis."""
    digest = hashlib.sha256(f"{np.dtype(data.dtype).str} {tuple(data.shape)}".encode())
    for index in range(volume.n_slices):
        digest.update(np.ascontiguousarray(np.asarray(data[volume.slicer(index)])).tobytes())
    return digest.hexdigest()


def _listed(labels: Sequence[int], most: int = 8) -> str:
    return ", ".join(map(str, labels[:most])) + (", ..." if len(labels) > most else "")
