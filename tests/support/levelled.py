"""A prediction with levels: its store and its finest level, without a network; and what its levels must be."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from certificates import write_certificate
from numpy.typing import NDArray
from rates import allocate

from unetpipe.allocate import read_plan
from unetpipe.arrays import open_array
from unetpipe.config import Network
from unetpipe.files import read_json, write_json
from unetpipe.progress import Record, record_beside
from unetpipe.pyramid import pyramid
from unetpipe.selection import Selection
from unetpipe.storage import Folder, folder_at
from unetpipe.volume import write_shards

CLASSES = ["membrane", "inside", "outside"]
SHAPE = (11, 301, 214)
"""Odd along every axis: at 40 x 4 x 4 nm, of three levels."""


def make_certificate(folder: Path) -> Path:
    """Of an engine that nobody calls."""
    return write_certificate(folder / "engine", Network(depth=2).geometry)


def plan(folder: Path, make_volume: Callable[..., Path], shape: Sequence[int] = SHAPE, **settings: Any) -> Path:
    """The allocated.json of an empty prediction, in ``folder``; ``settings`` are those of the rule."""
    volume = folder / "volumes" / "v" / "volume.json"
    if not volume.exists():
        make_volume(
            np.zeros(shape, np.uint8), folder=folder, source={"sections": [0, shape[0]], "image_sections": shape[0]}
        )
    arguments = {"classes": CLASSES, "tile": [1, 124, 124], "batch": 1, "on_change": "refuse", "block_seconds": 0.1}
    allocated = folder / "allocated.json"
    allocate(volume, make_certificate(folder), allocated, **(arguments | settings))
    return allocated


def fill(allocated: Path, seed: int = 0, stored: NDArray[np.bool_] | None = None) -> None:
    """Probabilities in every wanted block, that add up to 255, as ``predict`` leaves them.

    ``stored``: for each voxel whether the image has it; None for all.
    """
    description = read_json(allocated)
    store = folder_at(description["probability"])
    rng = np.random.default_rng(seed)
    written = {}
    record = record_beside(store.address)
    for block in Selection.read(description).blocks(read_plan(description)):
        # Few values, so that classes are often equal.
        first = rng.choice(np.array([0, 85, 100, 255], np.uint8), block.write.shape)
        second = np.minimum(255 - first, rng.choice(np.array([0, 85, 100, 255], np.uint8), first.shape))
        voxels = np.stack([first, second, 255 - first - second])
        if stored is not None:
            voxels *= stored[block.write.slices]
        write_shards(store.below("0"), (0, *block.write.start), voxels)
        shard = store.below("0").read(block.shard)
        written[block.name] = hashlib.blake2b(shard, digest_size=16).hexdigest()
        record.append("some", {"name": block.name, "written": written[block.name], "bytes": len(shard)})
    write_json(allocated.with_name("job-0.json"), {"digest": hashlib.sha256(str(written).encode()).hexdigest()})


def make(allocated: Path, workers: int = 1, cores: int = 1) -> dict[str, Any]:
    """Make the levels in this process, or as many as ask for it; gives pyramid.json."""
    done = allocated.with_name("pyramid.json")
    pyramid(allocated, [allocated.with_name("job-0.json")], done, workers=workers, cores=cores)
    found: dict[str, Any] = read_json(done)
    return found


def store_of(allocated: Path) -> Folder:
    """The store."""
    return folder_at(read_json(allocated)["probability"])


def objects(allocated: Path) -> dict[str, bytes]:
    """All of the store."""
    place = store_of(allocated)
    return {entry.name: place.read(entry.name) for entry in place.entries()}


def made(allocated: Path) -> dict[str, bytes]:
    """What ``pyramid`` has written into the store."""
    return {
        name: data
        for name, data in objects(allocated).items()
        if not name.startswith("0/") and not name.endswith("zarr.json")
    }


def recorded(allocated: Path) -> list[str]:
    """The names in the record of the levels, one for each entry."""
    record = Record(f"{read_json(allocated)['probability'].rpartition('/')[0]}/pyramid-progress")
    return [entry["name"] for entry in record.entries()]


def levels(allocated: Path, group: str = "") -> list[NDArray[np.uint8]]:
    """The voxels of all levels, the finest first, read by TensorStore."""
    description = read_json(allocated)
    folder = "/".join(filter(None, [description["probability"], group]))
    return [np.asarray(open_array(f"{folder}/{level['number']}")[...]) for level in description["levels"]]


def wanted(allocated: Path) -> NDArray[np.bool_]:
    """For each voxel of the volume whether its block was predicted."""
    description = read_json(allocated)
    found = np.zeros(description["plan"]["shape"], np.bool_)
    for block in Selection.read(description).blocks(read_plan(description)):
        found[block.write.slices] = True
    return found


def expected_means(
    finest: NDArray[np.uint8], there: NDArray[np.bool_], factors: Sequence[Sequence[int]]
) -> list[NDArray[np.int64]]:
    """All levels of (c, z, y, x): what :mod:`unetpipe.downsample` must give, by sums over runs of each axis."""
    found = [finest.astype(np.int64)]
    for steps in factors[1:]:
        count = sums(there.astype(np.int64), steps)
        total = np.stack([sums(channel * there, steps) for channel in found[-1]])
        # Halves are rounded up: the floor of the mean and a half.
        found.append(np.where(count, (2 * total + count) // np.maximum(2 * count, 1), 0))
        there = count > 0
    return found


def expected_modes(finest: NDArray[np.uint8], factors: Sequence[Sequence[int]]) -> list[NDArray[np.int64]]:
    """All levels of class indices (z, y, x), 255 for none."""
    found = [finest.astype(np.int64)]
    for steps in factors[1:]:
        votes = np.stack([sums((found[-1] == index).astype(np.int64), steps) for index in range(len(CLASSES))])
        found.append(np.where(votes.any(axis=0), votes.argmax(axis=0), 255))
    return found


def sums(voxels: NDArray[np.int64], factors: Sequence[int]) -> NDArray[np.int64]:
    """Of blocks of ``factors`` voxels; the last ones are cut."""
    for axis, factor in enumerate(factors):
        voxels = np.add.reduceat(voxels, np.arange(0, voxels.shape[axis], factor), axis)
    return voxels
