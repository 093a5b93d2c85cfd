"""Downloads from a server on this machine that can be made to fail."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import itertools
import os
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from napari_slmsam2.core.errors import ConfigError, DownloadError
from napari_slmsam2.engine.weights import download
from napari_slmsam2.engine.weights.download import (
    DownloadCancelledError,
    download_weights,
    is_downloaded,
    models_folder,
)
from napari_slmsam2.engine.weights.registry import ModelCard, WeightsFile, get_model, list_models

CONTENT = np.random.default_rng(7).bytes(3_500_000)


@dataclass
class Server:
    """A file server.

    Attributes
    ----------
    break_after : iterator of int or None
        For each request, the bytes of the body after which the connection ends.
    ranges : list
        The ``Range`` headers of the requests.
    """

    url: str = ""
    content: bytes = CONTENT
    honours_ranges: bool = True
    tells_length: bool = True
    status: int | None = None
    break_after: Iterator[int | None] = field(default_factory=lambda: itertools.repeat(None))
    ranges: list[str | None] = field(default_factory=list)


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        behaviour: Server = self.server.behaviour  # type: ignore[attr-defined]
        wanted = self.headers["Range"]
        behaviour.ranges.append(wanted)
        first = 0
        if behaviour.status:
            self.send_error(behaviour.status)
            return
        if wanted and behaviour.honours_ranges:
            first = int(wanted.removeprefix("bytes=").rstrip("-"))
            if first >= len(behaviour.content):
                self.send_error(416)
                return
            self.send_response(206)
            last = len(behaviour.content) - 1
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(behaviour.content)}")
        else:
            self.send_response(200)
        body = behaviour.content[first:]
        if behaviour.tells_length:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            self.wfile.write(body[: next(behaviour.break_after)])

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.behaviour = Server(f"http://127.0.0.1:{running.server_port}/weights.pt")
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running.behaviour
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def _quick_retries(monkeypatch):
    monkeypatch.setattr(download, "_PAUSE_S", 0.0)


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "new" / "models"


def card(url: str, *, size: int = len(CONTENT), sha256: str | None = None) -> ModelCard:
    weights = WeightsFile(
        url=url,
        filename="weights.pt",
        size=size,
        sha256=sha256 or hashlib.sha256(CONTENT).hexdigest(),
    )
    return ModelCard(
        name="m", title="M", kind="network", licence="BSD-3-Clause", description="", weights=weights
    )


def visible(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if not p.name.endswith(".lock"))


def test_whole_file_with_progress(server, folder):
    seen: list[tuple[int, int]] = []
    model = card(server.url)
    assert not is_downloaded(model, folder)
    path = download_weights(model, folder, progress=lambda *step: seen.append(step))
    assert path == folder / "weights.pt"
    assert path.read_bytes() == CONTENT
    assert is_downloaded(model, folder)
    done = [d for d, _ in seen]
    assert len(done) > 2
    assert done == sorted(set(done))
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert visible(folder) == ["weights.pt"]


def test_second_call_needs_no_server(server, folder):
    download_weights(card(server.url), folder)
    download_weights(card(server.url), folder)
    assert len(server.ranges) == 1


def test_broken_connection_is_resumed_where_it_broke(server, folder):
    server.break_after = iter([1_500_000, 700_000, None])
    assert download_weights(card(server.url), folder).read_bytes() == CONTENT
    offsets = [int(r.removeprefix("bytes=").rstrip("-")) for r in server.ranges if r]
    assert len(offsets) == 2
    assert 0 < offsets[0] < offsets[1] < len(CONTENT)


def test_broken_connection_without_ranges_starts_again(server, folder):
    server.honours_ranges = False
    server.break_after = iter([1_500_000, None])
    assert download_weights(card(server.url), folder).read_bytes() == CONTENT


def test_broken_connection_of_unknown_length_is_noticed(server, folder):
    server.tells_length = False
    server.break_after = iter([1_500_000, None])
    assert download_weights(card(server.url), folder).read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=1500000-"]


def test_giving_up_leaves_a_part_that_the_next_call_resumes(server, folder):
    server.break_after = iter([2_000_000, 0, 0, 0, None])
    with pytest.raises(DownloadError, match=r"could not be downloaded.*Try again") as error:
        download_weights(card(server.url), folder)
    assert str(folder) in str(error.value)
    assert not (folder / "weights.pt").exists()
    assert download_weights(card(server.url), folder).read_bytes() == CONTENT
    assert server.ranges[-1] is not None
    assert visible(folder) == ["weights.pt"]


def test_wrong_hash_is_thrown_away(server, folder):
    server.content = bytes(len(CONTENT))
    with pytest.raises(DownloadError, match="expected SHA-256"):
        download_weights(card(server.url), folder)
    assert visible(folder) == []


@pytest.mark.parametrize("size", [len(CONTENT) - 1, len(CONTENT) + 1])
@pytest.mark.parametrize("tells_length", [True, False])
def test_wrong_size_is_not_taken(server, folder, size, tells_length):
    server.tells_length = tells_length
    with pytest.raises(DownloadError):
        download_weights(card(server.url, size=size), folder)
    assert "weights.pt" not in visible(folder)


def test_part_longer_than_the_servers_file_is_dropped(server, folder):
    server.break_after = iter([2_000_000, 0, 0, 0, *[None] * 4])
    with pytest.raises(DownloadError):
        download_weights(card(server.url), folder)
    server.content = CONTENT[:1_000_000]
    with pytest.raises(DownloadError, match="has the wrong size"):
        download_weights(card(server.url), folder)
    server.content = CONTENT
    assert download_weights(card(server.url), folder).read_bytes() == CONTENT


def test_missing_page(server, folder):
    server.status = 404
    with pytest.raises(DownloadError, match="404"):
        download_weights(card(server.url), folder)
    assert len(server.ranges) == 1
    assert visible(folder) == []


def test_no_connection(server, folder):
    with pytest.raises(DownloadError, match=r"put it into .*models"):
        download_weights(card("http://127.0.0.1:9/weights.pt"), folder)


def test_cancelled_download_goes_on_later(server, folder):
    done: list[int] = []
    with pytest.raises(DownloadCancelledError, match="was cancelled"):
        download_weights(
            card(server.url),
            folder,
            progress=lambda d, _: done.append(d),
            should_stop=lambda: len(done) == 2,
        )
    assert not (folder / "weights.pt").exists()
    assert download_weights(card(server.url), folder).read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={done[1]}-"]


def test_two_downloads_at_once_share_one(server, folder):
    with contextlib.ExitStack() as stack:
        results: list[Path] = []
        for _ in range(3):
            thread = threading.Thread(
                target=lambda: results.append(download_weights(card(server.url), folder))
            )
            thread.start()
            stack.callback(thread.join)
    assert results == [folder / "weights.pt"] * 3
    assert len(server.ranges) == 1


def test_waiting_for_another_download_can_be_cancelled(server, folder):
    entered, leave = threading.Event(), threading.Event()

    def hold(done: int, total: int) -> None:
        entered.set()
        leave.wait(10)

    thread = threading.Thread(
        target=lambda: download_weights(card(server.url), folder, progress=hold)
    )
    thread.start()
    try:
        assert entered.wait(10)
        with pytest.raises(DownloadCancelledError):
            download_weights(card(server.url), folder, should_stop=lambda: True)
    finally:
        leave.set()
        thread.join()


def test_too_little_space_is_noticed_before(server, folder):
    with pytest.raises(DownloadError, match=r"not enough space.*bytes free"):
        download_weights(card(server.url, size=10**18), folder)
    assert server.ranges == []


@pytest.fixture
def small_disk(tmp_path):
    """A folder in which 1 MiB is all that can be written."""
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if os.name == "posix" and subprocess.run(mount, capture_output=True, check=False).returncode:
        limits = pytest.importorskip("resource")
        before = limits.getrlimit(limits.RLIMIT_FSIZE)
        limits.setrlimit(limits.RLIMIT_FSIZE, (1 << 20, before[1]))
        yield place
        limits.setrlimit(limits.RLIMIT_FSIZE, before)
    else:
        yield place
        subprocess.run(["umount", str(place)], check=True)


def test_disk_that_fills_up_leaves_nothing(server, small_disk, monkeypatch):
    # Another program takes the space after the check.
    monkeypatch.setattr(
        download.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1 << 40})
    )
    with pytest.raises(DownloadError, match=r"weights\.pt: cannot be written"):
        download_weights(card(server.url), small_disk)
    assert visible(small_disk) == []


def test_folder_that_cannot_be_made(server, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DownloadError, match="cannot be written"):
        download_weights(card(server.url), tmp_path / "file" / "models")


def test_offline_folder(server, tmp_path, monkeypatch):
    (tmp_path / "weights.pt").write_bytes(CONTENT)
    monkeypatch.setenv("NAPARI_SLMSAM2_MODELS", str(tmp_path))
    assert models_folder() == tmp_path
    assert download_weights(card(server.url)) == tmp_path / "weights.pt"
    assert server.ranges == []


@pytest.mark.parametrize(
    ("content", "problem"), [(CONTENT[:-1], "wrong size"), (bytes(len(CONTENT)), "SHA-256")]
)
def test_wrong_file_in_an_offline_folder_is_refused_and_kept(server, tmp_path, content, problem):
    (tmp_path / "weights.pt").write_bytes(content)
    with pytest.raises(DownloadError, match=problem):
        download_weights(card(server.url), tmp_path)
    assert (tmp_path / "weights.pt").read_bytes() == content
    assert server.ranges == []


def test_default_folder_is_the_users_cache(monkeypatch):
    monkeypatch.delenv("NAPARI_SLMSAM2_MODELS")
    assert "napari-slmsam2" in models_folder().parts


def test_model_without_weights_has_no_download():
    with pytest.raises(DownloadError, match="no weights"):
        download_weights(get_model("flow"))
    assert is_downloaded(get_model("flow"))


def test_registry_lists_networks_and_classical_models():
    cards = {c.name: c for c in list_models()}
    assert {c.kind for c in cards.values()} == {"classical", "network"}
    assert not cards["flow"].needs_download
    assert not cards["interpolation"].needs_download
    for trunk in ("tiny", "small", "base-plus", "large"):
        plain, slm = cards[f"sam2.1-{trunk}"], cards[f"slm-sam2.1-{trunk}"]
        assert plain.weights == slm.weights
        assert plain.licence == "Apache-2.0"
        assert plain.conversion is None
        assert not plain.config.has_short_memory
        assert slm.config.has_short_memory
        assert "NOT fine-tuned" in slm.description
        assert plain.weights.url.startswith("https://")
        assert len(bytes.fromhex(plain.weights.sha256)) == 32
    assert len({c.weights.sha256 for c in cards.values() if c.weights}) == 8


def test_unknown_model_gets_near_matches():
    with pytest.raises(ConfigError, match=r"expected sam2\.1-tiny") as error:
        get_model("sam21-tiny")
    assert "interpolation" in str(error.value)
