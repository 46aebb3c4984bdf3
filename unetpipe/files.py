"""Small files: written whole or not at all, and digests."""

import hashlib
import json
import os
import re
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from unetpipe.errors import UserError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path in the folder of ``path`` that takes its place, durably, if the block ends without an error.

    What was left by processes of this machine that were killed when they wrote ``path`` is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Elsewhere, the same number is another process.
    prefix = f".{path.name}.{socket.gethostname()}-"
    for left in path.parent.iterdir():
        if (writer := re.match(re.escape(prefix) + r"(\d+)\.", left.name)) and not _lives(int(writer[1])):
            left.unlink(missing_ok=True)
    temporary = path.with_name(f"{prefix}{os.getpid()}.{uuid.uuid4().hex}{path.suffix}")
    temporary.open("xb").close()
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def _lives(process: int) -> bool:
    # One of another user may not be asked, but it is there.
    with suppress(PermissionError):
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return False
    return True


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` atomically and durably."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, data: Any) -> None:
    """Write ``data`` as JSON, atomically and durably; ValueError for a NaN, which JSON does not know."""
    write_bytes(path, (json.dumps(data, indent=2, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """The content of a JSON file; UserError if it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(
            f"{path} was to be read", f"it is no whole JSON ({error})", "delete it and run snakemake again"
        ) from None


def sync_folder(folder: Path) -> None:
    """Make new names in ``folder`` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of(data: Any) -> str:
    """SHA-256 of JSON data, hexadecimal; the order of keys does not count."""
    return hashlib.sha256(json.dumps(data, sort_keys=True, allow_nan=False).encode()).hexdigest()
