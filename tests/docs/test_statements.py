"""The version, the changes and the models are stated correctly."""

from __future__ import annotations

import fnmatch
import re

import pytest
import yaml

import napari_slmsam2
from napari_slmsam2.engine.weights.registry import list_models
from tests.docs.markdown import REPOSITORY

CITATION = REPOSITORY / "CITATION.cff"


@pytest.mark.skipif(not CITATION.is_file(), reason="the citation is not part of this copy")
def test_the_citation_has_the_version_of_the_package():
    citation = yaml.safe_load(CITATION.read_text(encoding="utf-8"))
    assert citation["version"] == napari_slmsam2.__version__


def test_the_changelog_has_a_section_for_the_version():
    """A development version collects its changes under "Unreleased"."""
    version = napari_slmsam2.__version__
    titles = re.findall(r"^## \[(.+?)\]", (REPOSITORY / "CHANGELOG.md").read_text("utf-8"), re.M)
    assert titles[0] == ("Unreleased" if "dev" in version else version)


def test_the_readme_lists_all_models(tmp_path):
    readme = (REPOSITORY / "README.md").read_text("utf-8")
    patterns = re.findall(r"^\| `([\w.*-]+)` \|", readme.split("\n## Models\n")[1], re.M)
    names = {card.name for card in list_models(tmp_path)}
    listed = {pattern: fnmatch.filter(names, pattern) for pattern in patterns}
    assert all(listed.values()), "a model in the README does not exist"
    assert {name for found in listed.values() for name in found} == names
