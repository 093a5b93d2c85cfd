"""Names of length units, and what they are in millimetres."""

from __future__ import annotations

NO_UNIT = "pixel"
"""The unit of a voxel size of which the file does not say the unit."""

IN_MM = {"pm": 1e-9, "nm": 1e-6, "um": 1e-3, "mm": 1.0, "cm": 10.0, "m": 1000.0, "inch": 25.4}

_ALIASES = {
    "pm": ("picometer", "picometre"),
    "nm": ("nanometer", "nanometre"),
    "um": ("µm", "μm", "\\u00b5m", "micron", "micrometer", "micrometre"),
    "mm": ("millimeter", "millimetre"),
    "cm": ("centimeter", "centimetre"),
    "m": ("meter", "metre"),
    "inch": ("in", "inches"),
}
_NAMES = {alias: name for name, aliases in _ALIASES.items() for alias in (name, *aliases)}


def unit_name(text: object) -> str:
    """The name that this package uses for a unit: ``um``, ``mm``, ...; `NO_UNIT` if not known."""
    key = str(text).strip().lower()
    return _NAMES.get(key) or _NAMES.get(key.removesuffix("s"), NO_UNIT)
