"""The button for three linked views, with and without the plugin that draws them."""

from __future__ import annotations

import sys
import types

import pytest

from napari_slmsam2.widgets.workspace import three_views


def test_without_the_plugin_the_button_names_what_to_install(bench, messages, monkeypatch):
    monkeypatch.setattr(three_views, "find_spec", lambda name: None)
    bench.panel.three_views.click()
    assert len(messages) == 1
    assert 'pip install "napari-slmsam2[views]"' in messages[0]


def test_the_button_toggles_the_views_of_this_viewer(bench, messages, monkeypatch):
    toggled = []
    module = types.ModuleType("napari_orthogonal_views.ortho_view_manager")
    module.toggle_orthogonal_views = toggled.append
    monkeypatch.setattr(three_views, "find_spec", lambda name: object())
    monkeypatch.setitem(sys.modules, "napari_orthogonal_views", types.ModuleType("x"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    bench.panel.three_views.click()
    assert toggled == [bench.viewer]
    assert not messages


def test_the_plugin_has_the_function_that_is_called():
    manager = pytest.importorskip("napari_orthogonal_views.ortho_view_manager")
    assert callable(manager.toggle_orthogonal_views)
