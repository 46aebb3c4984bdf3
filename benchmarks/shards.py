"""Writing and reading shards, on disk and in a bucket, against TensorStore alone on the same voxels."""

import math
import os
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts
from numpy.typing import NDArray

from benchmarks.rows import Row, Rows, Skipped
from benchmarks.setting import undamaged
from benchmarks.timing import ratios
from unetpipe.arrays import open_array, read_metadata
from unetpipe.grid import Shape
from unetpipe.storage import Folder, folder_at
from unetpipe.volume import LEVEL, create, write_shards

SHAPE: Shape = (32, 2048, 2048)
CHUNK: Shape = (8, 128, 128)
SHARD: Shape = (8, 1024, 1024)
_BUCKET = "shards"


def against_tensorstore(shape: Shape = SHAPE, rounds: int = 5) -> Rows:
    """Of voxels as in micrographs, so that their compression takes its time."""
    voxels = _voxels(shape)
    rows: Rows = []
    with tempfile.TemporaryDirectory() as folder:
        rows += _compared(folder_at(Path(folder, "local")), voxels, "disk", rounds)
        try:
            from tests.support import buckets
        except ModuleNotFoundError as error:
            return [*rows, Skipped("shards in a bucket", f"{error.name} is not installed")]
        with buckets.server_on_disk(Path(folder, "s3"), _BUCKET) as endpoint:
            os.environ |= buckets.environment(endpoint)
            rows += _compared(folder_at(f"s3://{_BUCKET}/ours"), voxels, "S3", rounds)
    return rows


def _voxels(shape: Shape) -> NDArray[np.uint8]:
    """Sections of the phantom, repeated, each with noise of its own."""
    image, _ = undamaged(min(1024, *shape[1:]))
    times = [math.ceil(n / m) for n, m in zip(shape, image.shape, strict=True)]
    whole = np.minimum(np.tile(image, times)[: shape[0], : shape[1], : shape[2]], 247)
    return whole + np.random.default_rng(0).integers(0, 8, shape, np.uint8)


def _compared(place: Folder, voxels: NDArray[np.uint8], where: str, rounds: int) -> Rows:
    """Both write durably: TensorStore syncs its files unless it is told not to."""
    ours, theirs = (place.below(name) for name in ("ours.zarr", "theirs.zarr"))
    for each in (ours, theirs):
        create(each, shape=voxels.shape, dtype="uint8", chunk=CHUNK, shard=SHARD, voxel_size_nm=(40, 4, 4))
    level = ours.below(LEVEL)
    metadata = read_metadata(level)
    spec: dict[str, Any] = {"driver": "zarr3", "kvstore": theirs.below(LEVEL).kvstore(), "metadata": metadata}
    opened: Any = ts.open({**spec, "store_data_equal_to_fill_value": True}, open=True).result()

    def write() -> None:
        opened.write(voxels).result()

    def read() -> None:
        found = opened.read().result()
        assert found.shape == voxels.shape

    what = f"{voxels.nbytes / 2**20:.0f} MiB in shards of {' x '.join(map(str, SHARD))}, {where}"
    works = [
        ("write", partial(write_shards, level, (0, 0, 0), voxels), write),
        ("read", partial(_read, level), read),
    ]
    return [
        Row(f"{verb} {what}", "TensorStore alone", ratios(mine, other, rounds), 0.9, brief=f"{verb} shards, {where}")
        for verb, mine, other in works
    ]


def _read(level: Folder) -> NDArray[Any]:
    return open_array(level.address)[...]
