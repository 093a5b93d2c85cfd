"""The strip along the slice axis, with real mouse and key events, and looked at pixel by pixel."""

from __future__ import annotations

import time

import numpy as np
import pytest
from qtpy.QtCore import QPoint, Qt
from qtpy.QtGui import QColor, QHelpEvent, QImage, QPalette
from qtpy.QtWidgets import QApplication, QLineEdit, QToolTip, QVBoxLayout, QWidget

from napari_slmsam2.widgets.runs.quality_strip import QualityStrip

THEMES = {"dark": ("#23242b", "#f0f1f2"), "light": ("#ebe7e6", "#1e1e21")}


def dress(strip: QualityStrip, theme: str) -> None:
    background, text = THEMES[theme]
    palette = QPalette(strip.palette())
    palette.setColor(QPalette.ColorRole.Window, QColor(background))
    palette.setColor(QPalette.ColorRole.WindowText, QColor(text))
    strip.setPalette(palette)


@pytest.fixture
def strip(qtbot) -> QualityStrip:
    strip = QualityStrip()
    qtbot.addWidget(strip)
    dress(strip, "dark")
    strip.resize(306, 36)  # 300 px for the slices
    strip.set_slices(30)
    strip.show()
    return strip


def x_of(strip: QualityStrip, index: int) -> int:
    return round(3 + (index + 0.5) * (strip.width() - 6) / strip.n_slices)


def place(strip: QualityStrip, index: int) -> QPoint:
    return QPoint(x_of(strip, index), strip.height() // 2)


def pixels(strip: QualityStrip) -> np.ndarray:
    """RGB, shape (height, width, 3), of a strip without the line of the current slice."""
    image = strip.grab().toImage().convertToFormat(QImage.Format.Format_RGB888)
    data = image.constBits()
    size = image.sizeInBytes()
    flat = np.frombuffer(data.asstring(size) if hasattr(data, "asstring") else data, np.uint8)
    rows = flat[:size].reshape(image.height(), image.bytesPerLine())
    return rows[:, : 3 * image.width()].reshape(image.height(), image.width(), 3).astype(int)


def contrast(first: np.ndarray, second: np.ndarray) -> float:
    """Of two colours, as the WCAG defines it: 1 to 21."""
    lights = []
    for colour in (first, second):
        part = np.asarray(colour) / 255
        linear = np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)
        lights.append(float(linear @ [0.2126, 0.7152, 0.0722]) + 0.05)
    return max(lights) / min(lights)


@pytest.mark.parametrize("index", [0, 7, 29])
def test_a_click_asks_for_the_slice_under_it(strip, qtbot, index):
    with qtbot.waitSignal(strip.slice_clicked, timeout=1000) as asked:
        qtbot.mouseClick(strip, Qt.MouseButton.LeftButton, pos=place(strip, index))
    assert asked.args == [index]


def test_a_drag_asks_once_for_every_slice_it_crosses(strip, qtbot):
    asked = []
    strip.slice_clicked.connect(asked.append)
    qtbot.mousePress(strip, Qt.MouseButton.LeftButton, pos=place(strip, 5))
    for x in range(x_of(strip, 5), x_of(strip, 9) + 1):
        qtbot.mouseMove(strip, QPoint(x, 18))
    qtbot.mouseRelease(strip, Qt.MouseButton.LeftButton, pos=place(strip, 9))
    assert asked == [5, 6, 7, 8, 9]
    qtbot.mouseMove(strip, place(strip, 20))
    assert asked[-1] == 9


def test_a_drag_beyond_the_ends_stays_in_the_volume(strip, qtbot):
    asked = []
    strip.slice_clicked.connect(asked.append)
    qtbot.mousePress(strip, Qt.MouseButton.LeftButton, pos=place(strip, 1))
    qtbot.mouseMove(strip, QPoint(-40, 18))
    qtbot.mouseMove(strip, QPoint(900, 18))
    assert asked == [1, 0, 29]


def test_other_buttons_do_nothing(strip, qtbot):
    with qtbot.assertNotEmitted(strip.slice_clicked, wait=20):
        qtbot.mouseClick(strip, Qt.MouseButton.RightButton, pos=place(strip, 5))


@pytest.mark.parametrize(
    ("key", "expected"),
    [("Right", 11), ("Left", 9), ("Up", 11), ("Down", 9), ("PageUp", 13), ("PageDown", 7),
     ("Home", 0), ("End", 29)],
)  # fmt: skip
def test_keys_ask_for_slices(strip, qtbot, key, expected):
    strip.set_current(10)
    with qtbot.waitSignal(strip.slice_clicked, timeout=1000) as asked:
        qtbot.keyClick(strip, getattr(Qt.Key, f"Key_{key}"))
    assert asked.args == [expected]


def test_keys_stop_at_the_ends_and_leave_other_keys_alone(strip, qtbot):
    strip.set_current(29)
    with qtbot.assertNotEmitted(strip.slice_clicked, wait=20):
        qtbot.keyClick(strip, Qt.Key.Key_Right)
        qtbot.keyClick(strip, Qt.Key.Key_A)


def test_tab_reaches_the_strip_but_a_click_leaves_the_keys_to_the_canvas(qtbot):
    window, canvas, strip = QWidget(), QLineEdit(), QualityStrip()
    qtbot.addWidget(window)
    strip.set_slices(30)
    layout = QVBoxLayout(window)
    layout.addWidget(canvas)
    layout.addWidget(strip)
    with qtbot.waitExposed(window):
        window.show()
    canvas.setFocus()
    qtbot.mouseClick(strip, Qt.MouseButton.LeftButton, pos=place(strip, 3))
    assert window.focusWidget() is canvas
    qtbot.keyClick(canvas, Qt.Key.Key_Tab)
    assert window.focusWidget() is strip


def test_descriptions(strip):
    strip.set_quality({12: 0.834, 13: 0.2, 14: float("nan")})
    strip.set_seeds({3: [12], 1: [12, 20]})
    assert strip.describe(12) == "slice 12: confidence 0.83, seed of labels 1, 3"
    assert strip.describe(13) == "slice 13: confidence 0.20"
    assert strip.describe(14) == "slice 14: not segmented"
    assert strip.describe(20) == "slice 20: seed of label 1"
    strip.set_current(20)
    assert strip.accessibleDescription() == "slice 20: seed of label 1"
    strip.set_seeds({})
    assert strip.accessibleDescription() == "slice 20: not segmented"


def test_the_pointer_shows_the_description(strip, qtbot):
    strip.set_quality({12: 0.5})
    spot = place(strip, 12)
    event = QHelpEvent(QHelpEvent.Type.ToolTip, spot, strip.mapToGlobal(spot))
    QApplication.sendEvent(strip, event)
    assert QToolTip.text() == "slice 12: confidence 0.50"
    QToolTip.hideText()
    qtbot.waitUntil(lambda: not QToolTip.isVisible())


@pytest.mark.parametrize("theme", THEMES)
def test_low_and_high_confidence_differ_in_colour_and_height(strip, theme):
    dress(strip, theme)
    strip.set_quality({5: 0.1, 15: 0.97})
    strip.set_current(29)
    image = pixels(strip)
    low, high, empty = (image[9:28, x_of(strip, i)] for i in (5, 15, 10))
    trough = empty[0]
    assert (empty == trough).all()
    # Of the low bar the upper half is a tint, of the high bar it is the colour itself.
    assert (low[3] != low[-1]).any()
    assert (high[3] == high[-1]).all()
    assert contrast(low[-1], trough) > 1.4
    assert contrast(high[-1], trough) > 1.4
    assert low[-1][0] > low[-1][2] + 100  # reddish
    assert high[-1][2] > high[-1][0] + 60  # bluish


@pytest.mark.parametrize("theme", THEMES)
def test_seeds_progress_range_and_position_are_seen(strip, theme):
    dress(strip, theme)
    strip.set_current(29)
    background, text = (QColor(name).getRgb()[:3] for name in THEMES[theme])
    before = pixels(strip)
    assert (before[3, x_of(strip, 8)] == background).all()

    strip.set_seeds({1: [8], 2: [8]})
    seeds = pixels(strip)
    assert (np.abs(seeds[3, x_of(strip, 8)] - text) < 10).all()
    assert (seeds[:, x_of(strip, 20)] == before[:, x_of(strip, 20)]).all()

    strip.set_progress({12, 13})
    visited = pixels(strip)
    changed = (visited != seeds).any(axis=(0, 2))
    assert changed[x_of(strip, 12)]
    assert changed[x_of(strip, 13)]
    assert not changed[x_of(strip, 14) :].any()

    strip.set_range((10, 19))
    bracket = (pixels(strip) != visited).any(axis=2)[-6:].any(axis=0)
    inside = np.flatnonzero(bracket)
    assert inside[0] == pytest.approx(3 + 100, abs=2)
    assert inside[-1] == pytest.approx(3 + 200, abs=2)
    strip.set_range(None)
    assert (pixels(strip) == visited).all()

    strip.set_current(2)
    line = pixels(strip)
    assert (line[10:, x_of(strip, 2)] == text).all()
    assert (line[10:, x_of(strip, 29)] != text).any(axis=1).all()
    strip.set_current(8)
    marker = pixels(strip)
    assert (marker[:6, x_of(strip, 8)] == line[:6, x_of(strip, 8)]).all()


def test_many_slices_show_the_lowest_confidence_of_a_pixel(strip):
    strip.set_slices(5000)
    strip.set_quality(dict.fromkeys(range(5000), 0.95))
    strip.set_current(4999)
    good = pixels(strip)
    strip.set_quality({**dict.fromkeys(range(5000), 0.95), 2507: 0.05})
    bad = pixels(strip)
    columns = np.flatnonzero((good != bad).any(axis=(0, 2)))
    assert columns.size
    assert abs(columns - x_of(strip, 2507)).max() <= 1


def test_stale_indices_are_left_out(strip):
    strip.set_slices(10)
    strip.set_quality({3: 1.2, 10: 0.5, -1: 0.5})
    strip.set_seeds({1: [2, 10, -1]})
    strip.set_progress({1, 99})
    strip.set_range((4, 99))
    strip.set_current(99)
    assert strip.current == 9
    assert strip.describe(3) == "slice 3: confidence 1.00"
    assert strip.describe(9) == "slice 9: not segmented"
    strip.grab()


def test_new_slices_start_anew(strip):
    strip.set_quality({3: 0.5})
    strip.set_seeds({1: [4]})
    strip.set_current(25)
    strip.set_slices(20)
    assert strip.current == 19
    assert strip.describe(3) == "slice 3: not segmented"
    assert strip.describe(4) == "slice 4: not segmented"


def test_without_slices_there_is_nothing_to_ask_for(strip, qtbot):
    strip.set_slices(0)
    strip.set_current(3)
    with qtbot.assertNotEmitted(strip.slice_clicked, wait=20):
        qtbot.mouseClick(strip, Qt.MouseButton.LeftButton, pos=QPoint(50, 18))
        qtbot.keyClick(strip, Qt.Key.Key_End)
    assert strip.slice_at(50) is None
    assert strip.accessibleDescription() == "no slices"
    strip.grab()


@pytest.mark.parametrize("width", [80, 640])
def test_positions_follow_the_width(strip, qtbot, width):
    strip.resize(width, 36)
    for index in (0, 14, 29):
        assert strip.slice_at(x_of(strip, index)) == index
        with qtbot.waitSignal(strip.slice_clicked, timeout=1000) as asked:
            qtbot.mouseClick(strip, Qt.MouseButton.LeftButton, pos=place(strip, index))
        assert asked.args == [index]


def test_moving_along_5000_slices_does_not_draw_them_again(strip):
    strip.set_slices(5000)
    strip.set_quality(dict.fromkeys(range(5000), 0.7))

    def seconds(change) -> float:
        started = time.perf_counter()
        for i in range(20):
            change(i)
            strip.grab()
        return (time.perf_counter() - started) / 20

    whole = seconds(lambda i: strip.set_range((i, 4000)))
    line = seconds(strip.set_current)
    print(f"5000 slices: {1000 * whole:.2f} ms anew, {1000 * line:.2f} ms for the position")  # noqa: T201
    assert line < whole
