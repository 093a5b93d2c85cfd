"""Keyboard shortcuts, bound while the panel is open; they never replace existing ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from app_model.types import KeyBinding
from napari import Viewer
from napari.layers import Image, Labels, Points, Shapes
from napari.settings import get_settings
from qtpy.QtWidgets import QPushButton


@dataclass(frozen=True, slots=True)
class Shortcut:
    """A key, its title and its action."""

    key: str
    title: str
    action: Callable[[], None]


class Shortcuts:
    """Binds keys on a viewer.

    Parameters
    ----------
    viewer : Viewer
    wanted : sequence of Shortcut
        A key that napari, a layer, the user's settings or another plugin has bound is skipped.

    Attributes
    ----------
    bound : tuple of Shortcut
    """

    def __init__(self, viewer: Viewer, wanted: Sequence[Shortcut]) -> None:
        self._viewer = viewer
        taken = _taken(viewer)
        self.bound = tuple(s for s in wanted if KeyBinding.from_str(s.key) not in taken)
        self._functions: dict[KeyBinding, Callable[[Viewer], None]] = {}
        for shortcut in self.bound:
            self._bind(shortcut)

    def _bind(self, shortcut: Shortcut) -> None:
        def act(viewer: Viewer) -> None:
            shortcut.action()

        binding = KeyBinding.from_str(shortcut.key)
        self._functions[binding] = act
        self._viewer.bind_key(binding, act)

    def key_of(self, action: Callable[[], None]) -> str | None:
        """The key that is bound to an action; None if there is none."""
        return next((s.key for s in self.bound if s.action == action), None)

    def close_connections(self) -> None:
        """Unbind the keys that are still bound to this panel."""
        for binding, function in self._functions.items():
            if self._viewer.keymap.get(binding) is function:
                self._viewer.bind_key(binding, None)
        self._functions.clear()


def _taken(viewer: Viewer) -> set[KeyBinding]:
    taken = set(viewer.keymap)
    for owner in (type(viewer), Image, Labels, Points, Shapes):
        taken |= set(owner.class_keymap)
    for bindings in get_settings().shortcuts.shortcuts.values():
        taken |= set(bindings)
    return taken


def show_keys(shortcuts: Shortcuts, buttons: Mapping[QPushButton, Callable[[], None]]) -> None:
    """Add the key of each action to the tooltip of its button, and a letter to its text."""
    for button, action in buttons.items():
        key = shortcuts.key_of(action)
        if key is not None:
            button.setToolTip(f"{button.toolTip()} Key: {key}")
            if len(key) == 1:
                button.setText(f"{button.text()} ({key})")
