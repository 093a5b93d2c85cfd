"""The examples of the documentation run as printed."""

from __future__ import annotations

import contextlib
import functools
import io
import re
import runpy
import sys
from pathlib import Path
from unittest import mock

import click
import pytest
import typer
from typer.testing import CliRunner

from napari_slmsam2 import sample
from napari_slmsam2.cli import app
from tests.docs.markdown import PAGES, REPOSITORY, Block, blocks

pytestmark = pytest.mark.skipif(
    not (REPOSITORY / "docs").is_dir(), reason="the documentation is not part of this copy"
)

ALL = [block for page in PAGES for block in blocks(page)]
EXAMPLES = [block for block in ALL if block.language in ("sh", "python")]
#: Commands that only prepare the environment which these tests run in.
PREPARATION = {("python3", "-m", "venv"), (".venv/bin/pip", "install")}


def is_ours(command: list[str]) -> bool:
    return Path(command[0]).name == "napari-slmsam2"


def is_preparation(command: list[str]) -> bool:
    return any(tuple(command[: len(words)]) == words for words in PREPARATION)


def is_script(command: list[str]) -> bool:
    """Whether it runs a script of the repository: a benchmark, which takes minutes to hours."""
    return any(word.endswith(".py") for word in command)


def run_command(command: list[str]) -> None:
    """The scan of `demo` has pixels of twice the side: `tests/cli` makes the whole one."""
    with mock.patch.multiple(sample, SHAPE=(72, 64, 44), SPACING=(2.9, 2.9, 3.0)):
        done = CliRunner().invoke(app, command[1:])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"


def run_python(block: Block) -> None:
    """In this process, which has loaded PyTorch already. Warnings are errors."""
    exec(compile(block.text, str(block), "exec"), {"__name__": "__main__"})


def parse(command: list[str]) -> None:
    """Read a command line as `napari-slmsam2` would, without running it."""
    group: click.Command = typer.main.get_command(app)
    context, words = click.Context(group, info_name=command[0]), command[1:]
    while hasattr(group, "commands"):
        assert words, f"no command: {' '.join(command)}"
        name, *words = words
        assert name in group.commands, f"no command {name}: {' '.join(command)}"
        group = group.commands[name]
    if "--help" not in words:
        group.make_context(command[0], words, parent=context)


@functools.cache
def help_of(script: str, *subcommand: str) -> str:
    """In this process, which has loaded PyTorch already."""
    path, shown = REPOSITORY / script, io.StringIO()
    arguments = [str(path), *subcommand, "--help"]
    folders = [str(path.parent), *sys.path]
    with (
        mock.patch.object(sys, "argv", arguments),
        mock.patch.object(sys, "path", folders),
        contextlib.redirect_stdout(shown),
        pytest.raises(SystemExit) as ended,
    ):
        runpy.run_path(str(path), run_name="__main__")
    assert not ended.value.code
    return shown.getvalue()


def check_script(command: list[str]) -> None:
    """The options of a script in the repository are options that it has."""
    [at] = [i for i, word in enumerate(command) if word.endswith(".py")]
    script, words = command[at], command[at + 1 :]
    choices = re.search(r"\{([\w,]+)\} \.\.\.", help_of(script))
    subcommand = words[:1] if choices and words[0] in choices[1].split(",") else []
    for word in words:
        if word.startswith("--"):
            assert re.search(rf"{word}\b", help_of(script, *subcommand)), f"{script} has no {word}"


@pytest.mark.parametrize("block", ALL, ids=str)
def test_every_example_runs_or_has_a_reason(block: Block):
    assert block.language, "the block has no language"
    if block.language == "sh" and block.reason is None:
        wrong = [
            command
            for command in block.commands()
            if not (is_ours(command) or is_preparation(command) or is_script(command))
        ]
        assert not wrong, "these commands are not run: state why (<!-- not run: REASON -->)"


@pytest.mark.parametrize("block", [b for b in EXAMPLES if b.language == "sh"], ids=str)
def test_commands_have_the_options_that_are_printed(block: Block):
    for command in block.commands():
        if command[0] == "torchrun":
            command = command[command.index("napari-slmsam2") :]
        if is_ours(command):
            parse(command)
        elif is_script(command):
            check_script(command)


RUN = {
    str(page.relative_to(REPOSITORY)): [b for b in EXAMPLES if b.page == page and not b.reason]
    for page in PAGES
}


@pytest.mark.slow
@pytest.mark.parametrize("page", [name for name, found in RUN.items() if found])
def test_examples_run_as_printed(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for block in RUN[page]:
        if block.language == "python":
            run_python(block)
        else:
            for command in filter(is_ours, block.commands()):
                run_command(command)
