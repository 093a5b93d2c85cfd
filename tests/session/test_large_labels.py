"""A session on labels in chunks, of which few are in memory, does what one on an array does."""

from __future__ import annotations

import numpy as np
import pytest

from napari_slmsam2.core.config import PropagationConfig
from napari_slmsam2.core.errors import OutputError
from napari_slmsam2.core.intensity import IntensityWindow
from napari_slmsam2.core.prompts import SlicePrompt
from napari_slmsam2.core.volume import Volume
from napari_slmsam2.io import LabelStream, read_image, read_labels
from napari_slmsam2.io.chunked_array import compressed_labels
from napari_slmsam2.session.annotation import Annotation
from napari_slmsam2.session.file import load_session, replay, save_session
from napari_slmsam2.session.label_array import SharedLabels
from napari_slmsam2.session.session import SegmentationSession

SHAPE = (30, 26, 24)


@pytest.fixture(scope="module")
def scan() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    x, y, z = np.meshgrid(*map(np.arange, SHAPE), indexing="ij")
    labels = np.zeros(SHAPE, np.uint8)
    labels[((z - 12) / 11) ** 2 + ((x - 10) / 7) ** 2 + ((y - 9) / 6) ** 2 < 1] = 1
    labels[((z - 10) / 9) ** 2 + ((x - 20) / 6) ** 2 + ((y - 17) / 7) ** 2 < 1] = 2
    image = 100 + 300 * (labels == 1) + 600 * (labels == 2) + rng.normal(0, 20, SHAPE)
    return image.astype(np.float32), labels


def session_on(scan, labels=None, axis=2) -> SegmentationSession:
    image, truth = scan
    session = SegmentationSession(
        Volume(image, axis=axis),
        model="flow",
        config=PropagationConfig(embedding_budget=0),
        window=IntensityWindow.from_limits(0, 900),
        labels=labels,
    )
    for label, index in ((1, 8), (1, 16), (2, 10)):
        mask = truth[session.volume.slicer(index)] == label
        if mask.any():
            session.add_prompt(SlicePrompt.from_mask(label, index, mask))
    return session


def work(session):
    """Runs, edits, undo and redo; the labels after every step."""
    states = [np.array(session.labels)]
    list(session.propagate())
    states.append(np.array(session.labels))
    session.set_extent(1, 4, 18)
    states.append(np.array(session.labels))
    list(session.propagate(gaps_only=True))
    session.undo()
    states.append(np.array(session.labels))
    session.redo()
    states.append(np.array(session.labels))
    mask = np.zeros(session.volume.slice_shape, bool)
    mask[2:5, 3:9] = True
    session.annotation.history.edit(2, seeds={3: SlicePrompt.from_mask(2, 3, mask)})
    list(session.propagate(gaps_only=True))
    states.append(np.array(session.labels))
    return states


@pytest.mark.parametrize("axis", [0, 2])
def test_every_step_gives_the_labels_of_a_session_in_memory(scan, axis):
    chunked = session_on(scan, compressed_labels(SHAPE, np.uint8, axis), axis)
    plain = session_on(scan, axis=axis)
    for ours, theirs in zip(work(chunked), work(plain), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert chunked.annotation.slices.labelled_slices() == (
        plain.annotation.slices.labelled_slices()
    )
    assert chunked.quality == plain.quality


def test_a_label_that_does_not_fit_widens_the_labels(scan):
    session = session_on(scan, compressed_labels(SHAPE, np.uint8, 2))
    before = np.array(session.labels)
    session.add_prompt(SlicePrompt.from_mask(300, 2, np.eye(*SHAPE[:2], dtype=bool)))
    assert session.labels.dtype == np.uint16
    np.testing.assert_array_equal(session.labels[:, :, 3:], before[:, :, 3:])
    assert (session.labels[:, :, 2] == 300).sum() == min(SHAPE[:2])


def test_slices_of_another_axis_and_of_one_time_point_share_the_labels(scan):
    image, _ = scan
    shared = SharedLabels(compressed_labels((3, *SHAPE), np.uint8, 3))
    key = (1, slice(None), slice(None), slice(None))
    along_z = Annotation(Volume(image, axis=2), shared, key=key)
    along_x = Annotation(Volume(image, axis=0), shared, key=key)
    mask = np.zeros(SHAPE[:2], bool)
    mask[5:9, 6:8] = True
    along_z.add_prompt(SlicePrompt.from_mask(4, 7, mask))
    assert (along_x.plane(6)[6:8, 7] == 4).all()
    assert along_x.slices.labelled_slices() == (5, 6, 7, 8)
    assert not shared.array[0].any()
    assert not shared.array[2].any()
    np.testing.assert_array_equal(along_z.labels.copy()[:, :, 7] == 4, mask)


def test_a_session_file_holds_the_labels_and_fills_others(scan, tmp_path):
    session = session_on(scan, compressed_labels(SHAPE, np.uint8, 2))
    list(session.propagate())
    path = save_session(session, tmp_path / "a.slmsam2")
    volume = session.volume
    plain = load_session(path, image=volume)
    assert isinstance(plain.labels, np.ndarray)
    target = compressed_labels(SHAPE, np.uint8, 2)
    target[...] = 9
    filled = load_session(path, image=volume, labels=target)
    assert filled.labels is target
    for again in (plain, filled):
        np.testing.assert_array_equal(again.labels, session.labels)
    list(replay(filled))
    np.testing.assert_array_equal(filled.labels, session.labels)


def test_a_session_writes_to_the_disk_while_it_runs(scan, tmp_path, nifti_of):
    image = read_image(nifti_of(scan[0]), axis=2)
    plain = session_on(scan)
    list(plain.propagate())
    with LabelStream(tmp_path / "out.ome.zarr", image, highest=2) as stream:
        session = session_on(scan, stream.labels)
        list(session.propagate())
        with pytest.raises(OutputError, match=r"labels up to 255.*highest label"):
            session.add_prompt(SlicePrompt.from_mask(300, 2, np.ones(SHAPE[:2], bool)))
        out = stream.finish()
    np.testing.assert_array_equal(session.labels, plain.labels)
    np.testing.assert_array_equal(read_labels(out, image), plain.labels)


@pytest.fixture
def nifti_of(tmp_path):
    import nibabel

    def make(array):
        path = tmp_path / "image.nii"
        nibabel.Nifti1Image(array, np.eye(4)).to_filename(path)
        return path

    return make
