"""Batches for training: which samples, how flipped and how turned follows from the seed and the step alone.

So a run that goes on after a crash needs no state of a random generator. Where samples are drawn by their losses
(:mod:`unetpipe.data.focus`), which ones are in a pass follows from those in earlier passes too.
"""

import functools
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from unetpipe.config.learning import BATCHES_AHEAD
from unetpipe.data.samples import decode
from unetpipe.volume import IGNORE

_MOST_BYTES_IN_MEMORY = 1 << 30

_ORDER, _TURNS, _UPSIDE_DOWN = 0, 1, 2
"""Streams of random numbers that one seed gives."""

WHOLE = slice(None)

Order = Callable[[int], NDArray[np.int64]]
"""The samples of a pass, by its number, in the order in which they come."""


@dataclass(frozen=True)
class Batch:
    """Samples as the loss takes them.

    ``image``: (n, z, y, x) float32, normalised grey values. ``label``: (n, z', y', x') int64, class indices, 0 where
    the label is unknown. ``weight``: (n, z', y', x') float32, 0 where the label is unknown. ``samples``: the
    numbers of all samples of the batch, those too of which another process has the voxels.
    """

    image: NDArray[np.float32]
    label: NDArray[np.int64]
    weight: NDArray[np.float32]
    samples: tuple[int, ...]


class Samples:
    """The samples in ``store``, the Zarr group that the rule ``augment`` writes.

    ``count`` is the number of training samples, ``tiles`` that of the tiles of the validation volumes.
    """

    def __init__(self, store: Path) -> None:
        arrays = [zarr.open_array(store / "train" / name, mode="r") for name in ("image", "label", "weight")]
        fits = sum(array.nbytes for array in arrays) <= _MOST_BYTES_IN_MEMORY
        self._image, self._label, self._weight = (np.asarray(array[...]) if fits else array for array in arrays)
        self._tiles = zarr.open_array(store / "validate" / "image", mode="r")
        self._truth = zarr.open_array(store / "validate" / "label", mode="r")
        self.count = arrays[0].shape[0]
        self.tiles = self._tiles.shape[0]
        # Where a border differs along y and x, labels of square images are oblong, or the other way round.
        self._square = all(y == x for y, x in (array.shape[2:] for array in arrays))

    def batches(
        self, steps: range, size: int, seed: int, order: Order | None = None, part: slice = WHOLE
    ) -> Iterator[Batch]:
        """The batches of ``steps``; the next ones are read while one is in use.

        The order of a pass is asked for when at least all but the last ``BATCHES_AHEAD`` batches before it are used.
        """
        with ThreadPoolExecutor(max_workers=1) as reader:
            coming: deque[Future[Batch]] = deque()
            for step in steps:
                coming.append(reader.submit(self.batch, step, size, seed, order, part))
                if len(coming) > BATCHES_AHEAD:
                    yield coming.popleft().result()
            while coming:
                yield coming.popleft().result()

    def batch(self, step: int, size: int, seed: int, order: Order | None = None, part: slice = WHOLE) -> Batch:
        """The ``size`` samples of a step: unless ``order`` says otherwise, each pass takes all once, shuffled.

        Only the voxels of ``part`` of them are read.

        Each is flipped and turned by one of the eight symmetries of the square; of those, a tile that is not square has
        the four that keep its shape. One of several sections may be turned upside down too.
        """
        random = np.random.default_rng([seed, _TURNS, step])
        upside_down = iter(np.random.default_rng([seed, _UPSIDE_DOWN, step]).integers(2, size=size))
        picks = []
        for position in range(step * size, (step + 1) * size):
            number, place = divmod(position, self.count)
            samples = shuffled(seed, number, self.count) if order is None else order(number)
            sample = int(samples[place])
            picks.append((sample, bool(random.integers(2)), int(random.integers(4)), bool(next(upside_down))))
        image, label, weight = (
            np.stack(
                [
                    self._turned(np.asarray(array[sample]), flip, turns, down)
                    for sample, flip, turns, down in picks[part]
                ]
            )
            for array in (self._image, self._label, self._weight)
        )
        unknown = label == IGNORE
        return Batch(
            image=decode(image),
            label=np.where(unknown, 0, label).astype(np.int64),
            weight=np.where(unknown, np.float32(0), weight.astype(np.float32)),
            samples=tuple(sample for sample, _, _, _ in picks),
        )

    def validation(self) -> Iterator[tuple[NDArray[np.float32], NDArray[np.uint8]]]:
        """The tiles of the validation volumes, one by one: (1, z, y, x) float32, and labels (1, z', y', x') uint8."""
        for tile in range(self.tiles):
            yield decode(np.asarray(self._tiles[tile])[None]), np.asarray(self._truth[tile])[None]

    def _turned(self, voxels: NDArray[Any], flip: bool, turns: int, upside_down: bool) -> NDArray[Any]:
        voxels = np.rot90(voxels, turns if self._square else 2 * (turns % 2), axes=(1, 2))
        return voxels[:: -1 if upside_down else 1, :, :: -1 if flip else 1]


@functools.lru_cache(maxsize=2)
def shuffled(seed: int, number: int, count: int) -> NDArray[np.int64]:
    """The order of ``count`` samples in the pass ``number``, each of them once."""
    return np.random.default_rng([seed, _ORDER, number]).permutation(count)
