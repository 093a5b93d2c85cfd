"""Output of the commands: lines, tables, progress, a log file."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any, Protocol

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

_PLAIN_STEP = 0.1
_PLAIN_WIDTH = 120


@dataclass
class _Output:
    """Where the running command writes to.

    Attributes
    ----------
    quiet : bool
        Print warnings and errors only.
    progress : {"auto", "json"}
        With ``json``, stdout holds JSON lines only, and everything else goes to stderr.
    log : text file or None
    """

    quiet: bool = False
    progress: str = "auto"
    log: IO[str] | None = None

    def write_log(self, text: str) -> None:
        """Append lines with the time; a log that cannot be written ends no run."""
        if self.log is None:
            return
        stamp = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
        with contextlib.suppress(OSError):
            self.log.writelines(f"{stamp} {line.rstrip()}\n" for line in text.splitlines())
            self.log.flush()

    def console(self, *, err: bool, width: int | None = None) -> Console:
        """The console of stdout or stderr."""
        stream = sys.stderr if err or self.progress == "json" else sys.stdout
        return Console(file=_SafeStream(stream), highlight=False, width=width)  # type: ignore[arg-type]

    def print(
        self, content: RenderableType, *, err: bool = False, width: int | None = None
    ) -> None:
        """Print; text is broken between words on a terminal, and in one piece elsewhere."""
        console = self.console(err=err, width=width)
        console.print(content, soft_wrap=isinstance(content, Text) and not console.is_terminal)


class _SafeStream:
    """A text stream that stays silent when nobody reads it any more.

    The terminal was closed, or ``| head`` has ended: neither may end a run.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            self._stream.write(text)
        except OSError:
            self._give_up()
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            self._give_up()

    def _give_up(self) -> None:
        """Direct the stream to nowhere, so that closing it raises nothing either."""
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


_output = _Output()


@contextmanager
def fresh_output() -> Iterator[None]:
    """Print everything until `configure_output`; close the log file at the end."""
    global _output
    before, _output = _output, _Output()
    try:
        yield
    finally:
        if _output.log is not None:
            with contextlib.suppress(OSError):
                _output.log.close()
        _output = before


def configure_output(
    *, quiet: bool = False, log_file: Path | None = None, progress: str = "auto"
) -> None:
    """Apply the options ``--quiet``, ``--log`` and ``--progress`` to the running command.

    Raises
    ------
    OSError
        The log file cannot be opened.
    """
    _output.quiet, _output.progress = quiet, progress
    if log_file is not None:
        _output.log = log_file.open("a", encoding="utf-8")


class Meter(Protocol):
    """Shows the progress of a piece of work."""

    def update(self, done: int, total: int, seconds_left: float | None = None) -> None:
        """Show how much is done.

        ``seconds_left`` is estimated from the mean speed so far by default.
        """

    def restart(self, title: str) -> None:
        """Show another piece of work from its beginning."""

    def log(self, message: str) -> None:
        """Print a line that stays."""


def log(label: str, text: object) -> None:
    """Print ``label  text`` as a line."""
    _output.write_log(f"{label:<8} {text}")
    if not _output.quiet:
        _output.print(Text.assemble((f"{label:<8} ", "bold"), str(text)))


def show(table: Table) -> None:
    """Print a table, on as many columns as it needs where the output is no terminal."""
    if _output.log is not None:
        console = Console(width=_PLAIN_WIDTH, highlight=False, color_system=None)
        with console.capture() as captured:
            console.print(table)
        _output.write_log(captured.get().strip("\n"))
    if _output.quiet:
        return
    console = _output.console(err=False)
    wide = None if console.is_terminal else max(console.width, _PLAIN_WIDTH)
    _output.print(table, width=wide)


def show_note(message: str) -> None:
    """Print a warning on stderr."""
    _output.write_log(f"Note: {message}")
    _output.print(Text.assemble(("Note: ", "bold yellow"), message), err=True)


def show_error(message: str) -> None:
    """Print an error on stderr, in one line."""
    _output.write_log(f"Error: {message}")
    _output.print(Text.assemble(("Error: ", "bold red"), message), err=True)
    print_record({"event": "error", "message": message})


def print_record(values: Mapping[str, Any]) -> None:
    """Print a JSON line on stdout, where ``--progress json`` was given."""
    if _output.progress == "json":
        stream = _SafeStream(sys.stdout)
        stream.write(json.dumps(values) + "\n")
        stream.flush()


@contextmanager
def meter(title: str, *, is_bytes: bool = False) -> Iterator[Meter]:
    """A bar with the time left on a terminal; elsewhere a line for every tenth, on stderr."""
    console = _output.console(err=True)
    if _output.quiet or _output.progress == "json" or not console.is_terminal:
        yield _PlainMeter(title)
        return
    count = DownloadColumn() if is_bytes else MofNCompleteColumn()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        count,
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        yield _TerminalMeter(progress, title)


class _Estimate:
    """Time that is left at the mean speed so far."""

    def __init__(self) -> None:
        self._started = time.monotonic()

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self._started

    def left(self, share: float) -> float | None:
        return self.elapsed * (1 - share) / share if share > 0 else None


class _PlainMeter:
    """Lines on stderr, unless the command is quiet, and in the log file."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._estimate = _Estimate()
        self._shown = 0.0

    def update(self, done: int, total: int, seconds_left: float | None = None) -> None:
        share = done / total if total else 1.0
        if share < self._shown + _PLAIN_STEP and not (share >= 1 and self._shown < 1):
            return
        self._shown = share
        left = self._estimate.left(share) if seconds_left is None else seconds_left
        rest = "" if share >= 1 or left is None else f", {left:.0f} s left"
        line = f"{self._title}: {100 * share:.0f} %, {self._estimate.elapsed:.0f} s{rest}"
        _output.write_log(line)
        if not _output.quiet and _output.progress != "json":
            _output.print(Text(line), err=True)

    def restart(self, title: str) -> None:
        self._title, self._estimate, self._shown = title, _Estimate(), 0.0

    def log(self, message: str) -> None:
        _output.write_log(message)
        if not _output.quiet:
            _output.print(Text(message), err=True)


class _TerminalMeter(_PlainMeter):
    """A bar on a terminal."""

    def __init__(self, progress: Progress, title: str) -> None:
        super().__init__(title)
        self._progress = progress
        self._task = progress.add_task(title, total=None, left="")

    def update(self, done: int, total: int, seconds_left: float | None = None) -> None:
        left = self._estimate.left(done / total) if seconds_left is None and total else seconds_left
        text = "" if left is None else f"{left:.0f} s left"
        self._progress.update(self._task, completed=done, total=total, left=text)

    def restart(self, title: str) -> None:
        super().restart(title)
        self._progress.reset(self._task, total=None, description=title, left="")

    def log(self, message: str) -> None:
        _output.write_log(message)
        self._progress.console.print(Text(message))
