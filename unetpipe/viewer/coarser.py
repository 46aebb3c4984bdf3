"""The coarser resolutions of an image that is used in place, where its pyramid has some."""

import math
import posixpath
import re
from collections.abc import Iterator, Sequence
from typing import Any

from unetpipe.arrays import Array, find, open_array, scales
from unetpipe.data.sources.in_place import InPlaceSource
from unetpipe.data.sources.level import PARENTS
from unetpipe.data.sources.ome import group_attributes
from unetpipe.errors import UserError
from unetpipe.grid import Shape, triple
from unetpipe.levels import MOST, levels_of
from unetpipe.storage import above, folder_at, join
from unetpipe.viewer.layers import Resolution

_N5_LEVEL = re.compile(r"(.*/s)(\d+)$")

_NEAR = 0.01
"""Of a voxel: as far as what metadata say may be off."""

_THINNED = 64
"""Of so many voxels one is shown, at most, where nothing coarser is stored: all of them are read for it."""


def pyramid(image: str, shape: Shape, first: int, problems: list[str]) -> list[Resolution]:
    """All resolutions of an image that is used in place, the finest first.

    Parameters
    ----------
    image:
        The address of the array of the volume.
    shape, first:
        Of the volume (z, y, x), and the section of the array with which it begins.
    problems:
        What cannot be shown is added here, in words.

    Raises
    ------
    UserError
        If the finest cannot be opened.
    """
    finest = InPlaceSource(image)
    found = [Resolution(finest.array, shape, first=first)]
    for address in _addresses(image):
        try:
            there = InPlaceSource(address)
        except UserError as error:
            problems.append(f"{address}: {error.found}")
            continue
        resolution = _placed(finest, there, shape, first)
        if resolution is None:
            problems.append(f"{address}: its voxels do not cover whole voxels of {image}")
        else:
            found.append(resolution)
    return found


def thinned(array: Array, shape: Shape, voxel_size_nm: Sequence[float], first: int = 0) -> list[Resolution]:
    """An array of which one resolution is stored, and coarser ones that are made of every second, fourth, … voxel."""
    chunk = triple(array.chunk[-3:])
    levels = levels_of(shape, voxel_size_nm, chunk, chunk) if max(shape) > MOST else []
    coarse = [
        Resolution(array, level.shape, level.scale, first, level.scale)
        for level in levels[1:]
        if math.prod(level.scale) <= _THINNED
    ]
    return [Resolution(array, shape, first=first), *coarse]


def stored(addresses: Sequence[str], levels: Sequence[dict[str, Any]]) -> list[Resolution]:
    """The levels of a prediction, as ``allocated.json`` describes them.

    Raises
    ------
    UserError
        If one cannot be opened.
    """
    return [
        Resolution(open_array(address), triple(level["shape"]), triple(level["scale"]))
        for address, level in zip(addresses, levels, strict=True)
    ]


def _addresses(image: str) -> Iterator[str]:
    """Those of the coarser levels of the pyramid to which the array at ``image`` belongs, the finer first."""
    found = find(image)
    if found is None:
        return
    if found.scale is not None:
        keys = scales(found.place)
        yield from (join(found.place.address, key) for key in keys[keys.index(found.scale) + 1 :])
    elif found.driver == "n5":
        match = _N5_LEVEL.match(image)
        number = int(match[2]) + 1 if match else 0
        while match and find(address := f"{match[1]}{number}") is not None:
            yield address
            number += 1
    else:
        for folder, name in above(image, PARENTS):
            paths = _ome_levels(folder)
            if name in paths:
                yield from (join(folder, path) for path in paths[paths.index(name) + 1 :])
                return


def _ome_levels(folder: str) -> list[str]:
    try:
        attributes = group_attributes(folder_at(folder)) or {}
        images = attributes.get("ome", attributes)["multiscales"]
        return [posixpath.normpath(str(level["path"])) for level in images[0]["datasets"]]
    except (OSError, ValueError, LookupError, TypeError):
        # No Zarr, or no image in it, or not for this reader.
        return []


def _placed(finest: InPlaceSource, there: InPlaceSource, shape: Shape, first: int) -> Resolution | None:
    """A coarser level as a resolution of the volume; None where its voxels do not cover whole voxels of that."""
    if finest.voxel_size_nm is None or there.voxel_size_nm is None:
        return None
    ratios = [b / a for a, b in zip(finest.voxel_size_nm, there.voxel_size_nm, strict=True)]
    scale = triple([round(ratio) for ratio in ratios])
    moved = [
        (b - a) / size
        for a, b, size in zip(finest.origin_nm, there.origin_nm, finest.voxel_size_nm, strict=True)
    ]  # fmt: skip
    for ratio, factor, shift, whole, count in zip(ratios, scale, moved, finest.shape, there.shape, strict=True):
        # Many programs write no translation, and mean the corner to stay where it is.
        in_place = min(abs(shift), abs(shift - (factor - 1) / 2)) < _NEAR * factor
        if (
            factor < 1
            or abs(ratio - factor) > _NEAR
            or not in_place
            or count not in (whole // factor, -(-whole // factor))
        ):
            return None
    if first % scale[0]:
        return None
    wanted = triple([min(-(-n // f), m) for n, f, m in zip(shape, scale, there.shape, strict=True)])
    return Resolution(there.array, wanted, scale, first // scale[0])
