"""An adaptation in a worker thread: its request and its results. Without napari and Qt."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_slmsam2.core.errors import (
    ConfigError,
    DownloadError,
    SlmSam2Error,
    TimeLimitError,
)
from napari_slmsam2.core.volume import Volume
from napari_slmsam2.training.recipes import AdaptRecipe, get_recipe
from napari_slmsam2.widgets.runs.task import Broken, Failed, RunControl, failure_of

if TYPE_CHECKING:
    from napari_slmsam2.training.adapt.adaptation import Adaptation
    from napari_slmsam2.training.adapt.estimate import Estimate
    from napari_slmsam2.training.adapt.progress import AdaptProgress
    from napari_slmsam2.training.adapt.report import AdaptReport
    from napari_slmsam2.training.data.labelled_scan import LabelledScan


@dataclass(frozen=True, slots=True, eq=False)
class OpenPair:
    """A pair that is open in the viewer.

    Attributes
    ----------
    volume : Volume
    labels : ndarray of int, shape of the volume
        A copy, so that painting can continue.
    confident : mapping of label to tuple of int
        Propagated slices that are trained on like painted ones.
    """

    volume: Volume
    labels: npt.NDArray[np.integer]
    confident: Mapping[int, tuple[int, ...]] = field(default_factory=dict)

    def is_same(self, other: OpenPair | FilePair) -> bool:
        """Whether the other pair has the same image array, and equal labels."""
        return (
            isinstance(other, OpenPair)
            and self.volume.data is other.volume.data
            and self.volume.axis == other.volume.axis
            and self.confident == other.confident
            and np.array_equal(self.labels, other.labels)
        )


@dataclass(frozen=True, slots=True)
class FilePair:
    """A pair in files."""

    image: Path
    labels: Path

    def is_same(self, other: OpenPair | FilePair) -> bool:
        """Whether the other one has the same files."""
        return self == other


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptRequest:
    """Everything that an adaptation needs.

    Attributes
    ----------
    pairs : tuple of OpenPair or FilePair
    recipe : AdaptRecipe
    base : str
        A name of the registry, or a file of weights.
    name : str
        Name of the new model.
    device : str
    models_folder : str or None
    labels : tuple of int or None
        Labels to train on; None for all.
    """

    pairs: tuple[OpenPair | FilePair, ...]
    recipe: AdaptRecipe
    base: str
    name: str
    device: str = "auto"
    models_folder: str | None = None
    labels: tuple[int, ...] | None = None

    def asks_the_same(self, other: AdaptRequest) -> bool:
        """Whether another request differs in the name at most."""
        if len(self.pairs) != len(other.pairs):
            return False
        pairs = zip(self.pairs, other.pairs, strict=True)
        return replace(self, pairs=(), name="") == replace(other, pairs=(), name="") and all(
            one.is_same(another) for one, another in pairs
        )


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """An adaptation that is ready to run, and its estimate.

    Attributes
    ----------
    job : Adaptation
    estimate : Estimate
    held_out : str
    notes : tuple of str
    """

    job: Adaptation
    estimate: Estimate
    held_out: str
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Adapted:
    """Result of an adaptation.

    Attributes
    ----------
    report : AdaptReport
    why : str
        Why it stopped, as text.
    path : Path or None
        File of the new model; None if no model was better than the base model.
    """

    report: AdaptReport
    why: str
    path: Path | None


@dataclass(frozen=True, slots=True)
class Unsaved:
    """An adaptation whose model could not be written.

    Attributes
    ----------
    job : Adaptation
    report : AdaptReport
    message : str
    """

    job: Adaptation
    report: AdaptReport
    message: str


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The adaptation was cancelled before there was a result."""


@dataclass(frozen=True, slots=True)
class TooShort:
    """The time that was allowed is too short.

    Attributes
    ----------
    message : str
    minutes : float
        Time in which the whole schedule of the recipe fits.
    """

    message: str
    minutes: float


AdaptEnd = Prepared | Adapted | Unsaved | Cancelled | TooShort | Failed | Broken
OnProgress = Callable[["AdaptProgress | Prepared | tuple[int, int]"], None]


def parse_labels(text: str) -> tuple[int, ...] | None:
    """Read ``1, 2, 5``; None for an empty text, which stands for all.

    Raises
    ------
    ConfigError
        The text is something else.
    """
    parts = [part.strip() for part in text.split(",")]
    if not text.strip():
        return None
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise ConfigError(
            "labels to train on", "cannot be read", expected="1, 2, 5", found=repr(text)
        )
    return tuple(int(part) for part in parts)


def prepare(request: AdaptRequest, control: RunControl, on_progress: OnProgress) -> AdaptEnd:
    """Read the data, measure the parts and plan the schedule; errors are returned."""
    return _guarded(lambda: _prepare(request, control, on_progress), control)


def adapt(
    request: AdaptRequest, prepared: Prepared | None, control: RunControl, on_progress: OnProgress
) -> AdaptEnd:
    """Prepare if that is not done yet, train and write the model; errors are returned."""
    return _guarded(lambda: _adapt(request, prepared, control, on_progress), control)


def _guarded(work: Callable[[], AdaptEnd], control: RunControl) -> AdaptEnd:
    try:
        return work()
    except DownloadError as error:
        return Cancelled() if control.should_stop() else Failed(str(error))
    except TimeLimitError as error:
        return TooShort(str(error), error.minutes)
    except Exception as error:  # noqa: BLE001 - a worker that raises may end without a signal
        return failure_of(error)


def _prepare(
    request: AdaptRequest, control: RunControl, on_progress: OnProgress
) -> Prepared | Cancelled:
    from napari_slmsam2.engine.loading import load_network
    from napari_slmsam2.engine.weights.model_folder import check_room, path_for
    from napari_slmsam2.training.adapt.adaptation import Adaptation

    check_room(path_for(request.name, request.models_folder), request.recipe.file_size)
    base = load_network(
        request.base,
        folder=request.models_folder,
        progress=lambda done, total: on_progress((done, total)),
        should_stop=control.should_stop,
    )
    scans = [_scan(pair, request) for pair in request.pairs]
    job = Adaptation(
        scans,
        base,
        request.recipe,
        device=request.device,
        chosen=request.labels,
        fixed_time=request.recipe.minutes != get_recipe(request.recipe.name).minutes,
    )
    estimate = job.prepare(on_progress, control.should_stop)
    if estimate is None:
        return Cancelled()
    return Prepared(job, estimate, job.held_out, (*job.notes, *estimate.notes))


def _adapt(
    request: AdaptRequest, prepared: Prepared | None, control: RunControl, on_progress: OnProgress
) -> AdaptEnd:
    from napari_slmsam2.engine.weights.model_folder import path_for
    from napari_slmsam2.training.adapt.report import WHY_STOPPED

    path_for(request.name, request.models_folder)
    if prepared is None:
        made = _prepare(request, control, on_progress)
        if isinstance(made, Cancelled):
            return made
        prepared = made
        on_progress(prepared)
    job = prepared.job
    report = job.run(on_progress, control.should_stop)
    if report is None:
        return Cancelled()
    if not report.improved:
        return Adapted(report, WHY_STOPPED[report.stopped], None)
    return save(job, report, request)


def save(job: Adaptation, report: AdaptReport, request: AdaptRequest) -> AdaptEnd:
    """Write the model of an adaptation under the name of a request."""
    from napari_slmsam2.engine.weights.model_folder import path_for
    from napari_slmsam2.training.adapt.report import WHY_STOPPED

    try:
        path = job.save(path_for(request.name, request.models_folder), report)
    except SlmSam2Error as error:
        return Unsaved(job, report, str(error))
    return Adapted(report, WHY_STOPPED[report.stopped], path)


def _scan(pair: OpenPair | FilePair, request: AdaptRequest) -> LabelledScan:
    from napari_slmsam2.training.data.labelled_scan import LabelledScan, read_pair

    options: dict[str, Any] = {
        "chosen": request.labels,
        "seeds": request.recipe.source == "seeds",
    }
    if isinstance(pair, FilePair):
        return read_pair(pair.image, pair.labels, **options)
    return LabelledScan.of(pair.volume, pair.labels, confident=pair.confident, **options)
