"""An engine whose answer is the mean over a tile and its mirror images.

Legal tiles fill the windows of every pooling, from end to end, so the windows of a mirrored tile are those of the tile,
mirrored: a voxel depends on the voxels around it and on where the windows lie in the volume, as without mirroring.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from unetpipe.engines.contract import Engine
from unetpipe.grid import AXES


def mirror_images(axes: Sequence[str]) -> list[tuple[int, ...]]:
    """Along which axes of an array (..., z, y, x) each image is mirrored, in the order in which answers are summed.

    Of n axes these are 2**n: first none, then one axis at a time, and so on, z before y before x.
    """
    chosen = [number - len(AXES) for number, axis in enumerate(AXES) if axis in axes]
    return [group for count in range(len(chosen) + 1) for group in itertools.combinations(chosen, count)]


def mirrored(engine: Engine, axes: Sequence[str]) -> Engine:
    """``engine``, or, where there are ``axes`` of z, y and x, the mean of what it answers to all mirror images."""
    return _Mirrored(engine, axes) if axes else engine


class _Mirrored(Engine):
    """Calls of the same shape, one for each image; between them lies one sum, whatever their number."""

    def __init__(self, engine: Engine, axes: Sequence[str]) -> None:
        super().__init__(engine.library, engine.device, engine.shape)
        self._engine = engine
        self._images = mirror_images(axes)

    def _stream(self, batches: Iterable[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
        answers = self._engine.stream(np.flip(batch, axes) for batch in batches for axes in self._images)
        # A power of two: what is left to round are the sums.
        share = np.float32(1 / len(self._images))
        for total in answers:
            for axes in self._images[1:]:
                total += np.flip(next(answers), axes)
            total *= share
            yield total

    def close(self) -> None:
        """Close the engine."""
        self._engine.close()
