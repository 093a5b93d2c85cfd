"""Measurements without a network that are the input of the network: contrast, position, priors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from napari_slmsam2.core.config import CompactConfig
from napari_slmsam2.engine.compact.crop import ObjectCrops
from napari_slmsam2.engine.features.interpolation import (
    EDGE_SHARPNESS,
    bounding_window,
    interpolated_logits,
)
from napari_slmsam2.engine.features.taper import find_taper
from napari_slmsam2.engine.propagation.merge import dice

Image = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

LOGITS_PER_PIXEL = 2.0
"""Mask logit of a pixel of the crop, one pixel inside the outline."""

MAX_LOGIT = 8.0
"""Bound of the logits that are propagated from slice to slice."""

TRUSTED_OVERLAP = 0.3
"""Dice from which masks agree. If two annotated masks agree less, the shape between them is
trusted less: it is a guess, and would make both sweeps err alike. If that shape and the propagated
mask agree less, the shape is hidden, see `trusted_priors`."""

N_POSITION_FEATURES = 9
END_MARKED, BETWEEN_SEEDS, SEED_AREA, NEXT_SEED, THICKNESS, ZOOM = 2, 4, 5, 6, 7, 8


def crop_for(mask: Mask, config: CompactConfig) -> ObjectCrops | None:
    """The crop of a network around an object; None where the mask is empty.

    Parameters
    ----------
    mask : ndarray of bool, shape (H, W)
    config : CompactConfig
    """
    if config.follow == "object":
        return ObjectCrops.around(mask, config.window_size, config.window_margin)
    height, width = mask.shape
    return ObjectCrops.at((height - 1) / 2, (width - 1) / 2, max(height, width), config.window_size)


def read_logits(distances: Tensor, crops: ObjectCrops, shapes: Tensor | None = None) -> Tensor:
    """Logits of masks in crops.

    Parameters
    ----------
    distances : Tensor of float32, shape (B, H, W)
        In pixels of the slice.
    crops : ObjectCrops
    shapes : Tensor of float32, shape (B, 2), optional
        Rows and columns that belong to each object. Default: all.

    Returns
    -------
    Tensor of float32, shape (B, N, N)
    """
    which = torch.arange(len(distances), device=distances.device)
    logits_per_pixel = (crops.zoom * LOGITS_PER_PIXEL)[:, None, None]
    return crops.read([distances], which, shapes)[:, 0] * logits_per_pixel


@dataclass(frozen=True, slots=True, eq=False)
class KnownShapes:
    """The annotated masks of an object, cut to their joint box.

    Attributes
    ----------
    masks : dict of slice index to ndarray of bool, shape (h, w)
        Empty where the object is known to be absent.
    first : tuple of int
        Row and column of the slice at which the box begins.
    """

    masks: dict[int, Mask]
    first: tuple[int, int]

    @classmethod
    def collect(cls, masks: Mapping[int, Mask], extent: tuple[int, int] | None) -> Self:
        """From the annotated masks, and empty ones just beyond the ends that were marked.

        Parameters
        ----------
        masks : mapping of slice index to ndarray of bool, shape (H, W)
            At least one is not empty.
        extent : tuple of int or None
            First and last slice, if marked.
        """
        known = dict(masks)
        if extent is not None:
            nothing = np.zeros_like(next(iter(masks.values())))
            known.setdefault(extent[0] - 1, nothing)
            known.setdefault(extent[1] + 1, nothing)
        box = bounding_window(list(masks.values()), 12)
        assert box is not None
        return cls({i: m[box] for i, m in known.items()}, (box[0].start, box[1].start))

    def distance(self, index: int) -> Image | None:
        """Signed distance in pixels to the outline interpolated on a slice, within the box.

        None where the slice does not lie between two known ones.
        """
        if not (min(self.masks) <= index <= max(self.masks)):
            return None
        return interpolated_logits(self.masks, index) / np.float32(EDGE_SHARPNESS)

    def overlap(self, index: int) -> float:
        """Dice of the annotated masks around a slice; 1 where there is none on one of its sides."""
        present = [i for i, mask in self.masks.items() if mask.any()]
        before = max((i for i in present if i < index), default=None)
        after = min((i for i in present if i > index), default=None)
        if before is None or after is None:
            return 1.0
        return dice(self.masks[before], self.masks[after])


def interpolated_priors(
    shapes: Sequence[KnownShapes], indices: Sequence[int], crops: ObjectCrops
) -> Tensor | None:
    """Masks on slices, interpolated from the annotated slices around them.

    Parameters
    ----------
    shapes : sequence of KnownShapes
        Of ``B`` objects.
    indices : sequence of int
        The slice of every object.
    crops : ObjectCrops

    Returns
    -------
    Tensor of float32, shape (B, N, N), or None
        Mask logits within plus and minus `MAX_LOGIT`; 0 for objects whose slice does not
        lie between two known ones. None where that is so for all.
    """
    found = [shape.distance(index) for shape, index in zip(shapes, indices, strict=True)]
    if all(f is None for f in found):
        return None
    sides = [(1, 1) if f is None else f.shape for f in found]
    height, width = (max(side) for side in zip(*sides, strict=True))
    fields = np.zeros((len(found), height, width), np.float32)
    for own, field in zip(found, fields, strict=True):
        if own is not None:
            field[: own.shape[0], : own.shape[1]] = own
    device = crops.side.device
    first, own_shapes = (
        torch.tensor(pairs, dtype=torch.float32, device=device)
        for pairs in ([shape.first for shape in shapes], sides)
    )
    inner = crops.shifted(first[:, 0], first[:, 1])
    logits = read_logits(torch.from_numpy(fields).to(device), inner, own_shapes)
    return logits.clamp_(-MAX_LOGIT, MAX_LOGIT)


def trusted_priors(priors: Tensor, propagated: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Hide interpolated shapes that contradict the sweep.

    Objects that cross the stack leave the straight line between two annotated masks, most of all
    in gaps of many diameters; what has been propagated over some slices is then the better
    evidence. Shapes with another place or of another size are hidden up to the slice on which
    the network reads that half of the way to the next seed is done. It reads less than that where
    the annotated masks overlap little, see `position_features`: with a Dice below 0.15, or towards
    a marked end, a shape can be hidden on the whole way.

    Parameters
    ----------
    priors : Tensor of float32, shape (B, N, N)
        See `interpolated_priors`.
    propagated : Tensor of float32, shape (B, N, N)
        Mask logits.
    positions : Tensor of float32, shape (B, 9)
        See `position_features`.

    Returns
    -------
    priors : Tensor of float32, shape (B, N, N)
        0 where the shape is hidden.
    positions : Tensor of float32, shape (B, 9)
        Without the way to the next seed there.
    """
    shape, mask = priors > 0, propagated > 0
    both, either = (shape & mask).sum((1, 2)), shape.sum((1, 2)) + mask.sum((1, 2))
    visible = shape.flatten(1).any(1) & mask.flatten(1).any(1)
    doubted = visible & (2 * both < TRUSTED_OVERLAP * either) & (positions[:, NEXT_SEED] < 0.5)
    positions = positions.clone()
    positions[:, NEXT_SEED].masked_fill_(doubted, 0.0)
    return priors.masked_fill(doubted[:, None, None], 0.0), positions


def chosen_seeds(areas: Mapping[int, int], index: int, direction: int, n: int) -> list[int]:
    """The seeds that the long-term memory reads for a slice, the most informative first.

    The nearest one behind, the nearest one ahead, then the largest ones.
    """
    present = [i for i, area in areas.items() if area]
    behind = [i for i in present if (index - i) * direction > 0]
    ahead = [i for i in present if (i - index) * direction > 0]
    order = [*sorted(behind, key=lambda i: abs(index - i))[:1]]
    order += sorted(ahead, key=lambda i: abs(index - i))[:1]
    order += sorted((i for i in present if i not in order), key=lambda i: -areas[i])
    return order[:n]


def position_features(
    areas: Mapping[int, int],
    index: int,
    direction: int,
    extent: tuple[int, int] | None,
    spacing: tuple[float, float, float],
    overlap: float = 1.0,
) -> npt.NDArray[np.float32]:
    """Position of a slice in its sweep, for one object.

    Parameters
    ----------
    areas : mapping of slice index to int
        Area of each seed in pixels, 0 where the object is absent.
    index : int
    direction : {+1, -1}
    extent : tuple of int or None
        First and last slice of the object, if the person marked them.
    spacing : tuple of float
        ``(slice, row, column)`` distance of the voxel centres.
    overlap : float
        See `KnownShapes.overlap`.

    Returns
    -------
    ndarray of float32, shape (9,)
        Distance from the seed over the half length of the object (open ends); log of the number of
        slices from the seed; whether the end is marked; fraction of the way to it; whether another
        seed lies ahead; the seed's area in pixels of the slice; fraction of the way to the seed
        ahead, less where the masks overlap less than `TRUSTED_OVERLAP`; a slice's thickness over
        the size of a pixel; 0. `in_crops` makes the network's input of it.
    """
    taper = find_taper(areas, index, direction, extent, spacing)
    behind = [i for i, area in areas.items() if (index - i) * direction > 0 and area]
    source = max(behind, key=lambda i: i * direction)
    ahead = [abs(i - source) for i in areas if (i - index) * direction > 0]
    way, marked = abs(index - source), taper.end is not None
    pixel = float(np.sqrt(spacing[1] * spacing[2]))
    trust = min(1.0, overlap / TRUSTED_OVERLAP)
    return np.array(
        [
            0.0 if marked or taper.between else min(4.0, taper.travel(index)),
            np.log1p(way) / 3.0,
            float(marked),
            min(1.5, taper.travel(index)) if marked else 0.0,
            float(taper.between),
            areas[source],
            trust * way / min(ahead) if taper.between else 0.0,
            spacing[0] / pixel,
            0.0,
        ],
        np.float32,
    )


def in_crops(positions: Tensor, crops: ObjectCrops) -> Tensor:
    """Position features relative to the crops, as the network reads them.

    Parameters
    ----------
    positions : Tensor of float32, shape (B, 9)
        See `position_features`.
    crops : ObjectCrops

    Returns
    -------
    Tensor of float32, shape (B, 9)
        The area in pixels of the crop, as log (the network replaces it by the growth since the
        seed); the log of the thickness over the side of the crop; the log of the zoom added to the
        last feature.
    """
    features, zoom = positions.clone(), crops.zoom
    features[:, SEED_AREA] = torch.log(positions[:, SEED_AREA] * zoom**2 + 1.0)
    thickness = torch.log(positions[:, THICKNESS] / crops.side) / 2.0
    features[:, THICKNESS] = thickness.clamp(-3.0, 3.0)
    features[:, ZOOM] += torch.log2(zoom) / 2.0
    return features
