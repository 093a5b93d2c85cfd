"""Names, colours and states of labels, as a person determines them."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping
from dataclasses import dataclass, field

RGBA = tuple[float, float, float, float]
"""Red, green, blue and opacity from 0 to 1."""


@dataclass(frozen=True, slots=True)
class LabelEntry:
    """What a `LabelTable` holds of one label.

    Attributes
    ----------
    name : str or None
    colour : RGBA or None
    locked, done : bool
    """

    name: str | None = None
    colour: RGBA | None = None
    locked: bool = False
    done: bool = False


@dataclass(frozen=True)
class LabelTable:
    """Names, colours and states of labels; a label may have none of them.

    Attributes
    ----------
    names : mapping of int to str
    colours : mapping of int to RGBA
    locked : frozenset of int
        Labels whose voxels are changed neither by runs nor by edits of the annotation.
    done : frozenset of int
        Labels that a person declared finished.
    """

    names: Mapping[int, str] = field(default_factory=dict)
    colours: Mapping[int, RGBA] = field(default_factory=dict)
    locked: frozenset[int] = frozenset()
    done: frozenset[int] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.labels)

    @property
    def labels(self) -> list[int]:
        """All labels that have a name or a colour, ascending."""
        return sorted({*self.names, *self.colours})

    def updated(self, other: LabelTable) -> LabelTable:
        """The table with the entries of another one, which take precedence."""
        return LabelTable(
            {**self.names, **other.names},
            {**self.colours, **other.colours},
            self.locked | other.locked,
            self.done | other.done,
        )

    def entry(self, label: int) -> LabelEntry:
        """What the table holds of a label."""
        return LabelEntry(
            self.names.get(label),
            self.colours.get(label),
            label in self.locked,
            label in self.done,
        )

    def with_entries(self, entries: Mapping[int, LabelEntry]) -> LabelTable:
        """A copy in which some labels have other entries; an empty entry removes the label."""
        names = {k: v for k, v in self.names.items() if k not in entries}
        colours = {k: v for k, v in self.colours.items() if k not in entries}
        names |= {label: e.name for label, e in entries.items() if e.name is not None}
        colours |= {label: e.colour for label, e in entries.items() if e.colour is not None}
        return LabelTable(
            names,
            colours,
            (self.locked - entries.keys()) | {label for label, e in entries.items() if e.locked},
            (self.done - entries.keys()) | {label for label, e in entries.items() if e.done},
        )


def distinct_colour(number: int) -> RGBA:
    """A colour for a label without one; consecutive numbers differ in hue."""
    return (*colorsys.hsv_to_rgb(number * 0.618034 % 1.0, 0.7, 0.9), 1.0)
