"""Zarr groups with the metadata of OME-Zarr 0.4 and 0.5: which array is which level of which image."""

import posixpath
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from unetpipe.arrays import METADATA
from unetpipe.data.sources.contract import VoxelSize, refusal, some
from unetpipe.data.sources.level import PARENTS, Level, arrays_below, numbers, read_object
from unetpipe.data.sources.units import in_nm
from unetpipe.storage import Folder, above, folder_at, is_remote, join

ARRAY_METADATA = (METADATA, ".zarray")


def group_attributes(place: Folder) -> dict[str, Any] | None:
    """Those of the Zarr group in ``place``, of version 3 or 2; None if there is no group.

    Raises
    ------
    ValueError
        If its metadata cannot be understood.
    """
    described = read_object(place, METADATA)
    if described is not None:
        if described.get("node_type") != "group":
            if described.get("node_type") != "array":
                raise ValueError(f"{METADATA} tells of neither a group nor an array")
            return None
        attributes = described.get("attributes", {})
        if not isinstance(attributes, dict):
            raise ValueError(f"{METADATA} has attributes that are no JSON object")
        return attributes
    if place.size(".zarray") is not None or read_object(place, ".zgroup") is None:
        return None
    return read_object(place, ".zattrs") or {}


def full_resolution(address: str, place: Folder, attributes: Mapping[str, Any]) -> Level:
    """Of the first multiscale image in the group in ``place``; UserError if it has none."""
    try:
        image, paths = _images(attributes)[0]
        return _level(address, place.address, image, paths, 0)
    except (KeyError, IndexError, TypeError):
        held = arrays_below(place, (*ARRAY_METADATA, ".zgroup"))
        raise refusal(
            address,
            f"a Zarr group that is no OME-Zarr image; arrays and groups in it: {some(held) or 'none'}",
            "give the address of one of its arrays or images",
        ) from None


def level_above(address: str, place: Folder) -> Level | None:
    """The level that the array in ``place`` is, of an OME-Zarr image in a folder above; None if it is none."""
    places = [place.address]
    if not is_remote(place.address):
        # An image lies above the array itself, where the address is a link to that.
        places = list(dict.fromkeys((str(Path(place.address).absolute()), str(Path(place.address).resolve()))))
    for here in places:
        for folder, name in above(here, PARENTS):
            try:
                images = _images(group_attributes(folder_at(folder)) or {})
            except (OSError, ValueError, KeyError, TypeError):
                # No Zarr, or no image in it, or not for this reader.
                continue
            for image, paths in images:
                if name in paths:
                    found = _level(address, folder, image, paths, paths.index(name))
                    return replace(found, address=place.address)
    return None


def _images(attributes: Mapping[str, Any]) -> list[tuple[Mapping[str, Any], list[str]]]:
    """The multiscale images of a group, each with the paths of its levels; KeyError or TypeError if it has none."""
    images = attributes.get("ome", attributes)["multiscales"]
    return [(image, [posixpath.normpath(str(level["path"])) for level in image["datasets"]]) for image in images]


def _level(address: str, folder: str, image: Mapping[str, Any], paths: list[str], number: int) -> Level:
    # Before version 0.3, images had these and did not say so.
    axes = [axis if isinstance(axis, Mapping) else {"name": axis} for axis in image.get("axes", "tczyx")]
    names = [str(axis.get("name")) for axis in axes]
    if names[-3:] != ["z", "y", "x"]:
        raise refusal(
            address,
            f"an OME-Zarr image with the axes ({', '.join(names)})",
            "write one channel and one time point as an image with the axes (z, y, x)",
        )
    units = [axis.get("unit") for axis in axes[-3:]]
    return Level(join(folder, paths[number]), *_place(image, image["datasets"][number], units), wide=True)


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
            if isinstance(values, list) and (found := numbers(values[-3:])) is not None:
                return found
    return None
