"""Ctrl-C, and the signals by which a scheduler, a container or a closed terminal ends a run."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Any

_Handler = Callable[[int, FrameType | None], Any]


def _terminations() -> list[signal.Signals]:
    """SIGTERM and SIGHUP, where they exist and are not ignored (as under ``nohup``)."""
    found = [getattr(signal, name, None) for name in ("SIGTERM", "SIGHUP")]
    return [s for s in found if s is not None and signal.getsignal(s) != signal.SIG_IGN]


@contextmanager
def _handled(signals: list[signal.Signals], handler: _Handler) -> Iterator[None]:
    """Handle signals inside the context; only the main thread can."""
    with ExitStack() as restore:
        if threading.current_thread() is threading.main_thread():
            for number in signals:
                restore.callback(signal.signal, number, signal.signal(number, handler))
        yield


@contextmanager
def end_like_ctrl_c() -> Iterator[None]:
    """Inside the context SIGTERM and SIGHUP raise `KeyboardInterrupt`."""
    with _handled(_terminations(), signal.default_int_handler):
        yield


_running: list[threading.Event] = []
"""Of the runs inside `interruptible`."""

_asked_early = threading.Event()
"""A job was asked to stop before it came to its run."""


def stop_running() -> None:
    """Ask the job of this process to stop between two slices, from any thread."""
    _asked_early.set()
    for asked in list(_running):
        asked.set()


def forget_stop() -> None:
    """Let the next job run."""
    _asked_early.clear()


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Ctrl-C, SIGTERM and SIGHUP ask to stop between two slices; a second Ctrl-C stops at once.

    Yields
    ------
    callable
        Whether to stop.
    """
    asked = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        # A closed terminal may send SIGHUP twice: that must not cost what is being written.
        if number == signal.SIGINT and asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    with _handled([signal.SIGINT, *_terminations()], handle):
        _running.append(asked)
        if _asked_early.is_set():
            asked.set()
        try:
            yield asked.is_set
        finally:
            _running.remove(asked)
