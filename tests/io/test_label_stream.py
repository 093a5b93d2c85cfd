"""Labels written slice by slice or in blocks: the file of a whole array, at once or not at all."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from multiprocessing import get_context

import numpy as np
import pytest
import zarr
from tests.io.test_ome_zarr import attributes, image_store

from napari_slmsam2.core.errors import OutputError
from napari_slmsam2.io import LabelStream, read_image, read_labels, write_labels

SHAPE = (300, 70, 400)


def labels_of(shape=SHAPE):
    labels = np.zeros(shape, np.uint8)
    labels[20:260, 10:40, 30:300] = 1
    labels[100:120, 35:60, 200:310] = 2
    return labels


def content(path):
    """Every file of a store."""
    return {
        str(f.relative_to(path)): f.read_bytes() for f in sorted(path.rglob("*")) if f.is_file()
    }


@pytest.fixture
def image(tmp_path, nifti):
    """Slices along the last axis of a NIfTI image, the first one of the OME-Zarr."""
    return read_image(nifti("scan.nii", SHAPE[::-1], np.uint8))


def test_slice_by_slice_gives_the_file_of_the_whole_array(tmp_path, image):
    labels = labels_of().T
    (tmp_path / "a").mkdir()
    whole = write_labels(tmp_path / "a" / "x.ome.zarr", labels, image)
    with LabelStream(tmp_path / "x.ome.zarr", image, highest=2) as stream:
        for index in [*range(300), *range(299, -1, -1)]:
            stream.labels[:, :, index] = labels[:, :, index]
        assert not (tmp_path / "x.ome.zarr").exists()
        out = stream.finish()
    np.testing.assert_array_equal(read_labels(out, image), labels)
    assert content(out) == content(whole)
    assert len(attributes(out)["multiscales"][0]["datasets"]) > 1


def _write_block(store, block, labels):
    store.write(block.start, labels)


def test_processes_write_their_blocks_side_by_side(tmp_path, image):
    labels = labels_of().T
    whole = write_labels(tmp_path / "whole.ome.zarr", labels, image)
    with LabelStream(tmp_path / "out.ome.zarr", image, highest=2) as stream:
        store = pickle.loads(pickle.dumps(stream.store))
        blocks = list(store.blocks())
        assert [i for block in blocks for i in block] == list(range(300))
        assert len(blocks) > 2
        with get_context("spawn").Pool(2) as pool:
            pool.starmap(_write_block, [(store, b, labels[:, :, b.start : b.stop]) for b in blocks])
        np.testing.assert_array_equal(store.read(100, 130), labels[:, :, 100:130])
        out = stream.finish()
    arrays = [zarr.open_group(path, mode="r") for path in (out, whole)]
    for level in ("0", "1"):
        np.testing.assert_array_equal(*(group[level][...] for group in arrays))


@pytest.mark.parametrize(("first", "count"), [(1, 128), (0, 100), (256, 45), (256, 43)])
def test_a_block_that_shares_chunks_with_another_one_is_refused(tmp_path, image, first, count):
    with LabelStream(tmp_path / "out.ome.zarr", image, highest=2) as stream:
        assert stream.store.depth == 128
        with pytest.raises(OutputError, match=r"does not fit the chunks.*multiple of 128"):
            stream.store.write(first, labels_of().T[:, :, :count])


def test_a_label_that_does_not_fit_is_refused(tmp_path, image):
    with (
        LabelStream(tmp_path / "out.ome.zarr", image, highest=2) as stream,
        pytest.raises(OutputError, match=r"a label does not fit.*255.*300"),
    ):
        stream.store.write(0, np.full(SHAPE[::-1], 300))


def test_what_is_not_finished_leaves_the_old_file(tmp_path, image):
    out = write_labels(tmp_path / "out.ome.zarr", labels_of().T, image)
    before = content(out)
    with pytest.raises(OutputError, match="exists already"):
        LabelStream(out, image, highest=2)
    with LabelStream(out, image, highest=2, overwrite=True) as stream:
        stream.labels[:, :, 0] = 2
    assert content(out) == before
    assert sorted(os.listdir(tmp_path)) == ["out.ome.zarr", "scan.nii"]


def test_what_a_killed_process_left_is_cleared(tmp_path, image):
    script = f"""
import os
from napari_slmsam2.io import LabelStream, read_image
stream = LabelStream({str(tmp_path / "out.ome.zarr")!r}, read_image({str(image.path)!r}), highest=1)
stream.labels[:, :, 0] = 1
stream.labels.flush()
os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", script], check=False)
    assert done.returncode == -9
    assert len(os.listdir(tmp_path)) == 2
    write_labels(tmp_path / "out.ome.zarr", labels_of().T, image)
    assert sorted(os.listdir(tmp_path)) == ["out.ome.zarr", "scan.nii"]


def test_other_formats_are_refused(tmp_path, image):
    with pytest.raises(OutputError, match=r"slice by slice.*\.ome\.zarr.*\.nii"):
        LabelStream(tmp_path / "out.nii", image, highest=2)


def test_labels_above_the_exact_floats_are_kept(tmp_path):
    image = read_image(image_store(tmp_path / "image.zarr"))
    labels = np.zeros(image.volume.shape, np.uint64)
    labels[1] = 2**63 + 1
    out = write_labels(tmp_path / "out.zarr", labels, image)
    np.testing.assert_array_equal(read_labels(out, image), labels)
