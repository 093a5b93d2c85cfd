"""Errors become one line on stderr and an exit code, warnings of this package a line."""

from __future__ import annotations

import warnings
from typing import Any

import typer
from typer.core import TyperGroup

from napari_slmsam2.cli._console import fresh_output, show_error, show_note
from napari_slmsam2.cli._signals import end_like_ctrl_c
from napari_slmsam2.core.errors import ConfigError, PromptError, SlmSam2Error, SlmSam2Warning

FAILED = 1
BAD_USAGE = 2


class ReportingGroup(TyperGroup):
    """The whole command line; every command runs inside its `invoke`."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command and report errors without a traceback."""
        with fresh_output(), end_like_ctrl_c():
            try:
                with warnings.catch_warnings():
                    warnings.showwarning = _warn_in_a_line(warnings.showwarning)
                    return super().invoke(ctx)
            except BrokenPipeError:  # nobody reads the output any more; typer ends quietly
                raise
            except (SlmSam2Error, OSError, MemoryError) as error:
                if ctx.params.get("debug"):
                    raise
                show_error(message_of(error))
                usage = isinstance(error, ConfigError | PromptError)
                raise typer.Exit(BAD_USAGE if usage else FAILED) from error
            except KeyboardInterrupt as error:
                show_error("interrupted.")
                raise typer.Exit(FAILED) from error


def _warn_in_a_line(show: Any) -> Any:
    """Show warnings of this package like errors, others as ``show`` does."""

    def show_warning(message: Any, category: Any, *args: Any) -> None:
        if issubclass(category, SlmSam2Warning):
            show_note(str(message))
        else:
            show(message, category, *args)

    return show_warning


def message_of(error: BaseException) -> str:
    """The message of an error, in one line."""
    if isinstance(error, OSError) and error.strerror:
        where = "" if error.filename is None else f"{error.filename}: "
        return f"{where}{error.strerror}."
    if isinstance(error, MemoryError):
        return f"the computer's memory is too small. {error}".strip()
    return " ".join(str(error).split()) or type(error).__name__
