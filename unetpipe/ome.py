"""The metadata of OME-Zarr 0.5 (https://ngff.openmicroscopy.org/0.5): levels of an image, and label maps."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import zarr
from zarr.codecs import ZstdCodec
from zarr.storage import MemoryStore

from unetpipe.arrays import METADATA
from unetpipe.colours import colours
from unetpipe.levels import LABEL_MAP, Level
from unetpipe.storage import Folder

_LABELS = "labels"
"""The group of label images in that of an image."""

NOTHING = 255
"""In a label map: a voxel that was not predicted."""


def create_label_map(
    place: Folder,
    *,
    levels: Sequence[Level],
    voxel_size_nm: Sequence[float],
    origin_nm: Sequence[float],
    classes: Sequence[str],
) -> None:
    """The metadata of a label map with ``levels`` in the group ``place``; shards that are there are kept.

    A voxel of a coarser level has the class that is most frequent in what it covers.
    """
    axes = [{"name": name, "type": "space", "unit": "nanometer"} for name in "zyx"]
    datasets = [
        dataset(level.path, 3, level.voxel_size_nm(voxel_size_nm), level.origin_nm(voxel_size_nm, origin_nm))
        for level in levels
    ]
    # What was not predicted is transparent.
    colour = {index: [*rgb, 255] for index, rgb in enumerate(colours(len(classes)))} | {NOTHING: [0, 0, 0, 0]}
    means = dict(enumerate(classes)) | {NOTHING: "not predicted"}
    described = {
        "colors": [{"label-value": index, "rgba": rgba} for index, rgba in colour.items()],
        "properties": [{"label-value": index, "class": meaning} for index, meaning in means.items()],
        "source": {"image": "../../"},
    }
    image = {"name": "classes", "type": "mode", "axes": axes, "datasets": datasets}
    content = group({"multiscales": [image], "image-label": described})
    for level in levels:
        content |= array(level.path, level.shape, level.chunk, level.shard, dtype="uint8", names="zyx", fill=NOTHING)
    write(place.below(LABEL_MAP), content)
    # Last: what it names is there.
    _list_labels(place, [*(name for name in labels_of(place) if name != LABEL_MAP), LABEL_MAP])


def channels(names: Sequence[str]) -> list[dict[str, Any]]:
    """How viewers show probabilities: each class in the colour that it has in a label map, from black at 0."""
    window = {"min": 0, "max": 255, "start": 0, "end": 255}
    return [
        {"label": name, "color": bytes(colour).hex().upper(), "window": window}
        for name, colour in zip(names, colours(len(names)), strict=True)
    ]


def remove_label_map(place: Folder) -> None:
    """Take the label map out of the group ``place``, if it has one; label images of others stay."""
    if LABEL_MAP in (names := labels_of(place)):
        _list_labels(place, [name for name in names if name != LABEL_MAP])
    place.below(LABEL_MAP).clear()


def labels_of(place: Folder) -> list[str]:
    """The label images of the group ``place``, by their names in it."""
    found = read(place.below(_LABELS)).get("labels")
    return [f"{_LABELS}/{name}" for name in found] if isinstance(found, list) else []


def _list_labels(place: Folder, names: Sequence[str]) -> None:
    if names:
        write(place.below(_LABELS), group({"labels": [name.removeprefix(f"{_LABELS}/") for name in names]}))
    else:
        place.remove(f"{_LABELS}/{METADATA}")


def read(place: Folder) -> dict[str, Any]:
    """What OME-Zarr says in the metadata of a group; nothing where it says nothing."""
    try:
        found = json.loads(place.read(METADATA))["attributes"]["ome"]
    except (FileNotFoundError, KeyError, TypeError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def dataset(path: str, axes: int, voxel_size_nm: Sequence[float], origin_nm: Sequence[float]) -> dict[str, Any]:
    """A level in the metadata of an image; the channels, if any, come first and have no size."""
    more = axes - 3
    return {
        "path": path,
        "coordinateTransformations": [
            {"type": "scale", "scale": [1.0] * more + list(map(float, voxel_size_nm))},
            {"type": "translation", "translation": [0.0] * more + list(map(float, origin_nm))},
        ],
    }


def group(ome: Mapping[str, Any]) -> dict[str, bytes]:
    """The files of a group with the metadata ``ome``, by name."""
    content: dict[str, Any] = {}
    zarr.create_group(MemoryStore(content), attributes={"ome": {"version": "0.5", **ome}}, zarr_format=3)
    return {name: value.to_bytes() for name, value in content.items()}


def array(
    path: str,
    shape: Sequence[int],
    chunk: Sequence[int],
    shard: Sequence[int],
    *,
    dtype: str,
    names: Sequence[str],
    fill: int = 0,
) -> dict[str, bytes]:
    """The files of an empty array, by name."""
    content: dict[str, Any] = {}
    zarr.create_array(
        MemoryStore(content),
        name=path,
        shape=tuple(shape),
        dtype=dtype,
        chunks=tuple(chunk),
        shards=tuple(shard),
        compressors=ZstdCodec(level=3),
        fill_value=fill,
        dimension_names=list(names),
        zarr_format=3,
    )
    return {name: value.to_bytes() for name, value in content.items() if name.startswith(f"{path}/")}


def write(place: Folder, content: Mapping[str, bytes]) -> None:
    """Write the files of a group and its arrays."""
    # The group last: without its metadata, the whole is none.
    for name in sorted(content, key=lambda name: name == METADATA):
        place.write(name, content[name])
