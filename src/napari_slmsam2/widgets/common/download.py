"""The download of a model's weights: confirmation, progress and result."""

from __future__ import annotations

import time

from qtpy.QtWidgets import QMessageBox, QWidget

from napari_slmsam2.engine.weights.model_card import ModelCard, models_folder
from napari_slmsam2.widgets.common.wording import duration

_ENOUGH_S = 1.0


def ask_first(parent: QWidget, card: ModelCard, folder: str | None) -> bool:
    """Ask for confirmation before a model's weights are downloaded.

    Parameters
    ----------
    parent : QWidget
    card : ModelCard
        With weights that are not downloaded yet.
    folder : str or None
        Where they will be kept, see `models_folder`.
    """
    from napari_slmsam2.engine.weights.download import downloaded_bytes

    assert card.weights is not None
    size, there = card.weights.size, downloaded_bytes(card, folder)
    rest = f" ({_megabytes(there)} MB of them are downloaded already)" if there else ""
    answer = QMessageBox.question(
        parent,
        "Download a model",
        f"{card.title} needs {_megabytes(size)} MB of weights{rest}.\n\n"
        f"Licence: {card.licence}\n"
        f"From: {card.weights.url}\n"
        f"To: {models_folder(folder)}\n\n"
        "Download them now? The run starts after the download. Stop ends the download; the next "
        "one continues where it ended.",
    )
    return bool(answer == QMessageBox.StandardButton.Yes)


class DownloadMeter:
    """Describes the progress of a download and the time left.

    The speed is that of this download: bytes of an earlier one do not count.
    """

    def __init__(self) -> None:
        self._first: tuple[float, int] | None = None

    def describe(self, done: int, total: int, *, stopping: bool = False) -> str:
        """One line about a download.

        Parameters
        ----------
        done, total : int
            Bytes.
        stopping : bool
            Whether it was cancelled.
        """
        now = time.perf_counter()
        if self._first is None:
            self._first = now, done
        since, at_first = self._first
        text = f"{_megabytes(done)} of {_megabytes(total)} MB"
        if stopping:
            return f"Ending the download at {text} ..."
        if done >= total:
            return "Checking and loading the model ..."
        text = f"Downloading {text}"
        seconds, new = now - since, done - at_first
        if seconds < _ENOUGH_S or not new:
            return text
        speed = new / seconds
        return f"{text}; {speed / 1e6:.1f} MB per second; {duration((total - done) / speed)} left"


def describe_cancelled(download: tuple[int, int] | None) -> str:
    """A sentence about a download that the user stopped, given bytes done and total bytes."""
    if download is None:
        return "Stopped before the model was downloaded."
    done, total = download
    return (
        f"Stopped the download at {_megabytes(done)} of {_megabytes(total)} MB; the next one "
        "continues there."
    )


def _megabytes(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:.0f}" if n_bytes >= 10e6 else f"{n_bytes / 1e6:.1f}"
