"""``napari-slmsam2 models``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from napari_slmsam2.cli._options import ModelsFolder

if TYPE_CHECKING:
    from napari_slmsam2.engine.registry import ModelCard

app = typer.Typer(
    help="The models that are known by name: list them, read about them, download them.",
    epilog="""
[bold]Examples[/bold]

  napari-slmsam2 models list

  napari-slmsam2 models download sam2.1-tiny
""",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="A name of `models list`.")]


@app.command("list")
def list_models(models_folder: ModelsFolder = None) -> None:
    """List all models with size and licence, and whether they are on this computer."""
    from rich import box
    from rich.table import Table

    from napari_slmsam2.cli._console import say, show
    from napari_slmsam2.engine import registry
    from napari_slmsam2.engine.download import is_fetched
    from napari_slmsam2.engine.download import models_folder as folder

    table = Table(box=box.SIMPLE, padding=(0, 1, 0, 0))
    for name in ("name", "weights", "licence", "on disk", "fine-tuned"):
        table.add_column(name, no_wrap=True, justify="right" if name == "weights" else "left")
    for card in registry.list_models():
        here = "-" if card.weights is None else "yes" if is_fetched(card, models_folder) else "no"
        name = card.name + (" (default)" if card.name == registry.DEFAULT_MODEL else "")
        table.add_row(name, _size(card), card.licence, here, _tuned(card))
    show(table)
    say("Folder", folder(models_folder))


@app.command("info")
def info(name: Name, models_folder: ModelsFolder = None) -> None:
    """Tell about one model."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from napari_slmsam2.cli._console import show
    from napari_slmsam2.engine.download import is_fetched
    from napari_slmsam2.engine.download import models_folder as folder
    from napari_slmsam2.engine.registry import get_model

    card = get_model(name)
    rows = {
        "name": card.name,
        "what": card.title,
        "about": card.description,
        "licence": card.licence,
        "fine-tuned": _tuned(card),
    }
    if card.weights is not None:
        here = is_fetched(card, models_folder)
        rows |= {
            "size": f"{_size(card)} ({card.weights.size} bytes)",
            "SHA-256": card.weights.sha256,
            "from": card.weights.url,
            "on disk": str(folder(models_folder) / card.weights.filename) if here else "no",
        }
    if card.config is not None:
        rows["input"] = f"{card.config.image_size} x {card.config.image_size} px per slice"
    table = Table(box=box.SIMPLE, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for title, text in rows.items():
        table.add_row(title, Text(text))
    show(table)


@app.command("download")
def download(name: Name, models_folder: ModelsFolder = None) -> None:
    """Download the weights of a model and verify them; go on after a broken download."""
    from napari_slmsam2.cli._console import meter, say
    from napari_slmsam2.cli._run import interruptible
    from napari_slmsam2.engine.download import fetch_weights, is_fetched
    from napari_slmsam2.engine.registry import get_model

    card = get_model(name)
    if card.weights is None:
        say("Model", f"{card.name} needs no weights; there is nothing to download")
        return
    already = is_fetched(card, models_folder)
    if not already:
        say("Model", f"{card.title}, {_size(card)}, licence {card.licence}")
    with interruptible() as should_stop, meter("downloading", is_bytes=True) as shown:
        path = fetch_weights(card, models_folder, progress=shown.update, should_stop=should_stop)
    say("Done", f"{path} {'was there already; ' if already else ''}SHA-256 verified")


def _size(card: ModelCard) -> str:
    return "none" if card.weights is None else f"{card.weights.size / 1e6:.0f} MB"


def _tuned(card: ModelCard) -> str:
    """Whether the weights have seen volumes; no published ones have."""
    if card.weights is None:
        return "-"
    return "no, to be trained" if card.conversion else "no"
