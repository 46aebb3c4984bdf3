"""Zarr stores of the package's making, opened by zarr-python: another implementation than the package reads with."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import zarr

from unetpipe.arrays import shard_name
from unetpipe.storage import folder_at
from unetpipe.volume import LEVEL, create


def make_store(path: Path, **how: Any) -> zarr.Array[Any]:
    """A new volume, as :func:`unetpipe.volume.create` makes it; gives its array for writing."""
    create(folder_at(path), **how)
    return open_writable(str(path / LEVEL))


def open_writable(address: str) -> zarr.Array[Any]:
    """An array for writing: all chunks are written, whatever they hold."""
    return zarr.open_array(address, mode="r+").with_config({"write_empty_chunks": True})


def shard_path(array: zarr.Array[Any], start: Sequence[int]) -> Path:
    """The file of the shard that begins at a voxel."""
    return Path(str(array.store_path.store.root), array.path, shard_name(array.shards or array.chunks, start))  # type: ignore[attr-defined]
