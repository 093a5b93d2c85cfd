"""Version and changes are stated in one way everywhere."""

from __future__ import annotations

import re

import pytest
import yaml

import napari_slmsam2
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
