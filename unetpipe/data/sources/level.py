"""What the metadata of a volume that is used in place say: which array, and where it lies in space."""

import itertools
import json
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from unetpipe.data.sources.contract import VoxelSize
from unetpipe.storage import Folder, LocalFolder

PARENTS = 3
"""Folders above an array, in which the image that it is a level of is looked for."""

_LOOKED_AT = 1000
"""Objects of a bucket, for a message that tells what there is."""


@dataclass(frozen=True)
class Level:
    """An array: its address, edge lengths of its voxels and the centre of the first one, both (z, y, x) in nm.

    They are None where the metadata do not tell. ``wide``: the array may have axes before (z, y, x), for that its
    metadata name them.
    """

    address: str
    voxel_size_nm: VoxelSize | None
    origin_nm: VoxelSize | None
    wide: bool = False


def read_object(place: Folder, name: str) -> dict[str, Any] | None:
    """The JSON object ``name``; None if there is none. ValueError if it is not JSON, or no object."""
    try:
        found = json.loads(place.read(name))
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not isinstance(found, dict):
        raise ValueError(f"{name} holds no JSON object")
    return found


def numbers(values: object) -> list[float] | None:
    """Three numbers; None if ``values`` are something else."""
    if not isinstance(values, Sequence) or isinstance(values, str) or len(values) != 3:
        return None
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return None
    return [float(value) for value in values]


def arrays_below(place: Folder, names: Sequence[str]) -> list[str]:
    """The folders in ``place`` that hold an object of one of ``names``, for messages; of a large bucket, some."""
    if isinstance(place, LocalFolder):
        children = sorted(place.path.iterdir()) if place.path.is_dir() else []
        return [child.name for child in children if any((child / name).is_file() for name in names)]
    seen = itertools.islice(place.entries(), _LOOKED_AT)
    places = (posixpath.split(entry.name) for entry in seen)
    return sorted({folder for folder, name in places if folder and name in names})
