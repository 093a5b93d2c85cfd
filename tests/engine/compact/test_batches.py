"""The default model on a CPU: an object's result is the same in every batch, to the last bit."""

import numpy as np
import pytest
import torch

from napari_slmsam2.core.memory import MemoryBank, MemoryEntry
from napari_slmsam2.core.prompts import SlicePrompt
from napari_slmsam2.core.segmenter import SliceVisit, SweepContext
from napari_slmsam2.core.volume import Volume
from napari_slmsam2.engine.loading import make_segmenter
from napari_slmsam2.session.session import SegmentationSession

SHAPE = (12, 150, 170)
N_OBJECTS = 16


@pytest.fixture(scope="module")
def objects():
    """Image and masks: flat and textured objects of 4 to 50 pixels, with and without a rim."""
    rng = np.random.default_rng(7)
    z, y, x = np.indices(SHAPE)
    image = rng.normal(0.3, 0.02, SHAPE)
    masks = []
    for number in range(N_OBJECTS):
        row, column = rng.uniform(10, 140), rng.uniform(10, 160)
        radius = rng.uniform(4, 50) * (1 - 0.02 * np.abs(z - 6))
        distance = np.hypot(y - row - rng.uniform(-1, 1) * z, x - column) - radius
        masks.append(distance < 0)
        image += 0.04 * masks[-1] * rng.standard_normal()
        if number % 2:
            image[masks[-1]] += rng.normal(0, 0.15, int(masks[-1].sum()))
            image[np.abs(distance) < 1.2] -= 0.4
    return image.astype(np.float32), masks


def leaves(value):
    """All tensors in nested tuples."""
    if isinstance(value, torch.Tensor):
        return [value]
    return [leaf for one in value for leaf in leaves(one)] if isinstance(value, tuple) else []


def digits(found):
    """All numbers of a `SegmentedSlice` and of the state that the next slice begins with."""
    patch = found.patch
    box = [(side.start, side.stop) for side in patch.box]
    own = (patch.logits, box, found.presence, found.predicted_iou, found.stability)
    return [np.asarray(one) for one in (*own, *leaves(found.content.state))]


def swept(segmenter, slices, masks, chosen, n):
    """Results of objects on slices 4 and 5 forward and 8 and 7 backward, ``n`` in a batch."""
    image, context = slices
    banks = {}
    for number in chosen:
        for direction in (1, -1):
            seeds = (3, 9) if number % 3 else (3 if direction == 1 else 9,)
            bank = banks[number, direction] = MemoryBank(number + 1)
            for index in seeds:
                prompt = SlicePrompt.from_mask(number + 1, index, masks[number][index])
                seed = segmenter.encode_seed(image[index], prompt, SHAPE[1:])
                bank.add(MemoryEntry(index, True, seed.content))
    found = {key: [] for key in banks}
    for step in (1, 2):
        arriving = list(banks)
        for first in range(0, len(arriving), n):
            batch = arriving[first : first + n]
            visits = [
                SliceVisit(image[index], index, direction, [banks[key] for key in keys])
                for direction, index in ((1, 3 + step), (-1, 9 - step))
                if (keys := [key for key in batch if key[1] == direction])
            ]
            order = [key for direction in (1, -1) for key in batch if key[1] == direction]
            results = segmenter.segment_visits(visits, context)
            for key, result in zip(order, results, strict=True):
                index = 3 + step if key[1] == 1 else 9 - step
                banks[key].add(MemoryEntry(index, False, result.content))
                found[key].append(digits(result))
    return found


@pytest.mark.slow
def test_a_result_depends_neither_on_the_size_of_the_batch_nor_on_the_place_in_it(objects):
    image, masks = objects
    segmenter = make_segmenter("compact", device="cpu").segmenter
    slices = [segmenter.encode_image(one) for one in image]
    context = SweepContext(len(image), SHAPE[1:], (2.0, 1.0, 1.0), {2: (1, 10)}, slices.__getitem__)
    alone = swept(segmenter, (slices, context), masks, range(N_OBJECTS), 1)
    highest = [numbers[0].max(initial=0) for steps in alone.values() for numbers in steps]
    assert sum(np.greater(highest, 0)) > N_OBJECTS
    strengths = [
        float(
            segmenter.encode_seed(slices[3], SlicePrompt.from_mask(1, 3, mask[3]), SHAPE[1:])
            .content.crop.ridge_strength
        )
        for mask in masks
    ]  # fmt: skip
    assert len({strength == 0 for strength in strengths}) == 2, "with and without a ridge"
    rng = np.random.default_rng(0)
    for n in (2, 3, 5, 8, 16, 2 * N_OBJECTS):
        found = swept(segmenter, (slices, context), masks, rng.permutation(N_OBJECTS), n)
        for key, steps in found.items():
            for one, other in zip(alone[key], steps, strict=True):
                for a, b in zip(one, other, strict=True):
                    np.testing.assert_array_equal(a, b, err_msg=f"{key}, {n} in a batch")


@pytest.mark.slow
def test_a_label_is_the_same_with_and_without_another_far_away():
    z, y, x = np.indices((16, 60, 150))
    near = np.hypot(y - 30 - 2 * np.sin(z / 3), x - 28) < 13
    far = np.hypot(y - 28, x - 120 + z) < 10
    noise = np.random.default_rng(1).normal(0, 0.05, near.shape)
    image = (0.3 + 0.4 * near + 0.2 * far + noise).astype(np.float32)

    def run(masks):
        session = SegmentationSession(Volume(image), model="compact", device="cpu")
        for label, mask in masks.items():
            for index in (3, 10):
                session.add_prompt(SlicePrompt.from_mask(label, index, mask[index]))
        for _ in session.propagate():
            pass
        return session

    alone, both = run({1: near}), run({1: near, 2: far})
    assert (both.labels == 2).any((1, 2)).sum() > 8
    np.testing.assert_array_equal(alone.labels == 1, both.labels == 1)
    for index in (0, 5, 8, 12, 15):
        one, other = alone.logits_on_slice(index)[1], both.logits_on_slice(index)[1]
        np.testing.assert_array_equal(one, other)

    again = run({1: near})
    again.add_prompt(SlicePrompt.from_mask(1, 14, near[14]))
    for _ in again.propagate():
        pass
    np.testing.assert_array_equal(again.labels[:10], alone.labels[:10])
