from __future__ import annotations

import numpy as np
import pytest
from napari.components import ViewerModel
from qtpy.QtCore import QThreadPool

from napari_slmsam2.core.intensity import CT_PRESETS, WINDOW_CHOICES
from napari_slmsam2.widgets.common.settings_form import LAYER_LIMITS, window_chooser
from napari_slmsam2.widgets.workspace import contrast
from napari_slmsam2.widgets.workspace.workspace import Workspace

SOFT_TISSUE = [-160, 240]


def ct():
    data = np.full((6, 32, 32), -1000, np.int16)
    data[:, 8:24, 8:24] = 40
    data[:, 14:18, 14:18] = 1200
    return data


@pytest.fixture
def bench(qtbot):
    space = Workspace(ViewerModel())
    chooser = window_chooser("Limits of the layer", "")
    qtbot.addWidget(chooser.native)
    presets = contrast.ContrastPresets(space, chooser)
    yield space, chooser
    assert QThreadPool.globalInstance().waitForDone(10_000)
    presets.close_connections()
    space.close_connections()


def test_a_ct_opens_with_the_window_of_soft_tissue(bench):
    space, chooser = bench
    space.set_image(space.viewer.add_image(ct()))
    assert space.image.contrast_limits == SOFT_TISSUE
    assert chooser.value == "soft_tissue"


def test_limits_that_somebody_set_stay(bench):
    space, chooser = bench
    space.set_image(space.viewer.add_image(ct(), contrast_limits=(-50, 90)))
    assert space.image.contrast_limits == [-50, 90]
    assert chooser.value == LAYER_LIMITS


@pytest.mark.parametrize(
    "data",
    [
        np.random.default_rng(0).normal(0, 1, (4, 16, 16)),
        np.random.default_rng(0).integers(0, 2000, (4, 16, 16)).astype(np.uint16),
        np.full((4, 16, 16), np.nan),
        np.full((4, 16, 16), -1000, np.int16),
    ],
)
def test_what_is_no_ct_opens_as_napari_shows_it(bench, data):
    space, chooser = bench
    with np.errstate(all="ignore"):
        image = space.viewer.add_image(data, contrast_limits=None)
    before = list(image.contrast_limits)
    space.set_image(image)
    assert list(image.contrast_limits) == before
    assert chooser.value == LAYER_LIMITS


def test_every_window_of_the_model_is_a_contrast_of_the_layer(bench, qtbot):
    space, chooser = bench
    space.set_image(space.viewer.add_image(ct()))
    assert set(chooser.choices) == {*WINDOW_CHOICES, LAYER_LIMITS}
    for name, (level, width) in CT_PRESETS.items():
        chooser.value = name
        assert space.image.contrast_limits == [level - width / 2, level + width / 2]
    chooser.value = "0.5-99.5%"
    qtbot.waitUntil(lambda: space.image.contrast_limits == [-1000, 1200], timeout=10_000)
    assert chooser.value == "0.5-99.5%"


def test_limits_set_by_hand_are_shown_as_such(bench):
    space, chooser = bench
    space.set_image(space.viewer.add_image(ct()))
    space.image.contrast_limits = (0, 100)
    assert chooser.value == LAYER_LIMITS
    assert space.image.contrast_limits == [0, 100]
    space.image.contrast_limits = SOFT_TISSUE
    assert chooser.value == "soft_tissue"
    space.set_image(space.viewer.add_image(ct(), contrast_limits=(0, 80), name="head"))
    assert chooser.value == "brain"


def test_a_ct_is_set_once(bench):
    space, chooser = bench
    first = space.viewer.add_image(ct())
    space.set_image(first)
    first.contrast_limits = first.contrast_limits_range
    space.set_image(space.viewer.add_image(np.zeros((4, 5, 6)), name="other"))
    space.set_image(first)
    assert first.contrast_limits == first.contrast_limits_range
    assert chooser.value == LAYER_LIMITS


def test_percentiles_of_a_constant_image_are_refused_with_a_message(bench, qtbot, monkeypatch):
    told = []
    monkeypatch.setattr(contrast, "show_warning", told.append)
    space, chooser = bench
    space.set_image(space.viewer.add_image(np.full((4, 5, 6), 7.0), name="blank"))
    chooser.value = "0.5-99.5%"
    qtbot.waitUntil(lambda: bool(told), timeout=10_000)
    assert told == ["blank: all intensities of this window are 7."]
    assert chooser.value == LAYER_LIMITS
