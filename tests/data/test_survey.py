"""What is stored of an array in place is known from names alone, in every encoding of keys."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore as ts
import zarr
from formats import SHARDING, as_zarr_array, some_voxels, write_precomputed
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from unetpipe.data.sources import open_source
from unetpipe.data.sources.in_place import InPlaceSource
from unetpipe.errors import UserError
from unetpipe.grid import Region, triple

SHAPE, CHUNK = (10, 21, 40), (3, 8, 4)
GRID = (4, 3, 10)


def _by_zarr(version: int, separator: str, name: str, shards: tuple[int, ...] | None = None) -> Callable[[Path], Any]:
    def make(folder: Path) -> Any:
        chunks = CHUNK if shards is None else (3, 4, 2)
        return zarr.create_array(
            folder, shape=SHAPE, chunks=chunks, shards=shards, dtype="uint8", zarr_format=version,
            chunk_key_encoding={"name": name, "separator": separator}, config={"write_empty_chunks": True},
        )  # fmt: skip

    return make


def _by_tensorstore(spec: dict[str, Any], axes: int = 3) -> Callable[[Path], Any]:
    def make(folder: Path) -> Any:
        spec["kvstore"] = {"driver": "file", "path": f"{folder}/"}
        array = ts.open(spec, create=True).result()
        return array.T[ts.d[:].translate_to[0]] if axes == 3 else array[..., 0].T[ts.d[:].translate_to[0]]

    return make


def _precomputed(offset: list[int], **more: Any) -> Callable[[Path], Any]:
    scale = {
        "size": SHAPE[::-1], "voxel_offset": offset, "resolution": [4, 4, 40], "encoding": "raw", "key": "4_4_40",
        "chunk_size": CHUNK[::-1], **more,
    }  # fmt: skip
    spec = {
        "driver": "neuroglancer_precomputed",
        "multiscale_metadata": {"data_type": "uint8", "num_channels": 1, "type": "image"},
        "scale_metadata": scale,
    }
    return _by_tensorstore(spec, 4)


N5 = {"dimensions": SHAPE[::-1], "blockSize": CHUNK[::-1], "dataType": "uint8", "compression": {"type": "raw"}}

ENCODINGS = {
    "zarr 2, dots": _by_zarr(2, ".", "v2"),
    "zarr 2, slashes": _by_zarr(2, "/", "v2"),
    "zarr 3, slashes": _by_zarr(3, "/", "default"),
    "zarr 3, dots": _by_zarr(3, ".", "default"),
    "zarr 3, keys of 2, dots": _by_zarr(3, ".", "v2"),
    "zarr 3, keys of 2, slashes": _by_zarr(3, "/", "v2"),
    "zarr 3, shards": _by_zarr(3, "/", "default", CHUNK),
    "n5": _by_tensorstore({"driver": "n5", "metadata": N5}),
    "precomputed": _precomputed([0, 0, 0]),
    "precomputed, offset": _precomputed([7, -100, 3]),
}


@pytest.mark.parametrize("make", ENCODINGS.values(), ids=ENCODINGS.keys())
@examples(max_examples=6)
@given(cells=st.sets(st.tuples(*(st.integers(0, n - 1) for n in GRID)), max_size=12), seed=st.integers(0, 9))
def test_stored_is_what_was_written(
    make: Callable[[Path], Any], cells: set[tuple[int, ...]], seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("stored") / "a"
    array = make(folder)
    for cell in cells:
        box = tuple(slice(i * n, min((i + 1) * n, m)) for i, n, m in zip(cell, CHUNK, SHAPE, strict=True))
        array[box] = np.full([b.stop - b.start for b in box], 7, np.uint8)
    expected = np.zeros(GRID, bool)
    for cell in cells:
        expected[cell] = True

    with open_source(str(folder)) as source:
        assert isinstance(source, InPlaceSource)
        stored = source.stored()
    assert stored is not None
    assert (stored.grid, stored.unit, stored.count) == (GRID, CHUNK, len(cells))
    assert stored.bits.nbytes == GRID[0] * GRID[1] * 2
    np.testing.assert_array_equal(stored.objects(Region((0, 0, 0), SHAPE)), expected)
    rng = np.random.default_rng(seed)
    for _ in range(5):
        start = [int(rng.integers(0, n)) for n in SHAPE]
        stop = [int(rng.integers(a + 1, n + 5)) for a, n in zip(start, SHAPE, strict=True)]
        region = Region(triple(start), triple(stop))
        met = expected[tuple(slice(a // n, -(-b // n)) for a, b, n in zip(start, stop, CHUNK, strict=True))]
        np.testing.assert_array_equal(stored.objects(region), met)


def test_shards_of_a_precomputed_volume_do_not_tell(tmp_path: Path) -> None:
    _precomputed([0, 0, 0], sharding=SHARDING)(tmp_path / "a")[...] = np.ones(SHAPE, np.uint8)
    with open_source(str(tmp_path / "a")) as source:
        assert isinstance(source, InPlaceSource)
        assert source.stored() is None
        assert len(source.listing()) == 64


def test_of_several_sizes_of_chunks_that_which_is_read_counts(tmp_path: Path) -> None:
    # Both cover the whole; readers take the first.
    for size in (CHUNK, (5, 8, 8)):
        _precomputed([7, -100, 3], chunk_size=size[::-1])(tmp_path / f"{size}")[...] = np.ones(SHAPE, np.uint8)
    address = tmp_path / f"{CHUNK}"
    for path in (tmp_path / "(5, 8, 8)" / "4_4_40").iterdir():
        path.rename(address / "4_4_40" / path.name)
    info = json.loads((address / "info").read_text())
    info["scales"][0]["chunk_sizes"].append([8, 8, 5])
    (address / "info").write_text(json.dumps(info))
    with open_source(str(address)) as source:
        assert isinstance(source, InPlaceSource)
        stored = source.stored()
        assert stored is not None
        assert stored.unit == CHUNK
        assert stored.count == 4 * 3 * 10
        np.testing.assert_array_equal(source.read(0, 10), np.ones(SHAPE, np.uint8))


def test_what_shrank_has_objects_beyond_its_grid(tmp_path: Path) -> None:
    array = ENCODINGS["zarr 3, slashes"](tmp_path / "a")
    array[...] = 1
    metadata = json.loads((tmp_path / "a" / "zarr.json").read_text())
    (tmp_path / "a" / "zarr.json").write_text(json.dumps(metadata | {"shape": [6, 21, 40]}))
    with open_source(str(tmp_path / "a")) as source:
        assert isinstance(source, InPlaceSource)
        stored = source.stored()
        assert stored is not None
        assert stored.count == 2 * 3 * 10


@pytest.mark.parametrize(
    ("encoding", "name"),
    [
        ("zarr 3, slashes", "c/00/1/1"),
        ("zarr 3, slashes", "d/0/1/1"),
        ("zarr 2, dots", "0.1.1.partial"),
        ("zarr 2, dots", "0/1/1"),
        ("n5", "x/1/1"),
        ("precomputed, offset", "7-23_-100--92_3-6"),
        ("precomputed, offset", "8-12_-100--92_3-6"),
        ("precomputed, offset", "3-7_-100--92_3-6"),
    ],
)
def test_what_is_never_read_does_not_count(encoding: str, name: str, tmp_path: Path) -> None:
    ENCODINGS[encoding](tmp_path / "a")
    folder = tmp_path / "a" / ("4_4_40" if encoding.startswith("precomputed") else "")
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(b"x")
    with open_source(str(tmp_path / "a")) as source:
        assert isinstance(source, InPlaceSource)
        stored = source.stored()
        assert stored is not None
        assert stored.count == 0


def test_chunks_under_names_that_are_not_read_are_refused(tmp_path: Path) -> None:
    address = write_precomputed(tmp_path / "a", some_voxels("uint8"))
    for path in (tmp_path / "a" / "4_4_40").iterdir():
        path.rename(f"{path}.gz")
    with open_source(address) as source, pytest.raises(UserError, match=r"compressed after .*\.gz.*\n.*CloudVolume"):
        source.listing()


def test_the_listing_does_not_depend_on_the_order_of_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from unetpipe.storage import LocalFolder

    address = as_zarr_array(3)(tmp_path, some_voxels("uint8"))
    with open_source(address) as source:
        before = source.listing()
    entries = LocalFolder.entries
    monkeypatch.setattr(LocalFolder, "entries", lambda *a, **k: reversed(list(entries(*a, **k))))
    with open_source(address) as source:
        assert source.listing() == before


@pytest.mark.parametrize("change", ["data_type", "encoding"])
def test_the_metadata_of_a_scale_are_part_of_the_listing_and_those_of_others_are_not(
    change: str, tmp_path: Path
) -> None:
    voxels = some_voxels("uint8")
    write_precomputed(tmp_path / "a", voxels, chunk_size=[64, 64, 64])

    def listing() -> str:
        with open_source(str(tmp_path / "a")) as source:
            return source.listing()

    first = listing()
    write_precomputed(tmp_path / "a", voxels[:, ::2, ::2], (8, 8, 40))
    assert listing() == first
    info = json.loads((tmp_path / "a" / "info").read_text())
    if change == "encoding":
        info["scales"][0]["encoding"] = "png"
    else:
        info["data_type"] = "int8"
    (tmp_path / "a" / "info").write_text(json.dumps(info))
    assert listing() != first


def test_memory_is_a_bit_for_each_object() -> None:
    # A grid of a hundred million objects: a volume of 26 TB in chunks of 64.
    from unetpipe.extent import Extent

    grid = (400, 500, 500)
    stored = Extent(triple([64 * n for n in grid]), (64, 64, 64), np.zeros((400, 500, 63), np.uint8))
    assert stored.grid == grid
    assert stored.bits.nbytes < 13e6
    assert [stored.objects(Region((z, 0, 0), (z + 64, 64, 64))).any() for z in (0, 640)] == [False, False]
    assert list(itertools.islice(stored.objects(Region((0, 0, 0), (1, 1, 640))).flat, 20)) == [False] * 10
