"""Keyboard shortcuts: bound while the panel is open, never in place of somebody else's."""

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
    """A key and what it does."""

    key: str
    title: str
    action: Callable[[], None]


class Shortcuts:
    """Binds keys on a viewer.

    Parameters
    ----------
    viewer : Viewer
    wanted : sequence of Shortcut
        A key that napari, a layer, the user's settings or another plugin has already is left to
        them.

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
        """The key that is bound to an action."""
        return next((s.key for s in self.bound if s.action == action), None)

    def close_connections(self) -> None:
        """Unbind what is still ours."""
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
    """Name the key of each button's action in its tooltip, a plain letter on the button too."""
    for button, action in buttons.items():
        key = shortcuts.key_of(action)
        if key is not None:
            button.setToolTip(f"{button.toolTip()} Key: {key}")
            if len(key) == 1:
                button.setText(f"{button.text()} ({key})")
