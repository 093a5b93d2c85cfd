"""What the window "Adapt" looks like: its parts, and how they are stacked."""

from __future__ import annotations

from napari import Viewer
from napari.layers import Image, Labels
from qtpy.QtCore import QSignalBlocker
from qtpy.QtWidgets import (
    QCheckBox,
    QDoubleSpinBox,
    QFormLayout,
    QLabel,
    QLineEdit,
    QProgressBar,
    QSpinBox,
    QWidget,
)

from napari_slmsam2.training.adapt.base_models import list_bases
from napari_slmsam2.training.recipes import ABOUT, RECIPES, AdaptRecipe, get_recipe
from napari_slmsam2.widgets.adapt.curve import TrainingCurve
from napari_slmsam2.widgets.adapt.models import ModelManager
from napari_slmsam2.widgets.adapt.pairs import PairTable
from napari_slmsam2.widgets.adapt.preview import SlicePreview
from napari_slmsam2.widgets.adapt.result import ScoreTable
from napari_slmsam2.widgets.common.choosers import LayerChooser, NarrowCombo, wrapped_label
from napari_slmsam2.widgets.common.closing import ClosingWidget
from napari_slmsam2.widgets.common.icons import GlyphButton
from napari_slmsam2.widgets.common.layout import button, group, row, scrolled, set_text
from napari_slmsam2.widgets.common.preferences import Preferences

_TRAINED = {
    "all": "All of the network",
    "memory+heads": "Its memories and heads",
    "heads": "Its heads",
    "adapters": "Adapters of low rank",
}
_LABELS_ARE = {
    "auto": "Structures, if few",
    "structures": "The same structures",
    "objects": "Objects of one kind",
}


class AdaptView(ClosingWidget):
    """The controls, and what they say; without any behaviour.

    Parameters
    ----------
    viewer : Viewer
    preferences : Preferences
    """

    def __init__(self, viewer: Viewer, preferences: Preferences) -> None:
        super().__init__()
        self.folder = preferences.models_folder
        self._make_volumes(viewer)
        self._make_settings(preferences)
        self._make_run()
        self.result, self.scores = wrapped_label(), ScoreTable()
        self.result.setToolTip("How the adapted model compares with its base model.")
        self.manager = ModelManager(self.folder)
        scrolled(self, *self._arrange())
        self.setMinimumWidth(240)
        self.show_recipe()
        self.show_result("")

    def _make_volumes(self, viewer: Viewer) -> None:
        self.images, self.labels = LayerChooser(viewer, Image), LayerChooser(viewer, Labels)
        self.images.setToolTip("Image of the pair to add.")
        self.labels.setToolTip("Its labels.")
        self.add_layers = button("Add layers", "Learn from these two layers.")
        self.add_files = button("Add files ...", "Learn from a scan and its label map in files.")
        self.remove = button("Remove", "Take the chosen pairs out of the table.")
        self.pairs = PairTable(viewer)
        self.chosen = QLineEdit()
        self.chosen.setPlaceholderText("all; or 1, 2, 5")
        self.chosen.setToolTip("Values of the labels to learn. Empty: all of them.")

    def _make_settings(self, preferences: Preferences) -> None:
        self.recipe = NarrowCombo()
        for name in RECIPES:
            self.recipe.addItem(name, name)
            self.recipe.setItemData(self.recipe.count() - 1, ABOUT[name], 3)
        self.about = wrapped_label()
        self.about.setToolTip("What the recipe is for.")
        self.base = NarrowCombo()
        self.base.setToolTip("The model to start from. It stays as it is.")
        self.trained = NarrowCombo()
        self.trained.setToolTip("Fewer parts change less, and forget less.")
        for value, title in _TRAINED.items():
            self.trained.addItem(title, value)
        self.labels_are = NarrowCombo()
        self.labels_are.setToolTip(
            "Structures have the same label in all volumes: the model learns something of each of "
            "them. Objects, such as cells, are only numbered."
        )
        for value, title in _LABELS_ARE.items():
            self.labels_are.addItem(title, value)
        self.confident = QCheckBox("Learn from confident slices, too")
        self.confident.setToolTip(
            "Those that the panel Annotate has propagated: where the model is sure, both sweeps "
            "agree, and size and place change little. They may be wrong all the same: look first."
        )
        self.minutes, self.batch = QDoubleSpinBox(), QSpinBox()
        self.minutes.setRange(0.1, 10_000)
        self.minutes.setDecimals(1)
        self.minutes.setSuffix(" min")
        self.minutes.setToolTip("For everything. It ends earlier where it gets no better.")
        self.batch.setRange(1, 1024)
        self.batch.setToolTip("Clips per step. Less needs less memory.")
        self.device = NarrowCombo()
        self.device.addItems(["auto", "cpu", "cuda", "mps"])
        self.device.setCurrentText(preferences.device)
        self.device.setToolTip(
            "Where it is trained. auto takes a graphics card where there is one."
        )
        self.name = QLineEdit()
        self.name.setToolTip("Of the adapted model, in all lists of models.")

    def _make_run(self) -> None:
        self.go_button = GlyphButton(
            "Adapt", "Train a copy of the base model; it is kept where it is better.", "play"
        )
        self.estimate_button = button(
            "Estimate", "Try two steps and say how long it will take, without training."
        )
        self.cancel_button = GlyphButton(
            "Cancel", "End after the present step; the best model so far is kept.", "stop"
        )
        self.save_button = button("Save again", "Try once more to write the model.")
        self.estimate: QLabel = wrapped_label()
        self.estimate.setToolTip("Measured on this device.")
        self.bar = QProgressBar()
        self.bar.setToolTip("Clips, or steps, that are done.")
        self.bar.setTextVisible(False)
        self.status: QLabel = wrapped_label()
        self.status.setToolTip("What is done now.")
        self.curve, self.preview = TrainingCurve(), SlicePreview()
        self.show_plots()
        set_text(self.estimate, "")

    def _arrange(self) -> list[QWidget]:
        layers, settings = _form(), _form()
        layers.addRow("Image", self.images)
        layers.addRow("Labels", self.labels)
        wanted = _form()
        wanted.addRow("Learn labels", self.chosen)
        settings.addRow("Recipe", self.recipe)
        settings.addRow(self.about)
        settings.addRow("Start from", self.base)
        settings.addRow(self.confident)
        settings.addRow("Train", self.trained)
        settings.addRow("Labels are", self.labels_are)
        settings.addRow("Time", self.minutes)
        settings.addRow("Batch", self.batch)
        settings.addRow("Device", self.device)
        settings.addRow("Name", self.name)
        self.volumes = group(
            "Volumes to learn from",
            layers,
            row(self.add_layers, self.add_files, self.remove),
            self.pairs,
            wanted,
        )
        self.settings, self.settings_form = group("How", settings), settings
        self.comparison = group("Before and after", self.result, self.scores)
        first = row(self.go_button, self.cancel_button)
        first.setStretch(0, 2)
        return [
            self.volumes,
            self.settings,
            group(
                "Run",
                first,
                row(self.estimate_button, self.save_button),
                self.estimate,
                self.bar,
                self.status,
                self.curve,
                self.preview,
            ),
            self.comparison,
            group("Adapted models", self.manager),
        ]

    def show_recipe(self) -> None:
        """Show what the chosen recipe asks for."""
        recipe = get_recipe(self.recipe.currentData())
        self.about.setText(ABOUT[recipe.name])
        self.recipe.setToolTip(ABOUT[recipe.name])
        self.minutes.setValue(recipe.minutes)
        self.batch.setValue(recipe.batch_size)
        self.trained.setCurrentIndex(self.trained.findData(recipe.trained))
        self.labels_are.setCurrentIndex(self.labels_are.findData(recipe.labels_are))
        progressed = recipe.source == "volumes" and recipe.architecture == "window"
        self.settings_form.setRowVisible(self.labels_are, progressed)
        self.confident.setVisible(recipe.source == "seeds")
        self.fill_bases(str(self.base.currentData()))

    def fill_bases(self, chosen: str) -> None:
        """Show the models that the chosen recipe can start from."""
        recipe = get_recipe(self.recipe.currentData())
        cards = list_bases(recipe, self.folder)
        if chosen not in {card.name for card in cards}:
            chosen = recipe.base
        with QSignalBlocker(self.base):
            self.base.clear()
            for card in cards:
                self.base.addItem(card.title, card.name)
                self.base.setItemData(self.base.count() - 1, card.description, 3)
            self.base.setCurrentIndex(self.base.findData(chosen))

    def read_recipe(self) -> AdaptRecipe:
        """The recipe with what the controls say.

        Raises
        ------
        ConfigError
            A value is not allowed.
        """
        return get_recipe(self.recipe.currentData()).replace(
            minutes=self.minutes.value(),
            batch_size=self.batch.value(),
            trained=str(self.trained.currentData()),
            labels_are=str(self.labels_are.currentData()),
        )

    def set_running(self, running: bool, *, ready: bool) -> None:
        """Enable what can be done now.

        Parameters
        ----------
        running : bool
        ready : bool
            There is something to learn from.
        """
        for box in (self.volumes, self.settings):
            box.setEnabled(not running)
        for widget in (self.go_button, self.estimate_button):
            widget.setEnabled(ready and not running)
        self.cancel_button.setEnabled(running)
        self.save_button.setEnabled(not running)

    def show_progress(self, done: int, total: int, text: str) -> None:
        """How far it is; a total of 0 stands for work of unknown length."""
        self.bar.setRange(0, total)
        self.bar.setValue(done)
        self.bar.show()
        set_text(self.status, text)

    def show_plots(self) -> None:
        """Show curve and preview where there is something in them."""
        self.curve.setHidden(not (self.curve.losses or self.curve.dice))
        self.preview.setHidden(self.preview.shown[0] is None)

    def show_result(self, text: str) -> None:
        """Say how it went; an empty text hides it with the scores."""
        set_text(self.result, text)
        self.comparison.setVisible(bool(text))

    def show_idle(self, text: str) -> None:
        """Nothing goes on."""
        self.bar.setRange(0, 1)
        self.bar.setValue(0)
        self.bar.hide()
        set_text(self.status, text)


def _form() -> QFormLayout:
    form = QFormLayout()
    form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
    form.setSpacing(5)
    return form
