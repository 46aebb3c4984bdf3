"""Where results lie: a folder on disk or a prefix in a bucket of an S3-compatible object storage, behind one contract.

An address is a path, or ``s3://BUCKET/PREFIX``. What is voxels is read through :mod:`unetpipe.arrays`; this is for
whole objects: shards, metadata, records of progress.
"""

import functools
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from unetpipe.errors import UserError
from unetpipe.storage.contract import Entry, Folder
from unetpipe.storage.local import LocalFolder

__all__ = ["Entry", "Folder", "LocalFolder", "above", "folder_at", "is_remote", "join", "parent"]

_MISSPELT = re.compile("s3a?:|~(?=/|$)", re.IGNORECASE)
"""What nobody calls a folder, and would become one: only a shell knows what ~ means."""


def is_remote(address: str) -> bool:
    """Whether ``address`` is no path of this machine."""
    return "://" in address


def folder_at(address: str | Path) -> Folder:
    """The folder at ``address``; nothing is asked of it yet.

    Raises
    ------
    UserError
        If the address is of another kind, or what S3 needs is not installed or not known.
    """
    address = str(address)
    if not is_remote(address):
        if found := _MISSPELT.match(address):
            raise UserError(
                f"{address} was to be used",
                f"it begins with {found[0]}, which is neither a bucket nor a folder",
                "give s3://BUCKET/PREFIX, or the whole path",
            )
        return LocalFolder(Path(address))
    return _bucket(address)


@functools.lru_cache(maxsize=64)
def _bucket(address: str) -> Folder:
    # Not at the top: only who uses it needs what it imports.
    from unetpipe.storage.s3 import Bucket

    return Bucket(address)


def join(address: str, *names: str) -> str:
    """The address of what lies below ``address``."""
    return posixpath.join(address, *names)


def parent(address: str) -> str:
    """The address of the folder in which ``address`` lies."""
    return posixpath.dirname(address.rstrip("/")) if is_remote(address) else str(Path(address).parent)


def above(address: str, most: int) -> Iterator[tuple[str, str]]:
    """Up to ``most`` folders above ``address``, the nearest first, each with the name that ``address`` has in it."""
    if not is_remote(address):
        path = Path(address).absolute()
        yield from ((str(folder), path.relative_to(folder).as_posix()) for folder in path.parents[:most])
        return
    scheme, _, rest = address.rstrip("/").partition("://")
    parts = rest.split("/")
    for count in range(1, min(most, len(parts) - 1) + 1):
        yield f"{scheme}://{'/'.join(parts[:-count])}", "/".join(parts[-count:])
