"""Sections larger than memory: read in bands of rows, as large as a bound on bytes allows.

Where a format decodes rows by themselves, only these are read. A section that can only be decoded whole (such as a PNG,
or a compressed TIFF of one strip) is decoded once, and its rows wait on disk: so memory is bounded by one section.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetpipe.data.sources import Source

MOST_BYTES = 2**27
"""Of voxels that are read at once, unless a single row of shards has more."""

_MOST_BYTES_DECODED = 2**29
"""Of sections that are decoded whole at once, unless a single one has more."""

Rows = Callable[[int, int], NDArray[Any]]
"""The rows from one on to another one of some sections: (z, y, x)."""


def rows_within(most_bytes: int, row_bytes: int, step: int, count: int) -> int:
    """How many of ``count`` rows to treat at once: as many as ``most_bytes`` hold, whole steps, at least one step."""
    return count if count * row_bytes <= most_bytes else min(count, max(1, most_bytes // (row_bytes * step)) * step)


@contextmanager
def rows_of(source: Source, first: int, end: int, scratch: Path) -> Iterator[tuple[Rows, int]]:
    """A function that reads rows of the sections from ``first`` to ``end``, and how many to ask it for at once.

    Parameters
    ----------
    scratch:
        A folder on disk; nothing is left in it.
    """
    height, width = source.shape[1:]
    row_bytes = (end - first) * width * source.dtype.itemsize
    if height * row_bytes <= MOST_BYTES:
        slab = source.read(first, end)
        yield lambda low, high: slab[:, low:high], height
    elif source.rows_at_once * row_bytes <= 4 * MOST_BYTES:
        rows = rows_within(MOST_BYTES, row_bytes, source.rows_at_once, height)
        yield lambda low, high: source.read_rows(first, end, low, high), rows
    else:
        with _spooled(source, first, end, scratch) as read:
            yield read, rows_within(MOST_BYTES, row_bytes, 1, height)


@contextmanager
def _spooled(source: Source, first: int, end: int, scratch: Path) -> Iterator[Rows]:
    height, width = source.shape[1:]
    section_bytes = height * width * source.dtype.itemsize
    step = max(1, _MOST_BYTES_DECODED // section_bytes)
    with tempfile.TemporaryFile(dir=scratch) as file:
        for z in range(first, end, step):
            source.read(z, min(z + step, end)).tofile(file)

        def read(low: int, high: int) -> NDArray[Any]:
            found = np.empty((end - first, high - low, width), source.dtype)
            for z in range(end - first):
                file.seek(z * section_bytes + low * width * source.dtype.itemsize)
                file.readinto(found[z].data)
            return found

        yield read
