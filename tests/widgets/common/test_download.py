"""Weights from a server on this machine, downloaded by a run in a real viewer."""

from __future__ import annotations

import hashlib
import http.server
import shutil
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qtpy.QtWidgets import QMessageBox
from tests.widgets.conftest import Bench, FakeModels, scan

from napari_slmsam2.engine.weights import download, registry
from napari_slmsam2.engine.weights.model_card import WeightsFile
from napari_slmsam2.widgets.common import download as meter_module
from napari_slmsam2.widgets.common.download import DownloadMeter
from napari_slmsam2.widgets.runs.task import Models

WEIGHTS = Path(registry.__file__).parents[2] / "weights" / "compact.safetensors"
CONTENT = WEIGHTS.read_bytes()
HALF = len(CONTENT) // 2


@dataclass
class Site:
    """What the server does: it holds after half of the file until it may go on."""

    url: str = ""
    content: bytes = CONTENT
    status: int = 200
    go_on: threading.Event = field(default_factory=threading.Event)
    ranges: list[str | None] = field(default_factory=list)


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        site: Site = self.server.site  # type: ignore[attr-defined]
        wanted = self.headers["Range"]
        site.ranges.append(wanted)
        if site.status != 200:
            self.send_error(site.status)
            return
        first = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        self.send_response(206 if wanted else 200)
        n = len(site.content)
        if wanted:
            self.send_header("Content-Range", f"bytes {first}-{n - 1}/{n}")
        self.send_header("Content-Length", str(n - first))
        self.end_headers()
        try:
            self.wfile.write(site.content[first:HALF])
            self.wfile.flush()
            site.go_on.wait(20)
            self.wfile.write(site.content[max(first, HALF) :])
        except ConnectionError:  # the download was ended
            pass

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def site():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.site = Site(f"http://127.0.0.1:{running.server_port}/far.safetensors")
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running.site
        running.site.go_on.set()
        running.shutdown()
        thread.join()


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "models"
    monkeypatch.setenv("NAPARI_SLMSAM2_MODELS", str(folder))
    return folder


@pytest.fixture
def bench(viewer, qtbot, segmenter, site, folder, monkeypatch) -> Bench:
    """A panel with a seed, and the model ``far`` chosen, which must be downloaded."""
    weights = WeightsFile(
        url=site.url,
        filename="far.safetensors",
        size=len(CONTENT),
        sha256=hashlib.sha256(CONTENT).hexdigest(),
    )
    card = replace(
        registry.get_model("compact"), name="far", title="Far", path=None, bundled=False,
        weights=weights, licence="CC-BY-4.0",
    )  # fmt: skip
    monkeypatch.setitem(registry._MODELS, "far", card)
    monkeypatch.setattr(download, "_PAUSE_S", 0.0)
    viewer.add_image(scan((6, 16, 24)), name="scan")
    bench = Bench(viewer, qtbot, segmenter)
    bench.panel.runner.models = Models()
    bench.panel.model.choose("far")
    bench.paint(2)
    return bench


@pytest.fixture
def asked(monkeypatch) -> list[str]:
    """The questions; all are answered with yes."""
    questions: list[str] = []

    def answer(parent: Any, title: str, text: str) -> Any:
        questions.append(text)
        return QMessageBox.StandardButton.Yes

    monkeypatch.setattr(QMessageBox, "question", answer)
    return questions


def wait_for_half(bench: Bench) -> None:
    part = f"of {len(CONTENT) / 1e6:.1f} MB"
    status = bench.panel.run_bar.status
    bench.qtbot.waitUntil(
        lambda: "Downloading" in status.text() and part in status.text(), timeout=20_000
    )
    bench.qtbot.waitUntil(lambda: bench.panel.runner.control.download[0] >= HALF - 2**14)


def test_a_download_is_asked_for_and_told_about_and_the_run_goes_on(bench, site, folder, asked):
    bench.panel.propagate()
    assert len(asked) == 1
    for told in (f"{len(CONTENT) / 1e6:.1f} MB", "CC-BY-4.0", site.url, str(folder)):
        assert told in asked[0]
    wait_for_half(bench)
    # The window lives on: it is drawn and paints while the weights come.
    bench.paint(4, at=(12, 12))
    assert (4, 1) in bench.seeds
    assert 0.3 < bench.panel.run_bar.bar.value() / bench.panel.run_bar.bar.maximum() < 0.6
    site.go_on.set()
    bench.finish()
    assert (folder / "far.safetensors").read_bytes() == CONTENT
    assert bench.panel.run_bar.status.text().startswith("Done")
    bench.run("all")
    assert len(asked) == len(site.ranges) == 1


def test_what_a_cancelled_download_has_is_kept(bench, site, folder, asked, messages):
    bench.panel.propagate()
    wait_for_half(bench)
    bench.panel.run_bar.stop_button.click()
    site.go_on.set()
    bench.finish()
    bar = bench.panel.run_bar
    assert bar.status.text().startswith("Stopped the download at")
    assert messages == []
    assert not bar.pause_button.isEnabled(), "there is no run to resume"
    assert not (folder / "far.safetensors").exists()
    there = (folder / ".far.safetensors.part").stat().st_size
    assert there >= HALF - 2**14

    bench.run()
    assert "of them are downloaded already" in asked[1]
    assert site.ranges == [None, f"bytes={there}-"]
    assert (folder / "far.safetensors").read_bytes() == CONTENT
    assert bar.status.text().startswith("Done")


def test_a_silent_server_does_not_keep_a_cancelled_download(bench, folder, asked, monkeypatch):
    monkeypatch.setattr(download, "_TIMEOUT_S", 0.5)
    bench.panel.propagate()
    wait_for_half(bench)
    bench.panel.run_bar.stop_button.click()
    bench.qtbot.waitUntil(lambda: not bench.panel.runner.running, timeout=5_000)
    assert bench.panel.run_bar.status.text().startswith("Stopped the download at")
    assert (folder / ".far.safetensors.part").stat().st_size >= HALF - 2**14


def test_closing_the_panel_ends_the_download(bench, site, folder, asked, messages):
    bench.panel.propagate()
    wait_for_half(bench)
    bench.viewer.window.remove_dock_widget(bench.panel)
    site.go_on.set()
    bench.finish()
    bench.panel.deleteLater()
    bench.panel = None
    bench.qtbot.wait(50)
    assert not (folder / "far.safetensors").exists()
    assert messages == []


def test_no_means_no(bench, site, folder, monkeypatch):
    monkeypatch.setattr(QMessageBox, "question", lambda *_: QMessageBox.StandardButton.No)
    bench.panel.propagate()
    assert not bench.panel.runner.running
    assert site.ranges == []
    assert not folder.exists()


def no_network(bench, site, folder, monkeypatch):
    weights = registry.get_model("far").weights
    card = replace(registry.get_model("far"), weights=replace(weights, url="http://127.0.0.1:9/x"))
    monkeypatch.setitem(registry._MODELS, "far", card)


def gone(bench, site, folder, monkeypatch):
    site.status = 404


def another_file(bench, site, folder, monkeypatch):
    site.content = CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])


def full_disk(bench, site, folder, monkeypatch):
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))


def damaged_file(bench, site, folder, monkeypatch):
    folder.mkdir()
    (folder / "far.safetensors").write_bytes(CONTENT[:1000])


BY_HAND = "download far.safetensors by other means and put it into"


@pytest.mark.parametrize(
    ("what", "words"),
    [
        (no_network, ("no connection to 127.0.0.1", "Try again", BY_HAND)),
        (gone, ("404", BY_HAND)),
        (another_file, ("has the wrong content", "SHA-256", "deleted", BY_HAND)),
        (full_disk, ("has not enough space", "1000 bytes free", "Free space")),
        (damaged_file, ("has the wrong size", "Remove the file")),
    ],
)
def test_what_went_wrong_is_told_with_what_to_do(
    bench, site, folder, asked, messages, monkeypatch, what, words
):
    site.go_on.set()
    what(bench, site, folder, monkeypatch)
    before = bench.layer.data.copy()
    bench.run()
    [message] = messages
    for word in words:
        assert word in message
    if BY_HAND in words:
        assert str(folder) in message
    np.testing.assert_array_equal(bench.layer.data, before)
    assert bench.panel.run_bar.go_button.isEnabled()


def test_a_file_of_weights_that_is_gone_is_named(bench, tmp_path, messages):
    bench.panel.model.choose(str(tmp_path / "mine.safetensors"))
    bench.run()
    [message] = messages
    assert "mine.safetensors" in message
    assert "cannot be read (No such file or directory)" in message


def test_a_large_network_without_a_graphics_card_is_told_once(bench, folder, messages):
    bench.panel.runner.models = FakeModels(bench.segmenter)
    folder.mkdir()
    (folder / "far.safetensors").write_bytes(CONTENT)
    bench.run()
    bench.run("all")
    [message] = messages
    assert "No graphics card was found that Far can run on: it runs on the CPU" in message


def test_speed_and_time_left_do_not_count_what_was_there(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(meter_module.time, "perf_counter", lambda: clock[0])
    meter = DownloadMeter()
    assert meter.describe(100_000_000, 156_000_000) == "Downloading 100 of 156 MB"
    clock[0] += 4
    assert meter.describe(108_000_000, 156_000_000) == (
        "Downloading 108 of 156 MB; 2.0 MB per second; 24 s left"
    )
    assert "Ending the download at 108" in meter.describe(108_000_000, 156_000_000, stopping=True)
    assert meter.describe(156_000_000, 156_000_000) == "Checking and loading the model ..."
