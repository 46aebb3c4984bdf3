"""Samples on the disk: what augment writes and training reads.

``samples.zarr`` holds two groups, ``train`` and ``validate``, each with the arrays

=========  ==================  =======  ==========================================================
image      (n, z, y, x)        uint8    encoded grey values (:func:`encode`)
label      (n, z', y', x')     uint8    class indices, 255 = ignored; the network's border less
weight     (n, z', y', x')     float16  of each voxel in the loss; only in ``train``
source     (n, 5)              int64    index of the volume, z, y, x of the centre, seed of the sample
=========  ==================  =======  ==========================================================

The centre is voxel n // 2 of the tile along each axis. The index of a volume is its place in ``samples.json``
(:class:`SamplesFile`), which is written last.
"""

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import ZstdCodec

from unetpipe.files import read_json, write_json
from unetpipe.grid import AXES, Shape
from unetpipe.storage import folder_at
from unetpipe.volume import write_shards

SHARD = 8
"""Samples in a shard. One task writes them: few enough that hundreds of samples keep many workers busy."""

_ZERO = 128
_PER_UNIT = 25.0

BLACK = -_ZERO / _PER_UNIT
"""The darkest normalised grey value that a sample can hold; the brightest is nearly as far on the other side."""

_KEY = "key"


def encode(grey: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Normalised grey values as bytes: steps of 0.04 standard deviations from -5.12 to 5.08, 0 exact.

    A step is less than two grey values of a section that fills a byte; what lies beyond the ends is clipped.
    """
    steps = np.rint(grey * np.float32(_PER_UNIT)) + np.float32(_ZERO)
    data: NDArray[np.uint8] = np.clip(steps, 0, 255).astype(np.uint8)
    return data


def decode(data: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Normalised grey values from bytes; encode(decode(b)) is b."""
    return (data.astype(np.float32) - np.float32(_ZERO)) * np.float32(1 / _PER_UNIT)


@dataclass(frozen=True)
class SamplesFile:
    """What ``samples.json`` says of the samples.

    ``train`` and ``validate`` are counts of samples; ``digest`` is of all their bytes. ``voxels``, ``frequency`` and
    ``weight`` (w_c) are of each class in the labelled voxels of the training volumes, missing sections left out.
    ``volumes`` are name, role and digests, in the order to which ``source`` refers. ``tile`` and ``border`` are
    (z, y, x) in voxels; ``settings`` are those of ``augment``. ``voxel_size_nm`` (y, x) is that of the samples: the one
    to which they were resampled, else that of the first training volume of which it is known.
    """

    store: str
    train: int
    validate: int
    digest: str
    classes: tuple[str, ...]
    voxels: Mapping[str, int]
    frequency: Mapping[str, float]
    weight: Mapping[str, float]
    volumes: tuple[Mapping[str, Any], ...]
    tile: Shape
    border: Shape
    seed: int
    settings: Mapping[str, Any]
    version: str
    voxel_size_nm: tuple[float, float] | None = None

    @classmethod
    def read(cls, path: Path) -> "SamplesFile":
        """From ``samples.json``."""
        data = read_json(path)
        for key in ("classes", "volumes", "tile", "border"):
            data[key] = tuple(data[key])
        if data.get("voxel_size_nm") is not None:
            data["voxel_size_nm"] = tuple(data["voxel_size_nm"])
        return cls(**data)

    def write(self, path: Path) -> None:
        """To ``samples.json``, atomically."""
        write_json(path, asdict(self))


def create(store: Path, count: int, tile: Shape, output: Shape, key: str) -> None:
    """A new store for ``count`` training samples at ``store``; what was there is gone.

    Parameters
    ----------
    tile, output:
        Voxels (z, y, x) of image, and of label and weight.
    key:
        Marks what the store was made for (see :func:`made_for`).
    """
    if store.exists():
        shutil.rmtree(store)
    store.parent.mkdir(parents=True, exist_ok=True)
    group = zarr.create_group(store, zarr_format=3)
    _create_arrays(group, "train", count, tile, output, weighted=True)
    # Last: a store without it is not whole.
    group.attrs[_KEY] = key


def made_for(store: Path) -> str | None:
    """The key of the store, None if there is no whole store."""
    try:
        group = zarr.open_group(store, mode="r")
        for name in ("image", "label", "weight", "source"):
            zarr.open_array(store / "train" / name, mode="r")
    except (FileNotFoundError, zarr.errors.BaseZarrError):
        return None
    key = group.attrs.get(_KEY)
    return key if isinstance(key, str) else None


def write_shard(store: Path, group: str, start: int, arrays: Mapping[str, NDArray[Any]]) -> str:
    """Write the samples from number ``start`` on, a whole shard, durably; gives their digest.

    Only one writer may write a shard.
    """
    digest = hashlib.sha256()
    for name, data in arrays.items():
        write_shards(folder_at(store / group / name), (start,) + (0,) * (data.ndim - 1), data)
        digest.update(f"{name} {data.dtype.str} {data.shape}".encode())
        digest.update(np.ascontiguousarray(data).data)
    return digest.hexdigest()


def write_validation(store: Path, tile: Shape, output: Shape, arrays: Mapping[str, NDArray[Any]]) -> str:
    """Write the whole group ``validate`` anew, from ``image``, ``label`` and ``source``; gives its digest."""
    count = len(arrays["image"])
    _create_arrays(zarr.open_group(store, mode="r+"), "validate", count, tile, output, weighted=False)
    digest = hashlib.sha256()
    for start in range(0, count, SHARD):
        part = {name: data[start : start + SHARD] for name, data in arrays.items()}
        digest.update(write_shard(store, "validate", start, part).encode())
    return digest.hexdigest()


def _create_arrays(parent: zarr.Group, name: str, count: int, tile: Shape, output: Shape, *, weighted: bool) -> None:
    group = parent.create_group(name, overwrite=True)
    kinds: list[tuple[str, str, Shape]] = [("image", "uint8", tile), ("label", "uint8", output)]
    if weighted:
        kinds.append(("weight", "float16", output))
    for array, dtype, shape in kinds:
        group.create_array(
            array,
            shape=(count, *shape),
            dtype=dtype,
            # Training reads one sample at a time.
            chunks=(1, *shape),
            shards=(SHARD, *shape),
            compressors=ZstdCodec(level=1),
            dimension_names=["sample", *AXES],
            # An absent shard is one that was never written, not one that happens to be empty.
            config={"write_empty_chunks": True},
        )
    group.create_array(
        "source",
        shape=(count, 5),
        dtype="int64",
        chunks=(SHARD, 5),
        compressors=ZstdCodec(level=1),
        dimension_names=["sample", "volume_z_y_x_seed"],
        config={"write_empty_chunks": True},
    )
