"""The law of exact tiling, for engines: tiles are the whole, bit for bit."""

import itertools
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unetpipe.engines import onnx_file
from unetpipe.engines.contract import Backend, Engine, Facts, Profile
from unetpipe.grid import Region, Shape, triple

# What a volume is cut into, in units of the poolings: tiles that keep so much along (z, y, x), so many a call, threads.
CUTS = {
    2: [((1, 1, 1), 3, 1), ((1, 2, 3), 1, 2), ((1, 6, 2), 2, 1), ((1, 1, 24), 1, 3), ((1, 3, 12), 4, 2)],
    3: [((1, 1, 1), 3, 1), ((2, 1, 4), 1, 2), ((4, 3, 2), 2, 1), ((1, 1, 12), 1, 3), ((4, 3, 6), 2, 2)],
}
VOLUME = {2: (1, 6, 24), 3: (4, 3, 12)}

OpenOne = Callable[..., Engine]


class Build:
    """An engine of ``network`` in the file ``engine``, and all that were loaded of it."""

    def __init__(self, library: Backend, network: Path, engine: Path) -> None:
        self._library, self._network, self._engine = library, network, engine
        self._facts: Facts | None = None
        self._loaded: list[Engine] = []

    def open(self, tile: Shape, batch: int = 1, threads: int = 1) -> Engine:
        """Load it for a tile, and so many tiles per call and threads; build it, but once where it takes any call."""
        if self._facts is None or self._facts["profile"] is not None:
            self._facts = self._library.build(self._network, self._engine, Profile((1, batch, batch), tile))
        self._loaded.append(self._library.load(self._engine, tile, batch, threads))
        return self._loaded[-1]

    def close(self) -> None:
        """Close what was loaded."""
        for engine in self._loaded:
            engine.close()


def image(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    """Noise."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def assert_tiles_are_the_whole(network: Path, open_one: OpenOne, *, alone: bool = True) -> None:
    """However a volume is cut, batched and spread over threads, its voxels are those of one call for all of it.

    ``open_one``: gives the engine of ``network`` for a tile, and so many tiles per call and threads. ``alone``: it
    takes tiles of which a single voxel comes out.
    """
    geometry = onnx_file.read(network)[1].geometry
    kept = times(VOLUME[geometry.dimensions], geometry.pooling)
    whole = geometry.tile_for(kept)
    volume = image(1, *whole)
    within = (slice(None), *(slice(size) for size in kept))
    wanted = open_one(whole).run(volume)[0][within]
    for threads in (2, 3):
        found = open_one(whole, threads=threads).run(volume)[0][within]
        np.testing.assert_array_equal(found, wanted, err_msg=f"{threads} threads")
    for units, batch, threads in CUTS[geometry.dimensions]:
        step = times(units, geometry.pooling)
        tile = geometry.tile_for(step)
        if not alone and math.prod(geometry.output(tile)) == 1:
            step = times(step, (1, 1, 2))
            tile = geometry.tile_for(step)
        starts = list(itertools.product(*(range(0, size, one) for size, one in zip(kept, step, strict=True))))
        tiles = np.stack([volume[0][Region.of(start, tile).slices] for start in starts])
        assert tiles.shape[1:] == tile
        engine = open_one(tile, batch, threads)
        missing = -len(tiles) % batch
        tiles = np.concatenate([tiles, np.zeros((missing, *tile), np.float32)])
        results = np.concatenate(list(engine.stream(np.split(tiles, len(tiles) // batch))))
        for start, result in zip(starts, results[: len(starts)], strict=True):
            np.testing.assert_array_equal(
                result[(slice(None), *(slice(size) for size in step))],
                wanted[(slice(None), *Region.of(start, step).slices)],
                err_msg=f"tile {tile} at {start}, batches of {batch}, {threads} threads",
            )


def times(shape: Shape, factors: Shape) -> Shape:
    return triple([size * factor for size, factor in zip(shape, factors, strict=True)])
