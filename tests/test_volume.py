"""Volumes in Zarr: what is read beyond them, how they are cut into shards, and what others can read of them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from stores import make_store, shard_path

from unetpipe import volume as volume_module
from unetpipe.arrays import open_array
from unetpipe.errors import UserError
from unetpipe.grid import Region, Shape
from unetpipe.storage import folder_at
from unetpipe.volume import (
    IGNORE,
    Image,
    LostShardError,
    VolumeFile,
    layout,
    mirrored,
    read_labels,
    read_mirrored,
    read_truth,
    shown_sections,
    write_shards,
)

SHAPES = st.tuples(*[st.integers(1, 6)] * 3)


def _array(voxels: NDArray[Any]) -> "zarr.Array[Any]":
    array = zarr.create_array({}, shape=voxels.shape, dtype=voxels.dtype, chunks=tuple(min(3, n) for n in voxels.shape))
    array[...] = voxels
    return array


def _padded(voxels: NDArray[Any], region: Region) -> NDArray[Any]:
    """What NumPy's padding says of a region."""
    reach = [(max(0, -a), max(0, b - n)) for a, b, n in zip(region.start, region.stop, voxels.shape, strict=True)]
    wide = np.pad(voxels, reach, mode="reflect")
    starts = [a + before for a, (before, _) in zip(region.start, reach, strict=True)]
    return wide[tuple(slice(a, a + n) for a, n in zip(starts, region.shape, strict=True))]


@given(
    shape=SHAPES,
    start=st.tuples(*[st.integers(-15, 15)] * 3),
    size=st.tuples(*[st.integers(1, 12)] * 3),
    first=st.integers(0, 3),
)
def test_reading_beyond_a_volume_mirrors_it_as_numpy_does(
    shape: tuple[int, int, int], start: tuple[int, int, int], size: tuple[int, int, int], first: int
) -> None:
    voxels = np.random.default_rng(0).integers(0, 255, (shape[0] + 5, *shape[1:]), dtype=np.uint8)
    region = Region.of(start, size)
    found = read_mirrored(_array(voxels), region, shape, first)
    np.testing.assert_array_equal(found, _padded(voxels[first : first + shape[0]], region))


@given(start=st.integers(-50, 50), length=st.integers(1, 60), size=st.integers(1, 9))
def test_mirrored_indices_are_numpys_reflection(start: int, length: int, size: int) -> None:
    wide = np.pad(np.arange(size), 120, mode="reflect")
    np.testing.assert_array_equal(mirrored(start, start + length, size), wide[120 + start :][:length])


def test_labels_are_mirrored_alike(tmp_path: Path) -> None:
    labels = np.array([[[0, 1, IGNORE]]], np.uint8)
    store = make_store(
        tmp_path / "l.zarr", shape=(1, 1, 3), dtype="uint8", chunk=(1, 1, 3), shard=(1, 1, 3), voxel_size_nm=(1, 1, 1)
    )
    store[...] = labels
    array = open_array(str(tmp_path / "l.zarr" / "0"))
    found = read_labels(array, Region((0, 0, -2), (1, 1, 5)), (1, 1, 3))
    assert found.tolist() == [[[IGNORE, 1, 0, 1, IGNORE, 1, 0]]]
    assert found.dtype == np.uint8


@given(st.tuples(st.integers(1, 100), st.integers(1, 5000), st.integers(1, 5000)))
def test_shards_are_whole_chunks_and_both_are_bounded(shape: tuple[int, int, int]) -> None:
    chunk, shard = layout(shape)
    assert all(s % c == 0 for s, c in zip(shard, chunk, strict=True))
    assert all(c <= most and c <= n for c, most, n in zip(chunk, (8, 128, 128), shape, strict=True))
    assert all(s <= most and s < n + c for s, most, n, c in zip(shard, (8, 1024, 1024), shape, chunk, strict=True))


@given(
    shape=st.tuples(st.integers(1, 20), st.integers(1, 300), st.integers(1, 300)),
    dtype=st.sampled_from(["uint8", "uint16", "float32"]),
)
def test_a_new_store_gives_back_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, shape: tuple[int, int, int], dtype: str
) -> None:
    chunk, shard = layout(shape)
    path = tmp_path_factory.mktemp("store") / "a.zarr"
    voxels = np.random.default_rng(1).integers(0, 200, shape).astype(dtype)
    make_store(path, shape=shape, dtype=dtype, chunk=chunk, shard=shard, voxel_size_nm=(40, 4, 4))[...] = voxels
    array = open_array(str(path / "0"))
    assert (array.chunk, array.shard, array.dtype) == (chunk, shard, np.dtype(dtype))
    np.testing.assert_array_equal(array[...], voxels)


def test_a_store_is_ome_zarr_0_5(tmp_path: Path) -> None:
    # https://ngff.openmicroscopy.org/0.5: all in the attribute `ome`, units spelt out, scale before translation.
    make_store(
        tmp_path / "map.zarr",
        shape=(2, 4, 8, 8), dtype="uint8", chunk=(1, 4, 8, 8), shard=(2, 4, 8, 8),
        voxel_size_nm=(40, 4, 5), origin_nm=(80, 0, 1), channels=["membrane", "inside"],
    )  # fmt: skip
    group = zarr.open_group(tmp_path / "map.zarr", mode="r")
    ome: Any = group.attrs["ome"]
    (image,) = ome["multiscales"]
    assert ome["version"] == "0.5"
    assert [axis["name"] for axis in image["axes"]] == ["c", "z", "y", "x"]
    assert [axis.get("unit") for axis in image["axes"]] == [None, "nanometer", "nanometer", "nanometer"]
    assert image["datasets"][0]["path"] == "0"
    assert image["datasets"][0]["coordinateTransformations"] == [
        {"type": "scale", "scale": [1, 40, 4, 5]},
        {"type": "translation", "translation": [0, 80, 0, 1]},
    ]
    assert [channel["label"] for channel in ome["omero"]["channels"]] == ["membrane", "inside"]
    # Those of the label map: white on white, a viewer would show the sum, which is the same everywhere.
    assert [channel["color"] for channel in ome["omero"]["channels"]] == ["009E73", "E69F00"]
    assert zarr.open_array(tmp_path / "map.zarr" / "0").metadata.dimension_names == ("c", "z", "y", "x")  # type: ignore[union-attr]


def test_creating_wipes_what_was_there(tmp_path: Path) -> None:
    make = {"dtype": "uint8", "chunk": (1, 4, 4), "shard": (1, 4, 4), "voxel_size_nm": (1, 1, 1)}
    make_store(tmp_path / "a.zarr", shape=(2, 4, 4), **make)[...] = 7  # type: ignore[arg-type]
    array = make_store(tmp_path / "a.zarr", shape=(2, 4, 4), **make)  # type: ignore[arg-type]
    assert not np.asarray(array[...]).any()
    assert not list((tmp_path / "a.zarr" / "0").glob("c/**/*"))


SMALL: dict[str, Any] = {"dtype": "uint8", "chunk": (1, 2, 4), "shard": (2, 4, 8), "voxel_size_nm": (1, 1, 1)}


def test_an_empty_shard_is_written_too(tmp_path: Path) -> None:
    # A shard that is not there was never written: zeros are no exception.
    array = make_store(tmp_path / "a.zarr", shape=(2, 4, 8), **SMALL)
    write_shards(folder_at(tmp_path / "a.zarr" / "0"), (0, 0, 0), np.zeros((2, 4, 8), np.uint8))
    # Of each chunk, too, the index at the end of the shard knows where it lies.
    places = np.frombuffer(shard_path(array, (0, 0, 0)).read_bytes()[:-4], "<u8")[-2 * 8 :].reshape(8, 2)
    assert (places[:, 0] < 1 << 32).all()
    assert (places[:, 1] > 0).all()


@given(st.data())
def test_shards_are_what_zarr_would_read(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    shape = tuple(data.draw(st.integers(1, most)) for most in (5, 9, 17))
    start = tuple(data.draw(st.integers(0, (n - 1) // s)) * s for n, s in zip(shape, SMALL["shard"], strict=True))
    path = tmp_path_factory.mktemp("store") / "a.zarr"
    array = make_store(path, shape=shape, **SMALL)
    voxels = np.random.default_rng(0).integers(0, 3, [n - a for n, a in zip(shape, start, strict=True)], np.uint8)
    write_shards(folder_at(path / "0"), start, voxels)
    whole = np.zeros(shape, np.uint8)
    whole[tuple(slice(a, None) for a in start)] = voxels
    np.testing.assert_array_equal(np.asarray(array[...]), whole)
    np.testing.assert_array_equal(open_array(str(path / "0"))[...], whole)


@pytest.mark.parametrize(("start", "shape"), [((1, 0, 0), (2, 4, 8)), ((0, 0, 0), (1, 4, 8)), ((0, 0, 8), (2, 4, 7))])
def test_a_part_of_a_shard_is_not_written(start: Shape, shape: Shape, tmp_path: Path) -> None:
    make_store(tmp_path / "a.zarr", shape=(4, 4, 16), **SMALL)
    with pytest.raises(ValueError, match="are not whole shards of"):
        write_shards(folder_at(tmp_path / "a.zarr" / "0"), start, np.ones(shape, np.uint8))
    assert not list((tmp_path / "a.zarr" / "0").glob("c/**/*"))


@pytest.mark.parametrize("make", ["nothing", "folder", "group"])
def test_what_is_no_array_is_refused(tmp_path: Path, make: str) -> None:
    path = tmp_path / "a.zarr"
    if make == "folder":
        path.mkdir()
    elif make == "group":
        zarr.create_group(path)
    with pytest.raises(UserError, match=r"the array .*a\.zarr was to be read\n.*\n.*a Zarr array was expected"):
        open_array(str(path))


VOLUME = VolumeFile(
    name="v",
    image="",
    labels=None,
    shape=(1, 1, 1),
    first_section=0,
    dtype="uint8",
    voxel_size_nm=(40.0, 4.0, 4.0),
    origin_nm=(0.0, 0.0, 0.0),
    range=None,
    mean=(10.0,),
    std=(2.0,),
    missing_sections=(),
    image_digest="d",
    labels_digest=None,
    extent=None,
    source={"image": "a.tif"},
    version="0",
)


def _volume(tmp_path: Path, voxels: NDArray[Any], **changes: Any) -> VolumeFile:
    chunk, shard = layout(voxels.shape)
    make_store(
        tmp_path / "i.zarr",
        shape=voxels.shape, dtype=str(voxels.dtype), chunk=chunk, shard=shard, voxel_size_nm=(1, 1, 1),
    )[...] = voxels  # fmt: skip
    facts: dict[str, Any] = {
        "image": str(tmp_path / "i.zarr" / "0"),
        "shape": voxels.shape,
        "dtype": str(voxels.dtype),
        "mean": VOLUME.mean * len(voxels),
        "std": VOLUME.std * len(voxels),
    }
    return replace(VOLUME, **(facts | changes))


def test_volume_json_keeps_everything(tmp_path: Path) -> None:
    volume = _volume(tmp_path, np.zeros((2, 3, 4), np.uint8), range=(0.25, 7.5), missing_sections=(1,))
    volume.write(tmp_path / "volume.json")
    assert VolumeFile.read(tmp_path / "volume.json") == volume


def test_identity_has_what_changes_a_voxel_and_nothing_else(tmp_path: Path) -> None:
    volume = _volume(tmp_path, np.zeros((2, 3, 4), np.uint8))
    for changes in (
        {"name": "w"},
        {"labels": "l"},
        {"version": "1"},
        {"voxel_size_nm": (1.0, 1.0, 1.0)},
        {"source": {}},
    ):
        assert _volume(tmp_path, np.zeros((2, 3, 4), np.uint8), **changes).identity() == volume.identity()
    for changes in (
        {"image_digest": "e"},
        {"first_section": 1},
        {"mean": (1.0, 2.0)},
        {"std": (1.0, 2.0)},
        {"range": (0.0, 1.0)},
    ):
        assert _volume(tmp_path, np.zeros((2, 3, 4), np.uint8), **changes).identity() != volume.identity()


def test_grey_values_are_normalised_by_section_whatever_region_is_read(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    voxels = rng.normal(0, 100, (5, 20, 30)).astype(np.float32)
    voxels[1, :5], voxels[1, 5], voxels[1, 6] = np.nan, np.inf, -np.inf
    volume = _volume(
        tmp_path, voxels, range=(-50.0, 80.0), mean=(1.0, 2.0, 3.0, 4.0), std=(5.0, 6.0, 0.0, 7.0),
        first_section=1, shape=(4, 20, 30), missing_sections=(2,),
    )  # fmt: skip
    image = Image(volume)
    whole = image.read(Region((-3, -4, -5), (7, 24, 35)))
    # Not a number is black; the missing section is filled with the one before.
    used = np.clip(np.nan_to_num(voxels[1:], nan=-50, posinf=80, neginf=-50), -50, 80)
    mean, std = np.array([1, 2, 3, 4.0])[:, None, None], np.array([5, 6, np.inf, 7.0])[:, None, None]
    used = (used - mean) / std
    used[2] = used[1]
    expected = np.pad(used, ((3, 3), (4, 4), (5, 5)), mode="reflect")
    np.testing.assert_allclose(whole, expected, rtol=1e-5, atol=1e-5)
    for start, stop in (((0, 0, 0), (1, 1, 1)), ((-2, 3, 20), (2, 19, 34)), ((1, 0, 0), (4, 20, 30))):
        part = image.read(Region(start, stop))
        inside = tuple(slice(a + b, c + b) for a, c, b in zip(start, stop, (3, 4, 5), strict=True))
        np.testing.assert_array_equal(part, whole[inside])


def _shown(z: int, there: list[int]) -> int:
    """The nearest of the sections that are there, the earlier one of two."""
    return min(there, key=lambda other: (abs(other - z), other))


@st.composite
def _gaps(draw: st.DrawFn) -> tuple[int, list[int]]:
    """A number of sections, and which of them are missing: in runs, at the ends, all."""
    there = draw(st.lists(st.booleans(), min_size=1, max_size=12))
    return len(there), [z for z, is_there in enumerate(there) if not is_there]


@given(_gaps())
def test_the_nearest_section_that_is_there_is_shown(gaps: tuple[int, list[int]]) -> None:
    count, missing = gaps
    there = [z for z in range(count) if z not in missing]
    expected = [_shown(z, there) for z in range(count)] if there else list(range(count))
    assert shown_sections(count, missing).tolist() == expected


@given(
    gaps=_gaps(),
    start=st.tuples(*[st.integers(-20, 20)] * 3),
    size=st.tuples(*[st.integers(1, 30)] * 3),
    first=st.integers(0, 2),
)
@example(gaps=(1, [0]), start=(-1, 0, 0), size=(3, 4, 5), first=0).via("a volume of a missing section alone")
@example(gaps=(6, [0, 1, 2, 3]), start=(-7, 0, 0), size=(20, 4, 5), first=1).via("a run at the start, mirrored")
@example(gaps=(6, []), start=(-4, 0, 0), size=(3, 4, 5), first=0).via("beyond the volume alone: in reverse order")
@example(gaps=(7, [2, 3, 4]), start=(3, 0, 0), size=(1, 4, 5), first=0).via("as near to both: the earlier one")
def test_missing_sections_are_filled_whatever_region_is_read(
    tmp_path: Path, gaps: tuple[int, list[int]], start: Shape, size: Shape, first: int
) -> None:
    count, missing = gaps
    rng = np.random.default_rng(count)
    voxels = rng.integers(0, 255, (count + 3, 4, 5)).astype(np.uint8)
    mean, std = rng.normal(100, 30, count), rng.uniform(10, 60, count)
    mean[missing], std[missing] = 0, 0
    volume = _volume(
        tmp_path, voxels, shape=(count, 4, 5), first_section=first,
        mean=tuple(mean), std=tuple(std), missing_sections=tuple(missing),
    )  # fmt: skip
    filled = np.zeros((count, 4, 5), np.float32)
    there = [z for z in range(count) if z not in missing]
    for z in range(count if there else 0):
        section = _shown(z, there)
        filled[z] = (voxels[first + section] - np.float32(mean[section])) * np.float32(1 / std[section])
    region = Region.of(start, size)
    np.testing.assert_array_equal(Image(volume).read(region), _padded(filled, region))


def test_no_more_is_read_than_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # What stands for two neighbours can lie at both ends of a long gap.
    voxels = np.arange(40, dtype=np.uint8).reshape(40, 1, 1)
    missing = tuple(range(1, 39))
    image = Image(_volume(tmp_path, voxels, missing_sections=missing, mean=(0.0,) * 40, std=(1.0,) * 40))
    read = []

    def reading(array: Any, region: Region, *rest: Any, **how: Any) -> NDArray[Any]:
        read.append(region.shape[0])
        return read_mirrored(array, region, *rest, **how)

    monkeypatch.setattr(volume_module, "read_mirrored", reading)
    assert image.read(Region((18, 0, 0), (22, 1, 1))).ravel().tolist() == [0, 0, 39, 39]
    assert read == [1, 1]


@given(gaps=_gaps(), start=st.tuples(*[st.integers(-20, 20)] * 3), size=st.tuples(*[st.integers(1, 30)] * 3))
def test_missing_sections_are_not_learnt(
    tmp_path: Path, gaps: tuple[int, list[int]], start: Shape, size: Shape
) -> None:
    count, missing = gaps
    labels = np.random.default_rng(0).integers(0, 3, (count, 4, 5)).astype(np.uint8)
    volume = _volume(tmp_path, labels, missing_sections=tuple(missing))
    array, region = open_array(volume.image), Region.of(start, size)
    learnt = labels.copy()
    learnt[missing] = IGNORE
    np.testing.assert_array_equal(read_truth(array, region, volume), _padded(learnt, region))
    # They are scored like others.
    np.testing.assert_array_equal(read_labels(array, region, volume.shape), _padded(labels, region))


@given(
    lost=st.tuples(*[st.integers(0, 2)] * 3),
    start=st.tuples(*[st.integers(-9, 14)] * 3),
    size=st.tuples(*[st.integers(1, 9)] * 3),
    first=st.integers(0, 3),
    sharded=st.booleans(),
)
def test_a_lost_shard_is_an_error_for_whom_it_concerns_and_zeros_for_nobody(
    lost: Shape, start: Shape, size: Shape, first: int, sharded: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    place, shape, shard, region = tmp_path_factory.mktemp("v"), (12, 11, 10), (4, 4, 4), Region.of(start, size)
    array = zarr.create_array(
        place / "i.zarr" / "0",
        shape=shape, dtype="uint8", chunks=(2, 4, 4) if sharded else shard, shards=shard if sharded else None,
        # Zeros are written too, so that only what is lost is not there.
        config={"write_empty_chunks": True},
    )  # fmt: skip
    array[...] = 0
    depth = shape[0] - first
    volume = replace(
        VOLUME, image=str(place / "i.zarr" / "0"), shape=(depth, *shape[1:]), first_section=first,
        mean=(0.0,) * depth, std=(1.0,) * depth,
    )  # fmt: skip
    corner = [n * i for n, i in zip(shard, lost, strict=True)]
    path = shard_path(array, corner)
    path.unlink()
    spans = zip(region.spans, volume.shape, (first, 0, 0), corner, strict=True)
    concerned = all(min(mirrored(a, b, n)) + o < c + 4 and max(mirrored(a, b, n)) + o >= c for (a, b), n, o, c in spans)
    # What an earlier version wrote does not tell whether all was written.
    for source in ({"in_place": True}, {}):
        assert not Image(replace(volume, source=source)).read(region).any()
    copied = Image(replace(volume, source={"in_place": False}))
    message = rf"(?s)the shard {path} is gone.*delete {place / 'volume.json'} "
    if concerned:
        with pytest.raises(LostShardError, match=message):
            copied.read(region)
    else:
        assert not copied.read(region).any()
    if first == 0:
        labels = open_array(volume.image)
        if concerned:
            with pytest.raises(LostShardError, match=message):
                read_truth(labels, region, volume)
        else:
            assert not read_truth(labels, region, volume).any()
