"""What the commands print: lines, progress on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

_PLAIN_STEP = 0.1


class Meter(Protocol):
    """Shows how far a piece of work has come."""

    def update(self, done: int, total: int) -> None:
        """Say how much is done."""

    def log(self, message: str) -> None:
        """A line that stays."""


def log(label: str, text: object) -> None:
    """Print ``label  text`` as a line."""
    line = Text.assemble((f"{label:<8} ", "bold"), str(text))
    print_line(Console(highlight=False), line)


def print_line(console: Console, line: Text) -> None:
    """Broken between words on a terminal, in one piece elsewhere."""
    console.print(line, soft_wrap=not console.is_terminal)


def show(table: Table) -> None:
    """Print a table, on as many columns as it takes where nobody watches."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=max(console.width, 120))
    console.print(table)


@contextmanager
def meter(title: str, *, is_bytes: bool = False) -> Iterator[Meter]:
    """A bar with the time left on a terminal; elsewhere a line for every tenth, on stderr."""
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        plain = _PlainMeter(console, title)
        yield plain
        return
    count = DownloadColumn() if is_bytes else MofNCompleteColumn()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        count,
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        yield _TerminalMeter(progress, title)


class _TerminalMeter:
    def __init__(self, progress: Progress, title: str) -> None:
        self._progress = progress
        self._task = progress.add_task(title, total=None)

    def update(self, done: int, total: int) -> None:
        self._progress.update(self._task, completed=done, total=total)

    def log(self, message: str) -> None:
        self._progress.console.print(Text(message))


class _PlainMeter:
    def __init__(self, console: Console, title: str) -> None:
        self._console = console
        self._title = title
        self._started = time.monotonic()
        self._shown = 0.0

    def update(self, done: int, total: int) -> None:
        share = done / total if total else 1.0
        if share < self._shown + _PLAIN_STEP and not (share >= 1 and self._shown < 1):
            return
        self._shown = share
        seconds = time.monotonic() - self._started
        left = "" if share >= 1 else f", {seconds * (1 - share) / share:.0f} s left"
        self.log(f"{self._title}: {100 * share:.0f} %, {seconds:.0f} s{left}")

    def log(self, message: str) -> None:
        print_line(self._console, Text(message))
