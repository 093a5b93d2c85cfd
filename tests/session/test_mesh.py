"""Surfaces of labels: closed, in place, outwards, and as files."""

from __future__ import annotations

import numpy as np
import pytest

from napari_slmsam2.core.errors import PromptError
from napari_slmsam2.session import mesh as module
from napari_slmsam2.session.mesh import Mesh, label_mesh, write_stl


def ball(radius=12):
    grid = np.indices((30, 40, 50)) - np.array([14, 20, 25]).reshape(3, 1, 1, 1)
    return np.where((grid**2).sum(axis=0) <= radius**2, 7, 3).astype(np.uint16)


def volume(mesh):
    """By the divergence theorem; positive where triangles face outwards."""
    corners = mesh.vertices[mesh.faces].astype(float)
    return float((np.cross(corners[:, 0], corners[:, 1]) * corners[:, 2]).sum() / 6)


def is_closed(mesh):
    """Whether every edge is passed once in each direction."""
    edges = np.concatenate([mesh.faces[:, [i, (i + 1) % 3]] for i in range(3)])
    there, back = (set(map(tuple, e.tolist())) for e in (edges, edges[:, ::-1]))
    return len(there) == len(edges) and there == back


def test_the_surface_of_a_ball_encloses_its_voxels():
    labels = ball()
    mesh = label_mesh(labels, 7)
    assert is_closed(mesh)
    assert volume(mesh) == pytest.approx((labels == 7).sum(), rel=0.01)
    held = np.argwhere(labels == 7)
    np.testing.assert_allclose(mesh.vertices.min(0), held.min(0) - 0.5)
    np.testing.assert_allclose(mesh.vertices.max(0), held.max(0) + 0.5)


def test_a_label_at_the_border_and_one_of_a_single_voxel_are_closed():
    assert is_closed(label_mesh(np.ones((3, 4, 5), np.uint8), 1))
    one = np.zeros((5, 5, 5), np.uint8)
    one[4, 0, 2] = 1
    mesh = label_mesh(one, 1)
    assert is_closed(mesh)
    np.testing.assert_allclose(mesh.vertices.mean(0), (4, 0, 2))


def test_a_large_label_is_meshed_at_fewer_voxels(monkeypatch):
    labels = ball()
    full = label_mesh(labels, 7)
    monkeypatch.setattr(module, "_MOST_VOXELS", 2**12)
    coarse = label_mesh(labels, 7)
    assert len(coarse.faces) < len(full.faces) / 3
    assert is_closed(coarse)
    assert volume(coarse) == pytest.approx(volume(full), rel=0.1)
    np.testing.assert_allclose(coarse.vertices.mean(0), full.vertices.mean(0), atol=1)


def test_a_label_without_voxels_is_refused():
    with pytest.raises(PromptError, match="label 4: has no voxels"):
        label_mesh(ball(), 4)


@pytest.mark.parametrize("mirror", [1.0, -1.0])
def test_stl_has_world_coordinates_and_normals_outwards(tmp_path, mirror):
    affine = np.array([[0, 0, 2 * mirror, 5], [0, 0.5, 0.1, -3], [-3, 0, 0, 1], [0, 0, 0, 1.0]])
    mesh = label_mesh(ball(), 7)
    moved = mesh.moved(affine)
    voxel = abs(np.linalg.det(affine[:3, :3]))
    assert volume(moved) == pytest.approx(volume(mesh) * voxel, rel=1e-4)
    path = write_stl(tmp_path / "ball.stl", moved)
    content = path.read_bytes()
    triangles = np.frombuffer(content[84:], module._STL)
    assert int(np.frombuffer(content[80:84], "<u4")[0]) == len(triangles) == len(mesh.faces)
    read = Mesh(triangles["corners"].reshape(-1, 3), np.arange(3 * len(triangles)).reshape(-1, 3))
    assert volume(read) == pytest.approx(volume(moved), rel=1e-4)
    centre = moved.vertices.mean(0)
    outwards = triangles["corners"].mean(axis=1) - centre
    assert ((outwards * triangles["normal"]).sum(axis=1) > 0).mean() > 0.99
