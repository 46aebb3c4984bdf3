"""The script of the page: the only one that the browser runs, known to it by its digest."""

import base64
import hashlib
from pathlib import Path

from markupsafe import Markup


def script() -> Markup:
    """What stands in the page's ``script`` element. Nothing of a run is in it."""
    return Markup((Path(__file__).parent / "explorer.js").read_text(encoding="utf-8"))  # noqa: S704 – our own file


def policy() -> str:
    """What allows it, and no other, in the page's Content Security Policy."""
    digest = hashlib.sha256(script().encode()).digest()
    return f"script-src 'sha256-{base64.b64encode(digest).decode()}'"
