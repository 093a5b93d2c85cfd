"""The command line: everything that a session does, without a window.

Importing it imports neither torch nor numpy; each command imports what it needs.
"""

from __future__ import annotations

from typing import Annotated

import typer

import napari_slmsam2
from napari_slmsam2.cli import (
    adapt,
    batch,
    demo,
    embeddings,
    evaluate,
    info,
    models,
    propagate,
    replay,
    train,
)
from napari_slmsam2.cli._errors import ReportingGroup
from napari_slmsam2.cli._options import help_of

_EPILOG = """
[bold]First steps[/bold]

  napari-slmsam2 demo --out demo

  napari-slmsam2 info scan.nii.gz

  napari-slmsam2 propagate scan.nii.gz seeds.nii.gz -o labels.nii.gz

  napari-slmsam2 evaluate labels.nii.gz truth.nii.gz

Exit codes: 0 done, 1 failed or interrupted, 2 bad usage.
"""

app = typer.Typer(
    name="napari-slmsam2",
    cls=ReportingGroup,
    help="Annotate one slice of a 3D volume; a model propagates the mask through the rest.",
    epilog=_EPILOG,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"napari-slmsam2 {napari_slmsam2.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
    debug: Annotated[
        bool,
        typer.Option(
            "--debug",
            envvar="NAPARI_SLMSAM2_DEBUG",
            help="Show the traceback of an error.",
        ),
    ] = False,
) -> None:
    del version, debug


for _command, _epilog in (
    (propagate.propagate, propagate.EPILOG),
    (replay.replay, replay.EPILOG),
    (evaluate.evaluate, evaluate.EPILOG),
    (info.info, info.EPILOG),
    (demo.demo, demo.EPILOG),
    (train.train, train.EPILOG),
    (embeddings.embeddings, embeddings.EPILOG),
):
    app.command(_command.__name__, help=help_of(_command), epilog=_epilog)(_command)
app.command("adapt", cls=adapt.PairCommand, help=help_of(adapt.adapt), epilog=adapt.EPILOG)(
    adapt.adapt
)
app.command(
    "batch",
    help=help_of(batch.batch),
    epilog=batch.EPILOG,
    context_settings={"ignore_unknown_options": True},
)(batch.batch)
app.add_typer(models.app, name="models")


def main() -> None:
    """Run the command line."""
    app()
