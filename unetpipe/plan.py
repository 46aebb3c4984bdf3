"""Choose how a volume is cut: the layout that gives the most voxels a second, within memory and seconds of a block.

Pure arithmetic: what a call of the engine costs is asked of a function (:mod:`unetpipe.measure`).
"""

import itertools
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence

from unetpipe.errors import UserError
from unetpipe.grid import Geometry, Plan, Shape, triple
from unetpipe.layout import Call, Layout, Limits, Measure, Rate, tiles_of

log = logging.getLogger(__name__)

ROOMY = 0.80
"""Share of what the network reads that a layout should keep, where that costs little."""

_CHEAP = 0.95
"""Of the best rate: a roomy layout that is as fast as this is taken instead of the fastest."""

_MOST_OF_A_BLOCK = {2: (8, 1, 1), 3: (32, 512, 512)}
"""By the network's dimensions, voxels (z, y, x) of a block at most, but a whole tile at least.

So a shard has some megabytes, however large the volume."""

_LENGTHS = {2: ((1,), (256, 512, 1024, 1536, 2048, 3072)), 3: ((8, 16, 32, 64), (96, 128, 192, 256, 384))}
"""By the network's dimensions, voxels along z, and along y and x, that a tile to try keeps at most."""

_LONGEST = 4
"""Times as long as wide is a tile to try, at most."""

_SMALL_CALL = 2**20
"""Voxels: tiles that are smaller are also tried several at a time, up to so many voxels."""

_PROMISING = 0.6
"""A tile that keeps less than this share of what the best one keeps need not be tried: no cache makes up for it."""

_CHUNK = 128
_LEAST_CHUNK = 64
"""Voxels of a chunk along y and x, at most and, where the poolings allow it, at least."""

_MOST_SECONDS = 10.0
_SHARE = 0.05
"""Measuring more than one layout takes so long at most, and such a share of the prediction."""

_OF_A_PROCESS_MB = 150.0
"""What a process with its libraries needs, whatever the call."""


class TooMuchError(UserError):
    """Blocks that need more memory or seconds than there are."""


def choose(
    shape: Shape,
    geometry: Geometry,
    *,
    tile: Sequence[int] | None,
    batch: int | None,
    most_batch: int,
    limits: Limits,
    measure: Measure,
    clock: Callable[[], float] = time.monotonic,
) -> Layout:
    """The layout for a volume of ``shape`` (z, y, x).

    Parameters
    ----------
    tile:
        Input of the network (z, y, x) in voxels, where it is given.
    batch:
        Tiles per call, where it is given; else at most ``most_batch``.
    measure:
        Asked for the usual layout; for others only while that takes seconds, and little beside the prediction.

    Raises
    ------
    UserError
        If the network cannot take ``tile``, if no layout keeps within the limits, or as ``measure`` does.
    """
    usual, *others = calls(shape, geometry, tile, batch, most_batch)
    promise = {call: _share(shape, geometry, call.tile) for call in (usual, *others)}
    least = _PROMISING * max(promise.values())
    found: list[Layout] = []
    failures: dict[Call, UserError] = {}
    seen: list[Rate] = []
    began = clock()
    for call in (usual, *others):
        if found and (promise[call] < least or not _worth_measuring(call, found[0], clock() - began)):
            continue
        if too_much := _surely_too_much(call, seen, limits):
            failures[call] = too_much
            continue
        try:
            rate = measure(call)
            seen.append(rate)
            found.append(cut(shape, geometry, call, rate, limits))
        except UserError as error:
            failures[call] = error
        if call == usual:
            # It is measured anyway; what follows is measured for the choice alone.
            began = clock()
    if not found:
        # Where nothing could be measured, all have the same reason; of what is too much, the least says most.
        raise failures[min(failures, key=lambda call: call.voxels) if seen else usual]
    for failure in failures.values():
        # What is too much is no news; what the engine refuses is.
        log.log(logging.INFO if isinstance(failure, TooMuchError) else logging.WARNING, "%s", failure)
    return best(found)


def best(layouts: Sequence[Layout]) -> Layout:
    """The fastest, or the fastest of those that keep much, if that costs little."""
    fastest = max(layouts, key=lambda layout: layout.voxels_per_second)
    roomy = [
        layout
        for layout in layouts
        if layout.plan.kept_fraction >= ROOMY and layout.voxels_per_second >= _CHEAP * fastest.voxels_per_second
    ]
    return max(roomy, key=lambda layout: layout.voxels_per_second) if roomy else fastest


def calls(
    shape: Shape, geometry: Geometry, tile: Sequence[int] | None, batch: int | None, most_batch: int
) -> list[Call]:
    """Calls to try: the usual one first, then those that promise most.

    Each cuts the volume into equal tiles. Of each size, to a factor of two, the tile that computes least is tried; a
    small one also several at a time.

    Raises
    ------
    UserError
        If the network cannot take ``tile``.
    """
    tiles = _sizes(shape, geometry) if tile is None else [_legal(triple(tile), geometry)]
    if batch is not None:
        return [Call(found, batch) for found in tiles]
    counts = {found: _together(shape, geometry, found, most_batch) for found in tiles}
    return [Call(found, count) for found in tiles for count in sorted({1, counts[found]})]


def _sizes(shape: Shape, geometry: Geometry) -> list[Shape]:
    """The usual tile, and of each size the one that computes least, in the order of what they compute in vain."""
    usual = _even(shape, geometry.most_kept, geometry)
    sizes: dict[int, Shape] = {}
    along_z, across = _LENGTHS[geometry.dimensions]
    for most in itertools.product(along_z, across, across):
        found = _even(shape, most, geometry)
        kept = geometry.kept(found)
        if max(kept[1:]) > _LONGEST * min(kept[1:]):
            continue
        size = round(math.log2(math.prod(found)))
        if size not in sizes or _share(shape, geometry, found) > _share(shape, geometry, sizes[size]):
            sizes[size] = found
    others = [found for found in sizes.values() if found != usual]
    return [usual, *sorted(others, key=lambda found: _share(shape, geometry, found), reverse=True)]


def cut(shape: Shape, geometry: Geometry, call: Call, rate: Rate, limits: Limits) -> Layout:
    """The blocks for one shape of calls: the largest that keep all workers busy until the end.

    Raises
    ------
    UserError
        If the least block is too much for the memory or the seconds of a block.
    """
    kept = geometry.kept(call.tile)
    layouts = [
        Layout(
            Plan(
                shape=shape,
                tile=call.tile,
                block=block,
                chunk=(block[0], _chunk(block[1]), _chunk(block[2])),
                batch=call.batch,
                geometry=geometry,
            ),
            rate,
            limits,
        )
        for block in _blocks(shape, kept, _MOST_OF_A_BLOCK[geometry.dimensions])
    ]
    least = layouts[-1]
    asked = f"blocks were to be planned for calls of {call} voxels (batch, z, y, x)"
    smaller = "set predict.tile or predict.batch to less"
    if least.memory_mb > limits.memory_mb:
        raise TooMuchError(
            asked,
            f"a worker needs {least.memory_mb:.0f} MB for them; predict.memory_mb allows {limits.memory_mb:.0f}",
            f"allow more, or {smaller}",
        )
    if least.block_seconds > limits.block_seconds:
        raise TooMuchError(
            asked,
            f"the least block takes {least.block_seconds:.3g} s; predict.block_seconds allows {limits.block_seconds:g}",
            f"allow more, or {smaller}",
        )
    fitting = [
        layout
        for layout in layouts
        if layout.memory_mb <= limits.memory_mb and layout.block_seconds <= limits.block_seconds
    ]
    soonest = min(layout.work_seconds for layout in fitting)
    return next(layout for layout in fitting if layout.work_seconds <= soonest / _CHEAP)


def one_writer_per_shard(block: Sequence[int], shard: Sequence[int]) -> None:
    """UserError if two blocks of ``block`` voxels could write one shard of ``shard`` voxels, (z, y, x).

    Two writers of one shard lose each other's chunks.
    """
    if any(b % s for b, s in zip(block, shard, strict=True)):
        raise UserError(
            f"blocks of {list(block)} voxels were to be written into shards of {list(shard)} (z, y, x)",
            "a block does not consist of whole shards, so two blocks could write one shard and lose chunks of it",
            "delete the store, so that it is made anew with a shard for each block",
        )


def _legal(tile: Shape, geometry: Geometry) -> Shape:
    if not geometry.is_legal(tile):
        near = geometry.tile_for([max(1, n) for n in geometry.output(tile)])
        raise UserError(
            "the prediction was to be planned",
            f"the network cannot take a tile of {list(tile)} (z, y, x)",
            f"set predict.tile to a size such as {list(near[3 - geometry.dimensions :])}, or leave it out",
        )
    return tile


def _even(shape: Shape, most: Sequence[int], geometry: Geometry) -> Shape:
    """The tile that cuts ``shape`` into as few as keep at most ``most`` voxels along each axis, all of one size."""
    kept = []
    for axis, (size, limit, pooling) in enumerate(zip(shape, most, geometry.pooling, strict=True)):
        count = math.ceil(size / limit)
        share = math.ceil(size / count / pooling) * pooling
        kept.append(share if axis == 0 else _with_chunks(share, pooling))
    return geometry.tile_for(kept)


def _with_chunks(kept: int, pooling: int) -> int:
    """``kept``, or a little more where that has no good chunks: of a prime number, each voxel would be one."""
    near = range(kept, kept + 16 * pooling, pooling)
    return next((size for size in near if size <= _CHUNK or _chunk(size) >= _LEAST_CHUNK), kept)


def _chunk(block: int) -> int:
    """The largest divisor of ``block`` that is at most 128."""
    return max(size for size in range(1, min(_CHUNK, block) + 1) if block % size == 0)


def _share(shape: Shape, geometry: Geometry, tile: Shape) -> float:
    """Voxels of the volume over voxels that the network reads for it."""
    return math.prod(shape) / (tiles_of(shape, geometry.kept(tile)) * math.prod(tile))


def _together(shape: Shape, geometry: Geometry, tile: Shape, most: int) -> int:
    """Small tiles of a block that are worth one call: a power of two."""
    kept = geometry.kept(tile)
    block = next(_blocks(shape, kept, _MOST_OF_A_BLOCK[geometry.dimensions]))
    count = min(most, _SMALL_CALL // math.prod(tile), tiles_of(block, kept))
    return 1 << (count.bit_length() - 1) if count > 0 else 1


def _blocks(shape: Shape, kept: Shape, most: Shape) -> Iterator[Shape]:
    """Blocks from the largest to one tile: fewer tiles along z first, then along y, then along x."""
    tiles = [max(1, min(m // k, math.ceil(n / k))) for n, k, m in zip(shape, kept, most, strict=True)]
    yield triple([count * k for count, k in zip(tiles, kept, strict=True)])
    for axis in range(3):
        while tiles[axis] > 1:
            tiles[axis] -= 1
            yield triple([count * k for count, k in zip(tiles, kept, strict=True)])


def _worth_measuring(call: Call, usual: Layout, spent: float) -> bool:
    """Whether there is time: a call to warm up, and at least one more, beside loading the engine."""
    expected = usual.rate.seconds_per_call * call.voxels / (usual.plan.batch * math.prod(usual.plan.tile))
    return spent + 0.5 + 3 * expected < min(_MOST_SECONDS, _SHARE * usual.seconds)


def _surely_too_much(call: Call, seen: Sequence[Rate], limits: Limits) -> TooMuchError | None:
    """Why ``call`` need not be measured, after smaller ones that were."""
    for rate in seen:
        times = call.voxels / rate.call.voxels
        memory = _OF_A_PROCESS_MB + times * (rate.memory_mb - _OF_A_PROCESS_MB)
        seconds = times * rate.seconds_per_call
        if times >= 1 and (memory > limits.memory_mb or seconds > limits.block_seconds):
            return TooMuchError(
                f"calls of {call} voxels (batch, z, y, x) were to be measured",
                f"by those of {rate.call}, a worker would need {memory:.0f} MB, and a call {seconds:.3g} s",
                "allow more with predict.memory_mb and predict.block_seconds",
            )
    return None
