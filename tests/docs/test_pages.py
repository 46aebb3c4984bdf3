"""Links lead somewhere, drawings are those of the code, and nothing is lost between two sharp brackets."""

import re
import runpy
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from documents import PAGES, ROOT, anchors, blocks, links, tokens

LANGUAGES = {
    "sh",
    "yaml",
    "python",
    "text",
    "{toctree}",
    "{literalinclude} ../README.md",
}

BY_PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@BY_PAGE
def test_links_lead_to_files_and_headings(page: Path) -> None:
    broken = []
    for link in links(page):
        to = urlsplit(link)
        if to.scheme:
            if to.scheme not in ("https", "http") or not re.fullmatch(r"[\w.-]+\.[a-z]+(:\d+)?", to.netloc):
                broken.append(link)
            continue
        file = (page.parent / to.path).resolve() if to.path else page
        if not file.is_relative_to(ROOT) or not file.exists() or (to.fragment and to.fragment not in anchors(file)):
            broken.append(link)
    assert not broken


@BY_PAGE
def test_nothing_is_taken_for_html(page: Path) -> None:
    # A browser shows nothing of `results/<run>` where it is not marked as code.
    assert [token.content for token in tokens(page) if token.type in ("html_inline", "html_block")] == []


def test_blocks_say_what_they_are() -> None:
    assert [str(block) for block in blocks() if block.language not in LANGUAGES] == []


def test_every_page_is_in_the_tree_of_the_site() -> None:
    listed = {
        re.sub(r".*<(.*)>", r"\1", line.strip())
        for block in blocks("{toctree}")
        for line in block.text.splitlines()
        if line.strip() and not line.startswith(":")
    }
    pages = {str(page.relative_to(ROOT / "docs").with_suffix("")) for page in (ROOT / "docs").rglob("*.md")}
    assert listed - {"reference/api/unetpipe"} == pages - {"index"}


def test_drawings_are_those_of_the_plan() -> None:
    drawn = runpy.run_path(str(ROOT / "docs" / "drawings.py"))["files"]()
    assert drawn
    for path, wanted in drawn.items():
        assert path.read_text(encoding="utf-8") == wanted, "run `python docs/drawings.py`"
