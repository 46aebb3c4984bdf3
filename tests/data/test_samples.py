"""Samples keep what was put into them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from unetpipe.data.samples import BLACK, SHARD, SamplesFile, create, decode, encode, made_for, write_shard
from unetpipe.data.samples import write_validation as write_tiles

BYTES = np.arange(256, dtype=np.uint8)
TILE, OUTPUT = (5, 6, 8), (3, 2, 4)


def shard(count: int, **changes: Any) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(count)
    arrays: dict[str, NDArray[Any]] = {
        "image": rng.integers(0, 256, (count, *TILE)).astype(np.uint8),
        "label": rng.integers(0, 3, (count, *OUTPUT)).astype(np.uint8),
        "weight": rng.random((count, *OUTPUT)).astype(np.float16),
        "source": rng.integers(0, 2**62, (count, 5)),
    }
    return arrays | changes


def test_bytes_come_back_through_grey_values() -> None:
    np.testing.assert_array_equal(encode(decode(BYTES)), BYTES)


def test_the_mean_grey_value_is_exact_and_black_is_the_darkest() -> None:
    grey = decode(BYTES)
    assert grey[encode(np.zeros(1, np.float32))[0]] == 0
    assert grey[0] == np.float32(BLACK)
    assert (np.diff(grey) > 0).all()


@given(st.floats(-1e6, 1e6, width=32))
def test_grey_values_are_kept_to_half_a_step_and_clipped(grey: float) -> None:
    low, high = decode(BYTES[[0, -1]])
    kept = decode(encode(np.array([grey], np.float32)))[0]
    assert abs(kept - min(max(grey, low), high)) <= 0.0201


def test_a_store_gives_back_what_was_written(tmp_path: Path) -> None:
    store = tmp_path / "samples.zarr"
    create(store, SHARD + 3, TILE, OUTPUT, "key")
    first, last = shard(SHARD), shard(3)
    write_shard(store, "train", SHARD, last)
    write_shard(store, "train", 0, first)
    group = zarr.open_group(store, mode="r")
    for name in first:
        found = np.asarray(group[f"train/{name}"])
        np.testing.assert_array_equal(found, np.concatenate([first[name], last[name]]))
        assert found.dtype == first[name].dtype
        # One sample is read at a time, and one file is written at a time.
        if name != "source":
            assert group[f"train/{name}"].chunks == (1, *found.shape[1:])  # type: ignore[union-attr]
            assert group[f"train/{name}"].shards == (SHARD, *found.shape[1:])  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("start", "count"),
    [
        pytest.param(0, SHARD - 1, id="too-few"),
        pytest.param(1, SHARD, id="across-two-shards"),
        pytest.param(SHARD, SHARD, id="beyond-the-end"),
    ],
)
def test_only_whole_shards_are_written(tmp_path: Path, start: int, count: int) -> None:
    create(tmp_path / "samples.zarr", SHARD + 3, TILE, OUTPUT, "key")
    with pytest.raises(
        ValueError, match=rf"voxels from \[{start}, 0, 0, 0\] to .* are not whole shards of \[{SHARD}, "
    ):
        write_shard(tmp_path / "samples.zarr", "train", start, shard(count))


@pytest.mark.parametrize("name", ["image", "label", "weight", "source"])
def test_the_digest_tells_every_byte(tmp_path: Path, name: str) -> None:
    store = tmp_path / "samples.zarr"
    create(store, 2, TILE, OUTPUT, "key")
    before = write_shard(store, "train", 0, shard(2))
    assert write_shard(store, "train", 0, shard(2)) == before
    changed = shard(2)[name].copy()
    changed[-1, -1] += 1
    assert write_shard(store, "train", 0, shard(2, **{name: changed})) != before


@pytest.mark.parametrize("count", [0, 1, SHARD, 2 * SHARD + 1])
def test_validation_tiles_are_written_whole_and_anew(tmp_path: Path, count: int) -> None:
    store = tmp_path / "samples.zarr"
    create(store, 1, TILE, OUTPUT, "key")
    write_tiles(store, TILE, OUTPUT, {k: v for k, v in shard(3).items() if k != "weight"})
    arrays = {k: v for k, v in shard(count).items() if k != "weight"}
    digest = write_tiles(store, TILE, OUTPUT, arrays)
    group = zarr.open_group(store / "validate", mode="r")
    for name, data in arrays.items():
        np.testing.assert_array_equal(np.asarray(group[name]), data)
    assert digest == write_tiles(store, TILE, OUTPUT, arrays)


def test_a_store_is_known_by_its_key_and_only_if_whole(tmp_path: Path) -> None:
    store = tmp_path / "samples.zarr"
    assert made_for(store) is None
    create(store, 1, TILE, OUTPUT, "key")
    assert made_for(store) == "key"
    create(store, 1, TILE, OUTPUT, "other")
    assert made_for(store) == "other"
    (store / "train" / "label" / "zarr.json").unlink()
    assert made_for(store) is None


def test_the_description_comes_back(tmp_path: Path) -> None:
    described = SamplesFile(
        store="samples.zarr", train=3, validate=0, digest="d", classes=("a", "b"), voxels={"a": 1, "b": 3},
        frequency={"a": 0.25, "b": 0.75}, weight={"a": 2.0, "b": 2 / 3}, volumes=({"name": "v", "role": "train"},),
        tile=TILE, border=(1, 2, 2), seed=1, settings={"samples": 3}, version="1",
    )  # fmt: skip
    described.write(tmp_path / "samples.json")
    assert SamplesFile.read(tmp_path / "samples.json") == described
