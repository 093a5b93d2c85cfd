"""Clicks and boxes on one slice: a mask at once, with every model."""

from __future__ import annotations

import json
import time

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage as ndi

from napari_slmsam2.core.errors import PromptError
from napari_slmsam2.core.intensity import IntensityWindow
from napari_slmsam2.core.prompts import SlicePrompt
from napari_slmsam2.core.volume import Volume
from napari_slmsam2.engine.classical.flow import FlowSegmenter
from napari_slmsam2.engine.clicks.prompt_solver import PromptSolver
from napari_slmsam2.engine.clicks.segment import mask_from_prompt
from napari_slmsam2.engine.propagation.merge import dice
from napari_slmsam2.session.session import SegmentationSession

ROWS, COLUMNS = np.mgrid[:80, :100]
BALL = (ROWS - 40) ** 2 + (COLUMNS - 50) ** 2 < 15**2
TAIL = (np.abs(ROWS - 40) < 5) & (COLUMNS > 60) & (COLUMNS < 85)


def slice_of(mask: np.ndarray, *, contrast: float = 0.4, noise: float = 0.04) -> np.ndarray:
    rng = np.random.default_rng(4)
    return (0.3 + contrast * mask + rng.normal(0, noise, mask.shape)).astype(np.float32)


def clicks(points, signs=None, box=None) -> SlicePrompt:
    return SlicePrompt.from_points(1, 0, points, signs, box)


def boundary_distance(mask: np.ndarray) -> np.ndarray:
    return ndi.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]


@pytest.mark.parametrize("contrast", [0.4, -0.25])
def test_one_click_finds_an_object_brighter_or_darker_than_its_surround(contrast):
    found = mask_from_prompt(slice_of(BALL, contrast=contrast), clicks([(44, 45)]))
    assert dice(found, BALL) > 0.93


def test_a_box_finds_it_too_also_where_it_leaves_the_slice():
    assert dice(mask_from_prompt(slice_of(BALL), clicks([], [], (24, 34, 56, 66))), BALL) > 0.93
    cut = np.roll(BALL, -45, axis=1)
    cut[:, 60:] = False
    assert dice(mask_from_prompt(slice_of(cut), clicks([], [], (24, -9, 56, 22))), cut) > 0.9


def test_a_click_outside_takes_back_what_went_too_far():
    # Only the person knows that the strip is two objects.
    strip = (np.abs(COLUMNS - 50) < 9) & (ROWS > 12) & (ROWS < 68)
    first = mask_from_prompt(slice_of(strip), clicks([(28, 50)]))
    assert dice(first, strip) > 0.85
    second = mask_from_prompt(slice_of(strip), clicks([(28, 50), (55, 50)], [1, 0]))
    assert second[20:35, 45:55].all()
    assert not second[53:58, 47:53].any()
    assert not (second & ~first).any()


def test_a_click_inside_adds_a_part_that_looks_different():
    image = slice_of(BALL)
    image[TAIL & ~BALL] += 0.2
    first = mask_from_prompt(image, clicks([(40, 45)]))
    second = mask_from_prompt(image, clicks([(40, 45), (40, 75)]))
    assert (first & TAIL).sum() < 0.5 * TAIL.sum()
    assert (second & TAIL).sum() > 0.9 * TAIL.sum()
    assert second.sum() < 1.4 * (BALL | TAIL).sum()


def test_a_correction_near_the_outline_changes_nothing_far_from_it():
    image = slice_of(BALL)
    box = (24, 34, 56, 66)
    first = mask_from_prompt(image, clicks([], [], box))
    second = mask_from_prompt(image, clicks([(23, 50)], [1], box))
    assert second[23, 50]
    np.testing.assert_array_equal(second[35:], first[35:])
    third = mask_from_prompt(image, clicks([(23, 50), (54, 50)], [1, 0], box))
    assert not third[54, 50]
    np.testing.assert_array_equal(third[:45], second[:45])


def test_every_click_is_obeyed():
    rng = np.random.default_rng(0)
    image = slice_of(BALL)
    for _ in range(20):
        places = rng.permutation(80 * 100)[:6]
        points = np.column_stack(np.unravel_index(places, image.shape))
        signs = np.r_[1, rng.integers(0, 2, 5)]
        found = mask_from_prompt(image, clicks(points, signs))
        np.testing.assert_array_equal(found[tuple(points.T)], signs == 1)


@pytest.mark.parametrize(
    "image",
    [np.zeros((9, 9)), np.full((1, 40), 0.5), np.full((40, 1), 0.5), np.eye(3), np.ones((1, 1))],
)
def test_flat_and_tiny_slices_are_answered(image):
    image = image.astype(np.float32)
    height, width = image.shape
    for prompt in (clicks([(0, 0)]), clicks([], [], (-0.5, -0.5, height - 0.5, width - 0.5))):
        found = mask_from_prompt(image, prompt)
        assert found.shape == image.shape
        assert found.any()


def test_contradictions_are_told():
    image = slice_of(BALL)
    with pytest.raises(PromptError, match="label 1 on slice 0: are all outside the object"):
        mask_from_prompt(image, clicks([(3, 3)], [0]))
    with pytest.raises(PromptError, match=r"same pixel .* found .*\(40, 50\)"):
        mask_from_prompt(image, clicks([(40, 50), (40.2, 50.1)], [1, 0]))


def test_a_large_slice_is_answered_at_once_and_small_objects_at_full_resolution():
    rows, columns = np.mgrid[:512, :512]
    ball = (rows - 300) ** 2 + (columns - 120) ** 2 < 9**2
    image = slice_of(ball)
    started = time.process_time()
    found = mask_from_prompt(image, clicks([(301, 118)]))
    assert time.process_time() - started < 0.3
    assert dice(found, ball) > 0.93


def test_real_slices(shared):
    """Means as measured, less a little; `benchmarks/clicks.py` has the whole table."""
    scores = []
    for name in ("ct_spleen_msd02", "mr_sarcoma_sts010", "lm_cells_ovule", "mr_spinalcord_sct"):
        folder = shared / "volumes" / name
        meta = json.loads((folder / "meta.json").read_text())
        axis, label = meta["slice_axis"], meta["suggested_eval_labels"][0]
        volume = Volume(np.asarray(nib.load(folder / "image.nii.gz").dataobj), axis)
        truth = np.asarray(nib.load(folder / "labels.nii.gz").dataobj) == label
        index = int(np.argmax(truth.sum(tuple(a for a in range(3) if a != axis))))
        mask = truth[volume.slicer(index)]
        window = IntensityWindow.from_percentiles(volume)
        answers = PromptSolver(FlowSegmenter(), volume, window)
        prompt = SlicePrompt.from_points(1, index, [peak(mask)])
        of_slice = []
        for _ in range(4):
            found = answers.find(prompt).mask
            of_slice.append(dice(found, mask))
            missed, extra = boundary_distance(mask & ~found), boundary_distance(found & ~mask)
            outside = extra.max() > missed.max()
            prompt = prompt.refine([peak(extra if outside else missed)], [0 if outside else 1])
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box = (rows[0] - 1, columns[0] - 1, rows[-1] + 1, columns[-1] + 1)
        of_slice.append(dice(answers.find(SlicePrompt.from_box(1, index, box)).mask, mask))
        scores.append(of_slice)
    one, _, _, four, box = np.mean(scores, axis=0)
    assert one > 0.6
    assert four > 0.8
    assert box > 0.85


def peak(values: np.ndarray) -> tuple[int, int]:
    values = boundary_distance(values) if values.dtype == bool else values
    return tuple(int(i) for i in np.unravel_index(values.argmax(), values.shape))


@pytest.mark.parametrize("model", ["flow", "interpolation"])
def test_models_without_weights_propagate_from_clicks(model):
    volume = Volume(np.stack([slice_of(BALL)] * 5), 0)
    session = SegmentationSession(volume, model=model, window=IntensityWindow(0.0, 1.0))
    session.add_prompt(SlicePrompt.from_points(1, 0, [(40, 50)]))
    assert not session.labels.any(), "the next run finds the mask"
    session.add_prompt(session.answer(SlicePrompt.from_box(1, 4, (24, 34, 56, 66))))
    assert dice(session.labels[4] == 1, BALL) > 0.93, "it was found already"
    list(session.propagate())
    for index in range(5):
        assert dice(session.labels[index] == 1, BALL) > 0.9


def test_a_network_answers_with_what_it_finds_itself(make_segmenter, textured):
    segmenter = make_segmenter()
    window = IntensityWindow(0.0, 1.0)
    answers = PromptSolver(segmenter, textured, window)
    prompt = SlicePrompt.from_points(1, 20, [(18, 15)])
    found = answers.find(prompt)
    embedding = segmenter.encode_image(window.apply(textured.take(20)))
    shape = textured.slice_shape
    expected = segmenter.encode_seed(embedding, prompt, shape).patch.mask(shape)
    np.testing.assert_array_equal(found.mask, expected)
    again = answers.find(found.refine([(2, 2)], [0]))
    assert answers.embeddings.encoded == 1, "the image is encoded once"
    assert len(again.points) == 2


def test_nothing_found_is_told(make_segmenter, textured, monkeypatch):
    segmenter = make_segmenter()
    encode_seed = segmenter.encode_seed

    def blind(*args):
        result = encode_seed(*args)
        result.patch.logits[:] = -8
        return result

    monkeypatch.setattr(segmenter, "encode_seed", blind)
    answers = PromptSolver(segmenter, textured, IntensityWindow(0.0, 1.0))
    with pytest.raises(PromptError, match="the model 'tiny' finds no object"):
        answers.find(SlicePrompt.from_points(1, 20, [(18, 15)]))
    with pytest.raises(PromptError, match="a point lies outside the slice"):
        answers.find(SlicePrompt.from_points(1, 20, [(18, 150)]))
    with pytest.raises(PromptError, match="has no points and no box"):
        answers.find(SlicePrompt.absent_at(1, 20))
