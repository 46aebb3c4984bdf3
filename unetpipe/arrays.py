"""Arrays of voxels, wherever they lie: opened, read and encoded by TensorStore."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorstore as ts
from numpy.typing import NDArray

from unetpipe.errors import UserError
from unetpipe.storage import Folder, above, folder_at

METADATA = "zarr.json"
"""Of an array or a group of Zarr version 3."""

N5_METADATA = "attributes.json"
PRECOMPUTED_METADATA = "info"

_DRIVERS = {METADATA: "zarr3", ".zarray": "zarr"}
"""By the file that an array has."""

_KEY_PARTS = 2
"""Of the key of a scale in Neuroglancer's precomputed format, at most: one, or that of a folder in a folder."""

ERRORS = (ValueError, RuntimeError, NotImplementedError, OverflowError)
"""What TensorStore raises: ValueError for most of what a storage or a codec answers."""

_APPENDED = re.compile(r" \[(?:tensorstore_spec|source locations|http_response_\w+)=")

_RETRIES = {"max_retries": 8, "initial_delay": "200ms", "max_delay": "10s"}


@dataclass(frozen=True, eq=False)
class Array:
    """An array, open for reading; its last axes are (z, y, x), each from 0 on. Several threads may read it.

    Formats that name the axes the other way round, (x, y, z), are seen transposed.

    Attributes
    ----------
    chunk, shard:
        Of what is decoded at a time, and of what is stored as one object, in voxels along each axis.
    """

    address: str
    store: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along each axis."""
        return tuple(self.store.shape)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return int(self.store.ndim)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of a voxel."""
        found: np.dtype[Any] = np.dtype(self.store.dtype.numpy_dtype)
        return found

    @property
    def chunk(self) -> tuple[int, ...]:
        """Voxels along each axis that are decoded at a time."""
        return tuple(self.store.chunk_layout.read_chunk.shape)

    @property
    def shard(self) -> tuple[int, ...]:
        """Voxels along each axis that are stored as one object."""
        return tuple(self.store.chunk_layout.write_chunk.shape)

    @property
    def fill_value(self) -> Any:
        """Of voxels that are not stored."""
        # Formats that know no such value mean 0.
        return 0 if self.store.fill_value is None else self.store.fill_value

    def __getitem__(self, box: Any) -> NDArray[Any]:
        """The voxels in ``box``.

        Raises
        ------
        ValueError
            If they cannot be read or decoded.
        """
        try:
            return np.asarray(self.store[box].read().result())
        except ERRORS as error:
            raise type(error)(told(error)) from None


class _Threads:
    """How many threads of this process decode and encode; None for one per core."""

    count: int | None = None
    context: Any = None

    @classmethod
    def shared(cls) -> Any:
        """The context that all arrays of this process share."""
        if cls.context is None:
            limit = {} if cls.count is None else {"data_copy_concurrency": {"limit": cls.count}}
            cls.context = ts.Context({**limit, "s3_request_retries": _RETRIES})
        return cls.context


def use_threads(count: int) -> None:
    """Let ``count`` threads of this process decode and encode, of arrays that are opened from now on."""
    if count != _Threads.count:
        _Threads.count, _Threads.context = count, None


def threads_in_use() -> int:
    """How many threads of this process decode and encode."""
    return _Threads.count or os.cpu_count() or 1


@dataclass(frozen=True)
class Found:
    """Which driver reads an array; of a precomputed volume, the folder of its ``info``, and the scale."""

    driver: str
    place: Folder
    scale: str | None = None


def find(address: str) -> Found | None:
    """What kind of array lies at ``address``, by its metadata; None if it has none.

    A folder with an ``info`` is the first scale of that volume; the address of a scale is ``FOLDER/KEY``.

    Raises
    ------
    OSError
        If the storage does not answer.
    """
    place = folder_at(address)
    for name, driver in _DRIVERS.items():
        if place.size(name) is not None:
            return Found(driver, place)
    # Others have files of these names too: what stands in them decides.
    if {"dimensions", "blockSize"} <= _read_object(place, N5_METADATA).keys():
        return Found("n5", place)
    for folder, key in [(address, None), *above(address, _KEY_PARTS)]:
        keys = scales(there := folder_at(folder))
        if keys and key is None:
            return Found("neuroglancer_precomputed", there, keys[0])
        if key in keys:
            return Found("neuroglancer_precomputed", there, key)
    return None


def scales(place: Folder) -> list[str]:
    """The keys of the scales of a precomputed volume, the finest first; none if there is no such volume."""
    return [str(scale["key"]) for scale in read_info(place).get("scales", ())]


def read_info(place: Folder) -> dict[str, Any]:
    """The metadata of a precomputed volume; empty if there is none."""
    found = _read_object(place, PRECOMPUTED_METADATA)
    listed = found.get("scales")
    if not isinstance(listed, list) or not all(isinstance(scale, dict) and "key" in scale for scale in listed):
        return {}
    return found


def _read_object(place: Folder, name: str) -> dict[str, Any]:
    """A JSON object; empty where there is none, or none that can be read."""
    try:
        found = json.loads(place.read(name))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError, ValueError):
        # Above a volume may be what its reader must not see.
        return {}
    return found if isinstance(found, dict) else {}


def open_array(address: str) -> Array:
    """The array at ``address`` for reading: of a Zarr, an N5, or one scale of a precomputed volume of Neuroglancer.

    Raises
    ------
    UserError
        If there is none, or its metadata cannot be read.
    """
    asked, repair = f"the array {address} was to be read", "check the address; a Zarr array was expected"
    found = find(address)
    if found is None:
        names = [*_DRIVERS, N5_METADATA, PRECOMPUTED_METADATA]
        raise UserError(asked, f"there is neither {' nor '.join(names)} of an array", repair)
    spec: dict[str, Any] = {"driver": found.driver, "kvstore": found.place.kvstore()}
    if found.scale is not None:
        spec["scale_metadata"] = {"key": found.scale}
    try:
        store: Any = ts.open(spec, open=True, context=_Threads.shared()).result()
    except ERRORS as error:
        raise UserError(asked, told(error), repair) from None
    if found.scale is not None:
        if store.shape[-1] != 1:
            raise UserError(asked, f"it has {store.shape[-1]} channels", "write one channel as a volume of its own")
        store = store[..., 0]
    if found.driver in ("n5", "neuroglancer_precomputed"):
        store = store.T[ts.d[:].translate_to[0]]
    return Array(address, store)


def open_volume(address: str) -> Array:
    """The array at ``address`` as (z, y, x): axes before these, such as channels, are left out if they have one voxel.

    Raises
    ------
    UserError
        As :func:`open_array`.
    """
    array = open_array(address)
    others = array.ndim - 3
    if others > 0 and set(array.shape[:others]) == {1}:
        return Array(address, array.store[(0,) * others])
    return array


def told(error: Exception) -> str:
    """What TensorStore says of an error, without what it appends: settings, and answers that can name a key."""
    return _APPENDED.split(str(error), maxsplit=1)[0] or type(error).__name__


def encode(metadata: Mapping[str, Any], voxels: NDArray[Any]) -> bytes:
    """The one shard that holds all of ``voxels``, in an array with the ``metadata`` of Zarr version 3.

    All its chunks are written, whatever they hold.
    """
    described = {**metadata, "shape": list(voxels.shape)}
    spec = {"driver": "zarr3", "kvstore": {"driver": "memory"}, "metadata": described}
    # A context of its own is a memory of its own.
    context = ts.Context({"memory_key_value_store": {}}, _Threads.shared())
    array: Any = ts.open({**spec, "store_data_equal_to_fill_value": True}, create=True, context=context).result()
    # Not copied, since they stay as they are until this is done.
    array.write(voxels, can_reference_source_data_indefinitely=True).result()
    return bytes(array.kvstore[f"c{'/0' * voxels.ndim}"])


def read_metadata(place: Folder) -> dict[str, Any]:
    """Those of the Zarr array in ``place``, for :func:`encode`."""
    found: dict[str, Any] = json.loads(place.read(METADATA))
    return found


def shard_name(shard: Sequence[int], start: Sequence[int]) -> str:
    """The object, in the folder of its array, that begins at the voxel ``start``, in Zarr's default encoding."""
    return "/".join(["c", *(str(a // n) for a, n in zip(start, shard, strict=True))])
