"""Options that several commands share, and the ones that come from the settings record."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

import typer

from napari_slmsam2.core.config import PropagationConfig
from napari_slmsam2.core.settings import Settings

_FLAGS = {"stop_after_absent": "--stop-after"}
"""Flags that differ from the name of their setting."""

ALL_TIMES = "all"
"""The value of ``--time`` for all time points."""

_SETTINGS_PANEL = "Propagation settings"
_OUTPUT = "Messages"


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


def parse_roi(text: str) -> tuple[slice, ...]:
    """Read ``START:STOP,START:STOP,START:STOP``, of which ends may be left out."""
    parts = [part.split(":") for part in text.split(",")]
    if len(parts) != 3 or not all(
        len(ends) == 2 and all(not end or end.isdecimal() for end in ends) for ends in parts
    ):
        raise typer.BadParameter(
            f"expected START:STOP,START:STOP,START:STOP in whole numbers from 0, found {text!r}."
        )
    return tuple(slice(*(int(end) if end else None for end in ends)) for ends in parts)


def parse_device(text: str) -> str:
    """The name of a device, which this computer may not have."""
    if re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", text) is None:
        raise typer.BadParameter(f"expected auto, cpu, mps, cuda or cuda:N, found {text!r}.")
    return text


def parse_channel(text: str) -> int | str:
    """The number or the name of a channel."""
    return int(text) if text.isdecimal() else text


def parse_time(text: str) -> int | str:
    """The number of a time point, or ``all``."""
    if text != ALL_TIMES and not text.isdecimal():
        raise typer.BadParameter(f"expected a whole number from 0, or all, found {text!r}.")
    return text if text == ALL_TIMES else int(text)


def whole_number(minimum: int | None, maximum: int | None = None) -> Callable[[str], int]:
    """A parser of whole numbers in a range; its errors name the range and the value."""
    lower = "" if minimum is None else f" from {minimum}"
    upper = "" if maximum is None else f" to {maximum}"

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = None
        if (
            value is None
            or (minimum is not None and value < minimum)
            or (maximum is not None and value > maximum)
        ):
            raise typer.BadParameter(f"expected a whole number{lower}{upper}, found {text!r}.")
        return value

    return parse


def one_of(choices: Sequence[Any]) -> Callable[[str], Any]:
    """A parser of one of some values; its errors list them."""
    values = {str(choice): choice for choice in choices}

    def parse(text: str) -> Any:
        if str(text) not in values:
            raise typer.BadParameter(f"expected {' or '.join(values)}, found {text!r}.")
        return values[str(text)]

    return parse


@dataclass(frozen=True, slots=True)
class SettingOptions:
    """How a field of a command's record that is a settings record becomes options.

    Attributes
    ----------
    record : Settings
        With the default values of the options.
    flags : mapping of {setting: flag}
        The settings that have options. None: all, named as the settings are.
    optional : bool
        Options have no default value; the command gets the values that were given as a dict.
    panel : str or None
        Heading in the help.
    """

    record: Settings
    flags: Mapping[str, str] | None = None
    optional: bool = False
    panel: str | None = None

    def fields(self) -> list[Field[Any]]:
        """The settings that have options."""
        return [f for f in self.record.fields() if self.flags is None or f.name in self.flags]

    def parameters(self) -> list[inspect.Parameter]:
        """A keyword parameter with typer's option for every setting."""
        return [self._parameter(f) for f in self.fields()]

    def _parameter(self, field: Field[Any]) -> inspect.Parameter:
        kind = field.metadata["kind"] if field.default is None else type(field.default)
        default = None if self.optional else getattr(self.record, field.name)
        flag = (self.flags or _FLAGS).get(field.name, "--" + field.name.replace("_", "-"))
        option = _setting_option(field, kind, flag, self.panel, optional=self.optional)
        return inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=default,
            annotation=Annotated[kind | None if default is None else kind, option],
        )

    def take(self, values: dict[str, Any]) -> Any:
        """Remove the values of the settings; returns the record, or the given ones as a dict."""
        own = {f.name: values.pop(f.name) for f in self.fields()}
        if self.optional:
            return {name: value for name, value in own.items() if value is not None}
        return self.record.replace(**own)


def _setting_option(
    field: Field[Any], kind: type, flag: str, panel: str | None, *, optional: bool
) -> Any:
    data = field.metadata
    unit = data["unit"] or ""
    unit = "" if unit in data["help"].lower() else f" In {unit}."
    shown: dict[str, Any] = {}
    if isinstance(field.default, bool):
        flag = f"{flag}/--no-{flag.removeprefix('--')}"
    elif data["choices"]:
        choices = data["choices"]
        shown = {"parser": one_of(choices), "metavar": "|".join(map(str, choices))}
    elif kind is int:
        low, high = data["minimum"], data["maximum"]
        shown = {"parser": whole_number(low, high), "metavar": "NUMBER"}
    elif kind is float:
        shown = {"min": data["minimum"], "max": data["maximum"]}
    text = data["help"] + unit + (" Default: the recipe's." if optional else "")
    return typer.Option(flag, help=text, rich_help_panel=panel, **shown)


def help_of(command: Callable[..., None]) -> str:
    """The docstring of a command, one line per paragraph, so that the terminal breaks it."""
    paragraphs = inspect.cleandoc(command.__doc__ or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def with_record(record: type[Any]) -> Callable[[Callable[[Any], None]], Callable[..., None]]:
    """Give a command one argument or option per field of its record.

    Parameters
    ----------
    record : type
        A dataclass whose fields are annotated with what typer needs. A field of type
        `PropagationConfig`, or one annotated with `SettingOptions`, stands for the options of
        these settings.

    Returns
    -------
    callable
        A decorator of ``command(record)``.
    """
    hints = get_type_hints(record, include_extras=True)
    groups = _settings_groups(record)
    parameters: list[inspect.Parameter] = []
    for field in dataclasses.fields(record):
        if field.name in groups:
            parameters += groups[field.name].parameters()
        else:
            parameters.append(_parameter(field, hints[field.name]))

    def decorate(command: Callable[[Any], None]) -> Callable[..., None]:
        @functools.wraps(command)
        def with_options(**values: Any) -> None:
            command(fill_record(record, values))

        with_options.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        with_options.__annotations__ = {p.name: p.annotation for p in parameters}
        return with_options

    return decorate


_Record = TypeVar("_Record")


def fill_record(record: type[_Record], values: Mapping[str, Any]) -> _Record:
    """The record of a command from the values of its parameters."""
    given = dict(values)
    settings = {name: group.take(given) for name, group in _settings_groups(record).items()}
    return record(**given, **settings)


def _settings_groups(record: type[Any]) -> dict[str, SettingOptions]:
    """The fields of a command's record that are settings records."""
    hints = get_type_hints(record, include_extras=True)
    return {name: group for name, hint in hints.items() if (group := _settings_of(hint))}


def _settings_of(hint: Any) -> SettingOptions | None:
    """The options of a field that is a settings record."""
    if hint is PropagationConfig:
        return SettingOptions(PropagationConfig(), panel=_SETTINGS_PANEL)
    return next((x for x in get_args(hint) if isinstance(x, SettingOptions)), None)


def _parameter(field: Field[Any], annotation: Any) -> inspect.Parameter:
    """The keyword parameter of a field, with its default value."""
    default = field.default
    if field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
    return inspect.Parameter(
        field.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if default is dataclasses.MISSING else default,
        annotation=annotation,
    )


Axis = Annotated[
    int | None,
    typer.Option(
        parser=whole_number(0, 2),
        metavar="0|1|2",
        help="Axis along which slices are stacked, in the axis order of the file. "
        "Default: the one on whose planes the seeds were drawn, else the one with the coarsest "
        "spacing.",
    ),
]
Channel = Annotated[
    Any,  # int or str: typer has no unions
    typer.Option(
        parser=parse_channel,
        metavar="NUMBER|NAME",
        help="Number or name of the channel, for images with several.",
    ),
]
Time = Annotated[
    int | None,
    typer.Option(
        parser=whole_number(0),
        metavar="NUMBER",
        help="Number of the time point, for images with several.",
    ),
]
_VOLUME = "Which volume of a file"
ImageNumber = Annotated[
    Any,
    typer.Option(
        "--image",
        parser=parse_channel,
        metavar="NUMBER|NAME",
        help="Number or name of the image, for files with several.",
    ),
]
FileImage = Annotated[
    Any,
    typer.Option(
        parser=parse_channel,
        metavar="NUMBER|NAME",
        help="The image, for files with several.",
        rich_help_panel=_VOLUME,
    ),
]
FileChannel = Annotated[
    Any,
    typer.Option(
        parser=parse_channel,
        metavar="NUMBER|NAME",
        help="The channel, or the layer or segment of a .seg.nrrd.",
        rich_help_panel=_VOLUME,
    ),
]
FileTime = Annotated[
    int | None,
    typer.Option(
        parser=whole_number(0),
        metavar="NUMBER",
        help="The time point.",
        rich_help_panel=_VOLUME,
    ),
]
FileStack = Annotated[
    Any,
    typer.Option(
        parser=one_of(("channel", "time")),
        metavar="channel|time",
        help="Take these as the slices.",
        rich_help_panel=_VOLUME,
    ),
]
Stack = Annotated[
    Any,
    typer.Option(
        parser=one_of(("channel", "time")),
        metavar="channel|time",
        help="Take the channels or the time points as the slices, where they were saved as such.",
    ),
]
Level = Annotated[
    int,
    typer.Option(
        parser=whole_number(0),
        metavar="NUMBER",
        help="Resolution level of an OME-Zarr or a pyramidal TIFF, 0 for the finest. Seeds and "
        "labels are on the grid of the level.",
    ),
]
Roi = Annotated[
    Any,
    typer.Option(
        parser=parse_roi,
        metavar="A:B,C:D,E:F",
        help="Work in a part of the image: START:STOP for each axis in the order of the file, in "
        "voxels of the level from 0; STOP is not included, and ':' is a whole axis. Slices are "
        "numbered as in the whole image. The labels cover the whole image, see --crop.",
    ),
]
Crop = Annotated[
    bool,
    typer.Option("--crop", help="Write the part of --roi alone, at its place in the world."),
]
TrustVoxels = Annotated[
    bool,
    typer.Option(
        "--trust-voxels",
        help="The arrays line up voxel by voxel, whatever the headers specify about their place.",
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Replace files that exist already.")]
Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", help="Print warnings and errors only.", rich_help_panel=_OUTPUT),
]
LogFile = Annotated[
    Path | None,
    typer.Option(
        "--log",
        help="Text file to which everything that is printed is appended, with the time.",
        rich_help_panel=_OUTPUT,
    ),
]
ProgressFormat = Annotated[
    str,
    typer.Option(
        parser=one_of(("auto", "json")),
        metavar="auto|json",
        help="auto: a bar on a terminal, elsewhere a line for every tenth, on stderr. json: one "
        "JSON line on stdout for every slice (docs/cli.md), everything else on stderr.",
        rich_help_panel=_OUTPUT,
    ),
]
ModelsFolder = Annotated[
    Path | None,
    typer.Option(
        help="Where files of weights are looked for and kept. "
        "Default: $NAPARI_SLMSAM2_MODELS, else the user's cache.",
    ),
]
Device = Annotated[
    str,
    typer.Option(parser=parse_device, metavar="DEVICE", help="auto, cpu, mps, cuda or cuda:N."),
]
Out = Annotated[
    Path,
    typer.Option(
        "--out", "-o", help="The label map to write: .nii.gz, .mgz, .nrrd, .tif, .ome.zarr ..."
    ),
]
