"""No such device, no memory left: said in a notification, with what was done about it."""

from __future__ import annotations

from napari_slmsam2.widgets.runs.model_notes import slow_device
from napari_slmsam2.widgets.runs.task import Models, Ready, RunRequest


def test_a_device_that_is_not_there_is_told(bench, messages):
    import torch

    missing = "mps" if torch.cuda.is_available() else "cuda"
    bench.panel.runner.models = Models()
    bench.panel.model.choose("compact")
    bench.paint(5)
    bench.panel.model.devices.setCurrentText(missing)
    bench.run()
    [message] = messages
    assert f"not found; expected {'cpu | ' if torch.cuda.is_available() else 'cpu'}" in message
    assert "Use auto." in message


def test_memory_that_ran_out_is_told_and_the_run_goes_on(messages, bench):
    bench.segmenter.fits = 0
    bench.segmenter.reliefs = ["cuda:0 ran out of memory: the run goes on, more slowly, on the CPU"]
    bench.paint(5)
    bench.run()
    assert messages == ["cuda:0 ran out of memory: the run goes on, more slowly, on the CPU"]
    assert bench.panel.run_bar.status.text().startswith("Done")


def test_a_smaller_input_for_a_slow_cpu_is_reported():
    chosen = "input of 512 px: about 2 s per slice and label on this CPU"
    ready = Ready("sam2.1-tiny", "cpu", "float32", False, chosen)
    note = slow_device(RunRequest(model="sam2.1-tiny"), ready)
    assert note == f"sam2.1-tiny runs with an {chosen} (Settings, Advanced)."
