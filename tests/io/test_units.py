"""All units of OME-XML and OME-Zarr."""

import pytest
from napari.layers import Image

from napari_slmsam2.io.units import IN_MM, NGFF_NAMES, NO_UNIT, OME_SYMBOLS, common_unit, unit_name

OME = [
    "Ym",
    "Zm",
    "Em",
    "Pm",
    "Tm",
    "Gm",
    "Mm",
    "km",
    "hm",
    "dam",
    "m",
    "dm",
    "cm",
    "mm",
    "µm",
    "nm",
    "pm",
    "fm",
    "am",
    "zm",
    "ym",
    "Å",
    "thou",
    "li",
    "in",
    "ft",
    "yd",
    "mi",
    "ua",
    "ly",
    "pc",
    "pt",
]
NGFF = [
    "angstrom",
    "attometer",
    "centimeter",
    "decimeter",
    "exameter",
    "femtometer",
    "foot",
    "gigameter",
    "hectometer",
    "inch",
    "kilometer",
    "megameter",
    "meter",
    "micrometer",
    "mile",
    "millimeter",
    "nanometer",
    "parsec",
    "petameter",
    "picometer",
    "terameter",
    "yard",
    "yoctometer",
    "yottameter",
    "zeptometer",
    "zettameter",
]


def test_both_tables_are_complete():
    assert {OME_SYMBOLS[unit_name(symbol)] for symbol in OME} == set(OME)
    assert {NGFF_NAMES[unit_name(name)] for name in NGFF} == set(NGFF)


@pytest.mark.parametrize("unit", sorted(set(IN_MM) - {"line"}))
def test_napari_has_the_same_units(unit):
    import numpy as np

    layer = Image(np.zeros((2, 2)), units=[unit, unit])
    assert (1 * layer.units[0]).to("mm").magnitude == pytest.approx(IN_MM[unit], rel=1e-9)


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("Å", "angstrom"), ("\u212b", "angstrom"), ("A", "angstrom"), ("Angstroms", "angstrom"),
        ("µm", "um"), ("\u03bcm", "um"), ("\\u00b5m", "um"), ("microns", "um"), ("UM", "um"),
        ("Mm", "Mm"), ("mm", "mm"), ("MM", "mm"), ("Millimetres", "mm"), ("Pm", "Pm"), ("pm", "pm"),
        ("inches", "inch"), ("reference frame", NO_UNIT), ("", NO_UNIT), (None, NO_UNIT),
    ],
)  # fmt: skip
def test_spellings(text, unit):
    assert unit_name(text) == unit


def test_one_unit_for_several():
    assert common_unit(["mm", "um", "um"]) == ("um", [1000.0, 1.0, 1.0])
    assert common_unit(["mm", NO_UNIT, "um"]) == (NO_UNIT, [1.0] * 3)
    unit, factors = common_unit(["line"] * 3)
    assert unit == "inch"
    assert factors == pytest.approx([1 / 12] * 3)
