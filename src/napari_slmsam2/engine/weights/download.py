"""Verified and resumable downloads of weights into the folder of models.

Own code on `requests`, because pooch neither continues a partial file nor can be cancelled.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

import requests
from filelock import FileLock, Timeout

from napari_slmsam2.core.errors import DownloadError
from napari_slmsam2.engine.weights.checkpoints import file_sha256
from napari_slmsam2.engine.weights.model_card import (
    FOLDER_VARIABLE,
    ModelCard,
    WeightsFile,
    models_folder,
)

#: Called with the number of bytes downloaded and the size of the file.
Progress = Callable[[int, int], None]

_CHUNK = 1 << 14
_ATTEMPTS = 4
_PAUSE_S = 1.0
_TIMEOUT_S = 10.0
_POLL_S = 0.1
_LOCK_POLL_S = 0.2


class DownloadCancelledError(DownloadError):
    """The download was stopped on request; the next one resumes it."""


def download_weights(
    card: ModelCard,
    folder: str | os.PathLike[str] | None = None,
    *,
    progress: Progress | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Path:
    """The verified file of a model's weights, downloaded if it is missing.

    An interrupted download is resumed, in this call and in later ones, if the server supports it.
    Only a complete and verified file gets the final name.

    Parameters
    ----------
    card : ModelCard
        With weights.
    folder : path-like, optional
        See `models_folder`. An existing file is used without network access.
    progress : callable, optional
        ``progress(done_bytes, total_bytes)``.
    should_stop : callable, optional
        Called after every 16 KiB and between attempts; True ends the download. The downloaded part
        is kept for the next one.

    Raises
    ------
    DownloadError
        The file in the folder is not the right one, or the download failed: no connection, no
        space, wrong size or hash.
    DownloadCancelledError
        ``should_stop`` returned True.
    """
    if card.weights is None:
        raise DownloadError(f"model {card.name}", "has no weights to download")
    path = models_folder(folder) / card.weights.filename
    if path.exists():
        hint = "Remove the file, then download it again."
        _verify(path, card.weights, str(path), hint)
    else:
        _download(card.weights, path, progress or _ignore, should_stop or _never)
    return path


def is_downloaded(card: ModelCard, folder: str | os.PathLike[str] | None = None) -> bool:
    """Whether a model can be used without a download. The file is not verified here."""
    weights = card.weights
    return weights is None or (models_folder(folder) / weights.filename).is_file()


def downloaded_bytes(card: ModelCard, folder: str | os.PathLike[str] | None = None) -> int:
    """Size in bytes of an unfinished download, from which the next one resumes."""
    if card.weights is None:
        return 0
    part = _part_of(models_folder(folder) / card.weights.filename)
    return part.stat().st_size if part.is_file() else 0


def _part_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")


def _ignore(done: int, total: int) -> None:
    pass


def _never() -> bool:
    return False


def _verify(path: Path, weights: WeightsFile, what: str, hint: str) -> None:
    size = path.stat().st_size
    if size != weights.size:
        raise DownloadError(
            what,
            "has the wrong size",
            expected=f"{weights.size} bytes",
            found=f"{size} bytes",
            hint=hint,
        )
    digest = file_sha256(path)
    if digest != weights.sha256:
        raise DownloadError(
            what,
            "has the wrong content",
            expected=f"SHA-256 {weights.sha256}",
            found=digest,
            hint=hint,
        )


def _download(
    weights: WeightsFile, path: Path, progress: Progress, should_stop: Callable[[], bool]
) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _turn(path.with_name(f".{path.name}.lock"), should_stop):
            if not path.exists():  # another process may have been faster
                part = _part_of(path)
                _fill(part, weights, _Transfer(weights, part, progress, should_stop))
                os.replace(part, path)
    except requests.RequestException as error:
        raise DownloadError(
            weights.url,
            "could not be downloaded",
            found=_in_words(error, weights.url),
            hint=f"Try again to resume, or {_by_hand(weights, path)}.",
        ) from error
    except OSError as error:
        raise DownloadError(
            str(path),
            "cannot be written",
            found=error.strerror or str(error),
            hint=f"Free space, or choose another folder with {FOLDER_VARIABLE}.",
        ) from error


def _by_hand(weights: WeightsFile, path: Path) -> str:
    return f"download {weights.filename} by other means and put it into {path.parent}"


def _in_words(error: requests.RequestException, url: str) -> str:
    host = urlsplit(url).hostname
    if isinstance(error, requests.Timeout):
        return f"no answer from {host}"
    if isinstance(error, requests.exceptions.SSLError):
        return f"no certificate of {host} that can be verified"
    if isinstance(error, requests.exceptions.ProxyError):
        return "no connection to the proxy"
    if isinstance(error, requests.ConnectionError):
        return f"no connection to {host}"
    return str(error)


def _fill(part: Path, weights: WeightsFile, transfer: _Transfer) -> None:
    """Complete and verify an unfinished download; delete it if it cannot be resumed."""
    try:
        transfer.run()
    except requests.RequestException:
        raise
    except OSError:  # a full disk stays full with the unfinished file on it
        part.unlink(missing_ok=True)
        raise
    try:
        final = part.with_name(weights.filename)
        hint = f"The download was deleted. Try again, or {_by_hand(weights, final)}."
        _verify(part, weights, weights.url, hint)
    except DownloadError:
        part.unlink()
        raise


@contextlib.contextmanager
def _turn(path: Path, should_stop: Callable[[], bool]) -> Iterator[None]:
    """Lock a file, so that one process at a time downloads it."""
    lock = FileLock(path)
    while True:
        try:
            lock.acquire(timeout=_LOCK_POLL_S)
            break
        except Timeout:
            if should_stop():
                raise DownloadCancelledError(str(path), "waiting for it was cancelled") from None
    try:
        yield
    finally:
        lock.release()


class _Transfer:
    """Fills the file of an unfinished download, with a limited number of attempts.

    Parameters
    ----------
    weights : WeightsFile
    part : Path
        The unfinished download.
    progress, should_stop : callable
        See `download_weights`.
    """

    def __init__(
        self,
        weights: WeightsFile,
        part: Path,
        progress: Progress,
        should_stop: Callable[[], bool],
    ) -> None:
        self._weights = weights
        self._part = part
        self._progress = progress
        self._should_stop = should_stop

    def run(self) -> None:
        """Download the missing part."""
        for attempt in range(1, _ATTEMPTS):
            with contextlib.suppress(requests.ConnectionError, requests.Timeout, _BrokenError):
                return self._connect()
            self._wait(_PAUSE_S * attempt)
        return self._connect()

    def _wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._check_stop(self._done())
            time.sleep(_POLL_S)

    def _check_stop(self, done: int) -> None:
        if self._should_stop():
            raise DownloadCancelledError(
                self._weights.url, "was cancelled", found=f"{done} of {self._weights.size} bytes"
            )

    def _done(self) -> int:
        done = self._part.stat().st_size if self._part.exists() else 0
        if done > self._weights.size:
            self._part.unlink()
            return 0
        return done

    def _connect(self) -> None:
        """One connection, from where the last one ended to the end of the file."""
        done = self._done()
        self._check_stop(done)
        self._check_space(done)
        if done == self._weights.size:
            return
        headers = {"Accept-Encoding": "identity"}
        if done:
            headers["Range"] = f"bytes={done}-"
        with requests.get(
            self._weights.url, headers=headers, stream=True, timeout=_TIMEOUT_S
        ) as response:
            if response.status_code == requests.codes.requested_range_not_satisfiable:
                self._part.unlink()
                raise _BrokenError("the server does not have the rest of the file")
            response.raise_for_status()
            if not response.headers.get("Content-Range", "").startswith(f"bytes {done}-"):
                done = 0
            self._check_size(response, done)
            with open(self._part, "ab" if done else "wb") as file:
                done = self._write(response, file, done)
        if done < self._weights.size:
            raise _BrokenError(f"the connection ended after {done} of {self._weights.size} bytes")

    def _write(self, response: requests.Response, file: IO[bytes], done: int) -> int:
        try:
            for chunk in response.iter_content(_CHUNK):
                self._check_stop(done)
                file.write(chunk)
                done += len(chunk)
                if done > self._weights.size:
                    raise self._wrong_size(f"more than {self._weights.size} bytes")
                self._progress(done, self._weights.size)
        except requests.exceptions.ChunkedEncodingError as error:
            raise _BrokenError(str(error)) from error
        return done

    def _check_space(self, done: int) -> None:
        needed = self._weights.size - done
        free = shutil.disk_usage(self._part.parent).free
        if free < needed:
            raise DownloadError(
                str(self._part.parent),
                "has not enough space",
                expected=f"{needed} bytes",
                found=f"{free} bytes free",
                hint=f"Free space, or choose another folder with {FOLDER_VARIABLE}.",
            )

    def _check_size(self, response: requests.Response, done: int) -> None:
        length = response.headers.get("Content-Length")
        if length is not None and done + int(length) != self._weights.size:
            raise self._wrong_size(f"{done + int(length)} bytes")

    def _wrong_size(self, found: str) -> DownloadError:
        return DownloadError(
            self._weights.url,
            "has the wrong size",
            expected=f"{self._weights.size} bytes",
            found=found,
        )


class _BrokenError(requests.RequestException):
    """The connection ended before the file did."""
