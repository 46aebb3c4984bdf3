"""Volumes with voxel size: create, read mirrored, write whole shards.

An image or a map is an OME-Zarr 0.5 group; its voxels lie in the array "0", chunked and sharded. What the pipeline
knows of a volume stands in ``volume.json`` (:class:`VolumeFile`), written by ingest.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetpipe import ome
from unetpipe.arrays import Array, encode, open_volume, read_metadata, shard_name, threads_in_use
from unetpipe.errors import UserError
from unetpipe.extent import Extent
from unetpipe.files import read_json, write_json
from unetpipe.grid import Region, Shape, triple
from unetpipe.levels import Level
from unetpipe.storage import Folder, folder_at

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
    unless a Zarr is used in place). Labels are class indices, uint8, :data:`IGNORE` for none. ``instances``: the array
    of the same shape with the numbers of the objects that they were made of, 0 for none; None for labels that are
    classes.
    ``mean`` and ``std`` are those of each section, after clipping to ``range``; a missing section has std 0 in the
    data and stands in ``missing_sections``. ``extent``: what of the image is stored, where that is not all of it: the
    fields of :class:`unetpipe.extent.Extent`, the bits in a ``file`` (.npy).
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
    extent: Mapping[str, Any] | None
    source: Mapping[str, Any]
    version: str
    instances: str | None = None

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

    def read_extent(self) -> Extent | None:
        """What of the image is stored; None for all of it. The bits stay in their file until they are asked for."""
        if self.extent is None:
            return None
        bits = np.load(self.extent["file"], mmap_mode="r")
        shape, unit = (triple(self.extent[name]) for name in ("shape", "unit"))
        return Extent(shape, unit, bits, self.first_section)

    def learnt_sections(self) -> NDArray[np.intp]:
        """The sections that are not missing, without those in which ingest found not one labelled voxel."""
        counts = self.source.get("labelled")
        sections = np.arange(self.shape[0]) if counts is None else np.flatnonzero(counts)
        return np.setdiff1d(sections, np.asarray(self.missing_sections, np.intp))

    def identity(self) -> dict[str, Any]:
        """All of it that can change a voxel of a prediction."""
        data = asdict(self)
        # What is stored follows from the image, whose digest says so.
        unseen = ("name", "labels", "labels_digest", "instances", "extent", "source", "version")
        for key in (*unseen, "voxel_size_nm", "origin_nm"):
            del data[key]
        return data


class Image:
    """The grey values of a volume, normalised, missing sections filled; open one per process."""

    def __init__(self, volume: VolumeFile) -> None:
        self.volume = volume
        self.array = open_volume(volume.image)
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


def read_labels(array: Array, region: Region, shape: Shape) -> NDArray[np.uint8]:
    """Class indices of ``region``, mirrored where it reaches beyond the volume of ``shape``.

    Raises
    ------
    LostShardError
        If a shard is not there: ingest has written all of them.
    """
    return read_mirrored(array, region, shape, 0, complete=True).astype(np.uint8, copy=False)


def read_truth(array: Array, region: Region, volume: VolumeFile) -> NDArray[np.uint8]:
    """Class indices of ``region`` to learn from: those of :func:`read_labels`, :data:`IGNORE` in missing sections.

    ``array`` holds the labels of ``volume``.
    """
    labels = read_labels(array, region, volume.shape)
    sections = mirrored(region.start[0], region.stop[0], volume.shape[0])
    labels[np.isin(sections, volume.missing_sections)] = IGNORE
    return labels


def read_mirrored(
    array: Array, region: Region, shape: Shape, first_section: int, *, complete: bool = False
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


def _refuse_lost_shards(array: Array, box: Sequence[slice]) -> None:
    place, sizes = folder_at(array.address), array.shard
    for start in itertools.product(*(range(a.start // n * n, a.stop, n) for a, n in zip(box, sizes, strict=True))):
        if place.size(name := shard_name(sizes, start)) is None:
            raise LostShardError(
                f"voxels of {place} were to be read",
                f"the shard {place.where(name)} is gone: ingest has written one for every part of the volume",
                f"delete {Path(array.address).parents[1] / 'volume.json'} and run snakemake again, which copies what "
                "is gone",
            )


def mirrored(start: int, stop: int, size: int) -> NDArray[np.intp]:
    """Indices into an axis of ``size`` for the coordinates from ``start`` to ``stop``, mirrored at both ends."""
    coordinates = np.arange(start, stop)
    if size == 1:
        return np.zeros_like(coordinates)
    period = 2 * (size - 1)
    folded = coordinates % period
    return np.minimum(folded, period - folded)


def create(
    place: Folder,
    *,
    shape: Sequence[int],
    dtype: str,
    chunk: Sequence[int],
    shard: Sequence[int],
    voxel_size_nm: Sequence[float],
    channels: Sequence[str] | None = None,
    origin_nm: Sequence[float] = (0.0, 0.0, 0.0),
    coarser: Sequence[Level] = (),
    keep_shards: bool = False,
) -> None:
    """A new OME-Zarr 0.5 group in ``place`` with an empty array for each level; what was there is gone.

    Parameters
    ----------
    shape, chunk, shard:
        Of the finest level, along (z, y, x), or (c, z, y, x) where ``channels`` are given.
    voxel_size_nm, origin_nm:
        Along (z, y, x).
    channels:
        Their names.
    coarser:
        The other levels, from the finest to the coarsest: their voxels are means.
    keep_shards:
        Write the metadata alone, for shards that are there.
    """
    first: list[dict[str, str]] = []
    attributes: dict[str, Any] = {}
    if channels is not None:
        first = [{"name": "c", "type": "channel"}]
        attributes["omero"] = {"channels": ome.channels(channels)}
    axes = [*first, *({"name": name, "type": "space", "unit": "nanometer"} for name in "zyx")]
    image = {"name": Path(place.address).stem, **({"type": "mean"} if coarser else {})}
    datasets = [ome.dataset(LEVEL, len(axes), voxel_size_nm, origin_nm)]
    datasets += [
        ome.dataset(
            level.path, len(axes), level.voxel_size_nm(voxel_size_nm), level.origin_nm(voxel_size_nm, origin_nm)
        )
        for level in coarser
    ]
    content = ome.group({**attributes, "multiscales": [{**image, "axes": axes, "datasets": datasets}]})
    names = [axis["name"] for axis in axes]
    content |= ome.array(LEVEL, shape, chunk, shard, dtype=dtype, names=names)
    # A chunk is of one channel, a shard has all of them.
    whole, one = ([], []) if channels is None else ([len(channels)], [1])
    for level in coarser:
        content |= ome.array(
            level.path,
            [*whole, *level.shape],
            [*one, *level.chunk],
            [*whole, *level.shard],
            dtype=dtype,
            names=names,
        )
    if not keep_shards:
        place.clear()
    ome.write(place, content)


def layout(shape: Sequence[int]) -> tuple[Shape, Shape]:
    """Chunk and shard (z, y, x) for a volume of ``shape``: at most 8 x 128 x 128, and 8 x 1024 x 1024."""
    chunk = triple([min(most, n) for most, n in zip((8, 128, 128), shape, strict=True)])
    shard = [
        c * max(1, min(most // c, math.ceil(n / c))) for most, c, n in zip((8, 1024, 1024), chunk, shape, strict=True)
    ]
    return chunk, triple(shard)


def write_shards(place: Folder, start: Sequence[int], voxels: NDArray[Any]) -> None:
    """Write whole shards of the Zarr array in ``place``, durably: those that ``voxels`` from ``start`` on fill.

    Raises
    ------
    ValueError
        If a shard would be filled in part.
    """
    metadata = read_metadata(place)
    shape, shard = metadata["shape"], metadata["chunk_grid"]["configuration"]["chunk_shape"]
    stop = [a + n for a, n in zip(start, voxels.shape, strict=True)]
    if any(a % n or b > size or (b % n and b < size) for a, b, n, size in zip(start, stop, shard, shape, strict=True)):
        raise ValueError(f"voxels from {list(start)} to {stop} are not whole shards of {shard} in {shape}")

    def write(corner: Sequence[int]) -> None:
        here = tuple(slice(c - a, c - a + n) for a, c, n in zip(start, corner, shard, strict=True))
        place.write(shard_name(shard, corner), encode(metadata, voxels[here]))

    corners = itertools.product(*(range(a, b, n) for a, b, n in zip(start, stop, shard, strict=True)))
    # One is encoded by one thread, and then waits for the disk, which makes several durable at a time.
    with ThreadPoolExecutor(4 * threads_in_use()) as pool:
        list(pool.map(write, corners))
