"""The question what strokes in another plane than that of the slices are."""

from __future__ import annotations

from collections.abc import Callable

from napari.utils.notifications import show_warning
from qtpy.QtWidgets import QFrame, QVBoxLayout

from napari_slmsam2.core.errors import SlmSam2Error
from napari_slmsam2.widgets.common.choosers import wrapped_label
from napari_slmsam2.widgets.common.layout import button, row
from napari_slmsam2.widgets.workspace.across import PaintedAcross, Question
from napari_slmsam2.widgets.workspace.grid import axis_name
from napari_slmsam2.widgets.workspace.stacks import Stack


class PlaneBar(QFrame):
    """Describes strokes across the slices and offers what to do with them."""

    def __init__(self) -> None:
        super().__init__()
        self._question: Question | None = None
        self.text = wrapped_label()
        self.text.setToolTip("Until you choose, no run writes on the planes that you painted.")
        self.correct_button = button("Correct slices", "The crossed slices become seeds.")
        self.along_button = button("Run along it", "It is the plane of slices from now on.")
        self.remove_button = button(
            "Remove", "Restore the labels from before these strokes; Undo brings them back."
        )
        layout = QVBoxLayout(self)
        layout.setContentsMargins(6, 0, 6, 0)
        layout.setSpacing(0)
        layout.addWidget(self.text)
        answers = row(self.correct_button, self.along_button, self.remove_button)
        for place, stretch in enumerate((5, 4, 3)):
            answers.setStretch(place, stretch)
        layout.addLayout(answers)
        self.setFrameShape(QFrame.Shape.StyledPanel)
        self.hide()

    def follow(self, across: PaintedAcross) -> None:
        """Give the answers to what holds the strokes."""
        self.correct_button.clicked.connect(lambda: self._answer(across.correct))
        self.along_button.clicked.connect(lambda: self._answer(across.run_along))
        self.remove_button.clicked.connect(lambda: self._answer(across.remove))

    def show_question(self, question: Question | None, *, running: bool) -> None:
        """Ask this; None hides the bar. Strokes are not removed during a run."""
        self._question = question
        self.setVisible(question is not None)
        if question is None:
            return
        painted, slices = _axis(question.painted), _axis(question.slices)
        crossed, corrected = question.strokes.count_crossed()
        self.text.setText(f"Painted on a plane of axis {painted}; slices run along axis {slices}.")
        self.correct_button.setEnabled(corrected > 0)
        self.correct_button.setToolTip(
            f"{corrected} of {crossed} crossed slices are seeds then, with their masks as they are "
            "now. On a slice without a mask of the label a stroke is only a line: it makes no seed "
            "there, and the next run may replace it."
        )
        self.along_button.setToolTip(
            f"Slices run along axis {painted} from now on, with the planes that you painted as "
            "seeds. Roll the axes (Ctrl+E) to return."
        )
        self.remove_button.setEnabled(not running)

    def _answer(self, answer: Callable[[Question], None]) -> None:
        if self._question is not None:
            try:
                answer(self._question)
            except SlmSam2Error as error:
                show_warning(str(error))


def _axis(stack: Stack) -> str:
    view = stack.sink.view
    return axis_name(view.layer_axis, stack.sink.layer.axis_labels)
