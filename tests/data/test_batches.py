"""A batch follows from seed and step alone; every sample comes once in a pass, and its planes are turned together."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from unetpipe.data import batches as batches_module
from unetpipe.data import samples as samples_module
from unetpipe.data.batches import Batch, Samples
from unetpipe.data.samples import encode
from unetpipe.grid import Shape, triple

TILE, BORDER = (1, 9, 9), (0, 2, 2)


def write(
    folder: Path,
    count: int,
    tile: Shape = TILE,
    border: Shape = BORDER,
    tiles: int = 3,
    ignored: bool = False,
    alike: bool = False,
) -> Path:
    """A store in which label and weight tell the voxel of the image that they belong to; sections can be ``alike``."""
    store = folder / "samples.zarr"
    image = np.random.default_rng(1).integers(1, 254, (count, *tile)).astype(np.uint8)
    if alike:
        image[:] = np.random.default_rng(1).integers(1, 254, (count, 1, *tile[1:]))
    # The number of a sample, for the tests to know it by.
    image[:, tile[0] // 2, tile[1] // 2, tile[2] // 2] = np.arange(count)
    label = inner(image, border).copy()
    if ignored:
        label[:, :, ::2] = 255
    arrays: dict[str, Any] = {
        "image": image,
        "label": label,
        "weight": label.astype(np.float16),
        "source": np.ones((count, 5), np.int64),
    }
    output = triple(label.shape[1:])
    samples_module.create(store, count, tile, output, "key")
    for start in range(0, count, samples_module.SHARD):
        part = {key: data[start : start + samples_module.SHARD] for key, data in arrays.items()}
        samples_module.write_shard(store, "train", start, part)
    validation = {key: arrays[key][:tiles] for key in ("image", "label", "source")}
    samples_module.write_validation(store, tile, output, validation)
    return store


def inner(image: NDArray[Any], border: Shape) -> NDArray[Any]:
    """What of ``image`` (n, z, y, x) has labels."""
    return image[:, *(slice(n, -n or None) for n in border)]


def numbers(batch: Batch) -> list[int]:
    image = encode(batch.image)
    z, y, x = (n // 2 for n in image.shape[1:])
    return [int(number) for number in image[:, z, y, x]]


def same(a: Batch, b: Batch) -> bool:
    return all(np.array_equal(getattr(a, key), getattr(b, key)) for key in ("image", "label", "weight"))


@pytest.fixture(scope="module")
def square(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("square"), count=11)


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
    ("tile", "border", "symmetries"),
    [
        pytest.param((1, 9, 9), (0, 2, 2), 8, id="square"),
        pytest.param((1, 9, 13), (0, 2, 2), 4, id="oblong"),
        pytest.param((1, 9, 9), (0, 2, 3), 4, id="square-with-oblong-labels"),
        pytest.param((1, 9, 11), (0, 2, 3), 4, id="oblong-with-square-labels"),
        pytest.param((3, 9, 9), (1, 2, 2), 16, id="sections-as-channels"),
        pytest.param((6, 9, 9), (1, 2, 2), 16, id="stack"),
        pytest.param((5, 8, 13), (0, 2, 2), 8, id="oblong-stack"),
    ],
)
def test_image_label_and_weight_are_turned_together_by_every_symmetry(
    tmp_path: Path, tile: Shape, border: Shape, symmetries: int
) -> None:
    store = write(tmp_path, count=1, tile=tile, border=border)
    samples = Samples(store)
    seen = set()
    for step in range(150):
        batch = samples.batch(step, 1, 1)
        image = encode(batch.image)
        assert image.shape[1:] == tile
        assert np.array_equal(inner(image, border), batch.label)
        assert np.array_equal(batch.label, batch.weight)
        seen.add(image.tobytes())
    assert len(seen) == symmetries
    # Sections stay sections: none is mixed with another, and their order is kept or reversed.
    original = zarr.open_array(store / "train" / "image", mode="r")[0]
    values = [sorted(section.ravel()) for section in np.asarray(original)]
    for turned in seen:
        sections = np.frombuffer(turned, np.uint8).reshape(tile)
        assert [sorted(section.ravel()) for section in sections] in (values, values[::-1])


def test_turns_do_not_depend_on_the_number_of_sections(tmp_path: Path) -> None:
    flat = Samples(write(tmp_path / "flat", count=5, alike=True))
    deep = Samples(write(tmp_path / "deep", count=5, tile=(3, 9, 9), alike=True))
    for step in range(10):
        one, several = flat.batch(step, 4, 1), deep.batch(step, 4, 1)
        assert numbers(one) == numbers(several)
        assert np.array_equal(one.image[:, 0], several.image[:, 1])
        # But for the number in the middle, sections are alike.
        assert np.array_equal(one.label[:, 0, 0], several.label[:, 0, 0])


@given(step=st.integers(0, 60), size=st.integers(1, 30), seed=st.integers(0, 2**32 - 1))
def test_an_order_of_ones_own_is_kept(samples: Samples, step: int, size: int, seed: int) -> None:
    def order(number: int) -> NDArray[np.int64]:
        return (np.arange(11) * 0 + number) % 11

    batch = samples.batch(step, size, seed, order)
    assert numbers(batch) == [position // 11 % 11 for position in range(step * size, (step + 1) * size)]
    assert list(batch.samples) == numbers(batch)
    usual = samples.batch(step, size, seed)
    assert list(usual.samples) == numbers(usual)


def test_unknown_labels_weigh_nothing(tmp_path: Path) -> None:
    samples = Samples(write(tmp_path, count=2, ignored=True))
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
    samples = Samples(write(tmp_path, count=3, tiles=tiles))
    given_tiles = list(samples.validation())
    assert (samples.count, samples.tiles, len(given_tiles)) == (3, tiles, tiles)
    for number, (image, label) in enumerate(given_tiles):
        assert (image.shape, label.shape) == ((1, 1, 9, 9), (1, 1, 5, 5))
        assert encode(image)[0, 0, 4, 4] == number
        assert np.array_equal(inner(encode(image), BORDER), label)
