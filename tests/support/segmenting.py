"""A finished prediction of given probabilities, to number the objects of, and the objects of a volume in memory."""

import dataclasses
import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import cc3d
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

import unetpipe
from unetpipe import config
from unetpipe import segment as module
from unetpipe.arrays import encode, open_array, read_metadata
from unetpipe.files import read_json, write_json
from unetpipe.grid import Plan, Region, Shape, stack_geometry
from unetpipe.segment import segment
from unetpipe.segmentation import basins, cut, pieces
from unetpipe.selection import Selection
from unetpipe.storage import folder_at, join
from unetpipe.volume import VolumeFile, create

CLASSES = ["membrane", "inside"]
VOXEL_SIZE_NM = (40.0, 4.0, 4.0)
ORIGIN_NM = (80.0, 4.0, 0.0)

Voxels = NDArray[np.uint8]


def blobs(shape: Shape, seed: int = 0, smooth: float = 1.5) -> Voxels:
    """Probabilities of many objects, some of a few voxels."""
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=shape), (smooth / 2, smooth, smooth))
    return np.clip(127 + 90 * noise / (noise.std() or 1), 0, 255).astype(np.uint8)


def finished(
    probability: Voxels,
    folder: Path,
    block: Shape,
    chunk: Shape | None = None,
    region: Region | None = None,
    store: str | None = None,
) -> tuple[Path, Path]:
    """``volume.json`` and ``allocated.json`` of a prediction, in blocks, of the second class; in ``store`` if given."""
    shape = probability.shape
    volume = VolumeFile(
        name="v", image="", labels=None, shape=shape, first_section=0, dtype="uint8", voxel_size_nm=VOXEL_SIZE_NM,
        origin_nm=ORIGIN_NM, range=None, mean=(0.0,) * shape[0], std=(1.0,) * shape[0], missing_sections=(),
        image_digest="image's", labels_digest=None, source={}, extent=None, version=unetpipe.__version__,
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    volume.write(folder / "volume.json")
    plan = Plan(shape, (1, 1, 1), block, chunk or block, 1, stack_geometry([(1, 1, 1)]))
    selection = Selection.of(plan, region)
    place = folder_at(store or folder / "prediction").below("probability.zarr")
    create(
        place, shape=(2, *shape), dtype="uint8", chunk=(1, *plan.chunk), shard=(2, *block),
        voxel_size_nm=VOXEL_SIZE_NM, channels=CLASSES,
    )  # fmt: skip
    array = place.below("0")
    metadata = read_metadata(array)
    for each in selection.blocks(plan):
        voxels = probability[each.write.slices]
        array.write(each.shard, encode(metadata, np.stack([255 - voxels, voxels])))
    write_json(
        folder / "allocated.json",
        {
            "volume": "v",
            "volume_file": str(folder / "volume.json"),
            "probability": place.address,
            "array": "0",
            "classes": CLASSES,
            "key": {
                "input": {}, "engine": "engine's", "backend": "openvino", "device_class": {},
                "version": unetpipe.__version__,
            },
            "plan": {**dataclasses.asdict(plan), "blocks": math.prod(plan.block_counts)},
            "selection": selection.as_json(),
        },
    )  # fmt: skip
    write_json(folder / "job-0.json", {"digest": "prediction's"})
    return folder / "volume.json", folder / "allocated.json"


def numbered(volume: Path, allocated: Path, **changes: Any) -> dict[str, Any]:
    """What the rule does, and what it writes."""
    folder = allocated.parent
    settings = {name: changes.pop(name) for name in list(changes) if name in config.Segment.model_fields}
    arguments: dict[str, Any] = {
        "validation": [], "classes": CLASSES, "objects": "inside", "settings": config.Segment(**settings),
        "store": None, "cores": 2,
    }  # fmt: skip
    described = folder / "segments" / "segments.json"
    segment(volume, allocated, [folder / "job-0.json"], segments=described, **(arguments | changes))
    found: dict[str, Any] = read_json(described)
    return found


def stored(found: dict[str, Any]) -> NDArray[np.uint64]:
    """The objects that were written."""
    return np.asarray(open_array(join(found["segments"], found["array"]))[...])


def table(found: dict[str, Any]) -> NDArray[Any]:
    """The table that was written."""
    rows: NDArray[Any] = np.load(found["table"], allow_pickle=False)
    return rows


def in_memory(mask: NDArray[np.bool_], method: str = "components", min_voxels: int = 1) -> NDArray[np.uint64]:
    """The objects of a whole volume, by another library."""
    if method == "components":
        labels = cc3d.connected_components(mask, connectivity=6, out_dtype=np.uint64).reshape(mask.shape)
    else:
        labels, last = np.zeros(mask.shape, np.uint64), np.uint64(0)
        for z, section in enumerate(mask):
            own = cc3d.connected_components(section, connectivity=4, out_dtype=np.uint64).reshape(section.shape)
            labels[z] = np.where(own > 0, own + last, 0)
            last += own.max()
    numbers, first, sizes = np.unique(labels, return_index=True, return_counts=True)
    kept = (numbers > 0) & (sizes >= min_voxels)
    result = np.zeros(mask.shape, np.uint64)
    for number, label in enumerate(numbers[kept][np.argsort(first[kept])], 1):
        result[labels == label] = number
    return result


@contextmanager
def in_this_process(at_once: int | None = None) -> Iterator[None]:
    """Let the tasks run here, one by one, with pieces of so many voxels at most."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "connect", lambda workers: nullcontext())
        patch.setattr(module, "for_each", lambda client, function, tasks: map(function, list(tasks)[::-1]))
        if at_once is not None:
            patch.setattr(cut, "_AT_ONCE", at_once)
        pieces.open_places.cache_clear()
        for kept in (basins._known, basins._offsets, basins._basins):
            kept.cache_clear()
        yield


def flooded_in_memory(values: Voxels, low: int, high: int, min_voxels: int = 1) -> NDArray[np.uint64]:
    """The watershed of a whole volume, edge by edge as it is defined (Kruskal), numbered by first voxels."""
    flat = values.reshape(-1).tolist()
    indices = np.arange(values.size).reshape(values.shape)
    edges = []
    for axis in range(3):
        ends = (np.take(indices, range(part, values.shape[axis] - 1 + part), axis).reshape(-1) for part in (0, 1))
        edges.extend(
            tuple(sorted(((-flat[voxel], voxel) for voxel in pair), reverse=True))
            for pair in zip(*(end.tolist() for end in ends), strict=True)
            if min(flat[pair[0]], flat[pair[1]]) > low
        )
    seeds = in_memory(values > high).reshape(-1).tolist()
    parents = list(range(values.size))
    # The voxels of a seed are one from the start.
    first: dict[int, int] = {}
    for voxel, seed in enumerate(seeds):
        if seed:
            parents[voxel] = first.setdefault(seed, voxel)

    def top(voxel: int) -> int:
        while parents[voxel] != voxel:
            parents[voxel] = parents[parents[voxel]]
            voxel = parents[voxel]
        return voxel

    for later, earlier in sorted(edges):
        one, other = top(later[1]), top(earlier[1])
        if one != other and not (seeds[one] and seeds[other]):
            # A seed stays on top.
            parents[other if seeds[one] else one] = one if seeds[one] else other
    grown = np.array([seeds[top(voxel)] for voxel in range(values.size)], np.int64).reshape(values.shape)
    numbers, begins, sizes = np.unique(grown, return_index=True, return_counts=True)
    kept = (numbers > 0) & (sizes >= min_voxels)
    result = np.zeros(values.shape, np.uint64)
    for number, seed in enumerate(numbers[kept][np.argsort(begins[kept])], 1):
        result[grown == seed] = number
    return result
