"""The intensity window: which intensities of a volume become 0 and 1, the same for every slice."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from napari_slmsam2.core.errors import ConfigError, VolumeError
from napari_slmsam2.core.volume import Volume

DEFAULT_WINDOW = "0.5-99.5%"

CT_PRESETS: dict[str, tuple[float, float]] = {
    "soft_tissue": (40.0, 400.0),
    "lung": (-600.0, 1500.0),
    "bone": (400.0, 1800.0),
    "brain": (40.0, 80.0),
}
"""Level and width in Hounsfield units, as radiology workstations commonly set them."""

WINDOW_CHOICES: dict[str, str] = {
    DEFAULT_WINDOW: "Percentiles 0.5 to 99.5",
    **{name: f"CT {name.replace('_', ' ')}" for name in CT_PRESETS},
}
"""Windows that are offered by name, as `parse_window` reads them, with their titles."""

MAX_SAMPLES = 2**25
"""Voxels that are looked at for percentiles; larger volumes are sampled on a regular grid."""

_BLOCK = 2**15
"""Pixels that are scaled at once."""

_SAMPLED_SLICES = 128
_CT_SLICES, _CT_STEP = 5, 4
_AIR_HU = -900.0
_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_PERCENTILES = re.compile(rf"({_NUMBER})\s*-\s*({_NUMBER})\s*%")
_LIMITS = re.compile(rf"({_NUMBER})\s*,\s*({_NUMBER})")


@dataclass(frozen=True, slots=True)
class IntensityWindow:
    """Intensities that become 0 (``low`` and below) and 1 (``high`` and above).

    Attributes
    ----------
    low, high : float
        Finite, ``low <= high``. Equal limits are the window of a constant volume.
    source : str
        Where the limits come from, in words that `parse_window` reads: ``0.5-99.5%``, the name of
        a preset, or ``limits``.

    Raises
    ------
    ConfigError
        The limits are not finite or in the wrong order.
    """

    low: float
    high: float
    source: str = "limits"

    def __post_init__(self) -> None:
        object.__setattr__(self, "low", float(self.low))
        object.__setattr__(self, "high", float(self.high))
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low <= self.high):
            raise ConfigError(
                "intensity window",
                "has no usable limits",
                expected="two finite numbers, the lower one first",
                found=f"{self.low}, {self.high}",
            )

    @classmethod
    def from_limits(cls, low: float, high: float) -> Self:
        """A window between two given intensities, ``low < high``."""
        if low == high:
            raise ConfigError(
                "intensity window", "has no width", expected="LOW < HIGH", found=f"{low}, {high}"
            )
        return cls(low, high, "limits")

    @classmethod
    def from_preset(cls, name: str) -> Self:
        """A CT window in Hounsfield units.

        Level and width are 40/400 (``soft_tissue``), -600/1500 (``lung``), 400/1800 (``bone``)
        and 40/80 (``brain``).

        Parameters
        ----------
        name : str
            Upper case, spaces and hyphens are accepted.
        """
        key = re.sub(r"[\s-]+", "_", name.strip().lower())
        if key not in CT_PRESETS:
            raise ConfigError(
                "intensity window", "no such preset", expected=" | ".join(CT_PRESETS), found=name
            )
        level, width = CT_PRESETS[key]
        return cls(level - width / 2, level + width / 2, key)

    @classmethod
    def from_percentiles(cls, volume: Volume, lower: float = 0.5, upper: float = 99.5) -> Self:
        """A window between two percentiles of the finite intensities of a whole volume.

        Linear interpolation between ranks, as `numpy.percentile` does by default. Where both
        percentiles are the same intensity (a sparse image) the window spans all intensities.

        Parameters
        ----------
        volume : Volume
            Read slice by slice along its axis; above `MAX_SAMPLES` voxels only a regular grid of
            them is looked at, so that time and memory stay bounded.
        lower, upper : float
            0 to 100.
        """
        if not 0 <= lower < upper <= 100:
            raise ConfigError(
                "intensity window",
                "has no usable percentiles",
                expected="0 <= LOWER < UPPER <= 100",
                found=f"{lower}, {upper}",
            )
        values = sample_finite(volume)
        source = f"{lower:g}-{upper:g}%"
        if not values.size:
            return cls(0.0, 0.0, source)
        low, high = _percentiles(values, (lower, upper))
        if low == high:
            low, high = float(values.min()), float(values.max())
        return cls(low, high, source)

    def apply(self, image: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Scale intensities to 0..1.

        Parameters
        ----------
        image : array_like of any real dtype
            Usually one slice, shape (H, W).

        Returns
        -------
        ndarray of float32, same shape
            NaN becomes 0, infinities 0 and 1. A window without width gives zeros.
        """
        array = np.asarray(image)
        if self.low == self.high:
            return np.zeros(array.shape, np.float32)
        if array.dtype.kind in "iu" and array.dtype.itemsize <= 2:
            # By the bits of an intensity: a negative index counts from the end.
            return _table(self, array.dtype.newbyteorder("=")).take(array, mode="wrap")
        return _scale(array, self.low, self.high)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`."""
        if set(values) != {"low", "high", "source"}:
            raise ConfigError(
                "intensity window",
                "is not a record of one",
                expected="low, high, source",
                found=", ".join(sorted(map(str, values))),
            )
        try:
            return cls(float(values["low"]), float(values["high"]), str(values["source"]))
        except (TypeError, ValueError) as error:
            raise ConfigError(
                "intensity window", "has no usable limits", found=dict(values)
            ) from error


@lru_cache(maxsize=4)
def _table(window: IntensityWindow, dtype: np.dtype[Any]) -> npt.NDArray[np.float32]:
    """What a window makes of all intensities of 8 or 16 bits, in the order of their bits."""
    bits = np.arange(2 ** (8 * dtype.itemsize), dtype=f"u{dtype.itemsize}")
    return _scale(bits.view(dtype), window.low, window.high)


def _scale(array: npt.NDArray[Any], low: float, high: float) -> npt.NDArray[np.float32]:
    """See `IntensityWindow.apply`; computed in float64, in blocks that stay in the cache."""
    # The width of a window over all of float64 is no float64 any more; half of it is.
    scale = 1.0 if math.isfinite(high - low) else 0.5
    origin, width = low * scale, high * scale - low * scale
    blocks = np.nditer(
        [array, None],
        flags=["external_loop", "buffered", "zerosize_ok"],
        op_flags=[["readonly"], ["writeonly", "allocate"]],
        op_dtypes=[np.float64, np.float32],
        casting="unsafe",
        buffersize=_BLOCK,
    )
    with blocks:
        for values, scaled in blocks:
            clipped = values.clip(low, high)
            if scale != 1.0:
                clipped *= scale
            clipped -= origin
            clipped /= width
            scaled[...] = clipped
            if math.isnan(scaled.sum()):
                scaled[np.isnan(scaled)] = 0.0
        result: npt.NDArray[np.float32] = blocks.operands[1]
        return result


def parse_window(text: str, volume: Volume) -> IntensityWindow:
    """Read a window as a person writes it.

    Parameters
    ----------
    text : str
        Percentiles (``0.5-99.5%``), a CT preset (``soft_tissue``, ``lung``, ``bone``, ``brain``)
        or two intensities (``-160,240``).
    volume : Volume
        Read for percentiles only.

    Raises
    ------
    ConfigError
        The text is none of these.
    """
    stripped = text.strip()
    if match := _PERCENTILES.fullmatch(stripped):
        return IntensityWindow.from_percentiles(volume, float(match[1]), float(match[2]))
    if match := _LIMITS.fullmatch(stripped):
        return IntensityWindow.from_limits(float(match[1]), float(match[2]))
    if re.sub(r"[\s-]+", "_", stripped.lower()) in CT_PRESETS:
        return IntensityWindow.from_preset(stripped)
    raise ConfigError(
        "intensity window",
        "cannot be read",
        expected=f"percentiles ({DEFAULT_WINDOW}), {', '.join(CT_PRESETS)} or LOW,HIGH",
        found=repr(text),
    )


def check_contrast(volume: Volume) -> None:
    """Refuse a volume without any contrast: no model finds an object in it.

    Slices are read until two different intensities are found.

    Raises
    ------
    VolumeError
        All voxels have the same intensity, or none is finite.
    """
    found: float | None = None
    for index in range(volume.n_slices):
        plane = volume.take(index)
        values = plane[np.isfinite(plane)] if plane.dtype.kind == "f" else plane.ravel()
        if not values.size:
            continue
        low, high = float(values.min()), float(values.max())
        if low != high or found not in (None, low):
            return
        found = low
    hint = "Check that the right file, channel or time was opened, and that it was read correctly."
    if found is None:
        raise VolumeError(volume.name, "has no finite voxel: all are NaN or infinite", hint=hint)
    raise VolumeError(
        volume.name,
        "is constant: there is nothing to segment in it",
        expected="at least two intensities",
        found=f"{found:g} in all voxels",
        hint=hint,
    )


def looks_like_ct(volume: Volume) -> bool:
    """Whether the intensities are likely Hounsfield units: air and soft tissue are there.

    A few slices are read on a coarse grid.
    """
    indices = np.unique(np.linspace(0, volume.n_slices - 1, _CT_SLICES).round().astype(int))
    planes = [volume.take(int(index))[::_CT_STEP, ::_CT_STEP].ravel() for index in indices]
    values = np.concatenate(planes)
    if values.dtype.kind not in "if" or not np.isfinite(values).any():
        return False
    values = values[np.isfinite(values)].astype(np.float64)
    air = float((values <= _AIR_HU).mean())
    tissue = float(((values > -200) & (values < 300)).mean())
    return air >= 0.01 and tissue >= 0.02 and values.min() > -5000 and values.max() < 40_000


def is_sampled(volume: Volume) -> bool:
    """Whether `sample_finite` leaves out voxels of this volume."""
    return math.prod(volume.shape) > MAX_SAMPLES


def sample_finite(volume: Volume) -> np.ndarray:
    """The finite intensities of a volume, or of a regular grid in a very large one.

    Parameters
    ----------
    volume : Volume

    Returns
    -------
    ndarray, shape (N,), in the native byte order
        At most about `MAX_SAMPLES` values; the same ones at every call.

    Raises
    ------
    VolumeError
        The volume does not hold real numbers.
    """
    indices, step = np.arange(volume.n_slices), 1
    if is_sampled(volume):
        count = min(volume.n_slices, _SAMPLED_SLICES)
        indices = np.unique(np.linspace(0, volume.n_slices - 1, count).round().astype(int))
        step = math.ceil(math.sqrt(math.prod(volume.slice_shape) * len(indices) / MAX_SAMPLES))
    dtype = np.dtype(volume.data.dtype)
    if dtype.kind not in "buif":
        raise VolumeError(volume.name, "does not hold real numbers", found=f"dtype {dtype}")
    dtype = np.dtype(np.uint8) if dtype.kind == "b" else dtype.newbyteorder("=")
    per_slice = math.prod(-(-n // step) for n in volume.slice_shape)
    values, count = np.empty(per_slice * len(indices), dtype), 0
    for index in indices:
        part = volume.take(int(index))[::step, ::step].ravel()
        if part.dtype.kind == "f":
            part = part[np.isfinite(part)]
        values[count : count + part.size] = part
        count += part.size
    return values[:count]


def _percentiles(values: np.ndarray, percents: Sequence[float]) -> list[float]:
    """Linear interpolation between ranks that neither overflows nor rounds to the dtype.

    The values are reordered.
    """
    ranks = [percent / 100 * (values.size - 1) for percent in percents]
    below = [math.floor(rank) for rank in ranks]
    above = [min(one + 1, values.size - 1) for one in below]
    values.partition(sorted({*below, *above}))
    found = []
    for rank, i, j in zip(ranks, below, above, strict=True):
        low, high = float(values[i]), float(values[j])
        found.append(low if low == high else low * (1 - (rank - i)) + high * (rank - i))
    return found
