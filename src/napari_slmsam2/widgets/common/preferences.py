"""The preferences of this plugin in napari's settings."""

from __future__ import annotations

from dataclasses import dataclass, field

from napari.settings import get_plugin_settings

from napari_slmsam2.core.config import PropagationConfig
from napari_slmsam2.engine.weights.registry import DEFAULT_MODEL


@dataclass(frozen=True, slots=True)
class Preferences:
    """Initial settings of the panel.

    Attributes
    ----------
    model, device : str
    models_folder : str or None
    config : PropagationConfig
    """

    model: str = DEFAULT_MODEL
    device: str = "auto"
    models_folder: str | None = None
    config: PropagationConfig = field(default_factory=PropagationConfig)


def read_preferences() -> Preferences:
    """The preferences; defaults where napari does not know the plugin (in a script)."""
    try:
        engine = get_plugin_settings("napari-slmsam2").engine
    except (KeyError, AttributeError):
        return Preferences()
    return Preferences(
        engine.adapted_model.strip() or engine.model,
        engine.device,
        engine.models_folder or None,
        PropagationConfig(
            embedding_budget=engine.embedding_budget, embedding_disk=engine.embedding_disk
        ),
    )
