"""``napari-slmsam2 models``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from napari_slmsam2.cli._options import Force, ModelsFolder

if TYPE_CHECKING:
    from napari_slmsam2.engine.weights.registry import ModelCard

app = typer.Typer(
    help="The models that are known by name: list, describe and download them; rename, export and "
    "delete adapted ones.",
    epilog="""
[bold]Examples[/bold]

  napari-slmsam2 models list

  napari-slmsam2 models download sam2.1-tiny

  napari-slmsam2 models rename liver-1 liver

  napari-slmsam2 models export liver liver.safetensors
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

    from napari_slmsam2.cli._console import log, show
    from napari_slmsam2.engine.weights import registry
    from napari_slmsam2.engine.weights.download import is_downloaded
    from napari_slmsam2.engine.weights.model_card import models_folder as folder

    table = Table(box=box.SIMPLE, padding=(0, 1, 0, 0))
    for name in ("name", "weights", "licence", "on disk", "fine-tuned"):
        table.add_column(name, no_wrap=True, justify="right" if name == "weights" else "left")
    cards = registry.list_models(models_folder)
    for card in cards:
        here = (
            "-" if card.weights is None else "yes" if is_downloaded(card, models_folder) else "no"
        )
        here = "yes" if card.path is not None else here
        name = card.name + (" (default)" if card.name == registry.DEFAULT_MODEL else "")
        table.add_row(name, _size(card), card.licence, here, _tuned(card))
    show(table)
    for card in cards:
        if card.problem is not None:
            log("Warning", card.description)
    log("Folder", folder(models_folder))


@app.command("info")
def info(name: Name, models_folder: ModelsFolder = None) -> None:
    """Show the details of one model."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from napari_slmsam2.cli._console import show
    from napari_slmsam2.engine.weights.registry import get_model

    card = get_model(name, models_folder)
    rows = {
        "name": card.name,
        "what": card.title,
        "about": card.description,
        "licence": card.licence,
        "fine-tuned": _tuned(card),
    }
    rows |= _weights_rows(card, models_folder)
    if card.config is not None:
        rows["input"] = f"{card.config.image_size} x {card.config.image_size} px per slice"
    table = Table(box=box.SIMPLE, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for title, text in rows.items():
        table.add_row(title, Text(text))
    show(table)


def _weights_rows(card: ModelCard, models_folder: Path | None) -> dict[str, str]:
    from napari_slmsam2.engine.weights.checkpoints import file_sha256
    from napari_slmsam2.engine.weights.download import is_downloaded
    from napari_slmsam2.engine.weights.local_models import read_model_metadata
    from napari_slmsam2.engine.weights.model_card import models_folder as folder

    if card.path is not None:
        rows = {"SHA-256": file_sha256(card.path), "on disk": str(card.path)}
        if card.problem is None:
            rows |= _adapted_rows(read_model_metadata(card.path).get("adapted"))
        return rows
    if card.weights is None:
        return {}
    here = is_downloaded(card, models_folder)
    return {
        "size": f"{_size(card)} ({card.weights.size} bytes)",
        "SHA-256": card.weights.sha256,
        "from": card.weights.url,
        "on disk": str(folder(models_folder) / card.weights.filename) if here else "no",
    }


def _adapted_rows(adapted: object) -> dict[str, str]:
    """How an adapted network was made, as far as its file records it."""
    if not isinstance(adapted, dict):
        return {}
    titles = {"base": "base model", "recipe": "recipe", "steps": "steps", "data": "data (SHA-256)"}
    titles |= {"held_out": "held out", "metrics": "held-out scores"}
    return {title: _plain(adapted[key]) for key, title in titles.items() if key in adapted}


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(part)}" for key, part in value.items())
    if isinstance(value, list):
        return "; ".join(map(_plain, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@app.command("download")
def download(name: Name, models_folder: ModelsFolder = None) -> None:
    """Download the weights of a model and verify them; an unfinished download is continued."""
    from napari_slmsam2.cli._console import log, meter
    from napari_slmsam2.cli._signals import interruptible
    from napari_slmsam2.engine.weights.download import download_weights, is_downloaded
    from napari_slmsam2.engine.weights.registry import get_model

    card = get_model(name, models_folder)
    if card.weights is None:
        why = "needs no weights" if card.path is None else "is on this computer"
        log("Model", f"{card.name} {why}; there is nothing to download")
        return
    already = is_downloaded(card, models_folder)
    if not already:
        log("Model", f"{card.title}, {_size(card)}, licence {card.licence}")
    with interruptible() as should_stop, meter("downloading", is_bytes=True) as shown:
        path = download_weights(card, models_folder, progress=shown.update, should_stop=should_stop)
    log("Done", f"{path} {'was there already; ' if already else ''}SHA-256 verified")


@app.command("rename")
def rename(
    name: Name,
    new: Annotated[str, typer.Argument(metavar="NEW", help="Its new name.")],
    models_folder: ModelsFolder = None,
) -> None:
    """Give an adapted model another name."""
    from napari_slmsam2.cli._console import log
    from napari_slmsam2.engine.weights.model_folder import rename_model

    log("Renamed", rename_model(name, new, models_folder))


@app.command("delete")
def delete(
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    models_folder: ModelsFolder = None,
) -> None:
    """Delete an adapted model from this computer."""
    from napari_slmsam2.cli._console import log
    from napari_slmsam2.engine.weights.model_folder import delete_model, file_of

    path = file_of(name, models_folder)
    if not yes:
        typer.confirm(f"Delete {path}?", abort=True)
    log("Deleted", delete_model(name, models_folder))


@app.command("export")
def export(
    name: Name,
    out: Annotated[Path, typer.Argument(metavar="FILE", help="The .safetensors file to write.")],
    force: Force = False,
    models_folder: ModelsFolder = None,
) -> None:
    """Copy an adapted model to a file, to give it away; it names no files of yours."""
    import shutil

    from napari_slmsam2.cli._console import log
    from napari_slmsam2.cli._outputs import check_suffix
    from napari_slmsam2.engine.weights.model_folder import file_of
    from napari_slmsam2.io import atomic_write

    source = file_of(name, models_folder)
    check_suffix("FILE", out, ".safetensors")
    atomic_write(out, lambda file: shutil.copyfile(source, file), overwrite=force)
    log("Wrote", out)


def _size(card: ModelCard) -> str:
    if card.path is not None:
        return f"{card.path.stat().st_size / 1e6:.0f} MB" if card.path.is_file() else "gone"
    return "none" if card.weights is None else f"{card.weights.size / 1e6:.0f} MB"


def _tuned(card: ModelCard) -> str:
    """Whether the weights have seen volumes; no published ones have."""
    if card.path is not None:
        return "broken" if card.problem else "yes"
    if card.weights is None:
        return "-"
    return "no, to be trained" if card.conversion else "no"
