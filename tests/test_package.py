"""The package as it is installed: cheap to import, found by napari, without Qt."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import npe2
import pytest

import napari_slmsam2

HEAVY = ("torch", "sam2", "napari", "qtpy", "PyQt6", "PySide6", "numpy")


def run_python(code: str, *arguments: str | Path, options: tuple[str, ...] = ()) -> dict:
    """The JSON that a fresh interpreter prints."""
    done = subprocess.run(
        [sys.executable, *options, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_importing_the_package_is_cheap():
    code = f"""
import json, sys, time
before = time.perf_counter()
import napari_slmsam2
seconds = time.perf_counter() - before
loaded = [name for name in {HEAVY} if name in sys.modules]
print(json.dumps({{"seconds": seconds, "loaded": loaded}}))
"""
    result = run_python(code)
    print(f"import napari_slmsam2: {1000 * result['seconds']:.1f} ms")  # noqa: T201
    assert result["loaded"] == []


def test_models_are_listed_without_torch():
    code = """
import json, sys
from napari_slmsam2.engine.weights import checkpoints
from napari_slmsam2.engine.weights import download
from napari_slmsam2.engine.weights import registry
names = [card.name for card in registry.list_models()]
print(json.dumps({"torch": "torch" in sys.modules, "names": names}))
"""
    result = run_python(code)
    assert "flow" in result["names"]
    assert not result["torch"]


@pytest.mark.parametrize("name", napari_slmsam2.__all__)
def test_public_names_resolve(name):
    assert getattr(napari_slmsam2, name) is not None
    assert name in dir(napari_slmsam2)


def test_unknown_names_raise_attribute_errors():
    with pytest.raises(AttributeError, match="no attribute 'SegmentationSesion'"):
        _ = napari_slmsam2.SegmentationSesion


def test_base_dependencies_have_no_napari_and_no_qt_binding(repository):
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    base = {re.split(r"[^\w.-]", r)[0].lower() for r in project["dependencies"]}
    assert "torch" in base
    assert not base & {"napari", "pyqt5", "pyqt6", "pyside2", "pyside6"}


def test_manifest_is_valid(repository):
    manifest = npe2.PluginManifest.from_file(repository / "napari.yaml")
    assert manifest.name == "napari-slmsam2"
    manifest.validate_imports()


FIND_MANIFEST = """
import json, site, sys
site.addsitedir(sys.argv[1])
sys.path.append(sys.argv[2])
import npe2, napari_slmsam2
manifest = npe2.PluginManifest.from_distribution("napari-slmsam2")
print(json.dumps({
    "package": napari_slmsam2.__file__,
    "name": manifest.name,
    "version": manifest.package_version,
}))
"""


@pytest.mark.parametrize("version", ["standard", "editable"])
def test_napari_finds_the_manifest_of_an_install(version, repository, tmp_path):
    build = [sys.executable, "-m", "hatchling", "build", "-d", tmp_path, "-t", f"wheel:{version}"]
    done = subprocess.run(build, cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    [wheel] = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    # Without the site packages at first, so that no other install of this package is in the way.
    found = run_python(FIND_MANIFEST, site, sysconfig.get_path("purelib"), options=("-I", "-S"))
    expected = site if version == "standard" else repository / "src"
    assert Path(found["package"]).parent == expected / "napari_slmsam2"
    assert found["name"] == "napari-slmsam2"
    assert found["version"] == napari_slmsam2.__version__
