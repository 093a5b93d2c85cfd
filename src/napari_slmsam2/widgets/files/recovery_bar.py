"""The offer to continue unsaved work."""

from __future__ import annotations

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QFrame, QVBoxLayout

from napari_slmsam2.widgets.common.choosers import wrapped_label
from napari_slmsam2.widgets.common.layout import button, row
from napari_slmsam2.widgets.files.recovery import Recovered


class RecoveryBar(QFrame):
    """Describes the unsaved work on an image and offers to continue or discard it."""

    go_on = Signal(object)
    discard = Signal(object)
    """`Recovered`; after a second confirmation."""

    def __init__(self) -> None:
        super().__init__()
        self._offer: Recovered | None = None
        self.text = wrapped_label()
        self.text.setToolTip("Work that was neither saved nor discarded is kept on this computer.")
        self.go_button = button("Restore it", "Bring back its labels, seeds and settings.")
        self.discard_button = button("Discard", "Delete it; you are asked once more.")
        self.yes_button = button("Discard for good", "Delete it: it cannot be restored.")
        self.no_button = button("Keep", "Do not delete it.")
        self.go_button.clicked.connect(lambda: self.go_on.emit(self._offer))
        self.discard_button.clicked.connect(lambda: self._ask(True))
        self.no_button.clicked.connect(lambda: self._ask(False))
        self.yes_button.clicked.connect(lambda: self.discard.emit(self._offer))
        first = row(self.go_button, self.discard_button)
        first.setStretch(0, 2)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(6, 2, 6, 2)
        layout.setSpacing(3)
        layout.addWidget(self.text)
        layout.addLayout(first)
        layout.addLayout(row(self.yes_button, self.no_button))
        self.setFrameShape(QFrame.Shape.StyledPanel)
        self._ask(False)
        self.hide()

    def show_offer(self, offer: Recovered | None) -> None:
        """Offer this; None hides the bar."""
        if offer is self._offer:
            return
        self._offer = offer
        self.setVisible(offer is not None)
        self.setEnabled(True)
        self._ask(False)

    def show_busy(self) -> None:
        """It is being read."""
        self.text.setText("Bringing back your work ...")
        self.setEnabled(False)

    def _ask(self, sure: bool) -> None:
        for widget in (self.go_button, self.discard_button):
            widget.setHidden(sure)
        for widget in (self.yes_button, self.no_button):
            widget.setVisible(sure)
        if self._offer is not None:
            what = self._offer.describe()
            self.text.setText(f"Delete {what}?" if sure else f"Unsaved work: {what}.")
