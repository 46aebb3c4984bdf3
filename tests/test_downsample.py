"""Means and the most frequent class, bit for bit those of plain integer arithmetic."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from levelled import CLASSES, expected_means, expected_modes

from unetpipe.downsample import means, modes

SHAPES = st.tuples(*[st.integers(1, 9)] * 3)
FACTORS = st.tuples(*[st.integers(1, 2)] * 3)
ONE = (1, 1, 1)


@given(SHAPES, FACTORS, st.integers(0, 99))
@example((1, 1, 1), (2, 2, 2), 0).via("less than a block")
@example((3, 5, 7), (2, 2, 2), 1).via("cut along every axis")
def test_means_are_those_of_what_there_is(shape: tuple[int, ...], factors: tuple[int, ...], seed: int) -> None:
    voxels = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    whole = np.ones(shape, np.bool_)
    np.testing.assert_array_equal(means(voxels, factors), expected_means(voxels[None], whole, [ONE, factors])[1][0])


@given(SHAPES, FACTORS, st.integers(0, 99), st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]))
def test_what_does_not_count_is_left_out(
    shape: tuple[int, ...], factors: tuple[int, ...], seed: int, share: float
) -> None:
    rng = np.random.default_rng(seed)
    voxels, there = rng.integers(0, 256, shape, np.uint8), rng.random(shape) < share
    expected = expected_means(voxels[None], there, [ONE, factors])[1][0]
    np.testing.assert_array_equal(means(voxels, factors, there), expected)


@pytest.mark.parametrize(
    ("values", "mean"),
    [
        pytest.param([1, 2], 2, id="a half goes up"),
        pytest.param([0, 1], 1, id="also from 0"),
        pytest.param([255, 255], 255, id="the largest stays"),
        pytest.param([7], 7, id="one alone"),
    ],
)
def test_halves_are_rounded_up(values: list[int], mean: int) -> None:
    assert means(np.array([[values]], np.uint8), (1, 1, 2)).tolist() == [[[mean]]]


def test_the_largest_sums_fit() -> None:
    assert (means(np.full((4, 4, 4), 255, np.uint8), (2, 2, 2)) == 255).all()


@given(SHAPES, FACTORS, st.integers(0, 99))
def test_a_part_of_an_array_is_downsampled_like_an_array(
    shape: tuple[int, ...], factors: tuple[int, ...], seed: int
) -> None:
    wide = np.random.default_rng(seed).integers(0, 256, [n + 3 for n in shape], np.uint8)
    part = wide[1:-2, 1:-2, 1:-2]
    np.testing.assert_array_equal(means(part, factors), means(part.copy(), factors))


@given(SHAPES, FACTORS, st.integers(0, 99), st.sampled_from([0.0, 0.3, 1.0]))
def test_the_most_frequent_class_wins_the_first_of_equals_and_nothing_has_no_vote(
    shape: tuple[int, ...], factors: tuple[int, ...], seed: int, nothing: float
) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, len(CLASSES), shape).astype(np.uint8)
    labels[rng.random(shape) < nothing] = 255
    np.testing.assert_array_equal(modes(labels, factors, len(CLASSES)), expected_modes(labels, [ONE, factors])[1])


def test_one_vote_beats_many_that_do_not_count() -> None:
    assert modes(np.array([[[255, 2], [255, 255]]], np.uint8), (1, 2, 2), 3).tolist() == [[[2]]]
    assert modes(np.array([[[1, 0], [0, 1]]], np.uint8), (1, 2, 2), 3).tolist() == [[[0]]]
