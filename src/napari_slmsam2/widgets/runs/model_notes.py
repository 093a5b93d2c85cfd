"""Messages about a model that was loaded."""

from __future__ import annotations

from napari_slmsam2.core.errors import ConfigError
from napari_slmsam2.engine.weights.registry import get_model
from napari_slmsam2.widgets.runs.task import Ready, RunRequest


def slow_device(request: RunRequest, ready: Ready) -> str:
    """A message where a large network runs on the CPU; empty otherwise."""
    if ready.chosen_size:
        return f"{ready.model} runs with an {ready.chosen_size} (Settings, Advanced)."
    if request.device != "auto" or ready.device != "cpu":
        return ""
    try:
        card = get_model(request.model, request.models_folder)
    except ConfigError:  # a file of weights: as small or large as it may be
        return ""
    if not card.needs_download:
        return ""
    return (
        f"No graphics card was found that {card.title} can run on: it runs on the CPU, which takes "
        "seconds per slice. Models without weights and the compact network are quick there."
    )
