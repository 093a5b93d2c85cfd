"""Names of units of length and time in OME-XML and OME-Zarr, and their sizes."""

from __future__ import annotations

import re
from collections.abc import Sequence

NO_UNIT = "pixel"
"""The unit of a voxel size whose unit the file does not specify."""

_PREFIXES = {
    "y": ("yocto", -24), "z": ("zepto", -21), "a": ("atto", -18), "f": ("femto", -15),
    "p": ("pico", -12), "n": ("nano", -9), "u": ("micro", -6), "m": ("milli", -3),
    "c": ("centi", -2), "d": ("deci", -1), "": ("", 0), "da": ("deca", 1),
    "h": ("hecto", 2), "k": ("kilo", 3), "M": ("mega", 6), "G": ("giga", 9),
    "T": ("tera", 12), "P": ("peta", 15), "E": ("exa", 18), "Z": ("zetta", 21),
    "Y": ("yotta", 24),
}  # fmt: skip
_INCH = 25.4

IN_MM = {
    **{f"{symbol}m": float(f"1e{power + 3}") for symbol, (_, power) in _PREFIXES.items()},
    "angstrom": 1e-7,
    "thou": _INCH / 1000, "line": _INCH / 12, "point": _INCH / 72, "inch": _INCH,
    "foot": 12 * _INCH, "yard": 36 * _INCH, "mile": 63360 * _INCH,
    "astronomical_unit": 1.495978707e14, "light_year": 9.4607304725808e18,
    "parsec": 3.0856775814671916e19,
}  # fmt: skip
"""Millimetres in one unit, by the name that this package uses."""

OME_SYMBOLS = {
    **{unit: unit for unit in IN_MM},
    "um": "µm", "angstrom": "Å", "line": "li", "point": "pt", "inch": "in", "foot": "ft",
    "yard": "yd", "mile": "mi", "astronomical_unit": "ua", "light_year": "ly", "parsec": "pc",
}  # fmt: skip
"""Symbols of ``UnitsLength`` in OME-XML."""

NGFF_NAMES = {
    **{unit: unit for unit in IN_MM},
    **{f"{symbol}m": f"{prefix}meter" for symbol, (prefix, _) in _PREFIXES.items()},
}
"""Names of units of length in OME-Zarr."""

IN_SECONDS = {
    **{f"{symbol}s": float(f"1e{power}") for symbol, (_, power) in _PREFIXES.items()},
    "min": 60.0, "h": 3600.0, "d": 86400.0,
}  # fmt: skip
"""Seconds in one unit of time, by the name that this package uses."""

OME_TIME_SYMBOLS = {**{unit: unit for unit in IN_SECONDS}, "us": "µs"}
"""Symbols of ``UnitsTime`` in OME-XML."""

NGFF_TIME_NAMES = {
    **{f"{symbol}s": f"{prefix}second" for symbol, (prefix, _) in _PREFIXES.items()},
    "min": "minute", "h": "hour", "d": "day",
}  # fmt: skip
"""Names of units of time in OME-Zarr."""

_ALIASES = {
    "um": ("micron",),
    "angstrom": ("ångström", "ångstrom", "angström", "å"),
    "dam": ("dekameter", "dekametre"),
    "inch": ("inches", '"'),
    "foot": ("feet",),
    "astronomical_unit": ("au",),
}
_SYMBOLS = {symbol: unit for unit, symbol in OME_SYMBOLS.items()} | {u: u for u in IN_MM}
_SYMBOLS |= {"A": "angstrom"}
_WORDS = {
    **{symbol.lower(): unit for symbol, unit in reversed(_SYMBOLS.items()) if symbol != "A"},
    # A capital letter of a very large unit is more often one of a small unit.
    **{symbol: unit for symbol, unit in _SYMBOLS.items() if symbol.islower()},
    **{name: unit for unit, name in NGFF_NAMES.items()},
    **{name[:-2] + "re": unit for unit, name in NGFF_NAMES.items() if name.endswith("meter")},
    **{alias: unit for unit, aliases in _ALIASES.items() for alias in aliases},
}

_TIME_WORDS = {
    **{symbol: unit for unit, symbol in OME_TIME_SYMBOLS.items()},
    **{name: unit for unit, name in NGFF_TIME_NAMES.items()},
    **{unit: unit for unit in IN_SECONDS},
    "sec": "s", "msec": "ms", "usec": "us", "hr": "h",
}  # fmt: skip


def unit_name(text: object) -> str:
    """The name that this package uses for a unit: ``um``, ``mm``, ...; `NO_UNIT` if not known.

    Symbols are those of OME-XML (``µm``, ``Å``, ``Mm``), names those of OME-Zarr (``micrometer``,
    ``angstrom``) in British spelling too, in the plural, and with any capitals.
    """
    key = re.sub(r"\\u([0-9a-fA-F]{4})", lambda m: chr(int(m[1], 16)), str(text).strip())
    key = key.replace("\u03bc", "\u00b5").replace("\u212b", "\u00c5")  # one code for µ and for Å
    if key in _SYMBOLS:
        return _SYMBOLS[key]
    key = key.lower()
    return _WORDS.get(key) or _WORDS.get(key.removesuffix("s"), NO_UNIT)


def time_unit_name(text: object) -> str:
    """The name that this package uses for a unit of time: ``s``, ``ms``, ...

    `NO_UNIT` where it is not known. Symbols of OME-XML and names of OME-Zarr, in the plural too.
    """
    key = str(text).strip().replace("\u03bc", "\u00b5")
    for word in (key, key.lower(), key.lower().removesuffix("s")):
        if word in _TIME_WORDS:
            return _TIME_WORDS[word]
    return NO_UNIT


def common_unit(units: Sequence[str]) -> tuple[str, list[float]]:
    """One unit for values in several, and the factors that convert them.

    Parameters
    ----------
    units : sequence of str
        Names of `unit_name`.

    Returns
    -------
    unit : str
        That of the last value; `NO_UNIT` where one is not known. A line (1/12 inch), which other
        packages do not know, becomes inches.
    factors : list of float
    """
    if not all(unit in IN_MM for unit in units):
        return NO_UNIT, [1.0] * len(units)
    common = "inch" if units[-1] == "line" else units[-1]
    return common, [1.0 if u == common else IN_MM[u] / IN_MM[common] for u in units]
