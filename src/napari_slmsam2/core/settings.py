"""Settings records: frozen dataclasses whose fields carry title, help, choices and range."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Self

from napari_slmsam2.core.errors import ConfigError


def setting(
    default: Any,
    title: str,
    help: str,  # noqa: A002 - the word that every form and command line uses
    *,
    choices: tuple[Any, ...] | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
    unit: str | None = None,
    advanced: bool = False,
    kind: type = int,
    none: str = "model's own",
) -> Any:
    """A dataclass field that knows how to present itself.

    Parameters
    ----------
    default : object
        Immutable default value.
    title, help : str
        For forms and command lines.
    choices : tuple, optional
        The only values allowed.
    minimum, maximum : float, optional
        Inclusive range of numbers. None values are not checked.
    unit : str, optional
    advanced : bool
        True for settings that a form hides at first.
    kind : type
        Of the values where the default is None.
    none : str
        What a form shows for None.
    """
    return dataclasses.field(
        default=default,
        metadata={
            "title": title,
            "help": help,
            "choices": choices,
            "minimum": minimum,
            "maximum": maximum,
            "unit": unit,
            "advanced": advanced,
            "kind": kind,
            "none": none,
        },
    )


class Settings:
    """Base of the frozen settings records: validation and plain-dict round trip."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if isinstance(value, list):
                value = _tuples(value)
                object.__setattr__(self, field.name, value)
            self._check(field, value)

    @staticmethod
    def _check(field: dataclasses.Field[Any], value: Any) -> None:
        if not field.metadata:
            return  # a record within the record checks itself
        choices, kind = field.metadata["choices"], field.metadata["kind"]
        if choices is not None and value not in choices:
            raise ConfigError(
                f"setting {field.name}",
                "is not one of the choices",
                expected=" | ".join(str(c) for c in choices),
                found=repr(value),
            )
        if not _is_like(value, field.default, kind):
            raise ConfigError(
                f"setting {field.name}",
                "has the wrong type",
                expected=f"{_TYPE_NAMES[kind]} or none"
                if field.default is None
                else _TYPE_NAMES[type(field.default)],
                found=repr(value),
            )
        if not isinstance(value, Real):
            return
        low, high = field.metadata.get("minimum"), field.metadata.get("maximum")
        if (
            value != value
            or (low is not None and value < low)
            or (high is not None and value > high)
        ):
            raise ConfigError(
                f"setting {field.name}",
                "is out of range",
                expected=f"{'' if low is None else f'at least {low} '}"
                f"{'' if high is None else f'at most {high}'}".strip(),
                found=value,
            )

    def replace(self, **changes: Any) -> Self:
        """A copy with some settings changed, checked again."""
        return dataclasses.replace(self, **changes)  # type: ignore[type-var]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return dataclasses.asdict(self)  # type: ignore[call-overload]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`.

        Raises
        ------
        ConfigError
            A key is not a setting, or a value is not allowed.
        """
        known = {f.name for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
        unknown = sorted(set(values) - known)
        if unknown:
            raise ConfigError(
                cls.__name__, f"has no setting {unknown[0]!r}", expected=sorted(known)
            )
        return cls(**{k: _tuples(v) for k, v in values.items()})

    @classmethod
    def fields(cls) -> Iterator[dataclasses.Field[Any]]:
        """The fields with their metadata, in order."""
        yield from dataclasses.fields(cls)  # type: ignore[arg-type]


_TYPE_NAMES = {
    int: "a whole number",
    float: "a number",
    str: "text",
    tuple: "whole numbers",
    bool: "true or false",
    Path: "a path",
}


def _is_like(value: Any, default: Any, kind: type = int) -> bool:
    """Whether a value has the type of a default; None stands for an optional value of a kind."""
    if default is None:
        return value is None or _is_like(value, kind())
    if isinstance(default, tuple):
        one = default[0] if default else 0
        return isinstance(value, tuple) and all(_is_like(v, one) for v in value)
    if isinstance(value, bool) or isinstance(default, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    kinds = {int: Integral, float: Real}
    return isinstance(value, kinds.get(type(default), type(default)))


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list | tuple) else value
