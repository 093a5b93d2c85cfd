"""The network that comes with the package: it is there, loads, and segments real volumes."""

import numpy as np
import pytest

from napari_slmsam2.core.errors import ConfigError
from napari_slmsam2.core.prompts import SlicePrompt
from napari_slmsam2.engine.loading import make_segmenter
from napari_slmsam2.engine.weights.model_folder import file_of
from napari_slmsam2.engine.weights.registry import get_model, list_models
from napari_slmsam2.evaluate import choose_seeds
from napari_slmsam2.io import read_image, read_labels
from napari_slmsam2.sample import make_sample
from napari_slmsam2.session.session import SegmentationSession


def propagate(volume, masks, axis, model, ends=False):
    session = SegmentationSession(volume, model=model, device="cpu")
    for label, mask in masks.items():
        (seed,) = choose_seeds(mask, axis, 1)
        session.add_prompt(SlicePrompt.from_mask(label, seed, np.take(mask, seed, axis)))
        if ends:
            there = np.flatnonzero(mask.any(tuple(a for a in range(3) if a != axis)))
            session.set_extent(label, int(there[0]), int(there[-1]))
    list(session.propagate())
    return session.labels


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def test_it_comes_with_the_package():
    card = get_model("compact")
    assert card in list_models()
    assert card.path.stat().st_size < 15e6
    assert not card.needs_download
    ready = make_segmenter("compact", device="cpu")
    assert (ready.name, ready.device) == ("compact", "cpu")
    assert len(ready.sha256) == 64
    with pytest.raises(ConfigError, match="is part of this program"):
        file_of("compact")


def test_it_segments_the_sample_from_one_slice_each():
    sample = make_sample()
    masks = {label: sample.labels == label for label in sample.names}
    found = propagate(sample.volume, masks, sample.volume.axis, "compact")
    for label, mask in masks.items():
        assert dice(found == label, mask) > 0.8


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "axis", "label", "least"),
    [("mr_spinalcord_sct", 1, 1, 0.9), ("pet_sarcoma_sts018", 2, 1, 0.85)],
)
def test_it_segments_a_real_volume(shared, name, axis, label, least):
    folder = shared / "volumes" / name
    image = read_image(folder / "image.nii.gz", axis=axis)
    truth = np.asarray(read_labels(folder / "labels.nii.gz", image)) == label
    found = propagate(image.volume, {1: truth}, axis, "compact", ends=True)
    assert dice(found == 1, truth) > least
