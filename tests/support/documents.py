"""What the documentation consists of: blocks of code, links and headings of its Markdown files."""

import itertools
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[2]

PAGES = sorted(
    [*(ROOT / name for name in ("README.md", "CHANGELOG.md", "config/README.md")), *(ROOT / "docs").rglob("*.md")]
)

PROGRAMS = ("unetpipe", "snakemake", "make", "pip")
"""Whose calls are recognised within a sentence."""


@dataclass(frozen=True)
class Place:
    """Something of a page, where a reader finds it."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


@dataclass(frozen=True)
class Command:
    """A command of a page, as it stands there, and as the shell reads it."""

    place: Place
    text: str
    words: tuple[str, ...]

    @property
    def program(self) -> str:
        """Without the folder that it lies in."""
        return Path(self.words[0]).name

    def __str__(self) -> str:
        return f"{self.place}: {self.text}"


def tokens(page: Path) -> list[Token]:
    """Of a page, with those within its paragraphs and tables."""
    return list(_flat(MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8"))))


def blocks(language: str | None = None) -> list[Place]:
    """All blocks of code, or those in ``language``."""
    found = [
        Place(page, (token.map or [0])[0] + 1, token.info.strip(), token.content)
        for page in PAGES
        for token in tokens(page)
        if token.type in ("fence", "code_block")
    ]
    return [block for block in found if language in (None, block.language)]


def commands() -> list[Command]:
    """Every command of a block for the shell."""
    found = []
    for block in blocks("sh"):
        for line in block.text.replace("\\\n", " ").splitlines():
            for part in line.split("&&"):
                words = tuple(shlex.split(part, comments=True))
                if words:
                    found.append(Command(block, part.partition(" #")[0].strip(), words))
    return found


def mentioned() -> list[Command]:
    """Calls of the project's programs within a sentence: more than a name, and without an ellipsis."""
    found = []
    for page in PAGES:
        for token in tokens(page):
            if token.type != "code_inline":
                continue
            text = " ".join(token.content.split())
            program, _, rest = text.partition(" ")
            if program in PROGRAMS and rest and "…" not in rest:
                found.append(Command(Place(page, 0, "", text), text, tuple(shlex.split(text))))
    return found


def links(page: Path) -> list[str]:
    """Where the links and the pictures of a page lead."""
    found = []
    for token in tokens(page):
        target = token.attrGet("href" if token.type == "link_open" else "src")
        if target is not None:
            found.append(str(target))
    return found


def anchors(page: Path) -> set[str]:
    """Of the headings of a page, as GitHub makes them, and the site too."""
    found: set[str] = set()
    every = tokens(page)
    for before, token in itertools.pairwise(every):
        if before.type == "heading_open":
            words = "".join(child.content for child in token.children or [])
            slug = re.sub(r"[^\w\- ]", "", words.strip().lower()).replace(" ", "-")
            number = 0
            while (name := f"{slug}-{number}" if number else slug) in found:
                number += 1
            found.add(name)
    return found


def _flat(every: list[Token]) -> Iterator[Token]:
    for token in every:
        yield token
        yield from _flat(token.children or [])
