"""Adaptation of a network to one to five volumes, or to the annotated slices of one.

Fine-tuning on few volumes is the source of SLM-SAM 2's gain (Chen et al., arXiv:2505.01854). Decay
towards the base model (L2-SP, Li et al. 2018, ICML) and averaged weights limit forgetting. The
weights with the best Dice on a held-out part, propagated as in a run, are kept.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Collection, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from napari_slmsam2.core.errors import ConfigError, OutputError
from napari_slmsam2.engine.device import choose_device, is_out_of_memory
from napari_slmsam2.engine.loading import LoadedNetwork
from napari_slmsam2.engine.weights.checkpoints import read_metadata
from napari_slmsam2.engine.weights.registry import list_models
from napari_slmsam2.training.adapt.backends import backend_of
from napari_slmsam2.training.adapt.checkpoint import (
    AdaptRun,
    copied_state,
    is_better,
    read_checkpoint,
    read_estimate,
    write_checkpoint,
)
from napari_slmsam2.training.adapt.estimate import (
    CLIPS_SHARE,
    Estimate,
    plan_schedule,
    plan_training,
)
from napari_slmsam2.training.adapt.evaluation import EvaluationResult
from napari_slmsam2.training.adapt.measurement import Measurement
from napari_slmsam2.training.adapt.progress import AdaptProgress, OnProgress
from napari_slmsam2.training.adapt.protocols import AdaptTrainer, Stop
from napari_slmsam2.training.adapt.report import AdaptReport
from napari_slmsam2.training.data.labelled_scan import LabelledScan, check_scans
from napari_slmsam2.training.data.split import MOST_EVALUATED, split_data
from napari_slmsam2.training.distributed import DistributedContext
from napari_slmsam2.training.lora import decay_towards
from napari_slmsam2.training.recipes import AdaptRecipe

VISITS_SHARE = 0.08
"""Share of the time that one evaluation may take before it is shortened to fewer labels."""

_CHECKPOINT_FORMAT = 2


def _ignore(progress: AdaptProgress) -> None:
    """No listener."""


class Adaptation:
    """One adaptation: `prepare`, then `run`, then `save`; in any thread.

    Parameters
    ----------
    scans : sequence of LabelledScan
        One to five.
    base : LoadedNetwork
        Of the architecture of the recipe.
    recipe : AdaptRecipe
    device : str
        See `napari_slmsam2.engine.device.choose_device`.
    chosen : collection of int, optional
        Labels that the user chose; missing ones are reported.
    checkpoint : Path, optional
        Written at every evaluation. Where it exists, `run` continues from it with the result of an
        uninterrupted run.
    distributed : DistributedContext, optional
        Processes that train together, in place of ``device``. All make the same calls.
    fixed_time : bool
        Refuse what does not fit into the time of the recipe. False: where it has to, the shortest
        schedule takes longer.

    Raises
    ------
    ConfigError, VolumeError
        The base model cannot be adapted, or there is nothing to train on.
    CheckpointError
        The checkpoint belongs to another adaptation.
    """

    def __init__(
        self,
        scans: Sequence[LabelledScan],
        base: LoadedNetwork,
        recipe: AdaptRecipe,
        *,
        device: str = "auto",
        chosen: Collection[int] | None = None,
        checkpoint: Path | None = None,
        distributed: DistributedContext | None = None,
        fixed_time: bool = True,
    ) -> None:
        self.notes = tuple(check_scans(scans, chosen))
        self.recipe = recipe
        self.base = base
        self._fixed_time = fixed_time
        self._distributed = distributed or DistributedContext(device=choose_device(device))
        self._data = [scan.provenance() for scan in scans]
        self._data_split = split_data(scans, recipe.seed)
        self._backend = backend_of(base, recipe, self._data_split, self._distributed)
        self._checkpoint = checkpoint
        self._stored: dict[str, Any] | None = None
        self._estimate: Estimate | None = None
        self._run: AdaptRun | None = None
        self._most_evaluated: int | None = None
        self._spent = 0.0
        self._since = time.perf_counter()

    @property
    def held_out(self) -> str:
        """What is held out, as text."""
        return self._data_split.held_out

    def prepare(
        self, on_progress: OnProgress = _ignore, should_stop: Stop = lambda: False
    ) -> Estimate | None:
        """Measure a few clips, steps and slices, and plan the schedule; takes seconds.

        Returns
        -------
        Estimate or None
            None where it was stopped.

        Raises
        ------
        ConfigError
            The time is fixed and too short.
        DeviceMemoryError
            A step does not fit into the memory.
        """
        self._since = time.perf_counter()
        self._stored = self._read_checkpoint()
        if self._stored is not None:
            self._estimate = read_estimate(self._stored)
            self._limit_visits(self._stored["most_evaluated"])
            return self._estimate
        on_progress(AdaptProgress("measuring", 0, 0))
        measured = self._measure(should_stop)
        if self._distributed.any(should_stop()):
            return None
        self._estimate = plan_schedule(
            self.recipe,
            self._distributed.broadcast(measured),
            self._distributed.broadcast(self._elapsed()),
            fixed_time=self._fixed_time,
        )
        self._spent = self._elapsed()
        return self._estimate

    def run(
        self, on_progress: OnProgress = _ignore, should_stop: Stop = lambda: False
    ) -> AdaptReport | None:
        """Cut clips, evaluate the base model and train; a stop keeps the best weights so far.

        Returns
        -------
        AdaptReport or None
            None where it was stopped before the base model was evaluated.

        Raises
        ------
        ConfigError
            `prepare` has not been called, or was stopped.
        """
        if self._estimate is None:
            raise ConfigError("adaptation", "is not prepared", hint="Call prepare first.")
        self._since = time.perf_counter()
        run = self._start(self._estimate, on_progress, should_stop)
        if run is None:
            return None
        self._run = run
        stopped = self._train(run, on_progress, should_stop)
        if stopped == "finished" and run.estimate.steps < self._estimate.steps:
            stopped = "time"  # evaluating the base model took longer than estimated
        return AdaptReport(
            stopped,
            run.trainer.step,
            run.best_step,
            self._elapsed(),
            self.held_out,
            run.before,
            run.best,
            run.curve,
            (*self.notes, *run.estimate.notes),
        )

    def metadata(self, report: AdaptReport) -> dict[str, Any]:
        """Metadata of the file of weights: hashes of the data, no names or paths of it."""
        return {
            "adapted": {
                "base": {"name": self.base.name, "sha256": self.base.sha256},
                "recipe": self.recipe.to_dict(),
                "steps": report.best_step,
                "stopped": report.stopped,
                "held_out": report.held_out,
                "metrics": {"before": report.before.to_dict(), "after": report.after.to_dict()},
                "data": self._data,
                "version": version("napari-slmsam2"),
            },
            "licence": licence_of(self.base),
        }

    def save(self, path: Path, report: AdaptReport) -> Path:
        """Write the kept weights as one file that every command takes, completely or not at all.

        The checkpoint is removed. May be called again with another path after an error.

        Raises
        ------
        ConfigError
            No weights are better than the base model.
        OutputError
            The file cannot be written.
        """
        if self._run is None or not report.improved:
            raise ConfigError("adapted model", "is no better than the base model; it is not kept")
        run, metadata = self._run, self.metadata(report)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._backend.write(run.trainer, run.best_state, path, metadata)
        except OSError as error:
            raise OutputError(str(path), "cannot be written", found=error.strerror) from error
        if self._checkpoint is not None:
            self._checkpoint.unlink(missing_ok=True)
        return path

    def _measure(self, should_stop: Stop) -> Measurement:
        """Time of every part, measured on a few slices, clips and steps."""
        visit = self._distributed.broadcast(self._backend.measure_visit(should_stop))
        most = MOST_EVALUATED * len(self._data)
        longest = VISITS_SHARE * 60 * self.recipe.minutes
        while most > 1 and sum(self._backend.visits) * visit > longest:
            most = -(-most // 2)
            self._limit_visits(most)
        clip_seconds = self._backend.measure_clip()
        trial = self._backend.profile_steps()
        held_out, calibration = self._backend.visits
        evaluation = (held_out + calibration) * visit
        base = held_out * visit + (evaluation if calibration else 0.0)
        return Measurement(clip_seconds, trial.seconds, base, evaluation, trial.memory)

    def _limit_visits(self, most: int | None) -> None:
        """Shorten evaluations to ``most`` labels; None: all."""
        self._most_evaluated = most
        if most is not None:
            self._backend.limit_visits(most)

    def _start(
        self, estimate: Estimate, on_progress: OnProgress, should_stop: Stop
    ) -> AdaptRun | None:
        """The state before the next step: from the checkpoint, or after evaluating the base."""
        state, self._stored = self._stored, None
        if state is not None:
            self._cut(state["n_clips"], True, on_progress, should_stop)
            self._spent, self._since = state["seconds"], time.perf_counter()
            if self._distributed.any(should_stop()):
                return None
            return AdaptRun.from_state(state, self._backend.trainer(estimate.steps))
        # All processes need the same clips.
        exact = self._distributed.size > 1
        n_clips = self._cut(estimate.clips, exact, on_progress, should_stop)
        if self._distributed.any(should_stop()):
            return None
        base = self._backend.network
        report = self._evaluation_progress(on_progress, self._backend.visits[0], None)
        before, seconds = self._evaluate(base, report, should_stop)
        if before is None:
            return None
        on_progress(AdaptProgress("evaluation", 1, 1, evaluation=before))
        candidate: Any = base
        found: EvaluationResult | None = before
        if self._backend.visits[1]:
            started = time.perf_counter()
            candidate, found = self._evaluate_candidate(base, on_progress, should_stop)
            seconds = self._distributed.broadcast(time.perf_counter() - started)
        if found is None:
            return None
        best, kept = (found, candidate) if is_better(found, before) else (before, base)
        elapsed = self._distributed.broadcast(self._elapsed())
        estimate = plan_training(self.recipe, estimate, seconds, elapsed)
        trainer = self._backend.trainer(estimate.steps)
        return AdaptRun(trainer, estimate, n_clips, before, best, copied_state(kept))

    def _train(self, run: AdaptRun, on_progress: OnProgress, should_stop: Stop) -> str:
        """Train to the end of the schedule; returns a key of `WHY_STOPPED`."""
        trainer, total = run.trainer, run.estimate.steps
        every = math.ceil(total / run.estimate.evaluations)
        while trainer.step < total:
            if self._distributed.any(should_stop()):
                return "cancelled"
            failure, loss = self._step(trainer)
            if failure is not None:
                return failure
            run.loss_sum += loss
            run.loss_steps += 1
            soon = self._elapsed() + run.estimate.evaluation_seconds
            late = self._distributed.broadcast(soon > run.estimate.limit_seconds)
            on_progress(self._training(run, loss))
            if not (late or trainer.step % every == 0 or trainer.step == total):
                continue
            candidate, found = self._evaluate_candidate(
                trainer.averaged, on_progress, should_stop, run
            )
            if found is None:
                return "cancelled"
            run.add(found, candidate)
            on_progress(self._training(run, loss, found))
            self._write_checkpoint(run)
            if trainer.step < total and (late or run.since_best >= self.recipe.patience):
                return "time" if late else "early"
        return "finished"

    def _training(
        self, run: AdaptRun, loss: float, evaluation: EvaluationResult | None = None
    ) -> AdaptProgress:
        step, total = run.trainer.step, run.estimate.steps
        return AdaptProgress("training", step, total, step, loss, run.seconds_left, evaluation)

    def _evaluate_candidate(
        self,
        network: Any,
        on_progress: OnProgress,
        should_stop: Stop,
        run: AdaptRun | None = None,
    ) -> tuple[Any, EvaluationResult | None]:
        """A network as it would be kept, and its scores; None where it was stopped."""
        held_out, calibration = self._backend.visits
        report = self._evaluation_progress(on_progress, held_out + calibration, run)
        candidate = self._backend.candidate(network, report)
        found, _ = self._evaluate(
            candidate, lambda visits: report(calibration + visits), should_stop
        )
        return candidate, found

    def _evaluate(
        self, network: Any, advanced: Callable[[int], object], should_stop: Stop
    ) -> tuple[EvaluationResult | None, float]:
        """The main process evaluates, the others wait for the scores; and the seconds it took."""
        started, found = time.perf_counter(), None
        if self._distributed.is_main:
            found = self._backend.evaluate(network, should_stop, advanced)
        return self._distributed.broadcast((found, time.perf_counter() - started))

    def _evaluation_progress(
        self, on_progress: OnProgress, total: int, run: AdaptRun | None
    ) -> Callable[[int], None]:
        step, left = (0, math.nan) if run is None else (run.trainer.step, run.seconds_left)

        def advanced(visits: int) -> None:
            done = min(visits, total)
            on_progress(AdaptProgress("evaluation", done, total, step, seconds_left=left))

        advanced(0)
        return advanced

    def _step(self, trainer: AdaptTrainer) -> tuple[str | None, float]:
        """The reason of a failure, or None; and the loss."""
        try:
            loss = float(trainer.advance()["loss"])
        except FloatingPointError:
            return "nan", math.nan
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return "memory", math.nan
        if not math.isfinite(loss):
            return "nan", loss
        if self.recipe.l2_sp:
            decay_towards(trainer.network, self._backend.network, self.recipe.l2_sp)
        return None, loss

    def _elapsed(self) -> float:
        return self._spent + time.perf_counter() - self._since

    def _cut(self, most: int, exact: bool, on_progress: OnProgress, should_stop: Stop) -> int:
        """Cut clips; fewer where that takes longer than its share of the time, unless exact."""
        estimate = self._estimate
        assert estimate is not None
        started, longest = time.perf_counter(), CLIPS_SHARE * estimate.limit_seconds

        def is_enough(n: int) -> bool:
            seconds = time.perf_counter() - started
            left = estimate.seconds - seconds
            on_progress(AdaptProgress("clips", min(n, most), most, seconds_left=left))
            late = not exact and seconds > longest and n >= self.recipe.batch_size
            return late or should_stop()

        return self._backend.cut(most, is_enough)

    def _key(self) -> str:
        """Digest of everything that a checkpoint depends on."""
        made_of = [_CHECKPOINT_FORMAT, self._data, self.base.sha256, self.recipe.to_dict()]
        return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()

    def _write_checkpoint(self, run: AdaptRun) -> None:
        path = self._checkpoint
        if path is None or not self._distributed.is_main:
            return
        state = {
            "key": self._key(),
            "seconds": self._elapsed(),
            "most_evaluated": self._most_evaluated,
            **run.to_state(),
        }
        try:
            write_checkpoint(path, state)
        except OutputError as error:
            self._checkpoint = None
            self.notes += (f"continued without a checkpoint: {error}",)

    def _read_checkpoint(self) -> dict[str, Any] | None:
        path = self._checkpoint
        if path is None or not path.exists():
            return None
        return read_checkpoint(path, self._key(), self._distributed.device)


def licence_of(base: LoadedNetwork) -> str:
    """Licence of the base model, which is that of the adapted one."""
    noted = read_metadata(base.path) if base.path.suffix == ".safetensors" else {}
    known = {card.name: card.licence for card in list_models()}
    return str(noted.get("licence") or known.get(base.name, "not specified"))
