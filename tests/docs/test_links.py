"""Links between the pages of the documentation lead somewhere."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from tests.docs.markdown import PAGES, REPOSITORY, headings, links

pytestmark = pytest.mark.skipif(
    not (REPOSITORY / "docs").is_dir(), reason="the documentation is not part of this copy"
)

RAW = "https://raw.githubusercontent.com/napari-slmsam2/napari-slmsam2/main/"


def in_repository(target: str, page: Path, source: str) -> Path | None:
    """The file of the repository that a link points to; None for other sites."""
    for start in (f"{source}/blob/main/", f"{source}/tree/main/", RAW):
        if target.startswith(start):
            return REPOSITORY / target.removeprefix(start)
    if "://" in target or target.startswith("mailto:"):
        return None
    return page.parent / target if target else page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_links_lead_to_files_and_headings(page: Path):
    urls = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["urls"]
    broken = []
    for link in links(page):
        target, _, anchor = link.partition("#")
        path = in_repository(target, page, urls["Source"])
        if path is None:
            continue
        if not path.exists() or (anchor and anchor not in headings(path)):
            broken.append(link)
    assert not broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_modules_that_are_named_exist(page: Path):
    """Paths in code style, relative to the repository or to the package."""
    roots = (REPOSITORY, REPOSITORY / "src" / "napari_slmsam2")
    named = re.findall(r"`([\w./-]+/[\w.-]+\.(?:py|yml|md)|[\w./-]+/)`", page.read_text("utf-8"))
    missing = [name for name in named if not any((root / name).exists() for root in roots)]
    assert not missing


def test_links_of_the_readme_are_absolute():
    """PyPI shows the README without the repository around it."""
    assert [t for t in links(REPOSITORY / "README.md") if "://" not in t] == []
