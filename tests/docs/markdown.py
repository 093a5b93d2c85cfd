"""Reading the documentation: its pages, fenced code blocks, shell commands and links."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "benchmarks/*.md")
    for path in REPOSITORY.glob(pattern)
)

_FENCE = re.compile(
    r"(?:^ *<!-- not run: (?P<reason>.+?) -->\n+)?"
    r"^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
_LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """A fenced code block.

    Attributes
    ----------
    page : Path
    line : int
        Of the opening fence, from 1.
    language : str
    text : str
    reason : str or None
        Why the example is not run, from the comment ``<!-- not run: REASON -->`` above it.
    """

    page: Path
    line: int
    language: str
    text: str
    reason: str | None

    def __str__(self) -> str:
        return f"{self.page.relative_to(REPOSITORY)}:{self.line}"

    def commands(self) -> Iterator[list[str]]:
        """The shell commands of the block, each as its words."""
        for line in self.text.replace("\\\n", " ").splitlines():
            for command in line.split("&&"):
                words = shlex.split(command, comments=True)
                if words:
                    yield words


def blocks(page: Path) -> list[Block]:
    """All fenced code blocks of a page."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(text):
        fence = match.start("indent")
        found.append(
            Block(
                page,
                text.count("\n", 0, fence) + 1,
                match["language"],
                match["text"],
                match["reason"],
            )
        )
    return found


def links(page: Path) -> list[str]:
    """Targets of all links and images of a page, without those in code."""
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return [match["target"] for match in _LINK.finditer(text)]


def headings(page: Path) -> set[str]:
    """Anchors of the headings of a page, as GitHub forms them."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
