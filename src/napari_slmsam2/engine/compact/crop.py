"""Square crops of slices around objects, batched: placement, reading and pasting back."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from napari_slmsam2.engine.features.interpolation import bounding_window

MIN_MARGIN = 8.0
"""Least number of pixels of the slice between the object and the edge of its crop."""

SHIFT_TOLERATED = 0.06
"""Distance of the object from the middle of its crop, over the side, that keeps the crop."""

SIDES_PER_OCTAVE = 4
"""Sides between N and 2 N at which crops that are larger than N pixels are sampled together."""

GROWTH_TOLERATED = 1.2
"""Change of the side that the object asks for, as a factor, that keeps the crop."""


class ObjectCrops(NamedTuple):
    """A square of a slice for each of ``B`` objects, sampled with a fixed number of pixels.

    A crop may reach beyond its slice, where the border is repeated.

    Attributes
    ----------
    row, column : Tensor of float32, shape (B,)
        Centres, in pixels of the slice.
    side : Tensor of float32, shape (B,)
        In pixels of the slice.
    size : int
        Pixels along one side of a sampled crop, ``N``.
    """

    row: Tensor
    column: Tensor
    side: Tensor
    size: int

    @classmethod
    def around(cls, mask: npt.NDArray[np.bool_], size: int, margin: float) -> Self | None:
        """The crop around one object, as a batch of one; None where the mask is empty.

        Parameters
        ----------
        mask : ndarray of bool, shape (H, W)
        size : int
        margin : float
            Side of the crop over the longer side of the object's box.
        """
        box = bounding_window([mask], 0)
        if box is None:
            return None
        row, column = ((s.start + s.stop - 1) / 2 for s in box)
        longest = max(s.stop - s.start for s in box)
        return cls.at(row, column, max(margin * longest, longest + 2 * MIN_MARGIN), size)

    @classmethod
    def at(cls, row: float, column: float, side: float, size: int) -> Self:
        """One crop with a given centre and side, as a batch of one."""
        centre = torch.tensor([[float(row)], [float(column)]])
        return cls(centre[0], centre[1], torch.tensor([float(side)]), size)

    @property
    def zoom(self) -> Tensor:
        """Pixels of the crop per pixel of the slice, shape (B,)."""
        return self.size / self.side

    def shifted(self, rows: Tensor, columns: Tensor) -> Self:
        """The same crops of slices whose first pixel lies at ``(rows, columns)``."""
        return self._replace(row=self.row - rows, column=self.column - columns)

    def positions(self) -> tuple[Tensor, Tensor]:
        """Rows and columns of the slice at which the crops are sampled, each of shape (B, N)."""
        steps = torch.arange(self.size, device=self.side.device) - (self.size - 1) / 2
        steps = steps / self.zoom[:, None]
        return self.row[:, None] + steps, self.column[:, None] + steps

    def on_slice(self, shape: Sequence[int]) -> Tensor:
        """Which pixels of the crops lie on a slice of ``shape``: bool, (B, N, N)."""
        rows, columns = (
            (p >= -0.5) & (p <= n - 0.5) for p, n in zip(self.positions(), shape, strict=True)
        )
        return rows[:, :, None] & columns[:, None]

    def following(self, masks: Tensor, margin: float) -> Self:
        """The crops around the objects that these crops show; unchanged while they still fit.

        A new crop costs an interpolation, which wears small objects away slice by slice.

        Parameters
        ----------
        masks : Tensor of bool, shape (B, N, N)
            A crop whose mask is empty stays.
        margin : float
            See `around`.
        """
        spans = [_span(masks.any(dim)) for dim in (2, 1)]
        middle = (self.size - 1) / 2
        row, column = (
            centre + ((first + last) / 2 - middle) / self.zoom
            for (first, last), centre in zip(spans, (self.row, self.column), strict=True)
        )
        longest = torch.stack([last - first + 1 for first, last in spans]).amax(0) / self.zoom
        side = torch.maximum(margin * longest, longest + 2 * MIN_MARGIN)
        shift = torch.maximum((row - self.row).abs(), (column - self.column).abs()) / self.side
        growth = torch.maximum(side / self.side, self.side / side)
        stays = (shift < SHIFT_TOLERATED) & (growth < GROWTH_TOLERATED)
        stays |= ~masks.flatten(1).any(1)
        return self._replace(
            row=torch.where(stays, self.row, row),
            column=torch.where(stays, self.column, column),
            side=torch.where(stays, self.side, side),
        )

    def seen_from(self, there: Self, values: Tensor) -> Tensor:
        """Values that other crops hold, linearly read at the pixels of these.

        Parameters
        ----------
        there : ObjectCrops
        values : Tensor of float32, shape (B, there.size, there.size)
        """
        weights = []
        for own, other in zip(self.positions(), (there.row, there.column), strict=True):
            places = (own - other[:, None]) * there.zoom[:, None] + (there.size - 1) / 2
            weights.append(_linear_weights(places, there.size))
        return _resampled(weights[0], values, weights[1])

    def read(
        self,
        slices: Sequence[Tensor],
        which: Tensor | None = None,
        shapes: Tensor | None = None,
    ) -> Tensor:
        """Sample slices in the crops, linearly, smoothed first where a crop shrinks its slice.

        Parameters
        ----------
        slices : sequence of C Tensors of float32, shape (S, H, W)
        which : Tensor of int64, shape (B,), optional
            The slice of every object. Default: the first one.
        shapes : Tensor of float32, shape (B, 2), optional
            Rows and columns of its slice that belong to an object: the border of these is
            repeated. Default: all.

        Returns
        -------
        Tensor of float32, shape (B, C, N, N)
        """
        if which is None:
            which = torch.zeros(len(self.side), dtype=torch.int64, device=self.side.device)
        if shapes is None:
            whole = torch.tensor(slices[0].shape[1:], dtype=torch.float32, device=which.device)
            shapes = whole.expand(len(which), 2)
        found = slices[0].new_empty(len(self.side), len(slices), self.size, self.size)
        for _, chosen, side in self._by_side(self.side.tolist()):
            if chosen is None:
                return self._read_alike(slices, which, shapes, side)
            crops = self._of(chosen)
            found[chosen] = crops._read_alike(slices, which[chosen], shapes[chosen], side)
        return found

    def _read_alike(
        self, slices: Sequence[Tensor], which: Tensor, shapes: Tensor, side: float
    ) -> Tensor:
        """`read` for crops of about one side, ``side`` at most."""
        sigma = (0.5 * (1 / self.zoom - 1)).clamp(min=0.0)
        reach = math.ceil(4 * max(0.0, 0.5 * (side / self.size - 1))) + 1
        n = math.ceil(side) + 2 * reach + 2
        indices, weights = [], []
        for beyond, last in zip(self.positions(), (shapes - 1)[..., None].unbind(1), strict=True):
            places = torch.minimum(beyond.clamp(min=0), last)
            first = places[:, :1].floor() - reach
            block = first + torch.arange(n, device=first.device)
            # Crops that do not shrink the slice need no smoothing.
            weights.append(
                _linear_weights(places - first, n)
                if side <= self.size
                else _smoothing_weights(places - first, sigma, n)
            )
            indices.append(torch.minimum(block.clamp_(min=0), last).long())
        rows, columns = indices
        height, width = slices[0].shape[1:]
        pixels = ((which[:, None] * height + rows) * width)[:, :, None] + columns[:, None]
        blocks = torch.stack([one.take(pixels) for one in slices], 1)
        return _resampled(weights[0][:, None], blocks, weights[1][:, None])

    def paste(
        self, values: Tensor, shape: tuple[int, int]
    ) -> Iterator[tuple[tuple[slice, slice], npt.NDArray[np.float32]]]:
        """Values in the crops, linearly read at the pixels of the slice that they cover.

        Parameters
        ----------
        values : Tensor of float32, shape (B, N, N)
        shape : tuple of int
            ``(H, W)`` of the slice.

        Yields
        ------
        box : tuple of slice
            Rows and columns of the slice.
        block : ndarray of float32
            For every object in turn, of the shape of the box.
        """
        # One transfer from a device.
        crops = torch.stack([self.row, self.column, self.side]).cpu().double().numpy()
        spans = [
            (
                np.clip(np.ceil(centre - crops[2] / 2), 0, n).astype(int),
                np.clip(np.floor(centre + crops[2] / 2) + 1, 0, n).astype(int),
            )
            for centre, n in zip(crops[:2], shape, strict=True)
        ]
        found: list[npt.NDArray[np.float32] | None] = [None] * len(crops[0])
        for numbers, chosen, side in self._by_side(crops[2].tolist()):
            own = self if chosen is None else self._of(chosen)
            weights = []
            for (start, _), centre in zip(spans, (own.row, own.column), strict=True):
                first = torch.from_numpy(start[numbers]).to(centre.device)
                pixels = first[:, None] + torch.arange(math.ceil(side) + 1, device=centre.device)
                places = (pixels - centre[:, None]) * own.zoom[:, None] + (own.size - 1) / 2
                weights.append(_linear_weights(places, own.size))
            part = values if chosen is None else values[chosen]
            blocks = _resampled(weights[0], part, weights[1]).cpu().numpy()
            for number, block in zip(numbers, blocks, strict=True):
                found[number] = block
        for number, block_ in enumerate(found):
            assert block_ is not None
            box = tuple(slice(first[number], last[number]) for first, last in spans)
            rows, columns = (max(0, s.stop - s.start) for s in box)
            yield (box[0], box[1]), block_[:rows, :columns]

    def _by_side(self, sides: Sequence[float]) -> list[tuple[list[int], Tensor | None, float]]:
        """Objects whose crops have similar sides, and a side that none of them exceeds.

        The objects are given as a list, and as indices on the device: None for all objects. What is
        computed for a group is as large as that side. It does not depend on the other objects, and
        neither do the last digits of the results.
        """
        groups: dict[int, list[int]] = {}
        for number, side in enumerate(sides):
            step = math.ceil(SIDES_PER_OCTAVE * math.log2(max(side / self.size, 1.0)))
            groups.setdefault(step, []).append(number)
        return [
            (
                chosen,
                None if len(groups) == 1 else torch.tensor(chosen, device=self.side.device),
                self.size * 2 ** (step / SIDES_PER_OCTAVE),
            )
            for step, chosen in groups.items()
        ]

    def _of(self, chosen: Tensor) -> Self:
        row, column, side, size = self
        return self._replace(row=row[chosen], column=column[chosen], side=side[chosen], size=size)


def _span(occupied: Tensor) -> tuple[Tensor, Tensor]:
    """First and last True of (B, N), as float32 of shape (B,)."""
    places = torch.arange(occupied.shape[1], device=occupied.device, dtype=torch.float32)
    first = torch.where(occupied, places, torch.inf).amin(1)
    last = torch.where(occupied, places, -torch.inf).amax(1)
    return first, last


def _resampled(rows: Tensor, values: Tensor, columns: Tensor) -> Tensor:
    """Values read with weights along rows and columns, in float32 also under autocast."""
    with torch.autocast(values.device.type, enabled=False):
        return rows @ values @ columns.mT


def _linear_weights(places: Tensor, n: int) -> Tensor:
    """Weights (B, M, n) that read ``n`` values linearly at places (B, M), clamped to the range."""
    grid = torch.arange(n, device=places.device, dtype=places.dtype)
    return (1 - (places.clamp(0, n - 1)[..., None] - grid).abs()).clamp_(min=0)


def _smoothing_weights(places: Tensor, sigma: Tensor, n: int) -> Tensor:
    """The same for values smoothed by a Gaussian of sigma (B,) first, cut off at 4 sigma."""
    base = places.floor()
    share = (places - base)[..., None]
    # Of one more value: the Gaussian around the pixel after the base is the same, shifted.
    distance = torch.arange(-1, n, device=places.device, dtype=places.dtype) - base[..., None]
    width = sigma[:, None, None]
    radius = (4 * width + 0.5).floor()
    gaussian = torch.exp(-0.5 * (distance / width.clamp(min=0.05)) ** 2)
    gaussian = gaussian * (distance.abs() <= radius)
    weights = (1 - share) * gaussian[..., 1:] + share * gaussian[..., :-1]
    return weights / weights.sum(-1, keepdim=True)
