"""The view of the window "Adapt": its controls and their layout."""

from __future__ import annotations

from collections.abc import Collection
from math import ceil

from magicgui.widgets import ComboBox
from napari import Viewer
from napari.layers import Image, Labels
from qtpy.QtCore import QSignalBlocker
from qtpy.QtWidgets import (
    QCheckBox,
    QFormLayout,
    QLabel,
    QLineEdit,
    QProgressBar,
    QWidget,
)

from napari_slmsam2.training.adapt.base_models import list_bases
from napari_slmsam2.training.recipes import ABOUT, RECIPES, TRAINED, AdaptRecipe, get_recipe
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
from napari_slmsam2.widgets.common.settings_form import form_of

_SHOWN = ("minutes", "batch_size", "trained", "labels_are")
"""Settings of a recipe that the form shows."""

_NOT_TRAINABLE = "Slice adapters belong to the image encoder of SAM 2: choose the recipe paper."


class AdaptView(ClosingWidget):
    """The controls of the window, without behaviour.

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
        self.result.setToolTip("Comparison of the adapted model with its base model.")
        self.manager = ModelManager(self.folder)
        scrolled(self, *self._arrange())
        self.show_recipe()
        self.show_result("")

    def _make_volumes(self, viewer: Viewer) -> None:
        self.images, self.labels = LayerChooser(viewer, Image), LayerChooser(viewer, Labels)
        self.images.setToolTip("Image of the pair to add.")
        self.labels.setToolTip("Its labels.")
        self.add_layers = button("Add layers", "Train on these two layers.")
        self.add_files = button("Add files ...", "Train on a scan and its label map in files.")
        self.remove = button("Remove", "Remove the chosen pairs from the table.")
        self.pairs = PairTable(viewer)
        self.chosen = QLineEdit()
        self.chosen.setPlaceholderText("all; or 1, 2, 5")
        self.chosen.setToolTip("Values of the labels to train on. Empty: all labels.")

    def _make_settings(self, preferences: Preferences) -> None:
        self.recipe = NarrowCombo()
        for name in RECIPES:
            self.recipe.addItem(name, name)
            self.recipe.setItemData(self.recipe.count() - 1, ABOUT[name], 3)
        self.about = wrapped_label()
        self.about.setToolTip("Purpose of the recipe.")
        self.base = NarrowCombo()
        self.base.setToolTip("Model to start from; it is not changed.")
        recipe = get_recipe(self.recipe.currentData())
        self.form = form_of(recipe, [f.name for f in recipe.fields() if f.name not in _SHOWN])
        trained = self.form.editors["trained"]
        assert isinstance(trained, ComboBox)
        trained.choices = [(title, name) for name, title in TRAINED.items()]
        self.confident = QCheckBox("Train on confident slices, too")
        self.confident.setToolTip(
            "Slices that the panel Annotate has propagated with high confidence: sweeps agree, "
            "and size and position change little. They may still be wrong: check them first."
        )
        self.device = NarrowCombo()
        self.device.addItems(["auto", "cpu", "cuda", "mps"])
        self.device.setCurrentText(preferences.device)
        self.device.setToolTip("Device to train on. auto takes a graphics card if there is one.")
        self.name = QLineEdit()
        self.name.setToolTip("Name of the adapted model in all lists of models.")

    def _make_run(self) -> None:
        self.go_button = GlyphButton(
            "Adapt", "Train a copy of the base model; it is kept if it is better.", "play"
        )
        self.estimate_button = button(
            "Estimate", "Measure a few clips and steps and show the time, without training."
        )
        self.cancel_button = GlyphButton(
            "Cancel", "Stop after the current step; the best model so far is kept.", "stop"
        )
        self.save_button = button("Save again", "Write the model again.")
        self.estimate: QLabel = wrapped_label()
        self.estimate.setToolTip("Measured on this device.")
        self.more_time = button("", "Set the time to this, and estimate again.")
        self.bar = QProgressBar()
        self.bar.setToolTip("Progress of the current stage.")
        self.bar.setTextVisible(False)
        self.status: QLabel = wrapped_label()
        self.status.setToolTip("Current stage.")
        self.curve, self.preview = TrainingCurve(), SlicePreview()
        self.show_plots()
        self.show_estimate("", None)

    def _arrange(self) -> list[QWidget]:
        layers, settings = _form(), _form()
        layers.addRow("Image", self.images)
        layers.addRow("Labels", self.labels)
        wanted = _form()
        wanted.addRow("Labels to train on", self.chosen)
        settings.addRow("Recipe", self.recipe)
        settings.addRow(self.about)
        settings.addRow("Start from", self.base)
        settings.addRow(self.confident)
        settings.addRow(self.form)
        settings.addRow("Device", self.device)
        settings.addRow("Name", self.name)
        self.volumes = group(
            "Training data",
            layers,
            row(self.add_layers, self.add_files, self.remove),
            self.pairs,
            wanted,
        )
        self.settings = group("Settings", settings)
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
                self.more_time,
                self.bar,
                self.status,
                self.curve,
                self.preview,
            ),
            self.comparison,
            group("Adapted models", self.manager),
        ]

    def show_recipe(self) -> None:
        """Show the settings of the chosen recipe."""
        recipe = get_recipe(self.recipe.currentData())
        self.about.setText(ABOUT[recipe.name])
        self.recipe.setToolTip(ABOUT[recipe.name])
        self.form.set_record(recipe)
        structured = recipe.source == "volumes" and recipe.architecture == "window"
        self.form.editors["labels_are"].enabled = structured
        self._offer_trained(recipe.trainable())
        self.confident.setVisible(recipe.source == "seeds")
        self.fill_bases(str(self.base.currentData()))

    def _offer_trained(self, trainable: Collection[str]) -> None:
        """Disable the parts that the network of the recipe does not have, with the reason."""
        combo = self.form.editors["trained"].native
        for number, name in enumerate(TRAINED):
            item, offered = combo.model().item(number), name in trainable
            item.setEnabled(offered)
            item.setToolTip("" if offered else _NOT_TRAINABLE)

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
        """The recipe with the settings of the form.

        Raises
        ------
        ConfigError
            A value is not allowed.
        """
        shown = {name: getattr(self.form.record, name) for name in _SHOWN}
        return get_recipe(self.recipe.currentData()).replace(**shown)

    def set_running(self, running: bool, *, ready: bool) -> None:
        """Enable the controls that can be used.

        Parameters
        ----------
        running : bool
        ready : bool
            There is something to train on.
        """
        for box in (self.volumes, self.settings):
            box.setEnabled(not running)
        for widget in (self.go_button, self.estimate_button):
            widget.setEnabled(ready and not running)
        self.more_time.setEnabled(not running)
        self.cancel_button.setEnabled(running)
        self.save_button.setEnabled(not running)

    def show_estimate(self, text: str, minutes: float | None) -> None:
        """Show an estimate, and offer more time where the whole recipe needs it."""
        set_text(self.estimate, text)
        self._offered_minutes = None if minutes is None else ceil(2 * minutes) / 2
        self.more_time.setHidden(minutes is None)
        if self._offered_minutes is not None:
            self.more_time.setText(f"Allow {self._offered_minutes:g} min for all of it")

    def allow_more_time(self) -> None:
        """Set the time to the one that is offered."""
        if self._offered_minutes is not None:
            self.form.editors["minutes"].value = self._offered_minutes

    def show_progress(self, done: int, total: int, text: str) -> None:
        """Show the progress of a stage; a total of 0: unknown length."""
        self.bar.setRange(0, total)
        self.bar.setValue(done)
        self.bar.show()
        set_text(self.status, text)

    def show_plots(self) -> None:
        """Show curve and preview if they are not empty."""
        self.curve.setHidden(not (self.curve.losses or self.curve.dice))
        self.preview.setHidden(self.preview.shown[0] is None)

    def show_result(self, text: str) -> None:
        """Show the result; an empty text hides it and the scores."""
        set_text(self.result, text)
        self.comparison.setVisible(bool(text))

    def show_idle(self, text: str) -> None:
        """Show that nothing is running."""
        self.bar.setRange(0, 1)
        self.bar.setValue(0)
        self.bar.hide()
        set_text(self.status, text)


def _form() -> QFormLayout:
    form = QFormLayout()
    form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
    form.setSpacing(5)
    return form
