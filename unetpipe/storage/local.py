"""A folder of a file system."""

import errno
import itertools
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unetpipe.files import sync_folder
from unetpipe.storage.contract import Entry, Folder

LOG = ".jsonl"

TEMPORARY = re.compile(r"\.[0-9a-f]{32}\.partial$")
"""How an object is called until it is whole."""


class LocalFolder(Folder):
    """A folder on disk; it need not exist before something is written."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self.path = path

    def below(self, name: str) -> "LocalFolder":
        """The folder ``name`` in this one."""
        return LocalFolder(self.path / name)

    def where(self, name: str) -> str:
        """The path of an object."""
        return str(self.path / name)

    def unwritable(self) -> str | None:
        """Why nothing can be written here and what to do, as far as can be told without trying; None if it can."""
        there = next(path for path in (self.path, *self.path.absolute().parents) if path.exists())
        if not there.is_dir():
            return f"{there} is a file; give a folder, which need not exist yet, or s3://BUCKET/PREFIX"
        if not os.access(there, os.W_OK | os.X_OK):
            return f"nothing may be written into {there}; give a folder of your own, or mend its permissions"
        return None

    def read(self, name: str) -> bytes:
        """The content of an object."""
        return (self.path / name).read_bytes()

    def size(self, name: str) -> int | None:
        """Bytes of an object; None if there is none."""
        try:
            return (self.path / name).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

    def write(self, name: str, data: bytes) -> None:
        """Put an object in its place, whole, and onto the disk.

        Each writer has a temporary file of its own, which takes the place of the object in one step. One that a killed
        process has left is removed; that of a process that still lives too, which fails then.
        """
        path = self.path / name
        new = list(itertools.takewhile(lambda folder: not folder.exists(), path.parents))
        if new:
            path.parent.mkdir(parents=True, exist_ok=True)
        for left in _left(path):
            left.unlink(missing_ok=True)
        temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except FileNotFoundError:
            said = "it was removed by another process while it was written: two use the same folder"
            raise OSError(errno.EBUSY, said, str(path)) from None
        finally:
            temporary.unlink(missing_ok=True)
        for folder in {path.parent, *(folder.parent for folder in new)}:
            sync_folder(folder)

    def append(self, log: str, line: bytes) -> None:
        """Add a line to the file of a log; it is on the disk on return."""
        path = self.path / f"{log}{LOG}"
        new = not path.exists()
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            # A line torn by an earlier crash must not swallow this one: begin with a new line.
            whole = b"\n" + line + b"\n"
            if os.write(descriptor, whole) < len(whole):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if new:
            sync_folder(self.path)

    def lines(self) -> Iterator[bytes]:
        """The lines of all logs."""
        for path in sorted(self.path.glob(f"*{LOG}")):
            with path.open("rb") as file:
                yield from file

    def logs(self) -> dict[str, Entry]:
        """The files of the logs."""
        return {entry.name: entry for entry in self.entries(deep=False) if entry.name.endswith(LOG)}

    def remove(self, name: str) -> None:
        """Remove an object; nothing happens if there is none."""
        (self.path / name).unlink(missing_ok=True)

    def entries(self, *, deep: bool = True, ordered: bool = True) -> Iterator[Entry]:
        """All files below, folder by folder: memory is bounded by the largest one, where they are ``ordered``."""
        if self.path.is_dir():
            yield from _files(self.path, "", deep, ordered)

    def clear(self) -> None:
        """Remove the folder with all that is in it; of a link to a folder, what is in that."""
        if self.path.is_symlink():
            for path in list(self.path.iterdir()):
                if path.is_dir() and not path.is_symlink():
                    _remove(path)
                else:
                    path.unlink()
            sync_folder(self.path)
        elif self.path.exists():
            _remove(self.path)
            sync_folder(self.path.parent)

    def kvstore(self) -> dict[str, Any]:
        """For TensorStore."""
        return {"driver": "file", "path": f"{self.path.absolute()}/"}


def _remove(folder: Path) -> None:
    """Remove a folder, also where another process does the same."""

    def tolerate(_function: object, _path: object, found: tuple[Any, BaseException, Any]) -> None:
        if not isinstance(found[1], FileNotFoundError):
            raise found[1]

    shutil.rmtree(folder, onerror=tolerate)


def _left(path: Path) -> list[Path]:
    """The temporary files of attempts to write ``path``."""
    with os.scandir(path.parent) as found:
        return [Path(entry) for entry in found if TEMPORARY.sub("", entry.name) == path.name != entry.name]


def _files(folder: Path, prefix: str, deep: bool, ordered: bool) -> Iterator[Entry]:
    """What another process removes or renames meanwhile, such as its temporary files, is not there."""
    try:
        opened = os.scandir(folder)
    except FileNotFoundError:
        return
    with opened as found:
        for entry in sorted(found, key=lambda entry: entry.name) if ordered else found:
            name = prefix + entry.name
            if entry.is_dir():
                if deep:
                    yield from _files(Path(entry.path), f"{name}/", deep, ordered)
                continue
            try:
                status = entry.stat()
            except FileNotFoundError:
                if entry.is_symlink():
                    # What it should lead to was there, and is missed.
                    raise
                continue
            yield Entry(name, status.st_size, str(status.st_mtime_ns), status.st_mtime)
