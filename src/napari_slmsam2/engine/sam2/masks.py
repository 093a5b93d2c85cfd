"""From the mask decoder's output to masks at the size of the slice, measured on the device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy.typing as npt
import torch
from torch import Tensor

from napari_slmsam2.core.segmenter import SegmentedSlice
from napari_slmsam2.core.soft_masks import (
    BACKGROUND,
    LIMIT,
    SCALE,
    LogitPatch,
    box_of_sides,
    unpack_logits,
)
from napari_slmsam2.engine.sam2.preprocess import SlicePreprocessor

#: Distance from the threshold at which the stability of a mask is judged (SAM: 1.0).
STABILITY_OFFSET = 1.0


class MeasuredMasks(NamedTuple):
    """Masks of B labels on the device, with what a run needs to know about them.

    The fields are in falling order of their element sizes, see `to_host`.

    Attributes
    ----------
    sums : Tensor of int64, shape (B, 3)
        Pixels of the mask, and the sums of their rows and of their columns.
    scores : Tensor of float32, shape (B, 3)
        Presence, predicted IoU and stability.
    logits : Tensor of int8, shape (B, H, W)
        As they are stored, see `napari_slmsam2.core.soft_masks.pack_logits`: a quarter of the
        bytes of float32 is copied to the host.
    rows, columns : Tensor of bool, shapes (B, H) and (B, W)
        Which have a logit that is stored.
    """

    sums: Tensor
    scores: Tensor
    logits: Tensor
    rows: Tensor
    columns: Tensor


def measure_masks(
    shape: tuple[int, int], low_res_logits: Tensor, presence_logit: Tensor, predicted_iou: Tensor
) -> MeasuredMasks:
    """Resize the logits of B labels to a slice of shape (H, W), and measure the masks.

    The tensors are those of a `napari_slmsam2.engine.sam2.tensors.SliceOutput`.
    """
    logits = SlicePreprocessor.to_slice(low_res_logits, shape)
    stored = logits > BACKGROUND
    packed = pack_on_device(logits)
    mask = packed > 0
    in_rows, in_columns = (mask.sum(side, dtype=torch.int32) for side in (2, 1))
    sums = (
        in_rows.sum(1),
        (in_rows * torch.arange(shape[0], device=logits.device)).sum(1),
        (in_columns * torch.arange(shape[1], device=logits.device)).sum(1),
    )
    scores = (
        torch.sigmoid(presence_logit[:, 0]),
        predicted_iou,
        stability_score(low_res_logits),
    )
    return MeasuredMasks(
        torch.stack(sums, 1), torch.stack(scores, 1), packed, stored.any(2), stored.any(1)
    )


def pack_on_device(logits: Tensor) -> Tensor:
    """Logits in 8 bits, equal bit by bit to `napari_slmsam2.core.soft_masks.pack_logits`."""
    scaled = logits.clamp(-LIMIT, LIMIT).mul_(SCALE)
    return scaled.abs().ceil_().copysign_(scaled).to(torch.int8)


def stability_score(logits: Tensor) -> Tensor:
    """Area above the threshold + d over area above the threshold - d (SAM's stability score).

    Parameters
    ----------
    logits : Tensor, shape (B, 1, h, w)

    Returns
    -------
    Tensor, shape (B,)
        1 for an empty mask.
    """
    inner = (logits > STABILITY_OFFSET).flatten(1).sum(1).float()
    outer = (logits > -STABILITY_OFFSET).flatten(1).sum(1).float()
    return torch.where(outer > 0, inner / outer.clamp(min=1), torch.ones_like(outer))


def copy_masks(masks: Sequence[MeasuredMasks]) -> HostCopy:
    """Begin the one copy of the masks of several batches to the host."""
    joined = masks[0]
    if len(masks) > 1:
        joined = MeasuredMasks(*(torch.cat(parts) for parts in zip(*masks, strict=True)))
    return HostCopy(*joined)


def read_masks(copy: HostCopy, contents: Sequence[Any]) -> list[SegmentedSlice]:
    """The masks of `copy_masks`, as soon as they are on the host.

    Parameters
    ----------
    copy : HostCopy
    contents : sequence of object
        What is remembered of each label, in the same order.
    """
    sums, scores, logits, rows, columns = copy.wait()
    found = []
    for k, content in enumerate(contents):
        box = box_of_sides(rows[k], columns[k])
        presence, iou, stability = scores[k].tolist()
        area, row_sum, column_sum = sums[k].tolist()
        centroid = (row_sum / area, column_sum / area) if area else None
        patch = LogitPatch(box, unpack_logits(logits[k][box]))
        found.append(
            SegmentedSlice(patch, presence, iou, stability, content, area, centroid),
        )
    return found


class HostCopy:
    """A copy of tensors of one device to the host, with one transfer; on a CPU there is none.

    Until `wait` the host is free, and the device can be given more work.

    Parameters
    ----------
    *tensors : Tensor
        In falling order of their element sizes, so that every array is aligned.
    """

    def __init__(self, *tensors: Tensor) -> None:
        self._tensors = tensors
        self._packed: Tensor | None = None
        self._copied: torch.cuda.Event | None = None
        device = tensors[0].device
        if device.type == "cuda":
            size = sum(tensor.nbytes for tensor in tensors)
            self._packed = torch.empty(size, dtype=torch.uint8, pin_memory=True)
            self._packed.copy_(pack_bytes(tensors), non_blocking=True)
            self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._copied.record(torch.cuda.current_stream(device))
        elif device.type != "cpu":
            self._packed = pack_bytes(tensors).cpu()

    def wait(self) -> list[npt.NDArray[Any]]:
        """The arrays, when the device has finished them."""
        if self._packed is None:
            return [tensor.numpy() for tensor in self._tensors]
        if self._copied is not None:
            self._copied.synchronize()
        return unpack_bytes(self._packed, self._tensors)


def pack_bytes(tensors: Sequence[Tensor]) -> Tensor:
    """The bytes of tensors behind each other, shape (bytes,)."""
    return torch.cat([tensor.contiguous().view(-1).view(torch.uint8) for tensor in tensors])


def unpack_bytes(packed: Tensor, like: Sequence[Tensor]) -> list[npt.NDArray[Any]]:
    """Arrays of the shapes and types of ``like`` from the bytes of `pack_bytes` on the host."""
    arrays, start = [], 0
    for tensor in like:
        part = packed[start : start + tensor.nbytes].view(tensor.dtype)
        arrays.append(part.view(tensor.shape).numpy())
        start += tensor.nbytes
    return arrays
