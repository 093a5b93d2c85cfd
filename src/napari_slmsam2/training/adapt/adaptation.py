"""Adapting a network to one to five volumes, or to the open one.

Fine-tuning on few volumes is what SLM-SAM 2's gain comes from (Chen et al., arXiv:2505.01854). A
pull towards the base model (L2-SP, Li et al. 2018, ICML) and averaged weights keep it from
forgetting; a part that is held out, propagated as in a run, decides which weights are kept.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import nn

from napari_slmsam2.core.errors import ConfigError, OutputError
from napari_slmsam2.engine.device import choose_device, is_out_of_memory
from napari_slmsam2.engine.loading import LoadedNetwork
from napari_slmsam2.engine.weights.checkpoints import read_metadata
from napari_slmsam2.engine.weights.registry import list_models
from napari_slmsam2.training.adapt.backends import AdaptTrainer, backend_of
from napari_slmsam2.training.adapt.checkpoint import (
    AdaptRun,
    copied_state,
    is_better,
    read_checkpoint,
    write_checkpoint,
)
from napari_slmsam2.training.adapt.estimate import Estimate, plan_time
from napari_slmsam2.training.adapt.evaluation import EvaluationResult
from napari_slmsam2.training.adapt.report import AdaptReport
from napari_slmsam2.training.data.labelled_scan import LabelledScan, check_scans
from napari_slmsam2.training.data.split import split_data
from napari_slmsam2.training.distributed import DistributedContext
from napari_slmsam2.training.lora import pull_back
from napari_slmsam2.training.recipes import AdaptRecipe

CLIPS_SHARE = 0.25
"""Of the time, for cutting clips."""


@dataclass(frozen=True, slots=True)
class AdaptProgress:
    """What is told on the way.

    Attributes
    ----------
    stage : {"clips", "trial", "training", "judging"}
    done, total : int
        Clips or steps.
    loss : float
        Of the last step; NaN before the first one.
    seconds_left : float
        NaN where not known yet.
    evaluation : EvaluationResult or None
        A new one, with a preview.
    """

    stage: str
    done: int
    total: int
    loss: float = math.nan
    seconds_left: float = math.nan
    evaluation: EvaluationResult | None = None


Tell = Callable[[AdaptProgress], object]
Stop = Callable[[], bool]


class Adaptation:
    """One adaptation: `prepare`, then `run`, then `save`; can run in any thread.

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
        Labels that were asked for, to tell which are missing.
    checkpoint : Path, optional
        Written at every judgement; where it is there, `run` goes on from it, exactly.
    distributed : DistributedContext, optional
        Processes that train together; they stand for ``device``. All do the same calls.

    Raises
    ------
    ConfigError, VolumeError
        The base model cannot be adapted, or there is nothing to learn from.
    CheckpointError
        The checkpoint is of another adaptation.
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
    ) -> None:
        self.notes = tuple(check_scans(scans, chosen))
        self.recipe = recipe
        self.base = base
        self._distributed = distributed or DistributedContext(device=choose_device(device))
        self._data = [scan.provenance() for scan in scans]
        self._data_split = split_data(scans, recipe.seed)
        self._backend = backend_of(base, recipe, self._data_split, self._distributed)
        self._checkpoint = checkpoint
        self._run: AdaptRun | None = None
        self._spent = 0.0
        self._since = time.perf_counter()

    @property
    def held_out(self) -> str:
        """What is held out, in words."""
        return self._data_split.held_out

    def prepare(self, tell: Tell | None = None, should_stop: Stop | None = None) -> Estimate | None:
        """Cut clips, make two trial steps, judge the base model.

        Returns
        -------
        Estimate or None
            None where it was stopped.

        Raises
        ------
        ConfigError
            It does not fit into the time.
        DeviceMemoryError
            It does not fit into the memory.
        """
        tell, stop = tell or (lambda progress: None), should_stop or (lambda: False)
        self._since = time.perf_counter()
        state = self._stored()
        self._spent = 0.0 if state is None else state["seconds"]
        n_clips = self._cut(None if state is None else state["n_clips"], tell, stop)
        if self._distributed.any(stop()):
            return None
        if state is not None:
            trainer = self._backend.trainer(state["estimate"]["steps"])
            self._run = AdaptRun.from_state(state, trainer)
            self._spent = self._elapsed()
            return self._run.estimate
        tell(AdaptProgress("trial", 0, 2))
        trial = self._backend.profile_steps()
        tell(AdaptProgress("judging", 0, 1))
        base = self._backend.network
        before = self._judge(base, stop)
        if before is None:
            return None
        tell(AdaptProgress("judging", 1, 1, evaluation=before))
        started = time.perf_counter()
        untrained = self._backend.candidate(base)
        found = self._judge(untrained, stop)
        if found is None:
            return None
        judge_seconds = time.perf_counter() - started
        measured = self._distributed.broadcast((trial, judge_seconds, self._elapsed()))
        estimate = plan_time(self.recipe, *measured)
        trainer = self._backend.trainer(estimate.steps)
        self._run = AdaptRun(trainer, estimate, n_clips, before, before, copied_state(base))
        if is_better(found, before):
            self._run.best, self._run.best_state = found, copied_state(untrained)
        self._spent = self._elapsed()
        return estimate

    def run(self, tell: Tell | None = None, should_stop: Stop | None = None) -> AdaptReport:
        """Train; after a stop, the best weights so far are kept.

        Raises
        ------
        ConfigError
            `prepare` has not been called, or was stopped.
        """
        tell, stop = tell or (lambda progress: None), should_stop or (lambda: False)
        run = self._run
        if run is None:
            raise ConfigError("adaptation", "is not prepared", hint="Call prepare first.")
        self._since = time.perf_counter()
        trainer, total = run.trainer, run.estimate.steps
        every = math.ceil(total / run.estimate.judgements)
        stopped = "finished"
        while trainer.step < total:
            if self._distributed.any(stop()):
                stopped = "cancelled"
                break
            failure, loss = self._step(trainer)
            if failure is not None:
                stopped = failure
                break
            run.loss_sum += loss
            run.loss_steps += 1
            soon = self._elapsed() + run.estimate.judge_seconds
            late = self._distributed.broadcast(soon > 60 * self.recipe.minutes)
            due = late or trainer.step % every == 0 or trainer.step == total
            tell(AdaptProgress("training", trainer.step, total, loss, run.seconds_left))
            if not due:
                continue
            tell(AdaptProgress("judging", trainer.step, total, loss, run.seconds_left))
            candidate = self._backend.candidate(trainer.averaged)
            found = self._judge(candidate, stop)
            if found is None:
                stopped = "cancelled"
                break
            run.take(found, candidate)
            tell(AdaptProgress("training", trainer.step, total, loss, run.seconds_left, found))
            self._store(run)
            if trainer.step < total and (late or run.in_vain >= self.recipe.patience):
                stopped = "time" if late else "early"
                break
        return AdaptReport(
            stopped,
            trainer.step,
            run.best_step,
            self._elapsed(),
            self.held_out,
            run.before,
            run.best,
            run.curve,
            self.notes,
        )

    def metadata(self, report: AdaptReport) -> dict[str, Any]:
        """What the file of weights shall tell: no names and paths of the data, only hashes."""
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
        """Write the kept weights as one file that every command takes; whole or not at all.

        The checkpoint is removed. May be called again after an error, with another path.

        Raises
        ------
        ConfigError
            Nothing was found that is better than the base model.
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

    def _judge(self, network: nn.Module, stop: Stop) -> EvaluationResult | None:
        """The first process judges, the others wait for what it says."""
        found = self._backend.judge(network, stop) if self._distributed.is_main else None
        return self._distributed.broadcast(found)

    def _step(self, trainer: AdaptTrainer) -> tuple[str | None, float]:
        """Why it failed, or None; and the loss."""
        try:
            loss = trainer.advance()["loss"]
        except FloatingPointError:
            return "nan", math.nan
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return "memory", math.nan
        if self.recipe.pull:
            pull_back(trainer.network, self._backend.network, self.recipe.pull)
        return None, loss

    def _elapsed(self) -> float:
        return self._spent + time.perf_counter() - self._since

    def _cut(self, exactly: int | None, tell: Tell, stop: Stop) -> int:
        recipe = self.recipe
        if self._distributed.size > 1:
            exactly = exactly or recipe.clips  # all processes need the same ones
        wanted = exactly or recipe.clips

        def is_enough(n: int) -> bool:
            tell(AdaptProgress("clips", min(n, wanted), wanted))
            late = self._elapsed() > CLIPS_SHARE * 60 * recipe.minutes
            return stop() or (exactly is None and late and n >= recipe.batch_size)

        return self._backend.cut(exactly, is_enough)

    def _key(self) -> str:
        """What a checkpoint must agree with."""
        made_of = [self._data, self.base.sha256, self.recipe.to_dict()]
        return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()

    def _store(self, run: AdaptRun) -> None:
        path = self._checkpoint
        if path is None or not self._distributed.is_main:
            return
        state = {"key": self._key(), "seconds": self._elapsed(), **run.to_state()}
        try:
            write_checkpoint(path, state)
        except OutputError as error:
            self._checkpoint = None
            self.notes += (f"went on without a checkpoint: {error}",)

    def _stored(self) -> dict[str, Any] | None:
        path = self._checkpoint
        if path is None or not path.exists():
            return None
        return read_checkpoint(path, self._key(), self._distributed.device)


def licence_of(base: LoadedNetwork) -> str:
    """Licence of the weights that an adapted model starts from."""
    noted = read_metadata(base.path) if base.path.suffix == ".safetensors" else {}
    known = {card.name: card.licence for card in list_models()}
    return str(noted.get("licence") or known.get(base.name, "not told"))
