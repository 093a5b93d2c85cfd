"""Controls of a run: propagate, stop, pause; progress and speed."""

from __future__ import annotations

from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QAction, QActionGroup
from qtpy.QtWidgets import (
    QHBoxLayout,
    QLabel,
    QMenu,
    QProgressBar,
    QPushButton,
    QSpinBox,
    QStackedLayout,
    QVBoxLayout,
    QWidget,
)

from napari_slmsam2.core.events import FinishReason
from napari_slmsam2.widgets.common.choosers import wrapped_label
from napari_slmsam2.widgets.common.icons import GlyphButton
from napari_slmsam2.widgets.common.layout import row
from napari_slmsam2.widgets.common.wording import duration

_DIRECTIONS = {
    "both": "Both ways",
    "forward": "Forward only (higher slices)",
    "backward": "Backward only (lower slices)",
}


class RunBar(QWidget):
    """The controls of a run."""

    propagate = Signal(str)
    """``auto``, ``gaps`` or ``all``."""
    stop = Signal()
    pause = Signal()
    range_changed = Signal()
    options_changed = Signal()
    """Direction, labels or range of the next run have changed."""

    def __init__(self) -> None:
        super().__init__()
        self.go_button = GlyphButton(
            "Propagate",
            "Propagate the seeds through the volume; after corrections, only beside them.",
            "play",
        )
        self.go_button.clicked.connect(lambda: self.propagate.emit("auto"))
        self.menu_button = QPushButton("Options")
        self.menu_button.setToolTip("Direction, labels and slices of the run; other runs.")
        self.stop_button = GlyphButton(
            "Stop", "End the run after the present slice; all so far stays.", "stop"
        )
        self.pause_button = GlyphButton(
            "Pause", "Pause the run after the present slice, or continue it.", "pause"
        )
        self.stop_button.clicked.connect(self.stop)
        self.pause_button.clicked.connect(self.pause)
        self.bar = QProgressBar()
        self.bar.setToolTip("Share of the work: each label on each slice, once per direction.")
        self.bar.setRange(0, 1)
        self.bar.setTextVisible(False)
        self.status: QLabel = wrapped_label()
        self.status.setToolTip("Progress of the run.")
        self.cost: QLabel = wrapped_label()
        self.cost.setToolTip(
            "What Propagate would do now, judged by the runs so far. Most runs end earlier: where "
            "the object ends."
        )
        self.follow = QAction("Follow the run", self, checkable=True)
        self.follow.setToolTip("Show each slice as it is segmented; off: the view stays.")
        self.only_label = QAction("Only the selected label", self, checkable=True)
        self._make_menu()
        self._make_range()
        self._lay_out()
        self.set_running(False)
        self.show_cost("")
        self.show_end("")
        self.range_changed.connect(self.options_changed)
        for action in (*self._directions.values(), self.only_label):
            action.toggled.connect(lambda: self.options_changed.emit())

    def _make_menu(self) -> None:
        self._menu = menu = QMenu(self.menu_button)
        menu.setToolTipsVisible(True)
        group = QActionGroup(self)
        self._directions: dict[str, QAction] = {}
        for name, title in _DIRECTIONS.items():
            action = menu.addAction(title)
            action.setCheckable(True)
            action.setChecked(name == "both")
            group.addAction(action)
            self._directions[name] = action
        menu.addSeparator()
        menu.addAction(self.follow)
        menu.addAction(self.only_label)
        self.use_range = menu.addAction("Only a range of slices")
        self.use_range.setCheckable(True)
        self.use_range.toggled.connect(self._on_range)
        menu.addSeparator()
        gaps = menu.addAction("Propagate only beside changed seeds")
        gaps.triggered.connect(lambda: self.propagate.emit("gaps"))
        everything = menu.addAction("Propagate everything again")
        everything.triggered.connect(lambda: self.propagate.emit("all"))
        self.menu_button.setMenu(menu)

    def _make_range(self) -> None:
        self._range_row = QWidget()
        self.first, self.last = QSpinBox(), QSpinBox()
        self.first.setToolTip("First slice to fill.")
        self.last.setToolTip("Last slice to fill.")
        line = QHBoxLayout(self._range_row)
        line.setContentsMargins(0, 0, 0, 0)
        for widget in (QLabel("Slices"), self.first, QLabel("to"), self.last):
            line.addWidget(widget)
        line.addStretch()
        for spin in (self.first, self.last):
            spin.valueChanged.connect(lambda: self.range_changed.emit())
        self._range_row.hide()

    def _lay_out(self) -> None:
        buttons = QHBoxLayout()
        buttons.setSpacing(4)
        buttons.addWidget(self.go_button, 1)
        buttons.addWidget(self.menu_button)
        controls = row(self.pause_button, self.stop_button)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(buttons)
        layout.addLayout(controls)
        layout.addWidget(self._range_row)
        # Cost and progress take turns at one place, and the status keeps its line: nothing moves
        # under the pointer when a run begins or ends.
        self._slot = QStackedLayout()
        self._slot.addWidget(self.cost)
        self._slot.addWidget(self.bar)
        self.bar.setFixedHeight(22)
        slot, line = QWidget(), self.fontMetrics().lineSpacing()
        slot.setLayout(self._slot)
        slot.setFixedHeight(2 * line + 6)
        layout.addWidget(slot)
        layout.addWidget(self.status)
        self.cost.setAlignment(Qt.AlignmentFlag.AlignVCenter)
        self.status.setMinimumHeight(line + 4)

    @property
    def direction(self) -> str:
        """``both``, ``forward`` or ``backward``."""
        return next(name for name, action in self._directions.items() if action.isChecked())

    @direction.setter
    def direction(self, name: str) -> None:
        self._directions[name].setChecked(True)

    @property
    def write_range(self) -> tuple[int, int] | None:
        """First and last slice to fill; None for all."""
        if not self.use_range.isChecked():
            return None
        return min(self.first.value(), self.last.value()), max(
            self.first.value(), self.last.value()
        )

    def set_slices(self, n: int) -> None:
        """Set the number of slices."""
        for spin, value in ((self.first, 0), (self.last, max(0, n - 1))):
            spin.setRange(0, max(0, n - 1))
            spin.setValue(value)

    def set_running(self, running: bool, *, paused: bool = False, resumable: bool = False) -> None:
        """Enable what can be done now."""
        self.go_button.setEnabled(not running)
        self.stop_button.setEnabled(running)
        self.pause_button.setEnabled(running or resumable)
        goes_on = paused or (resumable and not running)
        self.pause_button.setText("Resume" if goes_on else "Pause")
        self.pause_button.set_glyph("play" if goes_on else "pause")

    def show_cost(self, text: str) -> None:
        """Show the estimated cost of a run; nothing during one."""
        self.cost.setText(text)

    def show_loading(self, text: str = "Loading the model ...", share: float = 1.0) -> None:
        """The model is downloaded, of which a ``share`` is done, or loaded."""
        self._slot.setCurrentIndex(1)
        self.bar.setRange(0, 1000 if share < 1 else 0)
        self.bar.setValue(int(1000 * share))
        self.status.setText(text)

    def show_progress(self, done: int, total: int, left: float | None, *, paused: bool) -> None:
        """Show the share of the work that is done, and the time left in seconds."""
        self._slot.setCurrentIndex(1)
        self.bar.setTextVisible(True)
        # Else the bar draws the whole window at once, before the rest of the panel has changed.
        self.bar.setUpdatesEnabled(False)
        self.bar.setRange(0, max(1, total))
        self.bar.setValue(done)
        self.bar.setUpdatesEnabled(True)
        text = "Paused" if paused else f"{_percent(done, total)} done"
        if left is not None:
            text += f"; {duration(left)} left"
        self.status.setText(text)

    def show_end(self, text: str) -> None:
        """The run is over."""
        self._slot.setCurrentIndex(0)
        self.bar.setRange(0, 1)
        self.bar.setValue(0)
        self.bar.setTextVisible(False)
        self.status.setText(text)

    def _on_range(self, on: bool) -> None:
        self._range_row.setVisible(on)
        self.range_changed.emit()


def describe_end(outcome: object, done: int, total: int) -> str:
    """One sentence on how a run ended.

    Parameters
    ----------
    outcome : FinishReason or object
        Anything else is an error.
    done, total : int
        Work of the run, see `SliceSegmented`.
    """
    if outcome is FinishReason.STOPPED:
        return f"Stopped after {_percent(done, total)}; finished slices stay."
    if outcome is not FinishReason.COMPLETED:
        return "The run ended early; finished slices stay."
    if not done:
        return "Nothing to do: no gap lies beside a changed seed."
    return "Done."


def _percent(done: int, total: int) -> str:
    return f"{100 * done / max(1, total):.0f} %"
