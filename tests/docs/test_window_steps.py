"""The steps of the README in napari, with the controls that it names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nibabel
import npe2
import numpy as np
import pytest
from napari.layers import Labels
from qtpy.QtCore import QThreadPool
from qtpy.QtGui import QAction
from qtpy.QtWidgets import (
    QAbstractButton,
    QApplication,
    QFileDialog,
    QGroupBox,
    QLabel,
    QPushButton,
    QWidget,
)

from napari_slmsam2.sample import make_sample
from napari_slmsam2.widgets import FinishWidget, LabelTableWidget
from tests.docs.markdown import REPOSITORY

pytestmark = pytest.mark.skipif(
    not (REPOSITORY / "docs").is_dir(), reason="the documentation is not part of this copy"
)

README = REPOSITORY / "README.md"
PAINTED = 24


def steps() -> str:
    """The section of the README."""
    return README.read_text(encoding="utf-8").split("\n## In napari\n")[1].split("\n## ")[0]


def plain(text: str) -> str:
    """The text of a button without its key: ``Propagate (G)`` is ``Propagate``."""
    return re.sub(r" \(.\)$", "", text)


class Window:
    """napari with the panel, used by the names of its buttons."""

    def __init__(self, viewer: Any, qtbot: Any) -> None:
        self.viewer, self.qtbot = viewer, qtbot
        _, self.panel = viewer.window.add_plugin_dock_widget("napari-slmsam2", "Annotate")
        QApplication.processEvents()

    @property
    def buttons(self) -> dict[str, QPushButton]:
        return {plain(one.text()): one for one in self.panel.findChildren(QPushButton)}

    @property
    def layer(self) -> Labels:
        [layer] = [layer for layer in self.viewer.layers if isinstance(layer, Labels)]
        return layer

    @property
    def busy(self) -> bool:
        """Whether a worker of napari is running."""
        return QThreadPool.globalInstance().activeThreadCount() > 0

    def press(self, name: str) -> None:
        assert self.buttons[name].isEnabled()
        self.buttons[name].click()

    def run(self) -> None:
        self.press("Propagate")
        self.qtbot.waitUntil(lambda: not self.buttons["Propagate"].isEnabled(), timeout=10_000)
        self.qtbot.waitUntil(self.buttons["Propagate"].isEnabled, timeout=240_000)

    def paint(self, mask: np.ndarray) -> None:
        """Draw label 1 on the slice on screen, as napari's tools do."""
        index = self.viewer.dims.current_step[2]
        on_slice = (*np.nonzero((self.layer.data[:, :, index] == 1) != mask),)
        where = (*on_slice, np.full(len(on_slice[0]), index))
        self.layer.data_setitem(where, mask[on_slice].astype(self.layer.data.dtype))
        QApplication.processEvents()


def names_of_controls(panel: QWidget) -> set[str]:
    """What buttons, fields, groups and menu entries are called."""
    texts = [
        one.text()
        for kind in (QAbstractButton, QLabel, QAction)
        for one in panel.findChildren(kind)
    ]
    texts += [box.title() for box in panel.findChildren(QGroupBox)]
    return {plain(text) for text in texts}


@pytest.fixture
def window(npe2pm, make_napari_viewer, qtbot, tmp_path, monkeypatch, repository):
    monkeypatch.setenv("NAPARI_SLMSAM2_RECOVERY", str(tmp_path / "recovery"))
    npe2pm.register(npe2.PluginManifest.from_file(repository / "napari.yaml"))
    viewer = make_napari_viewer()
    viewer.open_sample("napari-slmsam2", "scan")
    yield Window(viewer, qtbot)
    assert QThreadPool.globalInstance().waitForDone(10_000)


@pytest.mark.parametrize("page", [README, REPOSITORY / "docs" / "window.md"], ids=lambda p: p.name)
def test_the_controls_have_the_names_that_are_printed(window: Window, page: Path):
    """The names of controls are bold, and nothing else is."""
    text = page.read_text(encoding="utf-8")
    text = steps() if page == README else text
    named = set(re.findall(r"\*\*([^*]+?)\*\*", text))
    assert named >= {"Propagate", "Next slice to fix", "Starts here", "Ends here"}
    table = LabelTableWidget(window.viewer)
    window.viewer.window.add_dock_widget(table, name="Label table")
    finish = FinishWidget(window.viewer)
    window.viewer.window.add_dock_widget(finish, name="Finish")
    docks = window.panel, table, finish
    assert named <= set.union(*map(names_of_controls, docks))


@pytest.mark.slow
def test_the_steps_lead_to_a_saved_label_map(window: Window, tmp_path: Path, monkeypatch, qtbot):
    truth = make_sample().labels == 1
    window.viewer.dims.set_current_step(2, PAINTED)
    window.paint(truth[:, :, PAINTED])
    window.run()
    filled = window.layer.data == 1
    np.testing.assert_array_equal(filled[:, :, PAINTED], truth[:, :, PAINTED])
    assert 2 * (filled & truth).sum() / (filled.sum() + truth.sum()) > 0.85

    window.press("Next slice to fix")
    worst = window.viewer.dims.current_step[2]
    assert worst != PAINTED
    window.paint(truth[:, :, worst])
    window.run()
    for index in (PAINTED, worst):
        np.testing.assert_array_equal(window.layer.data[:, :, index] == 1, truth[:, :, index])

    path = tmp_path / "labels.nii.gz"
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *a, **k: (str(path), ""))
    window.press("Save labels ...")
    # The panel is notified of the end, too, before the window closes.
    qtbot.waitUntil(lambda: path.exists() and not window.busy, timeout=30_000)
    QApplication.processEvents()
    saved = np.asarray(nibabel.load(path).dataobj)
    np.testing.assert_array_equal(saved, window.layer.data)
