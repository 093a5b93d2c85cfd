"""Patterns of file names and the names that follow from the files."""

from __future__ import annotations

from pathlib import Path

import pytest

from napari_slmsam2.batch.patterns import fill_in, find_files, stem_of
from napari_slmsam2.core.errors import ConfigError


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("a.nii.gz", "a"),
        ("a.b.ome.zarr", "a.b"),
        ("a.seg.nrrd", "a"),
        ("a.TIF", "a"),
        ("a.slmsam2", "a"),
        (".nii", ".nii"),
    ],
)
def test_names_without_the_suffix_of_the_format(name, stem):
    assert stem_of(Path(name)) == stem


@pytest.mark.parametrize(
    ("pattern", "files", "parts"),
    [
        ("*_0000.nii", ["b_0000.nii"], [("b",)]),
        ("?.nii", ["a.nii"], [("a",)]),
        ("[!b].nii", ["a.nii"], [("a",)]),
        ("sub-*/*.nii", ["sub-1/c.nii"], [("1", "c")]),
        ("**/*.nii", ["a.nii", "b_0000.nii", "sub-1/c.nii"], [("", "a"), ("", "b_0000"),
                                                              ("sub-1", "c")]),
        ("a.nii", ["a.nii"], [()]),
    ],
)  # fmt: skip
def test_wildcards_are_numbered(tmp_path, monkeypatch, pattern, files, parts):
    monkeypatch.chdir(tmp_path)
    for name in ("a.nii", "b_0000.nii", "sub-1/c.nii"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).touch()
    found = find_files(pattern)
    assert [match.path.as_posix() for match in found] == files
    for match, expected in zip(found, parts, strict=True):
        numbered = tuple(v for k, v in match.placeholders.items() if k.isdecimal())
        assert numbered == expected


def test_placeholders_are_filled_in():
    names = {"name": "a", "1": "b"}
    assert fill_in("out/{name}-{1}.nii", names, "--out") == "out/a-b.nii"
    with pytest.raises(ConfigError, match=r"--out: has an unknown placeholder \{2\}"):
        fill_in("{2}.nii", names, "--out")
