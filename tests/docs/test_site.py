"""The site builds without a warning, is HTML, and needs nobody else."""

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from documents import PAGES, ROOT
from justhtml import JustHTML
from pages_of_html import faults

from unetpipe.cli import parser

MISSING = [name for name in ("sphinx", "myst_parser", "pydata_sphinx_theme") if importlib.util.find_spec(name) is None]
BROWSER = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None)

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(MISSING), reason=f"not installed, so there is no site: {', '.join(MISSING)} (make docs)"),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the site, as ``make docs`` builds it."""
    recipe = subprocess.run(["make", "--dry-run", "docs"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    options = re.search(r"/sphinx-build (.*) docs site$", recipe, re.MULTILINE)
    assert options
    words = options[1].replace(".sphinx", str(tmp_path_factory.mktemp("doctrees"))).split()
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "sphinx", *words, "docs", str(folder)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stdout
    assert built.stdout == ""
    assert "--fail-on-warning" in words
    return folder


def pages(site: Path) -> list[Path]:
    """Not the theme's own files."""
    return [path for path in site.rglob("*.html") if "_static" not in path.parts]


def test_every_page_is_html(site: Path) -> None:
    wrong = {path.name: found for path in pages(site) if (found := faults(path.read_text(encoding="utf-8")))}
    assert wrong == {}


def test_every_page_and_module_is_there(site: Path) -> None:
    for page in PAGES:
        if page.is_relative_to(ROOT / "docs"):
            assert (site / page.relative_to(ROOT / "docs")).with_suffix(".html").exists()
    for module in (ROOT / "unetpipe").rglob("*.py"):
        parts = module.relative_to(ROOT).with_suffix("").parts
        if parts[-1] not in ("__init__", "__main__"):
            assert (site / "reference" / "api" / f"{'.'.join(parts)}.html").exists()


def test_what_lies_elsewhere_is_shown(site: Path) -> None:
    def text(name: str) -> str:
        return " ".join(JustHTML((site / name).read_text(encoding="utf-8"), sanitize=False).to_text().split())

    settings = text("reference/settings.html")
    assert "predict.slurm" in settings
    assert "standard deviation of their displacements in voxels; the paper has 10" in settings
    assert "Keep a Changelog" in text("changelog.html")
    commands = text("reference/commands.html")
    for name in ("check", "fsck", "preview"):
        assert f"usage: unetpipe {name}" in commands
    assert parser().format_usage().split()[-1] in commands


def test_nothing_comes_from_elsewhere(site: Path) -> None:
    for path in pages(site):
        tags = re.findall(r"<(?:script|link|img|iframe|source)\b[^>]*>", path.read_text(encoding="utf-8"))
        assert [tag for tag in tags if re.search(r"\b(src|href|srcset)=[\"'](https?:)?//", tag)] == [], path
    for path in (site / "_static").rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*[\"']?(https?:)?//", path.read_text(encoding="utf-8")), path


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium or Chrome, and neither is installed")
def test_the_search_works_from_the_disk(site: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [
            str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
            "--disable-background-networking", "--no-first-run", "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--user-data-dir={tmp_path}", "--virtual-time-budget=20000", "--dump-dom",
            f"{(site / 'search.html').as_uri()}?q=orphaned",
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert re.search(r'<a href="died\.html[^"]*"', done.stdout), done.stdout[-3000:]
    # An error on the way leaves it out.
    assert re.search(r"found \d+ pages? matching", done.stdout), done.stdout[-3000:]
