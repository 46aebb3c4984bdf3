"""Arrays that are used where they lie, on disk or on S3: Zarr, OME-Zarr, N5 and precomputed volumes."""

import os
from functools import cached_property
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from unetpipe.arrays import METADATA, N5_METADATA, PRECOMPUTED_METADATA, Found, find, open_array, open_volume
from unetpipe.data.sources import n5, ome, precomputed
from unetpipe.data.sources.contract import DECODING_ERRORS, ZARR_METADATA, Source, as_volume, refusal
from unetpipe.data.sources.level import PARENTS, Level
from unetpipe.data.sources.survey import Survey, survey
from unetpipe.errors import UserError
from unetpipe.extent import Extent
from unetpipe.storage import Folder, above, folder_at, is_remote

FORMATS = "an OME-Zarr 0.4 or 0.5, a Zarr array of version 2 or 3, an N5, or a precomputed volume"

_NAMES = {"zarr": "a Zarr", "zarr3": "a Zarr", "n5": "an N5", "neuroglancer_precomputed": "a precomputed"}


class InPlaceSource(Source):
    """An array with three axes, seen as (z, y, x), that is not copied.

    It is that at the address itself, or the full resolution of the image there: of an OME-Zarr group, of a pyramid in
    N5, of a precomputed volume. The address of an array in such an image, ``VOLUME.zarr/2``, is that level, with its
    voxel size.

    Attributes
    ----------
    array_address:
        Of the array itself.
    array:
        Open for reading.
    """

    def __init__(self, address: str) -> None:
        place = folder_at(address)
        try:
            level = _level(address, place)
        except (ValueError, OSError) as error:
            kind = "Zarr" if _is_zarr(place) else "N5"
            raise refusal(
                address, f"a folder whose {kind} metadata cannot be read ({error})", f"give {FORMATS}"
            ) from None
        self.array_address = level.address
        try:
            found = find(level.address)
            self.array = open_volume(level.address) if level.wide else open_array(level.address)
        except UserError as error:
            name = level.address.removeprefix(f"{place.address}/")
            what = "its metadata" if name == level.address else f"its metadata name the array {name}, which"
            raise refusal(
                address,
                f"{what} cannot be read ({error.found})",
                "copy it again if it is damaged; if its codec is not known, write it with another: zstd, blosc or gzip",
            ) from None
        if found is None or self.array.ndim != 3:
            kind = "an" if found is None else _NAMES[found.driver]
            raise refusal(
                address,
                f"{kind} array of shape {self.array.shape}: {self.array.ndim} axes",
                "write one channel and one time point as an array with the axes (z, y, x)",
            )
        super().__init__(address, as_volume(address, self.array.shape), self.array.dtype, level.voxel_size_nm)
        if level.origin_nm is not None:
            self.origin_nm = level.origin_nm
        self.rows_at_once = self.array.chunk[1]
        self._found: Found = found

    def read(self, first: int, end: int) -> NDArray[Any]:
        """The sections from ``first`` to ``end``, without ``end``."""
        return self.read_box((slice(first, end), slice(None), slice(None)))

    def read_rows(self, first: int, end: int, low: int, high: int) -> NDArray[Any]:
        """The rows from ``low`` to ``high`` of the sections from ``first`` to ``end``."""
        return self.read_box((slice(first, end), slice(low, high), slice(None)))

    def read_box(self, box: tuple[slice, slice, slice]) -> NDArray[Any]:
        """The voxels in ``box``, (z, y, x)."""
        try:
            return self.array[box].astype(self.dtype, copy=False)
        except DECODING_ERRORS as error:
            raise refusal(
                self.address,
                f"sections {box[0].start} to {box[0].stop - 1} cannot be read ({error})",
                "copy it again" if not is_remote(self.address) else "see whether the storage answers, or copy it again",
            ) from None

    def listing(self) -> str:
        """SHA-256 over the array's metadata, and over names, sizes and times (S3: ETags) of what it is stored in."""
        return self._survey.listing

    def stored(self) -> Extent | None:
        """Which storage objects are there, from the same listing; None where that cannot tell.

        It cannot where the chunks of a precomputed volume lie in shards.
        """
        return self._survey.stored

    @cached_property
    def _survey(self) -> Survey:
        try:
            return survey(self.address, self.array, self._found)
        except OSError as error:
            raise refusal(
                self.address,
                f"its objects cannot be listed ({error})",
                "see whether it is still there, and may be listed",
            ) from None


def is_in_place(place: Folder) -> bool:
    """Whether there is an array in ``place``, or a group that can hold an image.

    Raises
    ------
    OSError
        If the storage does not answer.
    """
    if _is_zarr(place):
        return True
    try:
        return n5.is_group(place) or find(place.address) is not None
    except ValueError:
        # What the metadata are, is told when they are read.
        return True


def _is_zarr(place: Folder) -> bool:
    return any(place.size(name) is not None for name in (METADATA, ".zarray", ".zgroup"))


def watched(path: Path) -> list[Path]:
    """The files of metadata of the volume in the folder ``path``, and of the images of which it is a level."""
    folders = [path, *(Path(folder) for folder, _ in above(str(path), PARENTS))]
    if not path.is_absolute():
        folders = [path, *(Path(os.path.relpath(folder)) for folder in folders[1:])]
    found = find(str(path))
    if found is not None and found.scale is not None:
        names: tuple[str, ...] = (PRECOMPUTED_METADATA,)
    elif any((path / name).exists() for name in ZARR_METADATA):
        names = ZARR_METADATA
    else:
        names, folders = (N5_METADATA,), [path / n5.FINEST, *folders]
    return [folder / name for folder in folders for name in names if (folder / name).is_file()]


def _level(address: str, place: Folder) -> Level:
    attributes = ome.group_attributes(place)
    if attributes is not None:
        return ome.full_resolution(address, place, attributes)
    found = find(address)
    if found is not None and found.scale is not None:
        return precomputed.level_of(address, found)
    if found is None or found.driver == "n5":
        return n5.level_of(address, place)
    return ome.level_above(address, place) or Level(place.address, None, None)
