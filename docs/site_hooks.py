"""Hooks of the documentation site (mkdocs): pages that are not in ``docs``, and links to them.

``reference/cli.md`` and ``reference/settings.md`` are made from the commands and the settings
records. The Markdown files of the repository are read on GitHub as well, where links are relative
to the place of the file. On the site, links to the files in `PAGES` lead to their pages, and links
to any other file outside of ``docs`` lead to the repository.
"""

from __future__ import annotations

import dataclasses
import posixpath
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from napari_slmsam2.core.config import PropagationConfig
from napari_slmsam2.core.settings import Settings
from napari_slmsam2.training.recipes import AdaptRecipe

#: Files of the repository that are pages of the site.
PAGES = {
    "benchmarks/README.md": "benchmarks.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
}
_LINK = re.compile(r"(?<=\]\()(?P<target>[^)\s#:]+)(?P<anchor>#[^)\s]*)?(?=\))")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are generated or from outside of ``docs``."""
    root = Path(config.config_file_path).parent
    pages = {page: (root / source).read_text("utf-8") for source, page in PAGES.items()}
    pages["reference/cli.md"] = commands()
    pages["reference/settings.md"] = settings()
    for page, text in pages.items():
        files.append(File.generated(config, page, content=text))
    return files


def commands() -> str:
    """The page of all commands and options, by typer."""
    arguments = ["utils", "docs", "--name", "napari-slmsam2", "--title", "Command line"]
    done = subprocess.run(
        [sys.executable, "-m", "typer", "napari_slmsam2.cli", *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    text = re.sub(r"\[bold\](.+?)\[/bold\]", r"**\1**", done.stdout)
    # The examples of the help are indented by two spaces; the options below are lists.
    return re.sub(r"^ {2}(?=napari-slmsam2 )", "    ", text, flags=re.MULTILINE)


def settings() -> str:
    """The page of all settings, by their records."""
    lines = [
        "# Settings",
        "",
        "A setting has the same name, default and range in Python, on the command line (`--name`), "
        "in the forms of the window and in session files. This page is made from the records.",
    ]
    for title, record in (("Propagation", PropagationConfig), ("Adapting", AdaptRecipe)):
        lines += ["", f"## {title}: `{record.__name__}`", ""]
        lines += ["| Setting | Default | Values | Meaning |", "|---|---|---|---|"]
        lines += rows(record)
    return "\n".join(lines) + "\n"


def rows(record: type[Settings]) -> Iterator[str]:
    """A row of the table of settings for each field."""
    for field in dataclasses.fields(record):  # type: ignore[arg-type]
        about = field.metadata
        if not about:
            continue
        if about["choices"]:
            values = ", ".join(f"`{choice}`" for choice in about["choices"])
        else:
            low, high = about["minimum"], about["maximum"]
            values = "" if low is None else f"from {low:g}"
            values += "" if high is None else f" to {high:g}"
        default = "none" if field.default is None else f"`{field.default}`"
        unit = f" {about['unit']}" if about["unit"] else ""
        yield f"| `{field.name}` | {default}{unit} | {values} | {about['help']} |"


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, **_: Any) -> str:
    """Change the links of a page from places in the repository to places on the site."""
    sources = {target: source for source, target in PAGES.items()}
    here = page.file.src_uri
    folder = posixpath.dirname(sources.get(here, f"docs/{here}"))

    def on_the_site(match: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(folder, match["target"]))
        target = PAGES.get(path)
        if target is None and path.startswith("docs/"):
            target = path.removeprefix("docs/")
        if target is None:
            address = f"{config.repo_url}/blob/main/{path}"
        else:
            address = posixpath.relpath(target, posixpath.dirname(here) or ".")
        return address + (match["anchor"] or "")

    return _LINK.sub(on_the_site, markdown)
