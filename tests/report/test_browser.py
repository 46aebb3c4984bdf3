"""A real browser opens the page and has nothing to complain about."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unetpipe.report.render import report

BROWSER = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None)

pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs Chromium or Chrome, and neither is installed")


def complaints(page: Path, profile: Path) -> list[str]:
    """Lines of the browser's console after it has opened ``page``, without a network, and run its script."""
    command = [
        str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--disable-component-update", "--disable-sync", "--disable-quic", "--no-first-run",
        "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={profile}",
        "--enable-logging=stderr", "--dump-dom", page.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "</html>" in done.stdout
    assert '<body class="scripted">' in done.stdout
    return [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def test_the_page_is_clean_and_lets_nothing_in(make_run: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    run = make_run({"train": "train", "validate": "validate", "test": "test"})
    report(**run)
    page: Path = run["report"]
    assert complaints(page, tmp_path / "a") == []
    # The same page with what it must not have: the browser refuses both.
    intruders = '<img src="https://example.org/a.png"><script>console.log("ran")</script></body>'
    page.write_text(page.read_text().replace("</body>", intruders))
    refused = complaints(page, tmp_path / "b")
    assert len(refused) == 2
    assert all("Content Security Policy" in line for line in refused)
