"""Options that several commands share, and the ones that come from the settings record."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import Field, dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from napari_slmsam2.core.config import PropagationConfig

SETTINGS = {field.name: field for field in PropagationConfig.fields()}
_FLAGS = {"stop_after_absent": "--stop-after"}
_SETTINGS_PANEL = "How masks are carried on"


@dataclass(frozen=True, slots=True)
class Extent:
    """``LABEL:FIRST:LAST``."""

    label: int
    first: int
    last: int

    def __str__(self) -> str:
        return f"{self.label}:{self.first}:{self.last}"


@dataclass(frozen=True, slots=True)
class LabelSlice:
    """``LABEL:SLICE``."""

    label: int
    index: int

    def __str__(self) -> str:
        return f"{self.label}:{self.index}"


@dataclass(frozen=True, slots=True)
class SliceRange:
    """``FIRST:LAST``."""

    first: int
    last: int

    def __str__(self) -> str:
        return f"{self.first}:{self.last}"


def _numbers(text: str, form: str) -> list[int]:
    parts = text.split(":")
    if len(parts) != form.count(":") + 1 or not all(p.isdecimal() for p in parts):
        raise typer.BadParameter(f"expected {form} in whole numbers from 0, found {text!r}.")
    return [int(p) for p in parts]


def parse_extent(text: str) -> Extent:
    """Read ``LABEL:FIRST:LAST``."""
    return Extent(*_numbers(text, "LABEL:FIRST:LAST"))


def parse_label_slice(text: str) -> LabelSlice:
    """Read ``LABEL:SLICE``."""
    return LabelSlice(*_numbers(text, "LABEL:SLICE"))


def parse_range(text: str) -> SliceRange:
    """Read ``FIRST:LAST``."""
    return SliceRange(*_numbers(text, "FIRST:LAST"))


def parse_channel(text: str) -> int | str:
    """The number or the name of a channel."""
    return int(text) if text.isdecimal() else text


def whole_number(minimum: int, maximum: int | None = None) -> Callable[[str], int]:
    """A reader of whole numbers in a range, that says what it expected and found."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = minimum - 1
        if value < minimum or (maximum is not None and value > maximum):
            upper = "" if maximum is None else f" to {maximum}"
            raise typer.BadParameter(
                f"expected a whole number from {minimum}{upper}, found {text!r}."
            )
        return value

    return parse


def _one_of(choices: Sequence[Any]) -> Callable[[str], Any]:
    values = {str(choice): choice for choice in choices}

    def parse(text: str) -> Any:
        if str(text) not in values:
            raise typer.BadParameter(f"expected {' or '.join(values)}, found {text!r}.")
        return values[str(text)]

    return parse


def _setting_option(field: Field[Any]) -> Any:
    data = field.metadata
    flag = _FLAGS.get(field.name, "--" + field.name.replace("_", "-"))
    unit = data["unit"] or ""
    unit = "" if unit in data["help"].lower() else f" In {unit}."
    shown: dict[str, Any] = {}
    if isinstance(field.default, bool):
        flag = f"{flag}/--no-{flag.removeprefix('--')}"
    elif data["choices"]:
        choices = data["choices"]
        shown = {"parser": _one_of(choices), "metavar": "|".join(map(str, choices))}
    else:
        low, high = data["minimum"], data["maximum"]
        shown = {"parser": whole_number(low, high), "metavar": "NUMBER"}
    return typer.Option(flag, help=data["help"] + unit, rich_help_panel=_SETTINGS_PANEL, **shown)


def _value_type(default: Any) -> Any:
    """A setting without a default value is a whole number that may be left out."""
    return int | None if default is None else type(default)


def help_of(command: Callable[..., None]) -> str:
    """The docstring of a command, one line per paragraph, so that the terminal breaks it."""
    paragraphs = inspect.cleandoc(command.__doc__ or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command one option for every setting, in place of its parameter ``config``.

    Parameters
    ----------
    command : callable
        Its last parameter is ``config : PropagationConfig``.
    """

    @functools.wraps(command)
    def with_options(**values: Any) -> None:
        settings = {name: values.pop(name) for name in SETTINGS}
        command(**values, config=PropagationConfig(**settings))

    hints = get_type_hints(command, include_extras=True)
    own = [p for p in inspect.signature(command).parameters.values() if p.name != "config"]
    parameters = [p.replace(annotation=hints[p.name]) for p in own]
    parameters += [
        inspect.Parameter(
            field.name,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            default=field.default,
            annotation=Annotated[_value_type(field.default), _setting_option(field)],
        )
        for field in SETTINGS.values()
    ]
    with_options.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    with_options.__annotations__ = {p.name: p.annotation for p in parameters}
    return with_options


Axis = Annotated[
    int | None,
    typer.Option(
        parser=whole_number(0, 2),
        metavar="0|1|2",
        help="Axis along which slices are stacked, in the axis order of the file. "
        "Default: the one with the coarsest spacing.",
    ),
]
Channel = Annotated[
    str | None,
    typer.Option(help="Number or name of the channel, for images with several."),
]
Time = Annotated[
    int | None,
    typer.Option(
        parser=whole_number(0),
        metavar="NUMBER",
        help="Number of the time point, for images with several.",
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Replace files that exist already.")]
ModelsFolder = Annotated[
    Path | None,
    typer.Option(
        help="Where files of weights are looked for and kept. "
        "Default: $NAPARI_SLMSAM2_MODELS, else the user's cache.",
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, mps, cuda or cuda:N.")]
Out = Annotated[
    Path,
    typer.Option(
        "--out", "-o", help="The label map to write: .nii.gz, .mgz, .nrrd, .tif, .ome.zarr ..."
    ),
]
