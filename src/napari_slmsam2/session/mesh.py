"""The surface of a label as a triangle mesh."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage.measure import marching_cubes

from napari_slmsam2.core.atomic_write import atomic_write
from napari_slmsam2.core.errors import PromptError

_MOST_VOXELS = 2**24
"""Voxels of the box around a label that are meshed at full resolution."""
_STL = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attributes", "<u2")])


@dataclass(frozen=True, slots=True, eq=False)
class Mesh:
    """A closed surface of triangles.

    Attributes
    ----------
    vertices : ndarray of float32, shape (V, 3)
        Indices of the label array; the centre of the first voxel is at 0.
    faces : ndarray of int, shape (F, 3)
        Corners of each triangle.
    """

    vertices: npt.NDArray[np.float32]
    faces: npt.NDArray[np.integer]

    def moved(self, affine: npt.NDArray[np.floating]) -> Mesh:
        """The mesh in other coordinates, given by an affine of shape (4, 4); normals face outwards.

        Axes may be mirrored.
        """
        vertices = self.vertices @ affine[:3, :3].T + affine[:3, 3]
        mirrored = np.linalg.det(affine[:3, :3]) < 0
        faces = self.faces[:, ::-1] if mirrored else self.faces
        return Mesh(vertices.astype(np.float32), faces)


def label_mesh(labels: npt.NDArray[np.integer], label: int) -> Mesh:
    """The surface of a label, halfway between its voxels and the others (marching cubes).

    Very large labels are meshed at every second voxel, or fewer.

    Parameters
    ----------
    labels : ndarray of int, shape (I, J, K)
    label : int

    Raises
    ------
    PromptError
        The label has no voxel.
    """
    mask = labels == label
    if not mask.any():
        raise PromptError(f"label {label}", "has no voxels", hint="Choose another label.")
    box: tuple[Any, ...] = ndimage.find_objects(mask.view(np.uint8))[0]
    inside = np.pad(mask[box], 1).astype(np.float32)
    step = 1
    while inside.size / step**3 > _MOST_VOXELS:
        step += 1
    if step > 1:
        # Whole steps, so that the surface is closed on all sides.
        inside = np.pad(inside, [(step, step + -n % step) for n in inside.shape])
    margin = 1 + (step if step > 1 else 0)
    vertices, faces, _, _ = marching_cubes(
        inside, 0.5, step_size=step, gradient_direction="ascent", allow_degenerate=False
    )
    start = np.array([side.start for side in box]) - margin
    return Mesh((vertices + start).astype(np.float32), faces)


def write_stl(path: str | os.PathLike[str], mesh: Mesh, *, overwrite: bool = False) -> Path:
    """Write a mesh as binary STL.

    Raises
    ------
    OutputError
        The file exists or cannot be written.
    """
    corners = mesh.vertices[mesh.faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    lengths = np.linalg.norm(normals, axis=1, keepdims=True)
    triangles = np.zeros(len(corners), _STL)
    triangles["normal"] = normals / np.maximum(lengths, np.finfo(np.float32).tiny)
    triangles["corners"] = corners
    content = bytes(80) + np.uint32(len(triangles)).astype("<u4").tobytes() + triangles.tobytes()
    return atomic_write(path, lambda file: file.write_bytes(content), overwrite=overwrite)
