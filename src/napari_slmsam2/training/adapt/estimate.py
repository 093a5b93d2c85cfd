"""The schedule of an adaptation: what fits into its time on this device."""

from __future__ import annotations

from dataclasses import dataclass, replace

from napari_slmsam2.core.errors import TimeLimitError
from napari_slmsam2.training.adapt.measurement import Measurement
from napari_slmsam2.training.recipes import AdaptRecipe

CLIPS_SHARE = 0.25
"""Share of the time for cutting clips, at most."""

EVALUATION_SHARE = 0.3
"""Share of the time for evaluations during training, at most."""

_MARGIN = 1.2
"""Over an estimated time, for what is suggested."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Schedule, time and memory of an adaptation.

    Attributes
    ----------
    clips, steps, evaluations : int
        Of the schedule: at most those of the recipe, fewer where the time is short.
    step_seconds, evaluation_seconds : float
        One step; one evaluation of the held-out part.
    memory : int
        Bytes that a step needs in addition to what is in use.
    seconds : float
        From now on, for all of it.
    limit_seconds : float
        Training stops when this time has passed since the beginning.
    notes : tuple of str
        How the schedule differs from the recipe.
    whole_minutes : float or None
        Time in which the whole schedule of the recipe fits; None where it does already.
    """

    clips: int
    steps: int
    evaluations: int
    step_seconds: float
    evaluation_seconds: float
    memory: int
    seconds: float
    limit_seconds: float
    notes: tuple[str, ...] = ()
    whole_minutes: float | None = None


def plan_schedule(
    recipe: AdaptRecipe, measured: Measurement, elapsed: float, *, fixed_time: bool = True
) -> Estimate:
    """The schedule of a recipe that fits into its time.

    Clips, evaluations and steps are reduced in this order of preference: a quarter of the time for
    clips, 30 % for evaluations, the rest for steps.

    Parameters
    ----------
    recipe : AdaptRecipe
    measured : Measurement
    elapsed : float
        Seconds that have passed already.
    fixed_time : bool
        Refuse what does not fit. False: the shortest schedule takes longer where it has to.

    Raises
    ------
    TimeLimitError
        Not even the shortest schedule fits, and the time is fixed.
    """
    limit = 60 * recipe.minutes
    left = limit - elapsed - measured.base_seconds
    fewest_clips = min(recipe.clips, recipe.batch_size)
    clips = _within(CLIPS_SHARE * left, measured.clip_seconds, fewest_clips, recipe.clips)
    rest = left - clips * measured.clip_seconds
    evaluations, steps = _fit_training(recipe, measured, rest)
    fewest_steps = min(recipe.fewest_steps, recipe.steps)
    if steps < fewest_steps:
        clips, evaluations = fewest_clips, 1
        rest = left - clips * measured.clip_seconds - measured.evaluation_seconds
        steps = _within(rest, measured.step_seconds, fewest_steps, recipe.steps)
    needed = elapsed + _seconds(measured, clips, steps, evaluations)
    if needed > limit and fixed_time:
        minutes = needed / 60 * _MARGIN
        raise TimeLimitError(
            f"recipe {recipe.name}",
            f"does not fit into {recipe.minutes:g} min on this device",
            expected=f"time for at least {steps} steps, {clips} clips and two evaluations",
            found=f"about {needed / 60:.1f} min for these",
            hint=f"Allow {minutes:.1f} min, use fewer clips per step (batch), fewer labels, a "
            "smaller volume or a faster device.",
            minutes=_whole_minutes(recipe, measured, elapsed),
        )
    estimate = Estimate(
        clips=clips,
        steps=steps,
        evaluations=min(evaluations, steps),
        step_seconds=measured.step_seconds,
        evaluation_seconds=measured.evaluation_seconds,
        memory=measured.memory,
        seconds=_seconds(measured, clips, steps, min(evaluations, steps)),
        limit_seconds=limit if needed <= limit else _MARGIN * needed,
    )
    notes = _differences(recipe, estimate, needed)
    whole = _whole_minutes(recipe, measured, elapsed) if notes else None
    return replace(estimate, notes=notes, whole_minutes=whole)


def plan_training(
    recipe: AdaptRecipe, estimate: Estimate, evaluation_seconds: float, elapsed: float
) -> Estimate:
    """Steps and evaluations for the time that is left once the base model has been evaluated.

    Parameters
    ----------
    recipe : AdaptRecipe
    estimate : Estimate
    evaluation_seconds : float
        As measured.
    elapsed : float
        Seconds that have passed already.
    """
    measured = Measurement(0.0, estimate.step_seconds, 0.0, evaluation_seconds, estimate.memory)
    evaluations, steps = _fit_training(recipe, measured, estimate.limit_seconds - elapsed)
    steps = max(steps, min(recipe.fewest_steps, recipe.steps))
    evaluations = min(evaluations, steps)
    planned = replace(
        estimate,
        steps=steps,
        evaluations=evaluations,
        evaluation_seconds=evaluation_seconds,
        seconds=_seconds(measured, 0, steps, evaluations),
    )
    longer = estimate.limit_seconds > 60 * recipe.minutes
    return replace(
        planned, notes=_differences(recipe, planned, elapsed + planned.seconds if longer else 0.0)
    )


def _fit_training(recipe: AdaptRecipe, measured: Measurement, left: float) -> tuple[int, int]:
    """Evaluations and steps that fit into the time left, in seconds."""
    one = measured.evaluation_seconds
    evaluations = _within(EVALUATION_SHARE * left, one, 1, recipe.evaluations)
    return evaluations, _within(left - evaluations * one, measured.step_seconds, 0, recipe.steps)


def _whole_minutes(recipe: AdaptRecipe, measured: Measurement, elapsed: float) -> float:
    """The time in which `plan_schedule` shortens nothing, in minutes."""
    clips = recipe.clips * measured.clip_seconds
    evaluations = min(recipe.evaluations, recipe.steps) * measured.evaluation_seconds
    steps = recipe.steps * measured.step_seconds
    training = max(evaluations / EVALUATION_SHARE, evaluations + steps)
    left = max(clips / CLIPS_SHARE, clips + training)
    return _MARGIN * (elapsed + measured.base_seconds + left) / 60


def _within(seconds: float, each: float, fewest: int, most: int) -> int:
    """How many fit into a time, within bounds."""
    return max(fewest, min(most, int(seconds / max(each, 1e-9))))


def _seconds(measured: Measurement, clips: int, steps: int, evaluations: int) -> float:
    return (
        measured.base_seconds
        + clips * measured.clip_seconds
        + steps * measured.step_seconds
        + evaluations * measured.evaluation_seconds
    )


def _differences(recipe: AdaptRecipe, estimate: Estimate, needed: float) -> tuple[str, ...]:
    """How a schedule differs from its recipe, as text."""
    planned = {
        "clips": (estimate.clips, recipe.clips),
        "steps": (estimate.steps, recipe.steps),
        "evaluations": (estimate.evaluations, min(recipe.evaluations, recipe.steps)),
    }
    fewer = [f"{n} of {most} {name}" for name, (n, most) in planned.items() if n < most]
    if needed > 60 * recipe.minutes:
        return (
            f"this device needs about {needed / 60:.1f} min instead of {recipe.minutes:g} min, "
            f"even for {', '.join(fewer) or 'the shortest schedule'}",
        )
    if fewer:
        return (f"shortened to fit into {recipe.minutes:g} min: {', '.join(fewer)}",)
    return ()
