"""What every source of voxels offers, whatever its format."""

import hashlib
import struct
import tokenize
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from unetpipe.errors import UserError
from unetpipe.grid import Shape, triple

ZARR_METADATA = ("zarr.json", ".zarray", ".zgroup", ".zattrs")
"""Files of metadata, of a Zarr of version 2 or 3."""

VoxelSize = tuple[float, float, float]
"""Edge lengths of a voxel in nm, (z, y, x)."""

DECODING_ERRORS = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    EOFError,
    ArithmeticError,
    AssertionError,
    RuntimeError,
    SyntaxError,
    struct.error,
    tokenize.TokenError,
)
"""What readers raise on a damaged file: codecs RuntimeError, Pillow SyntaxError, NumPy TokenError, tifffile most."""


def refusal(address: str, found: str, repair: str) -> UserError:
    """The error for a volume that cannot be read."""
    return UserError(f"the volume {address} was to be read", found, repair)


class Source(ABC):
    """A volume with one value per voxel, grey or label. Opening it reads metadata alone.

    Attributes
    ----------
    address:
        As the user gave it.
    shape:
        Voxels along (z, y, x). A 2D image is one section.
    dtype:
        In the byte order of this machine; bits (``bool``) count as uint8.
    voxel_size_nm:
        None where the file does not tell.
    origin_nm:
        Where the centre of the first voxel lies, (z, y, x); 0 unless the file tells.
    rows_at_once:
        Rows of a section that are decoded together: all of them, unless the format allows less.
    """

    origin_nm: VoxelSize = (0.0, 0.0, 0.0)

    def __init__(self, address: str, shape: Shape, dtype: np.dtype[Any], voxel_size_nm: VoxelSize | None) -> None:
        if dtype.kind not in "buif":
            raise refusal(address, f"voxels of type {dtype}", "convert them to integers or floating-point numbers")
        if 0 in shape:
            raise refusal(address, f"a shape of {shape} (z, y, x): no voxels", "give an image that has some")
        self.address = address
        self.shape = shape
        self.dtype: np.dtype[Any] = np.dtype(np.uint8) if dtype.kind == "b" else dtype.newbyteorder("=")
        self.voxel_size_nm = voxel_size_nm
        self.rows_at_once = shape[1]

    @abstractmethod
    def read(self, first: int, end: int) -> NDArray[Any]:
        """The sections from ``first`` to ``end``, without ``end``: (end - first, y, x) of :attr:`dtype`.

        Memory is bounded by these sections.

        Raises
        ------
        UserError
            If the file does not hold what its metadata promise.
        """

    def read_rows(self, first: int, end: int, low: int, high: int) -> NDArray[Any]:
        """Of the same sections the rows from ``low`` to ``high``: (end - first, high - low, x).

        Memory is bounded by these rows and :attr:`rows_at_once` of each section.
        """
        return self.read(first, end)[:, low:high]

    def labelled(self, z: int) -> bool:  # noqa: ARG002 – of those that know
        """Whether there are voxels for section ``z``; only labels of a series leave sections out."""
        return True

    @abstractmethod
    def listing(self) -> str:
        """SHA-256 over metadata, names, sizes and times of the files: no pass over the voxels."""

    def close(self) -> None:  # noqa: B027 – not every source keeps a file open
        """Give the files back."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class SectionSource(Source):
    """A volume whose sections are decoded one by one, ``threads`` of them at a time."""

    threads = 1

    @abstractmethod
    def section(self, z: int) -> NDArray[Any]:
        """Section ``z``: (y, x). Several threads may call it at once."""

    def read(self, first: int, end: int) -> NDArray[Any]:
        """The sections from ``first`` to ``end``, without ``end``."""
        return self._filled(first, end, self.shape[1], self.section)

    def rows(self, z: int, low: int, high: int) -> NDArray[Any]:
        """The rows from ``low`` to ``high`` of section ``z``: (y, x). Several threads may call it at once."""
        return self.section(z)[low:high]

    def read_rows(self, first: int, end: int, low: int, high: int) -> NDArray[Any]:
        """The rows from ``low`` to ``high`` of the sections from ``first`` to ``end``."""
        return self._filled(first, end, high - low, lambda z: self.rows(z, low, high))

    def _filled(self, first: int, end: int, height: int, read: Callable[[int], NDArray[Any]]) -> NDArray[Any]:
        slab = np.empty((end - first, height, self.shape[2]), self.dtype)

        def fill(z: int) -> None:
            slab[z - first] = read(z)

        with ThreadPoolExecutor(self.threads) as pool:
            list(pool.map(fill, range(first, end)))
        return slab


def as_volume(address: str, shape: Iterable[int]) -> Shape:
    """``shape`` as (z, y, x), where a 2D image is one section; UserError for any other number of axes."""
    sizes = tuple(shape)
    if len(sizes) not in (2, 3):
        raise refusal(
            address,
            f"an array of shape {sizes}: {len(sizes)} axes",
            "give one value per voxel along (z, y, x): one channel, one time point",
        )
    return triple((1, *sizes)[-3:])


def listing_digest(files: Iterable[Path], root: Path) -> str:
    """SHA-256 over the names below ``root``, sizes and times of ``files``, in their order."""
    result = hashlib.sha256()
    for file in files:
        status = file.stat()
        result.update(f"{file.relative_to(root)}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return result.hexdigest()


def some(names: Iterable[str], most: int = 6) -> str:
    """The first few of ``names``, and how many there are besides."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
