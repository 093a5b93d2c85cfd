"""DICOM frames as volumes: sorted by their place, with an exact affine, and decoded."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.pixels.decoders.base import get_decoder

from napari_slmsam2.core.errors import SlmSam2Warning, VolumeError
from napari_slmsam2.io._dicom_frames import Frame, Vector
from napari_slmsam2.io.geometry import Geometry, TimeAxis

LPS_TO_RAS = np.array([-1.0, -1.0, 1.0])
_SAME_DIRECTION = 1e-3
_SAME_PLACE = 1e-3
"""mm along the normal within which two slices lie at the same place."""
_EQUAL = 5e-3
"""Relative difference of distances that is not reported."""
_USABLE = 0.05
"""Relative difference of distances that is refused."""
_TILT = 0.2
"""Degrees from which on a tilt is reported."""
_PACKAGES = {
    "JPEG 2000": "pylibjpeg pylibjpeg-openjpeg",
    "High-Throughput": "pylibjpeg pylibjpeg-openjpeg",
    "JPEG-LS": "pyjpegls",
    "JPEG": "pylibjpeg pylibjpeg-libjpeg",
    "RLE": "pylibjpeg pylibjpeg-rle",
}


@dataclass(frozen=True, eq=False)
class Volumes:
    """Frames of one image in the order of its array.

    Attributes
    ----------
    times : tuple of tuple of Frame
        The slices of every time point, sorted along the normal.
    geometry : Geometry
        Along ``zyx``.
    """

    times: tuple[tuple[Frame, ...], ...]
    geometry: Geometry


def split_images(frames: Sequence[Frame]) -> list[list[Frame]]:
    """The frames of every image: of one series, size, direction and, at one place, kind."""
    images: list[list[Frame]] = []
    for frame in frames:
        for image in images:
            if _belong_together(image[0], frame):
                image.append(frame)
                break
        else:
            images.append([frame])
    return [part for image in images for part in _split_by_kind(image)]


def _belong_together(one: Frame, other: Frame) -> bool:
    if (one.series, one.shape) != (other.series, other.shape):
        return False
    for ours, theirs in ((one.directions, other.directions), (one.spacing, other.spacing)):
        if (ours is None) != (theirs is None):
            return False
        if ours is None or theirs is None:
            continue
        if not np.allclose(ours, theirs, rtol=1e-3, atol=_SAME_DIRECTION):
            return False
    return (one.position is None) == (other.position is None)


def _split_by_kind(frames: list[Frame]) -> list[list[Frame]]:
    """Echoes, magnitude and phase: several kinds, each of which fills the places alone."""
    kinds = sorted({frame.kind for frame in frames})
    parts = [[frame for frame in frames if frame.kind == kind] for kind in kinds]
    n_places = len(_by_place(frames))
    if (
        len(kinds) > 1
        and len(frames) > n_places
        and all(len(_by_place(part)) == n_places for part in parts)
    ):
        return parts
    return [frames]


def _by_place(frames: Sequence[Frame]) -> list[list[Frame]]:
    """The frames of every place, sorted along the normal; within a place by time."""
    first = frames[0]
    if first.position is None or first.directions is None:
        return [[frame] for frame in sorted(frames, key=lambda frame: frame.time)]
    normal = np.cross(*first.directions)
    places = [float(np.dot(normal, f.position)) for f in frames if f.position is not None]
    order = np.argsort(places, kind="stable")
    groups: list[list[Frame]] = []
    last = -np.inf
    for i in order.tolist():
        if places[i] - last > _SAME_PLACE:
            groups.append([])
        last = places[i]
        groups[-1].append(frames[i])
    return [sorted(group, key=lambda frame: frame.time) for group in groups]


def arrange(frames: Sequence[Frame], what: str) -> Volumes:
    """Sort the frames of one image into volumes, with their exact geometry.

    Raises
    ------
    VolumeError
        Slices are missing, lie at the same place or at unequal distances, or have no usable
        orientation.

    Warns
    -----
    SlmSam2Warning
        The gantry was tilted, distances differ a little, a file is there twice, or nothing
        specifies where the slices lie.
    """
    frames = _without_copies(frames, what)
    places = _by_place(frames)
    counts = {len(group) for group in places}
    if len(counts) > 1:
        group = max(places, key=len)
        raise VolumeError(
            what, "several slices lie at the same place",
            expected="one slice at every place, or equally many (a time series)",
            found=f"{min(counts)} to {max(counts)}, for instance {_listed(group)}",
            hint="Put the files of one volume into a folder of their own.",
        )  # fmt: skip
    times = tuple(zip(*places, strict=True))
    geometry = _geometry(times[0], what)
    for other in times[1:]:
        _check_same_places(times[0], other, what)
    return Volumes(times, _with_time(geometry, times))


def _without_copies(frames: Sequence[Frame], what: str) -> list[Frame]:
    found: dict[tuple[str, int], Frame] = {}
    for frame in frames:
        found.setdefault((frame.uid, frame.number), frame)
    n_copies = len(frames) - len(found)
    if n_copies:
        _warn(f"{what}: {n_copies} slices are there twice (same SOP Instance UID); one is used.")
    return list(found.values())


def _listed(frames: Sequence[Frame], most: int = 4) -> str:
    names = [f.file.name + (f" frame {f.number}" if f.number else "") for f in frames[:most]]
    return ", ".join(names) + (", ..." if len(frames) > most else "")


def _geometry(frames: Sequence[Frame], what: str) -> Geometry:
    """The affine of a sorted stack, after its slices were checked."""
    first = frames[0]
    if first.position is None or first.directions is None or first.spacing is None:
        _warn(
            f"{what}: nothing specifies where its slices lie; they are taken in the order of their "
            "numbers."
        )
        row, column = first.spacing or (1.0, 1.0)
        known = first.spacing is not None and first.thickness is not None
        return Geometry((first.thickness or 1.0, row, column), "mm" if known else "pixel")
    along_row, along_column = _usable_directions(first.directions, what)
    normal = np.cross(along_row, along_column)
    positions = np.array([frame.position for frame in frames])
    step = normal * (first.thickness or 1.0)
    if len(frames) > 1:
        _check_distances(frames, positions @ normal, what)
        step = (positions[-1] - positions[0]) / (len(frames) - 1)
        _check_line(positions, step, first.spacing, what)
        _report_tilt(step, normal, what)
    row, column = first.spacing
    affine = np.eye(4)
    matrix = np.stack([step, along_column * row, along_row * column], axis=1)
    affine[:3, :3] = matrix * LPS_TO_RAS[:, None]
    affine[:3, 3] = positions[0] * LPS_TO_RAS
    return Geometry((float(np.linalg.norm(step)), row, column), "mm", affine)


def _usable_directions(directions: Vector, what: str) -> Vector:
    lengths = np.linalg.norm(directions, axis=1)
    if np.abs(lengths - 1).max() > 0.01 or abs(float(np.dot(*directions))) > 0.01:
        raise VolumeError(
            what, "has an unusable orientation", expected="two unit vectors at right angles",
            found=np.round(directions, 4).tolist(),
        )  # fmt: skip
    unit: Vector = directions / lengths[:, None]
    return unit


def _check_distances(frames: Sequence[Frame], places: Vector, what: str) -> None:
    """Refuse gaps and unequal distances; report small differences."""
    distances = np.diff(places)
    usual = float(np.median(distances[distances <= 1.5 * distances.min()]))
    factors = distances / usual
    whole = np.rint(factors)
    if whole.max() > 1 and np.abs(factors - whole).max() <= 0.1:
        gap = int(whole.argmax())
        raise VolumeError(
            what, f"{int((whole - 1).sum())} of its slices are missing",
            expected=f"a slice every {usual:.4g} mm",
            found=f"{distances[gap]:.4g} mm between {_listed(frames[gap : gap + 2])}",
            hint="Copy all files of the series, or put those of a part without a gap into a folder "
            "of their own.",
        )  # fmt: skip
    difference = float(np.abs(factors - 1).max())
    found = f"distances from {distances.min():.4g} to {distances.max():.4g} mm"
    if difference > _USABLE:
        raise VolumeError(
            what, "its slices lie at unequal distances", expected=f"one distance ({usual:.4g} mm)",
            found=found, hint="Resample the series, or put the files of a part with equal "
            "distances into a folder of their own.",
        )  # fmt: skip
    if difference > _EQUAL:
        _warn(f"{what}: {found}; the mean distance is used.")


def _check_line(positions: Vector, step: Vector, spacing: Sequence[float], what: str) -> None:
    """Refuse slices that do not lie on a line, so that no affine places all of them."""
    expected = positions[0] + np.arange(len(positions))[:, None] * step
    apart = np.linalg.norm(positions - expected, axis=1)
    limit = max(0.1 * min(spacing), _USABLE * float(np.linalg.norm(step)))
    if apart.max() > limit:
        raise VolumeError(
            what, "its slices are shifted against each other",
            expected="first pixels on one line",
            found=f"slice {int(apart.argmax())} lies {apart.max():.3g} mm beside it",
            hint="Resample the series in a program that reads it, and save it as .nii.gz.",
        )  # fmt: skip


def _report_tilt(step: Vector, normal: Vector, what: str) -> None:
    cosine = float(np.dot(step, normal) / np.linalg.norm(step))
    angle = float(np.degrees(np.arccos(np.clip(abs(cosine), -1, 1))))
    if angle > _TILT:
        _warn(
            f"{what}: its slices are shifted sideways, as with a gantry that is tilted by "
            f"{angle:.2g} degrees. The affine contains the shear, so that every voxel has its "
            "place; the window shows the slices straight above each other."
        )


def _check_same_places(frames: Sequence[Frame], others: Sequence[Frame], what: str) -> None:
    for one, other in zip(frames, others, strict=True):
        if one.position is None or other.position is None:
            continue
        if np.abs(one.position - other.position).max() > 10 * _SAME_PLACE:
            raise VolumeError(
                what, "its time points lie at different places",
                expected=f"{one.position.tolist()}", found=f"{other.position.tolist()}",
                hint="Put the files of each time point into a folder of their own.",
            )  # fmt: skip


def _with_time(geometry: Geometry, times: Sequence[Sequence[Frame]]) -> Geometry:
    """The geometry with the time axis: temporal resolution, trigger times, or acquisition times."""
    from dataclasses import replace

    if len(times) < 2:
        return geometry
    step = times[0][0].time_step
    if step is not None:
        return replace(geometry, time=TimeAxis(step, "ms"))
    for i, unit in ((1, "ms"), (2, "s")):
        moments = np.array([volume[0].time[i] for volume in times])
        steps = np.diff(moments)
        if steps.min() > 0 and np.allclose(steps, steps.mean(), rtol=0.01):
            start = float(moments[0]) if unit == "ms" else 0.0
            return replace(geometry, time=TimeAxis(float(steps.mean()), unit, start))
    return geometry


def decode(volumes: Volumes) -> npt.NDArray[Any]:
    """The intensities, shape (T, Z, Y, X): stored values times slope plus intercept.

    Integers where these are whole: the smallest of int16, uint16, int32; else float32.

    Raises
    ------
    VolumeError
        A file cannot be decoded; the message names the package that does.
    """
    order = [(t, z, frame) for t, v in enumerate(volumes.times) for z, frame in enumerate(v)]
    stored: npt.NDArray[Any] | None = None
    for file, parts in groupby(sorted(order, key=lambda x: str(x[2].file)), lambda x: x[2].file):
        pixels = _pixels(file)
        for t, z, frame in parts:
            plane = pixels[frame.number] if pixels.ndim == 3 else pixels
            if stored is None:
                shape = len(volumes.times), len(volumes.times[0]), *frame.shape
                stored = np.empty(shape, plane.dtype)
            if np.promote_types(stored.dtype, plane.dtype) != stored.dtype:
                stored = stored.astype(np.promote_types(stored.dtype, plane.dtype))
            stored[t, z] = plane
    assert stored is not None
    return _rescaled(stored, volumes)


def _rescaled(stored: npt.NDArray[Any], volumes: Volumes) -> npt.NDArray[Any]:
    slope = np.array([[frame.slope for frame in volume] for volume in volumes.times])
    intercept = np.array([[frame.intercept for frame in volume] for volume in volumes.times])
    if (slope == 1).all() and (intercept == 0).all():
        return stored
    whole = (slope == np.rint(slope)).all() and (intercept == np.rint(intercept)).all()
    if stored.dtype.kind in "iu" and whole:
        scaled: npt.NDArray[Any] = stored.astype(
            np.int64 if stored.dtype.itemsize > 2 else np.int32
        )
        scaled *= slope.astype(scaled.dtype)[..., None, None]
        scaled += intercept.astype(scaled.dtype)[..., None, None]
        low, high = int(scaled.min()), int(scaled.max())
        for dtype in (np.int16, np.uint16, np.int32):
            if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
                return scaled.astype(dtype)
        return scaled
    result = np.empty(stored.shape, np.float32)
    for place in np.ndindex(slope.shape):
        result[place] = stored[place].astype(np.float64) * slope[place] + intercept[place]
    return result


def _pixels(file: Path) -> npt.NDArray[Any]:
    """The stored values of a file, shape (Y, X) or (N, Y, X)."""
    dataset = pydicom.dcmread(file, force=True)
    syntax = getattr(dataset.file_meta, "TransferSyntaxUID", None)
    if syntax is None:
        dataset.file_meta.TransferSyntaxUID = syntax = pydicom.uid.ImplicitVRLittleEndian
    packages = next((p for name, p in _PACKAGES.items() if syntax.name.startswith(name)), "")
    if syntax.is_compressed and not get_decoder(syntax).is_available:
        raise VolumeError(
            str(file), f"is compressed as {syntax.name}, for which no decoder is installed",
            expected=packages, hint=f"Install it: pip install {packages}",
        )  # fmt: skip
    try:
        pixels: npt.NDArray[Any] = dataset.pixel_array
    except Exception as error:
        raise VolumeError(
            str(file), "its voxels cannot be decoded", found=f"{type(error).__name__}: {error}",
            hint="The file may be damaged or not copied completely."
            + (f" Another decoder is: pip install {packages}" if packages else ""),
        ) from error  # fmt: skip
    return pixels


def _warn(text: str) -> None:
    warnings.warn(text, SlmSam2Warning, stacklevel=5)
