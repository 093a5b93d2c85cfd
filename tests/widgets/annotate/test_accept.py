"""The key that accepts the slice on screen."""

from __future__ import annotations

import numpy as np
import pytest
from app_model.types import KeyBinding

from napari_slmsam2.io.layer_grid import table_of


@pytest.fixture
def done(bench):
    """A bench after a run of two labels."""
    bench.paint(5)
    bench.paint(7, label=2, at=(3, 15))
    bench.run()
    return bench


def test_a_key_accepts_the_slice_and_fix_next_moves_on(done):
    panel = done.panel
    assert panel.checked.text() == "Label 2: checked 1 of 12 slices."
    panel.next_to_fix()
    index, label = panel.workspace.index, panel.workspace.label
    before = done.layer.data.copy()
    done.viewer.keymap[KeyBinding.from_str("K")](done.viewer)
    assert (index, label, "painted") in panel.seeds.rows
    assert panel.checked.text() == f"Label {label}: checked 2 of 12 slices."
    assert panel.undo_button.text() == "Undo accept"
    panel.next_to_fix()
    assert (panel.workspace.index, panel.workspace.label) != (index, label)
    panel.undo_button.click()
    assert (index, label) not in done.seeds
    np.testing.assert_array_equal(done.layer.data, before)


def test_all_labels_of_a_slice_are_accepted_at_once(done):
    done.show(6)
    done.panel.accept_all()
    assert {(6, 1), (6, 2)} <= done.seeds
    done.panel.undo()
    assert not {(6, 1), (6, 2)} & done.seeds


def test_a_slice_that_is_checked_already_is_named(done):
    done.show(7)
    done.panel.accept_button.click()
    assert done.panel.hint.text() == "Slice 7 is checked already."


def test_a_label_whose_slices_are_all_checked_is_done(done):
    for index in range(12):
        done.show(index)
        done.panel.accept()
    assert done.panel.checked.text() == "Label 2: checked 12 of 12 slices. Done."
    assert table_of(done.layer.metadata).done == {2}
    done.panel.undo()
    assert done.panel.checked.text() == "Label 2: checked 11 of 12 slices."
