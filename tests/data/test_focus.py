"""Samples come as often as their losses say, none is forgotten, and reading ahead or a kill changes nothing."""

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from unetpipe.data import samples as samples_module
from unetpipe.data.batches import Samples, shuffled
from unetpipe.data.focus import Focus


def write(folder: Path, count: int) -> Samples:
    """A store of ``count`` samples of one voxel."""
    store = folder / "samples.zarr"
    samples_module.create(store, count, (1, 1, 1), (1, 1, 1), "key")
    shape = (count, 1, 1, 1)
    arrays = {
        "image": np.full(shape, 1, np.uint8),
        "label": np.zeros(shape, np.uint8),
        "weight": np.ones(shape, np.float16),
        "source": np.ones((count, 5), np.int64),
    }
    for start in range(0, count, samples_module.SHARD):
        part = {name: data[start : start + samples_module.SHARD] for name, data in arrays.items()}
        samples_module.write_shard(store, "train", start, part)
    samples_module.write_validation(
        store, (1, 1, 1), (1, 1, 1), {name: arrays[name][:0] for name in ("image", "label", "source")}
    )
    return Samples(store)


def losses_of(samples: tuple[int, ...], step: int) -> list[float]:
    """What a network might have lost: more in samples with a high number, and less and less."""
    return [(1 + sample) / (1 + step) + 0.1 * math.sin(sample * step) ** 2 for sample in samples]


def taken(data: Samples, focus: Focus, steps: range, size: int) -> list[tuple[int, ...]]:
    """The samples of each step of a training."""
    found = []
    for step, batch in zip(steps, data.batches(steps, size, 1, focus.order), strict=True):
        found.append(batch.samples)
        focus.learn(step, batch.samples, losses_of(batch.samples, step))
    return found


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Samples]:
    return {count: write(tmp_path_factory.mktemp("store"), count) for count in (1, 2, 5, 11, 24)}


@settings(max_examples=30)
@given(count=st.sampled_from([1, 2, 5, 11, 24]), size=st.integers(1, 12), killed=st.integers(0, 24), data=st.data())
def test_a_kill_changes_nothing(
    stores: dict[int, Samples], count: int, size: int, killed: int, data: st.DataObject
) -> None:
    share = data.draw(st.sampled_from([0.1, 0.5, 0.99]))
    samples = stores[count]
    whole = taken(samples, Focus(count, size, share, 1), range(24), size)
    first = Focus(count, size, share, 1)
    begun = taken(samples, first, range(killed), size)
    resumed = taken(samples, Focus(count, size, share, 1, first.state), range(killed, 24), size)
    assert begun + resumed == whole


@pytest.mark.parametrize("size", [1, 3, 8, 24, 50])
def test_the_first_passes_take_every_sample_once(stores: dict[int, Samples], size: int) -> None:
    focus = Focus(24, size, 0.5, 1)
    drawn = [sample for batch in taken(stores[24], focus, range(-(-48 // size)), size) for sample in batch]
    assert all(drawn[24 * number :][:24] == shuffled(1, number, 24).tolist() for number in (0, 1))


def order(losses: NDArray[np.float64], share: float, number: int = 2, seed: int = 1) -> NDArray[np.int64]:
    """What is drawn in a pass by these losses."""
    return Focus(len(losses), 1, share, seed, {"now": losses, str(number - 2): losses}).order(number)


@given(
    losses=st.lists(st.floats(0, 50), min_size=3, max_size=40),
    share=st.floats(0, 0.99),
    number=st.integers(2, 50),
    seed=st.integers(0, 1000),
)
def test_a_sample_comes_as_often_as_is_expected(losses: list[float], share: float, number: int, seed: int) -> None:
    values = np.array(losses)
    count = len(values)
    by_loss = values / values.sum() if values.sum() > 0 else np.full(count, 1 / count)
    expected = count * ((1 - share) / count + share * by_loss)
    found = np.bincount(order(values, share, number, seed), minlength=count)
    assert found.sum() == count
    assert (np.abs(found - expected) < 1 + 1e-6).all()


def test_every_sample_keeps_a_chance() -> None:
    losses = np.array([0.0] * 9 + [1000.0])
    often = Counter(sample for number in range(2, 200) for sample in order(losses, 0.9, number).tolist())
    # Expected: a tenth of the passes for each of those that are learnt.
    assert min(often[sample] for sample in range(9)) > 198 / 10 / 2
    assert often[9] > 198 * 8


def test_where_all_are_alike_each_comes_once_and_in_another_order() -> None:
    losses = np.full(12, 0.7)
    orders = [order(losses, 0.5, number).tolist() for number in (2, 3)]
    assert all(sorted(found) == list(range(12)) for found in orders)
    assert orders[0] != orders[1]


def test_the_losses_are_a_running_mean() -> None:
    focus = Focus(2, 2, 0.5, 1)
    focus.learn(0, [0, 1], [1.0, 4.0])
    focus.learn(1, [1, 1], [2.0, 1.0])
    assert focus.state["now"].tolist() == [1.0, 2.0]
    # What was there at the end of a pass does not change with those after it.
    assert focus.state["0"].tolist() == [1.0, 4.0]


def test_what_is_remembered_is_bounded() -> None:
    focus = Focus(10, 2, 0.5, 1)
    for step in range(500):
        focus.learn(step, [step % 10, 3], [1.0, 2.0])
    assert len(focus.state) <= 4


def test_losses_a_rounding_below_zero_count_as_none() -> None:
    # Of a perfect Dice. The sum is positive, and much less than its parts.
    losses = (-1e-7, 1.2e-7, -1e-7, 1e-7)
    focus = Focus(4, 1, 0.9, 1)
    for step in range(16):
        focus.learn(step, [step % 4], [losses[step % 4]])
    drawn = Counter(focus.order(5).tolist())
    # 4 (0.1 / 4 + 0.9 l / 2.2e-7), rounded up or down.
    assert drawn[1] in (2, 3)
    assert drawn[3] in (1, 2)
