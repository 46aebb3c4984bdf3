"""Volumes with voxel size: create, open, read mirrored, write a shard.

An image or a map is an OME-Zarr 0.5 group; its voxels lie in the array "0", chunked and sharded. What the pipeline
knows of a volume stands in ``volume.json`` (:class:`VolumeFile`), written by ingest.
"""

import itertools
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import ZstdCodec
from zarr.storage import LocalStore

from unetpipe.errors import UserError
from unetpipe.files import read_json, sync_folder, write_json
from unetpipe.grid import Region, Shape, triple

LEVEL = "0"
"""The array of full resolution in an OME-Zarr group."""

IGNORE = 255
"""In labels: a voxel that is neither learnt nor scored. Classes are 0, 1, … in the order of the settings."""


class LostShardError(UserError):
    """A file of a volume is gone, in whose place Zarr would read zeros."""


@dataclass(frozen=True)
class VolumeFile:
    """What ``volume.json`` says of a volume; all shapes are (z, y, x), and sections count from the first one used.

    ``image`` and ``labels`` are Zarr arrays; ``first_section`` is where this volume begins in the image's array (0
    unless a Zarr is used in place). Labels are class indices, uint8, :data:`IGNORE` for none.
    ``mean`` and ``std`` are those of each section, after clipping to ``range``; a missing section has std 0 in the
    data and stands in ``missing_sections``.
    """

    name: str
    image: str
    labels: str | None
    shape: Shape
    first_section: int
    dtype: str
    voxel_size_nm: tuple[float, float, float]
    origin_nm: tuple[float, float, float]
    range: tuple[float, float] | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    missing_sections: tuple[int, ...]
    image_digest: str
    labels_digest: str | None
    source: Mapping[str, Any]
    version: str

    @classmethod
    def read(cls, path: Path) -> "VolumeFile":
        """From ``volume.json``; UserError if it is that of another version."""
        data = read_json(path)
        names = {field.name for field in fields(cls)}
        if not isinstance(data, dict) or data.keys() != names:
            found = data.keys() if isinstance(data, dict) else set()
            raise UserError(
                f"{path} was to be read",
                f"it lacks {sorted(names - found)} and has {sorted(found - names)} beside: another version wrote it",
                "delete it and run snakemake again",
            )
        for key in ("shape", "voxel_size_nm", "origin_nm", "mean", "std", "missing_sections"):
            data[key] = tuple(data[key])
        if data["range"] is not None:
            data["range"] = tuple(data["range"])
        return cls(**data)

    def write(self, path: Path) -> None:
        """To ``volume.json``, atomically."""
        write_json(path, asdict(self))

    def learnt_sections(self) -> NDArray[np.intp]:
        """The sections that are not missing, without those in which ingest found not one labelled voxel."""
        counts = self.source.get("labelled")
        sections = np.arange(self.shape[0]) if counts is None else np.flatnonzero(counts)
        return np.setdiff1d(sections, np.asarray(self.missing_sections, np.intp))

    def identity(self) -> dict[str, Any]:
        """All of it that can change a voxel of a prediction."""
        data = asdict(self)
        for key in ("name", "labels", "labels_digest", "source", "version", "voxel_size_nm", "origin_nm"):
            del data[key]
        return data


class Image:
    """The grey values of a volume, normalised, missing sections filled; open one per process."""

    def __init__(self, volume: VolumeFile) -> None:
        self.volume = volume
        self.array = open_array(volume.image)
        # One that is used in place may have left out chunks without contrast.
        self._complete = not volume.source.get("in_place", True)
        self._shown = shown_sections(volume.shape[0], volume.missing_sections)
        # A missing section has no spread: where there is no other, it is 0 everywhere.
        self._mean = np.array(volume.mean, np.float32)
        self._scale = np.array([1 / std if std > 0 else 0.0 for std in volume.std], np.float32)

    def read(self, region: Region) -> NDArray[np.float32]:
        """Normalised grey values of ``region`` (z, y, x), mirrored where it reaches beyond the volume.

        Each section has mean 0 and standard deviation 1, by the constants of ``volume.json``; in place of a missing
        section stands the nearest one that is there (:func:`shown_sections`). What a voxel becomes does not depend on
        the region that is read.
        """
        wanted = self._shown[mirrored(region.start[0], region.stop[0], self.volume.shape[0])]
        sections, places = np.unique(wanted, return_inverse=True)
        grey = np.empty((len(sections), *region.shape[1:]), np.float32)
        # In runs without a gap: what stands for missing sections can lie far apart.
        for run in np.split(np.arange(len(sections)), np.flatnonzero(np.diff(sections) > 1) + 1):
            part = Region((int(sections[run[0]]), *region.start[1:]), (int(sections[run[-1]]) + 1, *region.stop[1:]))
            grey[run[0] : run[-1] + 1] = read_mirrored(
                self.array, part, self.volume.shape, self.volume.first_section, complete=self._complete
            )
        if self.volume.range is not None:
            low, high = self.volume.range
            # What is not a number is taken for black.
            grey = np.clip(np.nan_to_num(grey, nan=low, posinf=high, neginf=low), np.float32(low), np.float32(high))
        grey -= self._mean[sections, None, None]
        grey *= self._scale[sections, None, None]
        return grey if len(sections) == len(wanted) and (np.diff(places) > 0).all() else grey[places]


def shown_sections(count: int, missing: Sequence[int]) -> NDArray[np.intp]:
    """For each of ``count`` sections the one that is shown: itself, or the nearest that is not ``missing``.

    The earlier one of two that are equally near. If all are missing, each shows itself.
    """
    there = np.setdiff1d(np.arange(count), np.asarray(missing, np.intp))
    if len(there) == 0:
        return np.arange(count)
    # Between two sections that are there, the middle still belongs to the earlier one.
    return there[np.searchsorted((there[:-1] + there[1:]) // 2, np.arange(count))]


def read_labels(array: zarr.Array[Any], region: Region, shape: Shape) -> NDArray[np.uint8]:
    """Class indices of ``region``, mirrored where it reaches beyond the volume of ``shape``.

    Raises
    ------
    LostShardError
        If a shard is not there: ingest has written all of them.
    """
    return read_mirrored(array, region, shape, 0, complete=True).astype(np.uint8, copy=False)


def read_truth(array: zarr.Array[Any], region: Region, volume: VolumeFile) -> NDArray[np.uint8]:
    """Class indices of ``region`` to learn from: those of :func:`read_labels`, :data:`IGNORE` in missing sections.

    ``array`` holds the labels of ``volume``.
    """
    labels = read_labels(array, region, volume.shape)
    sections = mirrored(region.start[0], region.stop[0], volume.shape[0])
    labels[np.isin(sections, volume.missing_sections)] = IGNORE
    return labels


def read_mirrored(
    array: zarr.Array[Any], region: Region, shape: Shape, first_section: int, *, complete: bool = False
) -> NDArray[Any]:
    """Voxels of ``region`` of the volume of ``shape`` that begins at ``first_section`` of ``array``.

    Beyond the volume it is mirrored at the centre of the outermost voxels, as often as needed (NumPy's ``reflect``).

    Parameters
    ----------
    complete:
        Whether every shard was written: then one that is not there is lost, and does not stand for zeros.

    Raises
    ------
    LostShardError
        If a shard of what is complete is not there.
    """
    indices = [mirrored(a, b, n) for a, b, n in zip(region.start, region.stop, shape, strict=True)]
    lows = [int(index.min()) for index in indices]
    offset = (first_section, 0, 0)
    box = tuple(slice(low + o, int(index.max()) + 1 + o) for low, index, o in zip(lows, indices, offset, strict=True))
    if complete:
        _refuse_lost_shards(array, box)
    voxels = np.asarray(array[box])
    if voxels.shape == region.shape and region.clip(shape) == region:
        return voxels
    return voxels[np.ix_(*(index - low for index, low in zip(indices, lows, strict=True)))]


def _refuse_lost_shards(array: zarr.Array[Any], box: Sequence[slice]) -> None:
    if not isinstance(array.store, LocalStore):
        return
    sizes = array.shards or array.chunks
    for start in itertools.product(*(range(a.start // n * n, a.stop, n) for a, n in zip(box, sizes, strict=True))):
        if not (path := shard_path(array, start)).exists():
            folder = Path(str(array.store.root), array.path)
            raise LostShardError(
                f"voxels of {folder} were to be read",
                f"the shard {path} is gone: ingest has written one for every part of the volume",
                f"delete {folder.parents[1] / 'volume.json'} and run snakemake again, which copies what is gone",
            )


def mirrored(start: int, stop: int, size: int) -> NDArray[np.intp]:
    """Indices into an axis of ``size`` for the coordinates from ``start`` to ``stop``, mirrored at both ends."""
    coordinates = np.arange(start, stop)
    if size == 1:
        return np.zeros_like(coordinates)
    period = 2 * (size - 1)
    folded = coordinates % period
    return np.minimum(folded, period - folded)


def open_array(address: str) -> zarr.Array[Any]:
    """The array at ``address`` for reading; UserError if there is none."""
    asked = f"the Zarr array {address} was to be read"
    try:
        return zarr.open_array(address, mode="r")
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError, zarr.errors.BaseZarrError) as error:
        # What Zarr raises for metadata that are JSON, but not of an array, depends on what they are.
        raise UserError(
            asked, str(error) or type(error).__name__, "check the address; a Zarr array was expected"
        ) from error


def open_writable(address: str) -> zarr.Array[Any]:
    """The array at ``address`` for writing.

    Chunks are written whatever they hold: a shard that is absent was never written, and does not happen to be empty.
    Zarr does not store that wish with an array.
    """
    return zarr.open_array(address, mode="r+").with_config({"write_empty_chunks": True})


def create(
    path: Path,
    *,
    shape: Sequence[int],
    dtype: str,
    chunk: Sequence[int],
    shard: Sequence[int],
    voxel_size_nm: Sequence[float],
    channels: Sequence[str] | None = None,
    origin_nm: Sequence[float] = (0.0, 0.0, 0.0),
) -> zarr.Array[Any]:
    """A new OME-Zarr 0.5 group at ``path`` with one empty array; what was there is gone.

    Parameters
    ----------
    shape, chunk, shard:
        Along (z, y, x), or (c, z, y, x) where ``channels`` are given.
    voxel_size_nm, origin_nm:
        Along (z, y, x).
    channels:
        Their names.
    """
    if path.exists():
        shutil.rmtree(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    axes: list[dict[str, str]] = [{"name": name, "type": "space", "unit": "nanometer"} for name in "zyx"]
    scale, translation = list(map(float, voxel_size_nm)), list(map(float, origin_nm))
    attributes: dict[str, Any] = {}
    if channels is not None:
        axes = [{"name": "c", "type": "channel"}, *axes]
        scale, translation = [1.0, *scale], [0.0, *translation]
        attributes["omero"] = {
            "channels": [
                {"label": name, "color": "FFFFFF", "window": {"min": 0, "max": 255, "start": 0, "end": 255}}
                for name in channels
            ]
        }
    attributes |= {
        "version": "0.5",
        "multiscales": [
            {
                "name": path.stem,
                "axes": axes,
                "datasets": [
                    {
                        "path": LEVEL,
                        "coordinateTransformations": [
                            {"type": "scale", "scale": scale},
                            {"type": "translation", "translation": translation},
                        ],
                    }
                ],
            }
        ],
    }
    group = zarr.create_group(path, attributes={"ome": attributes}, zarr_format=3)
    return group.create_array(
        LEVEL,
        shape=tuple(shape),
        dtype=dtype,
        chunks=tuple(chunk),
        shards=tuple(shard),
        compressors=ZstdCodec(level=3),
        dimension_names=[axis["name"] for axis in axes],
        # See open_writable.
        config={"write_empty_chunks": True},
    )


def layout(shape: Sequence[int]) -> tuple[Shape, Shape]:
    """Chunk and shard (z, y, x) for a volume of ``shape``: at most 8 x 128 x 128, and 8 x 1024 x 1024."""
    chunk = triple([min(most, n) for most, n in zip((8, 128, 128), shape, strict=True)])
    shard = [
        c * max(1, min(most // c, math.ceil(n / c))) for most, c, n in zip((8, 1024, 1024), chunk, shape, strict=True)
    ]
    return chunk, triple(shard)


def shard_path(array: zarr.Array[Any], start: Sequence[int]) -> Path:
    """The file of the shard that begins at the voxel ``start``; ``array`` lies in a folder."""
    sizes = array.shards or array.chunks
    index = tuple(a // n for a, n in zip(start, sizes, strict=True))
    return Path(str(array.store_path.store.root), array.path, array.metadata.encode_chunk_key(index))  # type: ignore[attr-defined]


def sync_shard(array: zarr.Array[Any], start: Sequence[int]) -> Path:
    """Make the shard that begins at the voxel ``start`` durable; gives the path of its file.

    Zarr writes a shard to a temporary file and renames it, but leaves it to the operating system when it reaches the
    disk.
    """
    path = shard_path(array, start)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    sync_folder(path.parent)
    return path
