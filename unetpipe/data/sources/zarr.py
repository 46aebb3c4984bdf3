"""Zarr arrays and OME-Zarr groups, used where they lie."""

import hashlib
import os
import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from unetpipe.data.sources.contract import (
    DECODING_ERRORS,
    PARENTS,
    ZARR_METADATA,
    Source,
    VoxelSize,
    as_volume,
    refusal,
    some,
)
from unetpipe.data.sources.units import in_nm

_OPENING_ERRORS = (*DECODING_ERRORS, AttributeError, zarr.errors.BaseZarrError)
"""An AttributeError where the metadata are JSON, but no object."""


class ZarrSource(Source):
    """A Zarr array, or the array of full resolution of an OME-Zarr 0.4 or 0.5 group; three axes (z, y, x).

    The address of an array in such a group, ``VOLUME.zarr/2``, is that level of the pyramid, with its voxel size.

    Attributes
    ----------
    array_address:
        Of the array itself.
    array:
        Open for reading.
    """

    def __init__(self, address: str, folder: Path) -> None:
        try:
            found = zarr.open(folder, mode="r")
        except _OPENING_ERRORS as error:
            raise refusal(
                address,
                f"a folder whose Zarr metadata cannot be read ({str(error) or type(error).__name__})",
                "give an OME-Zarr 0.4 or 0.5, or a Zarr array of version 2 or 3",
            ) from None
        if isinstance(found, zarr.Group):
            level = _full_resolution(address, found)
            folder = folder / level.name
            try:
                found = zarr.open_array(folder, mode="r")
            except _OPENING_ERRORS as error:
                raise refusal(
                    address,
                    f"its metadata name the array {level.name}, which cannot be read "
                    f"({str(error) or type(error).__name__})",
                    "write or copy it again",
                ) from None
        else:
            level = _level_of_parent(address, folder) or _Level(folder.name, None, None)
        if found.ndim != 3:
            raise refusal(
                address,
                f"a Zarr array of shape {found.shape}: {found.ndim} axes",
                "write one channel and one time point as an array with the axes (z, y, x)",
            )
        super().__init__(address, as_volume(address, found.shape), np.dtype(found.dtype), level.voxel_size_nm)
        self.array: zarr.Array[Any] = found
        self.array_address = str(folder)
        if level.origin_nm is not None:
            self.origin_nm = level.origin_nm
        self._folder = folder

    def read(self, first: int, end: int) -> NDArray[Any]:
        """The sections from ``first`` to ``end``, without ``end``."""
        return self.read_box((slice(first, end), slice(None), slice(None)))

    def read_box(self, box: tuple[slice, slice, slice]) -> NDArray[Any]:
        """The voxels in ``box``, (z, y, x)."""
        try:
            return np.asarray(self.array[box]).astype(self.dtype, copy=False)
        except (*DECODING_ERRORS, zarr.errors.BaseZarrError) as error:
            raise refusal(
                self.address,
                f"sections {box[0].start} to {box[0].stop - 1} cannot be read ({error})",
                "copy it again",
            ) from None

    def listing(self) -> str:
        """SHA-256 over the array's metadata, and over names, sizes and times of its chunks."""
        result = hashlib.sha256()
        for file in _files(self._folder):
            name = os.path.relpath(file.path, self._folder)
            if file.name in ZARR_METADATA:
                content = Path(file.path).read_bytes()
                result.update(f"{name}\0{hashlib.sha256(content).hexdigest()}\n".encode())
            else:
                status = file.stat()
                result.update(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
        return result.hexdigest()


def _files(folder: str | Path) -> "Iterator[os.DirEntry[str]]":
    """All files below ``folder``, sorted folder by folder: memory is bounded by the largest one."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.is_dir():
            yield from _files(entry.path)
        else:
            yield entry


@dataclass(frozen=True)
class _Level:
    """Of the pyramid of an image: the name of its array in the group."""

    name: str
    voxel_size_nm: VoxelSize | None
    origin_nm: VoxelSize | None


def _full_resolution(address: str, group: "zarr.Group") -> _Level:
    """Of the first multiscale image in ``group``."""
    try:
        image, paths = _images(group)[0]
        return _levels(address, image, paths)[0]
    except (KeyError, IndexError, TypeError):
        arrays = [name for name, _ in group.arrays()]
        raise refusal(
            address,
            f"a Zarr group that is no OME-Zarr image; arrays in it: {some(arrays) or 'none'}",
            "give the address of one of its arrays or images",
        ) from None


def _level_of_parent(address: str, folder: Path) -> _Level | None:
    """The level that the array in ``folder`` is, of an OME-Zarr image in a folder above; None if it is none."""
    # An image lies above the array itself, where the address is a link to that.
    for place in dict.fromkeys((folder.absolute(), folder.resolve())):
        for parent in place.parents[:PARENTS]:
            try:
                images = _images(zarr.open_group(parent, mode="r"))
            except (*_OPENING_ERRORS, KeyError, TypeError):
                # No Zarr, or no image in it.
                continue
            name = place.relative_to(parent).as_posix()
            for image, paths in images:
                if name in paths:
                    return _levels(address, image, paths)[paths.index(name)]
    return None


def _images(group: "zarr.Group") -> list[tuple[Mapping[str, Any], list[str]]]:
    """The multiscale images in ``group``, each with the paths of its levels; KeyError or TypeError if it has none."""
    attributes: dict[str, Any] = dict(group.attrs)
    images = attributes.get("ome", attributes)["multiscales"]
    return [(image, [posixpath.normpath(str(level["path"])) for level in image["datasets"]]) for image in images]


def _levels(address: str, image: Mapping[str, Any], paths: list[str]) -> list[_Level]:
    axes = [axis if isinstance(axis, Mapping) else {"name": axis} for axis in image.get("axes", "zyx")]
    names = [str(axis.get("name")) for axis in axes]
    if names != ["z", "y", "x"]:
        raise refusal(
            address,
            f"an OME-Zarr image with the axes ({', '.join(names)})",
            "write one channel and one time point as an image with the axes (z, y, x)",
        )
    units = [axis.get("unit") for axis in axes]
    return [_Level(path, *_place(image, level, units)) for path, level in zip(paths, image["datasets"], strict=True)]


def _place(
    image: Mapping[str, Any], level: Mapping[str, Any], units: list[str | None]
) -> tuple[VoxelSize | None, VoxelSize | None]:
    """Voxel size and origin of a level, in nm; None where its metadata do not tell."""
    scale, shift = _transformation(level, "scale"), _transformation(level, "translation") or [0.0] * 3
    if scale is None:
        return None, None
    # The transformations of the whole image come after those of the level.
    whole, move = _transformation(image, "scale") or [1.0] * 3, _transformation(image, "translation") or [0.0] * 3
    scale = [a * b for a, b in zip(scale, whole, strict=True)]
    shift = [a * b + c for a, b, c in zip(shift, whole, move, strict=True)]
    return in_nm(scale, units), in_nm(shift, units, positive=False)


def _transformation(holder: Mapping[str, Any], kind: str) -> list[float] | None:
    """The ``scale`` or ``translation`` (z, y, x) of an image or of one of its levels."""
    for transformation in holder.get("coordinateTransformations", ()):
        if isinstance(transformation, Mapping) and transformation.get("type") == kind:
            values = transformation.get(kind)
            if isinstance(values, list) and len(values) == 3 and all(isinstance(v, int | float) for v in values):
                return [float(v) for v in values]
    return None
