"""N5: arrays, and the pyramids that n5-viewer, Paintera and BigDataViewer write.

Attributes name the axes (x, y, z), and those of a folder hold below it too, unless they are given again. Conventions,
as Neuroglancer reads them (its documentation, "n5"): the voxels of a level have the size ``resolution`` (in ``units``,
nm where these are not given) or ``pixelResolution`` times the level's ``downsamplingFactors``; these stand in the
attributes of the level, or in a list above them, there also called ``scales``. A ``resolution`` of 1, 1, 1 without
``units`` is what BigDataViewer writes whatever the voxels are, and tells nothing. ``offset`` is that of the full
resolution, in the same unit. COSEM's ``transform`` names its axes, and places the centre of the level's first voxel.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from unetpipe.arrays import N5_METADATA
from unetpipe.data.sources.contract import VoxelSize, refusal, some
from unetpipe.data.sources.level import PARENTS, Level, arrays_below, numbers, read_object
from unetpipe.data.sources.units import in_nm
from unetpipe.storage import Folder, above, folder_at

FINEST = "s0"

_REPAIR = "write one channel and one time point as an array with the axes (x, y, z)"
_GROUP = {"n5", "multiScale"}
_LEVEL = re.compile(r"(?:^|/)s(\d+)$")


def is_array(attributes: Mapping[str, Any]) -> bool:
    """Whether these are the attributes of an array."""
    return "dimensions" in attributes and "blockSize" in attributes


def is_group(place: Folder) -> bool:
    """Whether ``place`` is a group of N5: its attributes say so, or there is a full resolution in it."""
    attributes = read_object(place, N5_METADATA) or {}
    return not attributes.keys().isdisjoint(_GROUP) or place.size(f"{FINEST}/{N5_METADATA}") is not None


def level_of(address: str, place: Folder) -> Level:
    """The array in ``place``, or the full resolution of the pyramid there.

    Raises
    ------
    UserError
        If there is neither, or not one value per voxel.
    ValueError
        If the metadata cannot be understood.
    """
    attributes = read_object(place, N5_METADATA) or {}
    if not is_array(attributes):
        finest = place.below(FINEST)
        attributes = read_object(finest, N5_METADATA) or {}
        if not is_array(attributes):
            arrays = arrays_below(place, (N5_METADATA,))
            raise refusal(
                address,
                f"an N5 group without an array {FINEST}; with attributes in it: {some(arrays) or 'none'}",
                "give the address of an array, or of a pyramid with the levels s0, s1, …",
            )
        place = finest
    known: dict[str, Any] = {}
    holders = [(folder_at(folder), name) for folder, name in above(place.address, PARENTS)]
    factors = None
    for holder, name in reversed(holders):
        try:
            found = read_object(holder, N5_METADATA) or {}
        except (OSError, ValueError):
            # No N5, or not for this reader.
            continue
        known |= found
        factors = _listed_factors(found, name) or factors
    if "resolution" in attributes:
        # What stands in the level itself counts, in whichever form.
        known.pop("pixelResolution", None)
    known |= attributes
    _refuse_others(address, known)
    factors = factors or numbers(attributes.get("downsamplingFactors")) or [1.0, 1.0, 1.0]
    return Level(place.address, *_placed(attributes, known, factors))


def _refuse_others(address: str, attributes: Mapping[str, Any]) -> None:
    dimensions = attributes["dimensions"]
    if not isinstance(dimensions, list) or len(dimensions) != 3:
        count = len(dimensions) if isinstance(dimensions, list) else 0
        raise refusal(address, f"an N5 array of the dimensions {dimensions}: {count} axes", _REPAIR)
    axes = attributes.get("axes", ["x", "y", "z"])
    if axes != ["x", "y", "z"]:
        raise refusal(address, f"an N5 array with the axes {axes}", _REPAIR)
    if attributes.get("isLabelMultiset"):
        raise refusal(
            address, "an N5 array of label multisets", "write the labels as an array with one number for each voxel"
        )


def _listed_factors(attributes: Mapping[str, Any], name: str) -> list[float] | None:
    """Those of the level ``name`` below a folder with ``attributes``, where these list the factors of all levels."""
    level = _LEVEL.search(name)
    for key in ("downsamplingFactors", "scales"):
        listed = attributes.get(key)
        if level is not None and isinstance(listed, list) and int(level[1]) < len(listed):
            factors = numbers(listed[int(level[1])])
            if factors is not None:
                return factors
    return None


def _placed(
    own: Mapping[str, Any], known: Mapping[str, Any], factors: Sequence[float]
) -> tuple[VoxelSize | None, VoxelSize | None]:
    """Voxel size and origin (z, y, x) of a level: ``own`` are its attributes, ``known`` those and the ones above."""
    transform = own.get("transform")
    if isinstance(transform, Mapping):
        axes, scale, units = transform.get("axes"), numbers(transform.get("scale")), transform.get("units")
        shift = numbers(transform.get("translate")) or [0.0] * 3
        if isinstance(axes, list) and sorted(map(str, axes)) == ["x", "y", "z"] and scale is not None:
            units = units if isinstance(units, list) and len(units) == 3 else [None] * 3
            order = [axes.index(axis) for axis in "zyx"]
            scale, shift, units = ([values[i] for i in order] for values in (scale, shift, units))
            return in_nm(scale, units), in_nm(shift, units, positive=False)
    size, units = numbers(known.get("resolution")), known.get("units")
    if units is None:
        size, units = None if size == [1.0] * 3 else size, ["nm"] * 3
    pixel = known.get("pixelResolution")
    if isinstance(pixel, Mapping):
        size, units = numbers(pixel.get("dimensions")), [pixel.get("unit")] * 3
    elif size is None:
        # n5-viewer's unit, where it writes none, is that of what it was made from.
        size, units = numbers(pixel), [None] * 3
    if size is None or not isinstance(units, list) or len(units) != 3:
        return None, None
    offset = numbers(known.get("offset")) or [0.0] * 3
    # The first voxel of a level covers as many of the full resolution as its factors tell.
    centre = [a + (f - 1) / 2 * s for a, f, s in zip(offset, factors, size, strict=True)]
    scaled = [f * s for f, s in zip(factors, size, strict=True)]
    return in_nm(scaled[::-1], units[::-1]), in_nm(centre[::-1], units[::-1], positive=False)
