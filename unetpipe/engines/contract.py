"""What every engine promises, whatever library runs it.

An engine is one network, compiled for one shape of call. It takes normalised grey values and gives probabilities, both
as NumPy arrays:

::

    image (n, z, y, x) float32  -->  probability (n, classes, z', y', x') float32

z', y', x' are twice the border less. A network of 2 dimensions reads as many sections as it sees and gives one.

The law that all of them are held to: a voxel of the result depends on the voxels that the network sees for it, never on
the shape of the call, its place in the batch, or the number of threads.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from unetpipe.config import Precision
from unetpipe.grid import Shape

Purpose = Literal["build", "run"]
Facts = dict[str, Any]
"""JSON data."""


@dataclass(frozen=True)
class Profile:
    """The calls that an engine is built for.

    ``batch``: least, usual and most tiles per call. ``tile``: input of the network along (z, y, x) in voxels. The tile
    is fixed, because a compiler that is free in both writes other bytes every time, and slower kernels.
    """

    batch: tuple[int, int, int]
    tile: Shape

    def __post_init__(self) -> None:
        least, usual, most = self.batch
        if not 1 <= least <= usual <= most:
            raise ValueError(f"a profile for batches of {self.batch} (least, usual, most)")

    def shapes(self) -> tuple[tuple[int, int, int, int], ...]:
        """Least, usual and largest input (n, z, y, x)."""
        return tuple((n, *self.tile) for n in self.batch)


class Engine(ABC):
    """A network, ready for calls of one shape. Not to be shared between threads.

    Parameters
    ----------
    library:
        The library and its version.
    device:
        What it runs on, in words.
    shape:
        The shape (n, z, y, x) of every call.
    """

    def __init__(self, library: str, device: str, shape: tuple[int, int, int, int]) -> None:
        self.library = library
        self.device = device
        self.shape = shape

    def run(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Probabilities (n, classes, z', y', x') of ``batch`` (n, z, y, x); ValueError if not of :attr:`shape`."""
        return next(self.stream([batch]))

    def stream(self, batches: Iterable[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
        """Results of many calls, in order, each in memory of its own.

        Where the device allows it, copies and calls overlap. An array of ``batches`` may be overwritten as soon as the
        next one is asked for.
        """
        return self._stream(self._check(batch) for batch in batches)

    @abstractmethod
    def _stream(self, batches: Iterable[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
        """:meth:`stream` for contiguous arrays of the right shape."""

    def _check(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        if batch.shape != self.shape:
            raise ValueError(f"a call of shape {batch.shape} to an engine for {self.shape}")
        return np.ascontiguousarray(batch, np.float32)

    @abstractmethod
    def close(self) -> None:
        """Give back memory and device; the engine is of no use afterwards."""


class Backend(Protocol):
    """A library that makes engines from ONNX files, and runs them."""

    @property
    def name(self) -> str:
        """As in the settings."""

    def unavailable(self, purpose: Purpose, precision: Precision) -> str | None:
        """Why it cannot build, or run, engines of ``precision`` here; None if it can.

        A library that would compute in another precision than it is asked for cannot.
        """

    def form(self, precision: Precision) -> str:
        """The form of the network that it takes for ``precision``: see :class:`unetpipe.engines.onnx_file.OnnxFile`."""

    def device_class(self) -> Facts:
        """What of this machine and of the library can change a voxel: on equal ones an engine gives equal bits."""

    def binding(self) -> Facts:
        """What must be the same where an engine is built and where it is loaded."""

    def build(self, onnx: Path, engine: Path, profile: Profile) -> Facts:
        """Write the engine of the network ``onnx``, of the precision that the file is of.

        Returns
        -------
        What is worth knowing of it; ``profile``: the calls that it can take, None for all that the network can take.

        Raises
        ------
        UserError
            If the library cannot build it, or not so that it keeps the law.
        """

    def load(self, engine: Path, tile: Shape, batch: int, threads: int) -> Engine:
        """The engine for calls of ``batch`` tiles of ``tile`` (z, y, x), with so many CPU threads.

        Raises
        ------
        UserError
            If the library or the device cannot load it.
        """
