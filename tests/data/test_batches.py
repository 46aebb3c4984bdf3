"""A batch follows from seed and step alone; every sample comes once in a pass, and its planes are turned together."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unetpipe.data import batches as batches_module
from unetpipe.data import samples as samples_module
from unetpipe.data.batches import Batch, Samples
from unetpipe.data.samples import encode

BORDER = 2


def write(folder: Path, count: int, tile: tuple[int, int], tiles: int = 3, ignored: bool = False) -> Path:
    """A store in which label and weight tell the voxel of the image that they belong to."""
    store = folder / "samples.zarr"
    y, x = tile
    image = np.random.default_rng(1).integers(1, 254, (count, y, x)).astype(np.uint8)
    # The number of a sample, for the tests to know it by.
    image[:, y // 2, x // 2] = np.arange(count)
    label = image[:, BORDER:-BORDER, BORDER:-BORDER].copy()
    if ignored:
        label[:, ::2] = 255
    arrays: dict[str, Any] = {
        "image": image,
        "label": label,
        "weight": label.astype(np.float16),
        "source": np.ones((count, 5), np.int64),
    }
    samples_module.create(store, count, tile, label.shape[1:], "key")
    for start in range(0, count, samples_module.SHARD):
        part = {key: data[start : start + samples_module.SHARD] for key, data in arrays.items()}
        samples_module.write_shard(store, "train", start, part)
    validation = {key: arrays[key][:tiles] for key in ("image", "label", "source")}
    samples_module.write_validation(store, tile, label.shape[1:], validation)
    return store


def numbers(batch: Batch) -> list[int]:
    image = encode(batch.image[:, 0])
    return [int(plane[plane.shape[0] // 2, plane.shape[1] // 2]) for plane in image]


def same(a: Batch, b: Batch) -> bool:
    return all(np.array_equal(getattr(a, key), getattr(b, key)) for key in ("image", "label", "weight"))


@pytest.fixture(scope="module")
def square(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("square"), count=11, tile=(9, 9))


@pytest.fixture(scope="module")
def samples(square: Path) -> Samples:
    return Samples(square)


@given(size=st.integers(1, 30), seed=st.integers(0, 2**32 - 1), number=st.integers(0, 5))
def test_a_pass_takes_every_sample_once(samples: Samples, size: int, seed: int, number: int) -> None:
    first, last = number * 11, (number + 1) * 11
    steps = range(first // size, -(-last // size))
    taken = [sample for step in steps for sample in numbers(samples.batch(step, size, seed))]
    assert Counter(taken[first - steps.start * size :][:11]) == Counter(range(11))


@given(first=st.integers(0, 1000), count=st.integers(0, 7), seed=st.integers(0, 2**32 - 1))
def test_a_batch_follows_from_seed_and_step_alone(samples: Samples, first: int, count: int, seed: int) -> None:
    steps = range(first, first + count)
    drawn = list(samples.batches(steps, 3, seed))
    assert len(drawn) == count
    assert all(same(batch, samples.batch(step, 3, seed)) for step, batch in zip(steps, drawn, strict=True))


def test_seeds_and_steps_give_different_batches(samples: Samples) -> None:
    drawn = [samples.batch(step, 11, seed) for seed in (1, 2) for step in (0, 1)]
    assert not any(same(a, b) for i, a in enumerate(drawn) for b in drawn[:i])


@pytest.mark.parametrize(
    ("tile", "symmetries"),
    [pytest.param((9, 9), 8, id="square"), pytest.param((9, 13), 4, id="oblong")],
)
def test_planes_are_turned_together_by_every_symmetry(tmp_path: Path, tile: tuple[int, int], symmetries: int) -> None:
    samples = Samples(write(tmp_path, count=1, tile=tile))
    seen = set()
    for step in range(60):
        batch = samples.batch(step, 1, 1)
        image = encode(batch.image[:, 0])
        assert image.shape[1:] == tile
        assert np.array_equal(image[:, BORDER:-BORDER, BORDER:-BORDER], batch.label)
        assert np.array_equal(batch.label, batch.weight)
        seen.add(image.tobytes())
    assert len(seen) == symmetries


def test_unknown_labels_weigh_nothing(tmp_path: Path) -> None:
    samples = Samples(write(tmp_path, count=2, tile=(9, 9), ignored=True))
    for step in range(8):
        batch = samples.batch(step, 2, 1)
        assert (batch.label.dtype, batch.weight.dtype, batch.image.dtype) == (np.int64, np.float32, np.float32)
        assert batch.label.max() < 255
        # Three of the five rows, or columns once turned, were unknown; no other label is 0 by the way it was drawn.
        assert np.count_nonzero(batch.weight == 0) >= 2 * 15
        assert not batch.label[batch.weight == 0].any()


def test_a_store_too_large_for_memory_gives_the_same_batches(square: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = Samples(square)
    monkeypatch.setattr(batches_module, "_MOST_BYTES_IN_MEMORY", 0)
    read = Samples(square)
    assert isinstance(held._image, np.ndarray)
    assert not isinstance(read._image, np.ndarray)
    assert all(same(held.batch(step, 4, 1), read.batch(step, 4, 1)) for step in range(5))


@pytest.mark.parametrize("tiles", [0, 3], ids="{}_tiles".format)
def test_validation_gives_each_tile_once(tmp_path: Path, tiles: int) -> None:
    samples = Samples(write(tmp_path, count=3, tile=(9, 9), tiles=tiles))
    given_tiles = list(samples.validation())
    assert (samples.count, samples.tiles, len(given_tiles)) == (3, tiles, tiles)
    for number, (image, label) in enumerate(given_tiles):
        assert (image.shape, label.shape) == ((1, 1, 9, 9), (1, 5, 5))
        assert encode(image)[0, 0, 4, 4] == number
        assert np.array_equal(encode(image)[:, 0, BORDER:-BORDER, BORDER:-BORDER], label)
