"""From a trained network to a file of weights that any command and the window can use."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from napari_slmsam2.engine.checkpoints import save_weights
from napari_slmsam2.training.trainer import Trainer


def release(trainer: Trainer, path: Path, facts: Mapping[str, Any] | None = None) -> None:
    """Write the averaged weights in half precision, with what they are and how they were made.

    Parameters
    ----------
    trainer : Trainer
    path : Path
        ``.safetensors``.
    facts : mapping, optional
        What else the file shall tell, values that JSON can hold.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    plan = trainer.plan
    state = {
        name: value.to(torch.float16) if value.is_floating_point() else value
        for name, value in trainer.averaged.state_dict().items()
    }
    recipe: dict[str, Any] = {
        "steps": trainer.step,
        "batch_size": plan.batch_size,
        "seed": plan.seed,
    }
    recipe["learning_rate"] = plan.learning_rate
    save_weights(
        path, state, {"config": trainer.config.to_dict(), "recipe": recipe, **(facts or {})}
    )
