"""What is stored of an array that is used in place, from one pass over the names of its objects."""

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from unetpipe.arrays import METADATA, N5_METADATA, PRECOMPUTED_METADATA, Array, Found, read_info
from unetpipe.data.sources.contract import ZARR_METADATA, refusal
from unetpipe.data.sources.level import numbers, read_object
from unetpipe.extent import Extent
from unetpipe.grid import triple
from unetpipe.storage import folder_at

_METADATA = {*ZARR_METADATA, N5_METADATA}

_COMPRESSED = re.compile(r"(.*)\.(gz|br|zst|xz|bz2)$")

_MODULUS = 2**256


@dataclass(frozen=True, eq=False)
class Survey:
    """``listing``: SHA-256 that changes with any object. ``stored``: None where the names do not tell."""

    listing: str
    stored: Extent | None


def survey(address: str, array: Array, found: Found) -> Survey:
    """Look at all objects of ``array``, in any order; memory is bounded by a bit for each.

    Raises
    ------
    UserError
        If its chunks are stored in a way in which they would not be found, but taken for empty.
    OSError
        If the storage does not answer.
    """
    place, index_of = folder_at(array.address), _index_of(array, found)
    shape, shard = triple(array.shape), triple(array.shard)
    grid = [math.ceil(n / s) for n, s in zip(shape, shard, strict=True)]
    bits = np.zeros((grid[0], grid[1], math.ceil(grid[2] / 8)), np.uint8)
    # The sum does not depend on the order in which the storage names its objects.
    total = _digest(f"{PRECOMPUTED_METADATA}\0{json.dumps(_scale(found), sort_keys=True)}")
    for entry in place.entries(ordered=False):
        mark = f"{entry.size}\0{entry.mark}"
        if entry.name in _METADATA:
            mark = hashlib.sha256(place.read(entry.name)).hexdigest()
        total = (total + _digest(f"{entry.name}\0{mark}")) % _MODULUS
        if index_of is None:
            continue
        index = index_of(entry.name)
        if index is None:
            whole = _COMPRESSED.match(entry.name)
            if whole and index_of(whole[1]) is not None:
                raise refusal(
                    address,
                    f"chunks that were compressed after they were written, as {entry.name}, and would not be found",
                    f"decompress them to names such as {whole[1]}; CloudVolume writes them so with compress=False",
                )
        elif all(0 <= i < n for i, n in zip(index, grid, strict=True)):
            z, y, x = index
            bits[z, y, x // 8] |= 128 >> x % 8
    return Survey(f"{total:064x}", None if index_of is None else Extent(shape, shard, bits))


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode(errors="surrogateescape")).digest(), "big")


def _scale(found: Found) -> Mapping[str, Any]:
    """What of an ``info`` concerns one scale; nothing of other formats, whose metadata are objects of the array."""
    if found.scale is None:
        return {}
    info = read_info(found.place)
    scale: Mapping[str, Any] = next(scale for scale in info["scales"] if scale["key"] == found.scale)
    return {"data_type": info.get("data_type"), "type": info.get("type"), **scale}


def _index_of(array: Array, found: Found) -> Callable[[str], tuple[int, ...] | None] | None:
    """From the name of an object to its place in the grid (z, y, x); None where names do not tell of places."""
    if found.scale is not None:
        scale = _scale(found)
        if scale.get("sharding") is not None:
            return None
        offset = [int(value) for value in numbers(scale.get("voxel_offset")) or (0, 0, 0)]
        return _of_bounds(offset, array.shard[::-1], array.shape[::-1])
    if found.driver == "n5":
        numbered = _of_numbers("", "/")
        return lambda name: None if (index := numbered(name)) is None else index[::-1]
    if found.driver == "zarr":
        described = read_object(found.place, ".zarray") or {}
        separator = described.get("dimension_separator", ".")
        return _of_numbers(f"0{separator}" * (len(described["shape"]) - 3), separator)
    described = read_object(found.place, METADATA) or {}
    encoding = described.get("chunk_key_encoding", {})
    name, configuration = encoding.get("name"), encoding.get("configuration", {})
    separator = configuration.get("separator", "/" if name == "default" else ".")
    first = f"c{separator}" if name == "default" else ""
    return _of_numbers(first + f"0{separator}" * (len(described["shape"]) - 3), separator)


def _of_numbers(prefix: str, separator: str) -> Callable[[str], tuple[int, ...] | None]:
    pattern = re.compile(re.escape(prefix) + re.escape(separator).join(["(0|[1-9][0-9]*)"] * 3))

    def index(name: str) -> tuple[int, ...] | None:
        match = pattern.fullmatch(name)
        return None if match is None else tuple(map(int, match.groups()))

    return index


def _of_bounds(
    offset: Sequence[int], chunk: Sequence[int], shape: Sequence[int]
) -> Callable[[str], tuple[int, ...] | None]:
    """Of names ``x0-x1_y0-y1_z0-z1``, in voxels from ``offset`` on; all along (x, y, z)."""
    pattern = re.compile("_".join(["(-?[0-9]+)--?[0-9]+"] * 3))

    def index(name: str) -> tuple[int, ...] | None:
        match = pattern.fullmatch(name)
        if match is None:
            return None
        place = [(int(low) - o) // n for low, o, n in zip(match.groups(), offset, chunk, strict=True)]
        bounds = [
            (o + i * n, o + min((i + 1) * n, size)) for i, o, n, size in zip(place, offset, chunk, shape, strict=True)
        ]
        # A scale may have chunks of several sizes, of which one is read.
        return tuple(place[::-1]) if name == "_".join(f"{low}-{high}" for low, high in bounds) else None

    return index
