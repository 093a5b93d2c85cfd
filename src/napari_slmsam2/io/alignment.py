"""From the voxels of a label file to those of its image, where that is exact."""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from napari_slmsam2.core.errors import GridMismatchError, SlmSam2Warning
from napari_slmsam2.io.chunked_array import ChunkedArray, compressed_labels
from napari_slmsam2.io.geometry import Geometry, transposition
from napari_slmsam2.io.images import LoadedImage
from napari_slmsam2.io.region import Region
from napari_slmsam2.io.units import IN_MM

GRID_TOLERANCE = 0.05
"""How far a voxel of the labels may lie from its voxel of the image, in voxel sizes."""

_Shape = tuple[int, ...]
_Partial = Literal["refused", "reported", "silent"]
"""Whether labels may be a part of the grid of their image."""

_Affine = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Alignment:
    """How label voxels are brought onto the grid of an image.

    Attributes
    ----------
    axes : tuple of int
        Argument of ``transpose``, first.
    flipped : tuple of bool
        Axes of the transposed array that are reversed, second.
    offset : tuple of int
        Place of its first voxel in the image, third.
    shape : tuple of int
        Of the image.
    is_cut : bool
        Whether labels outside of the image are left out instead of refused.
    """

    axes: tuple[int, int, int]
    flipped: tuple[bool, bool, bool]
    offset: tuple[int, int, int]
    shape: tuple[int, int, int]
    is_cut: bool = False

    def within(self, region: Region) -> Alignment:
        """The alignment of the labels with a part of the image; labels beside it are left out."""
        shape = [stop - start for start, stop in zip(region.start, region.stop, strict=True)]
        i, j, k = (o - start for o, start in zip(self.offset, region.start, strict=True))
        a, b, c = shape
        return replace(self, offset=(i, j, k), shape=(a, b, c), is_cut=True)

    def apply(self, labels: Any, what: str) -> Any:
        """The labels on the grid of the image; nothing where the file has no voxels.

        Parameters
        ----------
        labels : ndarray of int, or ChunkedArray
        what : str
            For messages.

        Returns
        -------
        ndarray of int, or ChunkedArray

        Raises
        ------
        GridMismatchError
            A label lies outside the image.
        """
        lazy = isinstance(labels, ChunkedArray)
        in_place = tuple(labels.shape[a] for a in self.axes) == self.shape and not any(self.offset)
        if in_place and not lazy:
            return self._turned(labels)
        if in_place and self.axes == (0, 1, 2) and not any(self.flipped):
            return labels
        along, step = 0, labels.shape[0]
        if lazy:
            along = int(np.argmax(np.divide(labels.shape, labels.chunk_shape)))
            step = labels.chunk_shape[along]
        make = (
            functools.partial(compressed_labels, axis=self.axes.index(along)) if lazy else np.zeros
        )
        result, lost = make(self.shape, dtype=labels.dtype), 0
        for start in range(0, labels.shape[along], step):
            lost += self._place(labels, along, start, step, result)
        if lost and not self.is_cut:
            raise GridMismatchError(
                what, f"{lost} labelled voxels lie outside the image",
                expected=f"voxels (0, 0, 0) to {tuple(n - 1 for n in self.shape)}",
                found=f"an array of shape {tuple(labels.shape[a] for a in self.axes)} from voxel "
                f"{self.offset}", hint="Are these the labels of another image?",
            )  # fmt: skip
        return result

    def _turned(self, labels: npt.NDArray[np.integer]) -> npt.NDArray[np.integer]:
        array = labels.transpose(self.axes)
        return array[tuple(slice(None, None, -1 if f else 1) for f in self.flipped)]

    def _place(self, labels: Any, along: int, start: int, step: int, result: Any) -> int:
        """Copy a slab of the labels to its place; how many labelled voxels have none."""
        size = labels.shape[along]
        key: list[slice] = [slice(None)] * 3
        key[along] = slice(start, min(start + step, size))
        slab = labels[tuple(key)]
        if not slab.any():
            return 0
        array, offset, axis = self._turned(slab), list(self.offset), self.axes.index(along)
        offset[axis] += size - key[along].stop if self.flipped[axis] else start
        inside = tuple(
            slice(max(-o, 0), max(min(n, room - o), 0))
            for o, n, room in zip(offset, array.shape, self.shape, strict=True)
        )
        target = tuple(
            slice(max(o, 0), max(o, 0) + max(s.stop - s.start, 0))
            for o, s in zip(offset, inside, strict=True)
        )
        found = array[inside]
        if found.size:
            result[target] = found
        return int(np.count_nonzero(slab)) - int(np.count_nonzero(found))


def align(image: LoadedImage, labels: LoadedImage, *, trust_voxels: bool = False) -> Alignment:
    """Find how the voxels of a label file become those of its image.

    Axes are matched by their names. Where both files place their voxels in the world, labels whose
    grid is that of the image in another order of axes or flipped are brought onto it exactly, and
    segmentations of 3D Slicer that are cropped or extended by whole voxels. Else shapes must be
    equal, voxel sizes with a unit must agree to one part in a thousand and first voxels to
    `GRID_TOLERANCE` voxels.

    Parameters
    ----------
    image, labels : LoadedImage
        Labels of a part of an image (``image.region``) may have the shape of the part or of the
        whole image.
    trust_voxels : bool
        Ignore what the files specify about the place and the size of voxels: arrays of the same
        shape line up.

    Raises
    ------
    GridMismatchError
        Names what differs, and what can be done.

    Warns
    -----
    SlmSam2Warning
        Labels were reordered, or the order of the axes of an array without names is a guess.
    """
    if image.whole is not None and image.region is not None:
        by_name = _transposed(image.order, labels.order)
        shapes = [tuple(labels.volume.shape[i] for i in by_name)]
        if trust_voxels or not labels.named:
            shapes.append(labels.volume.shape)
        if image.volume.shape not in shapes:
            on_whole = align(image.whole, labels, trust_voxels=trust_voxels)
            return on_whole.within(image.region)
    name = f"{labels.path} on {image.path}"
    by_name = _transposed(image.order, labels.order)
    shape = tuple(labels.volume.shape[i] for i in by_name)
    # 3D Slicer crops segmentations, and DICOM leaves out empty slices; a label map of another shape
    # is more often a mistake.
    template = labels.template if isinstance(labels.template, dict) else {}
    partial: _Partial = "silent" if "sparse" in template else "reported"
    partial = partial if template.get("segments") else "refused"
    if trust_voxels:
        return _trusted(name, image, labels, by_name)
    ours, theirs = image.geometry, labels.geometry.transposed(by_name)
    known = ours.unit in IN_MM and theirs.unit in IN_MM
    factor = IN_MM[theirs.unit] / IN_MM[ours.unit] if known else 1.0
    if ours.affine is not None and theirs.affine is not None:
        scaled = theirs.affine * np.array([[factor]] * 3 + [[1.0]])
        return _by_affine(name, image, ours.affine, scaled, shape, by_name, partial=partial)
    if known:
        _check_spacing(name, image, theirs, factor)
        found = _by_origin(name, image, theirs, factor, shape, by_name, partial=partial)
        if found is not None:
            return found
    return _by_shape(name, image, labels, by_name)


def _transposed(order: str, found: str) -> tuple[int, int, int]:
    i, j, k = transposition(found, order)
    return i, j, k


def _plain(axes: tuple[int, int, int], shape: tuple[int, int, int]) -> Alignment:
    return Alignment(axes, (False,) * 3, (0, 0, 0), shape)


def _trusted(
    name: str, image: LoadedImage, labels: LoadedImage, by_name: tuple[int, int, int]
) -> Alignment:
    target, shape = image.volume.shape, labels.volume.shape
    candidates = [by_name, (0, 1, 2)]
    for axes in candidates if labels.named else candidates[::-1]:
        if tuple(shape[i] for i in axes) == target:
            return _plain(axes, target)
    raise GridMismatchError(
        name, "the shapes differ", expected=f"shape {target}", found=f"shape {shape}",
        hint=_shape_hint(target, shape),
    )  # fmt: skip


def _by_shape(
    name: str, image: LoadedImage, labels: LoadedImage, by_name: tuple[int, int, int]
) -> Alignment:
    """Labels that no file places in the world."""
    target, found = image.volume.shape, labels.volume.shape
    fits_by_name = tuple(found[i] for i in by_name) == target
    fits_as_is = found == target and by_name != (0, 1, 2)
    if fits_by_name:
        if fits_as_is and not labels.named:
            warnings.warn(
                f"{labels.path.name}: its axes have no names and are taken as {labels.order}, "
                f"which are reversed to {image.order}. If they have the order of the image, "
                "use --trust-voxels (trust_voxels=True in Python).",
                SlmSam2Warning,
                stacklevel=4,
            )
        return _plain(by_name, target)
    if fits_as_is and not labels.named:
        warnings.warn(
            f"{labels.path.name}: its axes have no names; by its shape they are those of "
            f"{image.path.name} ({image.order}).",
            SlmSam2Warning,
            stacklevel=4,
        )
        return _plain((0, 1, 2), target)
    raise GridMismatchError(
        name, "the shapes differ", expected=f"shape {target} (axes {image.order})",
        found=f"shape {tuple(found[i] for i in by_name)}", hint=_shape_hint(target, found),
    )  # fmt: skip


def _shape_hint(target: _Shape, found: _Shape) -> str:
    if found == target:
        return (
            "The arrays have the same shape if their axes are taken as they are: if they line up "
            "voxel by voxel, use --trust-voxels (trust_voxels=True in Python)."
        )
    if sorted(found) == sorted(target):
        return "The sizes are those of the image in another order: transpose the array first."
    return "These are the labels of another image, or of a part of it."


def _grid_hint(shapes_equal: bool) -> str:
    resample = (
        "resample the labels onto the image with nearest-neighbour interpolation (3D Slicer: "
        "Resample Scalar/Vector/DWI Volume; ANTs: antsApplyTransforms -n GenericLabel)."
    )
    if shapes_equal:
        return (
            "If the arrays line up voxel by voxel and only the headers differ, use --trust-voxels "
            f"(trust_voxels=True in Python). Else {resample}"
        )
    return resample.capitalize()


def _check_spacing(name: str, image: LoadedImage, theirs: Geometry, factor: float) -> None:
    ours = image.geometry
    spacing = tuple(s * factor for s in theirs.spacing)
    if not np.allclose(spacing, ours.spacing, rtol=1e-3, atol=0):
        raise GridMismatchError(
            name, "the voxel sizes differ", expected=f"{ours.spacing} {ours.unit}",
            found=f"{spacing} {ours.unit}", hint=_grid_hint(True),
        )  # fmt: skip


def _by_origin(
    name: str,
    image: LoadedImage,
    theirs: Geometry,
    factor: float,
    shape: _Shape,
    axes: tuple[int, int, int],
    *,
    partial: _Partial,
) -> Alignment | None:
    """Labels in a file that specifies the place of the first voxel only; None where one does not.

    ``theirs`` and ``shape`` are already in the axis order of the image.
    """
    ours = image.geometry.origin_along(image.order)
    first = theirs.origin_along(image.order)
    if ours is None or first is None:
        return None
    found = tuple(p * factor for p in first)
    steps = np.subtract(found, ours) / image.geometry.spacing
    offset = np.rint(steps)
    same_shape = shape == image.volume.shape
    if np.abs(steps - offset).max() > GRID_TOLERANCE or (same_shape and offset.any()):
        raise GridMismatchError(
            name, f"the first voxels lie {np.abs(steps).max():.3g} voxels apart",
            expected=f"{ours} {image.geometry.unit}", found=f"{found} {image.geometry.unit}",
            hint=_grid_hint(same_shape),
        )  # fmt: skip
    offset = offset.astype(int)
    return _placed(name, image, axes, (False,) * 3, offset, shape, partial=partial)


def _by_affine(
    name: str,
    image: LoadedImage,
    ours: _Affine,
    theirs: _Affine,
    shape: _Shape,
    axes: tuple[int, int, int],
    *,
    partial: _Partial,
) -> Alignment:
    """Labels that lie on the grid of the image, in another arrangement maybe."""
    sizes = np.sqrt((ours[:3, :3] ** 2).sum(axis=0))
    mapping = np.linalg.solve(ours, theirs)  # from label voxels to image voxels
    turn = np.rint(mapping[:3, :3])
    is_turn = bool((np.abs(turn).sum(axis=0) == 1).all() and (np.abs(turn).sum(axis=1) == 1).all())
    if not is_turn:
        turn = np.eye(3)
    middle = (np.array(shape) - 1) / 2
    shift = np.rint((mapping[:3, :3] - turn) @ middle + mapping[:3, 3])
    exact = np.eye(4)
    exact[:3, :3], exact[:3, 3] = turn, shift
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in shape], [1.0])).reshape(4, -1)
    apart = np.sqrt((((theirs - ours @ exact) @ corners)[:3] ** 2).sum(axis=0)).max()
    order = [int(np.flatnonzero(row)[0]) for row in turn]
    signs = [turn[i, j] for i, j in enumerate(order)]
    turned = tuple(shape[j] for j in order)
    offset = [
        int(s) if sign > 0 else int(s) - (n - 1)
        for s, sign, n in zip(shift, signs, turned, strict=True)
    ]
    # Of the same size, a grid that is shifted is a mismatch, not a part of the other one.
    if not apart <= GRID_TOLERANCE * sizes.min() or (turned == image.volume.shape and any(offset)):
        apart = np.sqrt((((theirs - ours) @ corners)[:3] ** 2).sum(axis=0)).max()
        raise GridMismatchError(
            name, f"the affines differ by up to {apart / sizes.min():.3g} voxels",
            expected=f"affine {_rows(ours)}", found=f"affine {_rows(theirs)}",
            hint=_grid_hint(shape == image.volume.shape),
        )  # fmt: skip
    flipped = (bool(signs[0] < 0), bool(signs[1] < 0), bool(signs[2] < 0))
    i, j, k = (axes[index] for index in order)
    return _placed(
        name, image, (i, j, k), flipped, np.array(offset), turned, partial=partial, order=order
    )


def _placed(
    name: str,
    image: LoadedImage,
    axes: tuple[int, int, int],
    flipped: tuple[bool, bool, bool],
    offset: npt.NDArray[np.integer],
    shape: _Shape,
    *,
    partial: _Partial,
    order: list[int] | None = None,
) -> Alignment:
    """An exact alignment, of which the user is informed where it is not the plain one."""
    target = image.volume.shape
    overlap = [
        min(o + n, size) - max(o, 0) for o, n, size in zip(offset, shape, target, strict=True)
    ]
    if min(overlap) <= 0:
        raise GridMismatchError(
            name, "the labels lie outside the image",
            expected=f"voxels (0, 0, 0) to {tuple(n - 1 for n in target)}",
            found=f"an array of shape {shape} from voxel {tuple(offset.tolist())}",
            hint=_grid_hint(shape == target),
        )  # fmt: skip
    inside = all(o >= 0 and o + n <= size for o, n, size in zip(offset, shape, target, strict=True))
    around = all(o <= 0 and o + n >= size for o, n, size in zip(offset, shape, target, strict=True))
    if shape != target and (partial == "refused" or not (inside or around)):
        raise GridMismatchError(
            name, "the shapes differ", expected=f"shape {target}",
            found=f"shape {shape}, which begins at voxel {tuple(offset.tolist())} of the image",
            hint="If it is a part of the image, pad it with zeros to the shape of the image, or "
            "crop the image alike. Segmentations of 3D Slicer (.seg.nrrd) are padded.",
        )  # fmt: skip
    done = []
    if order is not None and order != [0, 1, 2]:
        done.append("in another order of axes")
    if any(flipped):
        done.append("reversed along axis " + ", ".join(str(i) for i in range(3) if flipped[i]))
    if partial != "silent" and (shape != target or offset.any()):
        done.append(f"as an array of shape {shape} from voxel {tuple(offset.tolist())}")
    if done:
        warnings.warn(
            f"{name}: the labels lie on the grid of the image {', '.join(done)}; they were "
            "brought onto it exactly.",
            SlmSam2Warning,
            stacklevel=5,
        )
    first, second, third = offset.tolist()
    return Alignment(axes, flipped, (first, second, third), target)


def _rows(affine: _Affine) -> str:
    return str([[float(f"{v:.6g}") for v in row] for row in affine[:3]])
