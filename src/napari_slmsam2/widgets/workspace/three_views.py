"""Three linked views, by the plugin napari-orthogonal-views where it is installed."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

from napari import Viewer

from napari_slmsam2.core.errors import ConfigError

_PACKAGE = "napari_orthogonal_views"


def toggle_three_views(viewer: Viewer) -> None:
    """Show the two other planes beside the canvas, or hide them.

    Raises
    ------
    ConfigError
        The plugin is not installed.
    """
    if find_spec(_PACKAGE) is None:
        raise ConfigError(
            "three views",
            "need the plugin napari-orthogonal-views, which is not installed",
            hint='Install it with: pip install "napari-slmsam2[views]", then start napari again.',
        )
    manager = import_module(f"{_PACKAGE}.ortho_view_manager")
    manager.toggle_orthogonal_views(viewer)
