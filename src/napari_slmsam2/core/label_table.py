"""Names and colours of labels, as they are read from one file and written to another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

RGBA = tuple[float, float, float, float]
"""Red, green, blue and opacity from 0 to 1."""


@dataclass(frozen=True)
class LabelTable:
    """Names and colours of labels; a label may have neither.

    Attributes
    ----------
    names : mapping of int to str
    colours : mapping of int to RGBA
    """

    names: Mapping[int, str] = field(default_factory=dict)
    colours: Mapping[int, RGBA] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.names or self.colours)

    @property
    def labels(self) -> list[int]:
        """All labels that have a name or a colour, ascending."""
        return sorted({*self.names, *self.colours})

    def updated(self, other: LabelTable) -> LabelTable:
        """The table with the names and colours of another one, which take precedence."""
        return LabelTable({**self.names, **other.names}, {**self.colours, **other.colours})
