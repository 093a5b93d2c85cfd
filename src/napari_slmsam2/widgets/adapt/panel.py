"""The dock widget "Adapt": fine-tune a model on a few volumes, or on the open one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from napari import Viewer
from napari.layers import Image, Labels
from napari.utils.notifications import show_error, show_info, show_warning
from qtpy.QtWidgets import QFileDialog, QMessageBox

from napari_slmsam2.core.errors import ConfigError, SlmSam2Error
from napari_slmsam2.engine.weights.registry import get_model, list_models
from napari_slmsam2.widgets.adapt.pairs import LayerPair, first_pair, read_pairs
from napari_slmsam2.widgets.adapt.runner import AdaptRunner
from napari_slmsam2.widgets.adapt.task import (
    Adapted,
    AdaptEnd,
    AdaptRequest,
    Cancelled,
    FilePair,
    OpenPair,
    Prepared,
    TooShort,
    Unsaved,
    parse_labels,
)
from napari_slmsam2.widgets.adapt.view import AdaptView
from napari_slmsam2.widgets.common.layout import set_text
from napari_slmsam2.widgets.common.model_events import model_events
from napari_slmsam2.widgets.common.preferences import read_preferences
from napari_slmsam2.widgets.common.wording import duration
from napari_slmsam2.widgets.runs.task import Failed

if TYPE_CHECKING:
    from napari_slmsam2.training.adapt.progress import AdaptProgress

_IMAGES = "Scans (*.nii *.nii.gz *.nrrd *.nhdr *.mgz *.mgh *.tif *.tiff *.npy);;All files (*)"


class AdaptWidget(AdaptView):
    """Trains a copy of a model on pairs of images and labels.

    Parameters
    ----------
    napari_viewer : Viewer
        napari finds this parameter by its name, and gives a proxy of the viewer.
    """

    def __init__(self, napari_viewer: Viewer) -> None:
        # Layers of the proxy are proxies too: no layer is the same as itself among them.
        viewer: Viewer = getattr(napari_viewer, "__wrapped__", napari_viewer)
        super().__init__(viewer, read_preferences())
        self.viewer = viewer
        self.runner = AdaptRunner(self)
        self._unsaved: Unsaved | None = None
        self._named = False
        self._adapt_next = False
        self._wire()
        pair = first_pair(viewer)
        if pair is not None:
            self.pairs.add(pair)
        self._suggest_name()
        self._show_state()
        self.show_idle("")
        self.release_at_end(self.runner, self.pairs, self.images, self.labels, self.manager)

    def _wire(self) -> None:
        self.add_layers.clicked.connect(self.add_chosen_layers)
        self.add_files.clicked.connect(self.ask_for_files)
        self.remove.clicked.connect(self.pairs.remove_selected)
        self.pairs.changed.connect(self._on_pairs)
        self.recipe.currentIndexChanged.connect(self._on_recipe)
        self.name.textEdited.connect(self._on_named)
        self.go_button.clicked.connect(self.adapt)
        self.estimate_button.clicked.connect(self.prepare)
        self.more_time.clicked.connect(self.allow_and_prepare)
        self.form.changed.connect(lambda: self.show_estimate("", None))
        self.cancel_button.clicked.connect(self.cancel)
        self.save_button.clicked.connect(self.save_again)
        self.runner.progressed.connect(self._on_progress)
        self.runner.ended.connect(self._on_ended)
        self.runner.changed.connect(self._show_state)
        model_events.changed.connect(self._on_models)

    # -- training data

    def add_chosen_layers(self) -> None:
        """Add the two layers that are chosen above the table."""
        image, labels = self.images.layer, self.labels.layer
        if not isinstance(image, Image) or not isinstance(labels, Labels):
            show_warning("Choose an image and its labels first: both must be open.")
            return
        try:
            self.pairs.add(LayerPair.on_screen(image, labels, self.viewer))
        except SlmSam2Error as error:
            show_warning(str(error))

    def ask_for_files(self) -> None:
        """Choose the files of a scan and of its label map."""
        image, _ = QFileDialog.getOpenFileName(self, "Scan to train on", filter=_IMAGES)
        if not image:
            return
        labels, _ = QFileDialog.getOpenFileName(
            self, f"Labels of {Path(image).name}", str(Path(image).parent), _IMAGES
        )
        if labels:
            self.pairs.add(FilePair(Path(image), Path(labels)))

    def request(self) -> AdaptRequest:
        """The request of the controls.

        Raises
        ------
        SlmSam2Error
            There is nothing to train on, or a value is not allowed.
        """
        recipe = self.read_recipe()
        name = self.name.text().strip()
        if not self.pairs.pairs:
            raise ConfigError("volumes", "are missing", hint="Add layers or files first.")
        return AdaptRequest(
            pairs=read_pairs(
                self.pairs.pairs,
                self.viewer,
                seeds=recipe.source == "seeds",
                confident=self.confident.isChecked(),
            ),
            recipe=recipe,
            base=str(self.base.currentData()),
            name=name,
            device=self.device.currentText(),
            models_folder=self.folder,
            labels=parse_labels(self.chosen.text()),
        )

    # -- runs

    def prepare(self) -> None:
        """Estimate the time without training."""
        self._begin(only_estimate=True)

    def allow_and_prepare(self) -> None:
        """Allow the time in which the whole schedule fits, and estimate again."""
        if not self.runner.running:
            self.allow_more_time()
            self.prepare()

    def adapt(self) -> None:
        """Train; an estimate of the same request is used, and waited for while it is made."""
        if self.runner.estimating:
            self._adapt_next = True
            self._show_state()
        else:
            self._begin(only_estimate=False)

    def cancel(self) -> None:
        """Stop after the current step; the best model so far is kept."""
        self._adapt_next = False
        self.runner.cancel()

    def save_again(self) -> None:
        """Write the model that could not be written, under the current name."""
        if self._unsaved is None or self.runner.running:
            return
        try:
            request = self.request()
        except SlmSam2Error as error:
            show_warning(str(error))
            return
        self.runner.save(self._unsaved, request)

    def _begin(self, *, only_estimate: bool) -> None:
        if self.runner.running:
            return
        try:
            request = self.request()
        except SlmSam2Error as error:
            show_warning(str(error))
            return
        if not self._may_download(request) or not self._may_drop_unsaved():
            return
        self._unsaved = None
        self.show_result("")
        self.scores.clear_scores()
        self.show_progress(0, 0, "Reading the volumes ...")
        if only_estimate:
            self._clear_plots()
            self.runner.prepare(request)
        elif not self.runner.adapt(request):
            self._clear_plots()

    def _clear_plots(self) -> None:
        self.show_estimate("", None)
        self.curve.clear()
        self.preview.clear()
        self.show_plots()

    def _may_download(self, request: AdaptRequest) -> bool:
        from napari_slmsam2.engine.weights.download import is_downloaded

        card = get_model(request.base, self.folder)
        if card.weights is None or is_downloaded(card, self.folder):
            return True
        answer = QMessageBox.question(
            self,
            "Download a model",
            f"{card.title} has {card.weights.size / 1e6:.0f} MB of weights (licence "
            f"{card.licence}). Download them now?",
        )
        return bool(answer == QMessageBox.StandardButton.Yes)

    def _may_drop_unsaved(self) -> bool:
        if self._unsaved is None:
            return True
        answer = QMessageBox.question(
            self, "Adapt", "The last model is not written yet. Discard it and start again?"
        )
        return bool(answer == QMessageBox.StandardButton.Yes)

    def _on_progress(self, progressed: AdaptProgress | Prepared | tuple[int, int]) -> None:
        if isinstance(progressed, tuple):
            done, total = progressed
            self.show_progress(
                done // 1000,
                max(1, total // 1000),
                f"Downloading {done / 1e6:.0f} of {total / 1e6:.0f} MB",
            )
        elif isinstance(progressed, Prepared):
            self._show_estimate(progressed)
        else:
            self._show_progress(progressed)

    def _show_progress(self, progressed: AdaptProgress) -> None:
        done, total = progressed.done, progressed.total
        if progressed.stage == "training":
            left = duration(progressed.seconds_left) if progressed.seconds_left > 0 else "a moment"
            self.show_progress(done, total, f"Step {done} of {total}; about {left} left")
            self.curve.add_loss(done, progressed.loss)
        elif progressed.stage == "clips":
            self.show_progress(done, total, f"Cutting clips: {done} of {total}")
        elif progressed.stage == "measuring":
            self.show_progress(0, 0, "Measuring a few clips and steps ...")
        else:
            model = f"model after {progressed.step} steps" if progressed.step else "base model"
            share = f"{100 * done // max(1, total)} %"
            self.show_progress(done, total, f"Evaluating the {model}: {share}")
        if progressed.evaluation is not None:
            self.curve.add_dice(
                done if progressed.stage == "training" else 0, progressed.evaluation.dice
            )
            if progressed.evaluation.preview is not None:
                self.preview.show_preview(progressed.evaluation.preview)
        self.show_plots()

    def _show_estimate(self, prepared: Prepared) -> None:
        plan = prepared.estimate
        self.curve.set_total(plan.steps)
        lines = [
            f"About {duration(plan.seconds)} for {plan.steps} steps, "
            f"{plan.memory / 2**20:.0f} MiB of memory. Held out: {prepared.held_out}.",
            *self._about_confident(),
        ]
        text = "\n".join([*lines, *(f"Note: {note}." for note in prepared.notes)])
        self.show_estimate(text, plan.whole_minutes)

    def _about_confident(self) -> list[str]:
        """The number of propagated slices that are trained on, if that was chosen."""
        if not self.confident.isChecked() or self.confident.isHidden():
            return []
        assert self.runner.request is not None
        pairs = [pair for pair in self.runner.request.pairs if isinstance(pair, OpenPair)]
        n = sum(len(indices) for pair in pairs for indices in pair.confident.values())
        if not n:
            return ["No confident slices are known: propagate in the panel Annotate first."]
        return [f"Confident slices that are trained on: {n}."]

    def _on_ended(self, end: AdaptEnd | None) -> None:
        self._unsaved = end if isinstance(end, Unsaved) else None
        adapt_next, self._adapt_next = self._adapt_next, False
        if isinstance(end, Prepared):
            self._show_estimate(end)
            self.show_idle("Press Adapt to begin.")
            if adapt_next:
                self.adapt()
        elif isinstance(end, Adapted | Unsaved):
            self._show_end(end)
        elif isinstance(end, Cancelled):
            self.show_idle("Cancelled before there was a result.")
        elif isinstance(end, Failed | TooShort):
            self.show_idle(f"Not possible: {end.message}")
            show_error(end.message)
            if isinstance(end, TooShort):
                self.show_estimate("", end.minutes)
        else:
            self.show_idle("Stopped by an error in the program.")

    def _show_end(self, end: Adapted | Unsaved) -> None:
        report = end.report
        self.scores.show_scores(report.before, report.after)
        self.preview.show_result(report.after.preview if report.improved else None)
        if isinstance(end, Unsaved):
            self.show_result(f"{report.verdict} The model is not saved yet: {end.message}")
            self.show_idle("Choose another name or make room, then press Save again.")
            show_error(end.message)
            return
        took = f"Finished after {report.steps} steps and {duration(report.seconds)}"
        self.show_idle(f"{took}: {end.why}.")
        if end.path is None:
            self.show_result(f"{report.verdict} No file was written; the base model is kept.")
            return
        name = end.path.stem
        self.show_result(f"{report.verdict} Model {name} is in all lists of models.")
        show_info(f"Adapted: {name}.")
        model_events.changed.emit("", name)

    # -- display

    def _show_state(self) -> None:
        self.set_running(self.runner.running, ready=bool(self.pairs.pairs))
        if self.runner.estimating:
            self.go_button.setEnabled(not self._adapt_next)
            if self._adapt_next:
                set_text(self.status, "Measuring a few clips and steps; adapting follows ...")
        self.save_button.setVisible(self._unsaved is not None)

    def _on_pairs(self) -> None:
        self._suggest_name()
        self._show_state()

    def _on_recipe(self) -> None:
        self.show_recipe()
        self._suggest_name()

    def _on_named(self, text: str) -> None:
        self._named = bool(text.strip())

    def _on_models(self, old: str, new: str) -> None:
        base = str(self.base.currentData())
        self.fill_bases(new if base == old else base)
        if self.name.text().strip() == new:
            self._named = False
        self._suggest_name()

    def _suggest_name(self) -> None:
        if self._named:
            return
        pairs = self.pairs.pairs
        stem = Path(pairs[0].image.name).name.split(".")[0] if pairs else ""
        stem = re.sub(r"[^A-Za-z0-9_-]+", "-", stem).strip("-_")[:40] or "adapted"
        stem = f"{stem}-{self.recipe.currentData()}"
        taken, name, number = {card.name for card in list_models(self.folder)}, stem, 2
        while name in taken:
            name, number = f"{stem}-{number}", number + 1
        self.name.setText(name)
        self.name.setCursorPosition(0)

    # -- closing

    def shut_down(self) -> None:
        """Stop, keep the best model so far, and disconnect from viewer and layers."""
        if not self._closed:
            model_events.changed.disconnect(self._on_models)
        super().shut_down()
