from __future__ import annotations

import pytest
from qtpy.QtWidgets import QFileDialog, QMessageBox, QWidget

from napari_slmsam2.widgets.common.file_dialogs import ask_save_path
from napari_slmsam2.widgets.files.saving import LABEL_FILTER

FILTERS = LABEL_FILTER.split(";;")


@pytest.fixture
def ask(qtbot, monkeypatch):
    """Type a name, with a filter chosen; the answer to "replace?"."""
    parent = QWidget()
    qtbot.addWidget(parent)

    def give(typed, chosen="", replace=None):
        answer = QMessageBox.StandardButton.Yes if replace else QMessageBox.StandardButton.No
        asked = []
        monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *a, **k: (str(typed), chosen))
        monkeypatch.setattr(QMessageBox, "question", lambda *a: asked.append(a) or answer)
        path = ask_save_path(parent, "Save labels", "x", LABEL_FILTER, (".nhdr",))
        assert bool(asked) == (replace is not None)
        return path

    return give


@pytest.mark.parametrize(
    ("number", "suffix"),
    list(
        enumerate(
            [".nii.gz", ".ome.tif", ".ome.zarr", ".nrrd", ".seg.nrrd", ".mgz", ".npy", ".dcm"]
        )
    ),
)
def test_a_name_gets_the_suffix_of_its_filter(ask, tmp_path, number, suffix):
    assert ask(tmp_path / "liver", FILTERS[number]) == tmp_path / f"liver{suffix}"
    assert ask(tmp_path / "v1.2", FILTERS[number]) == tmp_path / f"v1.2{suffix}"


@pytest.mark.parametrize("name", ["a.nii", "a.NII.GZ", "a.tif", "a.nhdr", "a.seg.nrrd"])
def test_a_known_suffix_stays(ask, tmp_path, name):
    assert ask(tmp_path / name, FILTERS[0]) == tmp_path / name


def test_without_a_filter_the_first_one_counts(ask, tmp_path):
    assert ask(tmp_path / "liver") == tmp_path / "liver.nii.gz"


def test_a_file_that_the_suffix_leads_to_is_not_replaced_unasked(ask, tmp_path):
    (tmp_path / "liver.nii.gz").write_text("work")
    assert ask(tmp_path / "liver", FILTERS[0], replace=False) is None
    assert ask(tmp_path / "liver", FILTERS[0], replace=True) == tmp_path / "liver.nii.gz"


def test_cancel_gives_none(ask):
    assert ask("") is None
