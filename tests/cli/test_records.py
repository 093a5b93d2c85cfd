"""Commands whose arguments and options are made from one record."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer
from typer.testing import CliRunner

from napari_slmsam2.cli._options import Channel, LabelSlice, parse_label_slice, with_record
from napari_slmsam2.core.config import PropagationConfig


@dataclass(frozen=True, kw_only=True)
class Record:
    image: Annotated[Path, typer.Argument(metavar="IMAGE")]
    mark: Annotated[list[LabelSlice], typer.Option(parser=parse_label_slice)] = field(
        default_factory=list
    )
    channel: Channel = None
    count: Annotated[int, typer.Option(help="How many.")] = 3
    config: PropagationConfig = field(default_factory=PropagationConfig)


def run(*arguments: str) -> Record:
    seen = []

    @with_record(Record)
    def command(options: Record) -> None:
        """A command."""
        seen.append(options)

    app = typer.Typer()
    app.command()(command)
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.stderr
    return seen[0]


def test_defaults_are_those_of_the_record():
    assert run("a.nii") == Record(image=Path("a.nii"))


def test_every_field_is_an_option():
    given = run(
        *("a.nii", "--mark", "1:2", "--mark", "3:4", "--count", "5", "--channel", "DAPI"),
        *("--direction", "forward", "--stop-after", "7"),
    )
    assert given == Record(
        image=Path("a.nii"),
        mark=[LabelSlice(1, 2), LabelSlice(3, 4)],
        channel="DAPI",
        count=5,
        config=dataclasses.replace(PropagationConfig(), direction="forward", stop_after_absent=7),
    )
    assert run("a.nii", "--channel", "1").channel == 1
