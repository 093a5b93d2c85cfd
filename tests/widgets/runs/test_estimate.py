from __future__ import annotations

import re

import pytest
from tests.fakes import bright_volume, rectangle

from napari_slmsam2.core.config import PropagationConfig
from napari_slmsam2.core.prompts import SlicePrompt
from napari_slmsam2.engine.weights.registry import DEFAULT_MODEL
from napari_slmsam2.session.annotation import Annotation
from napari_slmsam2.widgets.common.wording import duration
from napari_slmsam2.widgets.runs.estimate import Speeds, plan_run
from napari_slmsam2.widgets.runs.task import RunRequest


@pytest.fixture
def annotation():
    made = Annotation(bright_volume(30))
    made.add_prompt(SlicePrompt.from_mask(1, 10, rectangle(2, 2)))
    return made


def request(labels=(1,), **options):
    return RunRequest(model="flow", labels=labels, **options)


def cost(bench):
    return bench.panel.run_bar.cost.text()


def wait_for_cost(bench, text):
    bench.qtbot.waitUntil(lambda: text in cost(bench), timeout=60_000)


def test_the_plan_is_that_of_the_run(annotation):
    steps, gaps_only = plan_run(annotation, request())
    assert len(steps) == 29
    assert not gaps_only
    steps, _ = plan_run(annotation, request(write_range=(8, 14)))
    assert {step.index for step in steps} == {8, 9, 11, 12, 13, 14}


def test_before_any_run_nothing_is_promised(annotation):
    text = Speeds().describe(annotation, request())
    assert text == "29 slices to fill; the time is estimated after the first 5 of a run."


def test_the_last_run_tells_how_long_the_next_one_takes(annotation):
    speeds = Speeds()
    speeds.note(annotation, request(), 0.5, "cpu")
    assert speeds.describe(annotation, request()) == ("About 58 s for 29 slices (flow on cpu).")
    annotation.add_prompt(SlicePrompt.from_mask(2, 10, rectangle(9, 9)))
    assert "About 2 min" in speeds.describe(annotation, request(labels=(1, 2)))
    confident = PropagationConfig(memory="confident")
    for other in ({"model": "interpolation"}, {"model": "flow", "config": confident}):
        assert "is estimated after" in speeds.describe(annotation, RunRequest(labels=(1,), **other))


def test_durations_are_told_in_words():
    assert [duration(s) for s in (0.2, 59, 150, 7200)] == ["1 s", "59 s", "2 min", "2.0 h"]


def test_the_panel_says_what_a_run_will_cost(bench):
    assert bench.panel.run_bar.cost.text() == ""
    bench.paint(5)
    wait_for_cost(bench, "11 slices to fill")
    bench.segmenter.delay = 0.02
    bench.run()
    wait_for_cost(bench, f"About 1 s for 11 slices ({DEFAULT_MODEL} on cpu).")
    bench.paint(9, at=(4, 4), size=3)
    wait_for_cost(bench, f"About 1 s for 5 slices beside changed seeds ({DEFAULT_MODEL} on cpu).")


def test_the_cost_follows_seeds_labels_range_and_direction(bench):
    bench.paint(5)
    wait_for_cost(bench, "11 slices")
    bar = bench.panel.run_bar
    bar.direction = "forward"
    wait_for_cost(bench, "6 slices")
    bar.use_range.setChecked(True)
    bar.last.setValue(7)
    wait_for_cost(bench, "2 slices")
    bar.use_range.setChecked(False)
    bar.direction = "both"
    bench.paint(0, label=2)
    wait_for_cost(bench, "12 slices")
    bench.show(8)
    bench.panel.ends.click()
    bar.only_label.setChecked(True)
    wait_for_cost(bench, "8 slices")
    bench.layer.selected_label = 1
    wait_for_cost(bench, "11 slices")


def test_the_time_left_shows_after_some_slices(bench):
    bench.segmenter.delay = 0.03
    bench.paint(0)
    bench.panel.propagate()
    status = bench.panel.run_bar.status
    texts = set()
    bench.panel.runner.ticked.connect(lambda: texts.add(status.text()))
    bench.finish()
    shown = {int(m[1]) for t in texts if (m := re.match(r"(\d+) % done; .* left", t))}
    assert shown
    assert min(shown) >= 100 * 5 / 15
