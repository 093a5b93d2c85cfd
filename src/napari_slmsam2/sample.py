"""A generated CT-like scan with known labels, for demonstrations and tests."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from napari_slmsam2.core.volume import Volume

SHAPE = (144, 128, 44)
SPACING = (1.5, 1.5, 3.0)

_Mask = npt.NDArray[np.bool_]
_Field = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Sample:
    """A volume and its true labels.

    Attributes
    ----------
    volume : Volume
        int16 intensities in Hounsfield units, axes (x, y, z) to the right, anterior, superior.
    labels : ndarray of uint8, shape of the volume
    names : dict of int to str
        Name of each label.
    """

    volume: Volume
    labels: npt.NDArray[np.uint8]
    names: dict[int, str]


def make_sample(seed: int = 0) -> Sample:
    """Generate an abdominal CT-like scan of 3 mm slices.

    Two organs are labelled: a large one whose outline changes from slice to slice, and a small
    round one beside an unlabelled organ of nearly the same intensity. Both begin and end inside
    the stack. The background has fat, muscle, spine, an air-filled gut, tissue texture, partial
    volume and correlated noise.

    Parameters
    ----------
    seed : int
        Seed of the random generator; the same seed gives the same scan.

    Returns
    -------
    Sample
    """
    rng = np.random.default_rng(seed)
    x, y, z = _grid()
    body = _ellipsoid(x, y, 0, (0, 0, 0), (96, 74, 1)) < 1
    inner = _ellipsoid(x, y, 0, (0, -2, 0), (84, 61, 1)) < 1
    shape = _texture(rng, 14.0)
    liver = (_liver(x, y, z) + 0.13 * shape < 1) & inner
    kidney = (_bean(x, y, z, (44, -26, -12), (15, 19, 36)) + 0.06 * shape < 1) & ~liver
    look_alike = _ellipsoid(x, y, z, (58, 8, 14), (14, 22, 40)) + 0.05 * shape < 1
    look_alike &= inner & ~kidney & ~liver

    image = np.full(SHAPE, -1000, np.float32)
    fine = _texture(rng, 2.5)
    for mask, intensity, variation in (
        (body, -95, 12),
        (inner & ~_fat(x, y, z, shape), 45, 14),
        (liver, 108, 9),
        (look_alike, 128, 8),
        (kidney, 146, 10),
        (_vessels(x, y, z) & liver, 152, 8),
        (_spine(x, y, z), 330, 120),
        (_gut(x, y, z, shape) & inner & ~liver & ~kidney & ~look_alike, -650, 200),
    ):
        image[mask] = intensity + variation * fine[mask]
    image = ndimage.gaussian_filter(image, (0.6, 0.6, 0.45))
    noise = ndimage.gaussian_filter(rng.standard_normal(SHAPE, np.float32), (0.7, 0.7, 0))
    image += 17 * noise / noise.std()

    labels = np.zeros(SHAPE, np.uint8)
    labels[liver] = 1
    labels[kidney] = 2
    affine = np.diag([*SPACING, 1.0])
    affine[:3, 3] = [-(n - 1) / 2 * s for n, s in zip(SHAPE, SPACING, strict=True)]
    intensities = np.clip(np.rint(image), -1024, 3071).astype(np.int16)
    volume = Volume(intensities, 2, SPACING, "mm", affine, name="sample scan")
    return Sample(volume, labels, {1: "large organ", 2: "small organ"})


def _grid() -> tuple[_Field, _Field, _Field]:
    """Millimetres to the left, front and top of the centre, each of the volume's shape."""
    axes = [
        (np.arange(n, dtype=np.float32) - (n - 1) / 2) * s
        for n, s in zip(SHAPE, SPACING, strict=True)
    ]
    x, y, z = np.meshgrid(-axes[0], *axes[1:], indexing="ij")
    return x, y, z


def _texture(rng: np.random.Generator, width: float) -> _Field:
    """Smooth noise of unit variance; ``width`` in millimetres."""
    noise = rng.standard_normal(SHAPE, np.float32)
    smooth = ndimage.gaussian_filter(noise, [width / s for s in SPACING])
    field: _Field = (smooth / smooth.std()).astype(np.float32)
    return field


def _ellipsoid(
    x: _Field,
    y: _Field,
    z: _Field | float,
    centre: tuple[_Field | float, float, float],
    radii: tuple[float, _Field | float, float],
) -> _Field:
    """Normalised squared distance from the centre: below 1 inside."""
    (cx, cy, cz), (rx, ry, rz) = centre, radii
    distance = ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 + ((z - cz) / rz) ** 2
    return np.asarray(distance, np.float32)


def _liver(x: _Field, y: _Field, z: _Field) -> _Field:
    """Union of a round lobe on the right and a flat one across the midline: below 1 inside."""
    right = _ellipsoid(x, y, z, (-40 + 0.12 * z, 4, 4), (36, 42, 50))
    left = _ellipsoid(x, y, z, (-14, 20, 8), (46, 22 + 0.08 * z, 40))
    both: _Field = np.minimum(right, left)
    return both


def _bean(
    x: _Field,
    y: _Field,
    z: _Field,
    centre: tuple[float, float, float],
    radii: tuple[float, float, float],
) -> _Field:
    """An ellipsoid with a dent on the side of the spine."""
    dent = _ellipsoid(x, y, z, (centre[0] - 19, centre[1] + 2, centre[2]), (11, 9, 15))
    bean: _Field = np.maximum(_ellipsoid(x, y, z, centre, radii), 2 - dent)
    return bean


def _fat(x: _Field, y: _Field, z: _Field, shape: _Field) -> _Mask:
    """Fat around the organs."""
    behind = _ellipsoid(np.abs(x), y, z, (46, -28, -10), (27, 27, 52)) < 1
    fat: _Mask = behind | ((shape > 1.1) & (y < 30))
    return fat


def _vessels(x: _Field, y: _Field, z: _Field) -> _Mask:
    trunk = np.hypot(x + 30 + 0.5 * z, y - 6 + 6 * np.sin(z / 14)) < 4.5
    branch = np.hypot(x + 52 - 0.3 * y, z - 8 - 0.2 * y) < 3.5
    vessels: _Mask = trunk | branch
    return vessels


def _spine(x: _Field, y: _Field, z: _Field) -> _Mask:
    vertebra = (np.hypot(x, (y + 38) * 1.15) < 18) & (np.abs((z + 60) % 32 - 16) < 13)
    canal = np.hypot(x, y + 60) < 8
    arch = (np.hypot(x, y + 60) < 13) & ~canal
    spine: _Mask = vertebra | arch
    return spine


def _gut(x: _Field, y: _Field, z: _Field, shape: _Field) -> _Mask:
    gut: _Mask = np.hypot(x - 24 - 10 * np.sin(z / 18), y - 26 - 0.15 * z) < 9 + 2 * shape
    return gut
