"""The weight of a voxel in the loss: arXiv:1505.04597, equation 2, against its definition."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from skimage.measure import label as components

from unetpipe.data.weights import BorderTerm, class_weights, weight_map
from unetpipe.volume import IGNORE

BORDER = 0

# Mostly border, so that there are cells and distances between them.
values = st.sampled_from([BORDER] * 6 + [1, 2, IGNORE])
planes = arrays(np.uint8, st.tuples(st.integers(1, 30), st.integers(1, 30)), elements=values)
stacks = arrays(np.uint8, st.tuples(st.integers(1, 4), st.integers(7, 20), st.integers(5, 20)), elements=values)


def by_definition(labels: NDArray[np.uint8], term: BorderTerm) -> NDArray[np.float64]:
    """w0 * exp(-(d1 + d2)**2 / (2 sigma**2)) on the border class, from all distances to all voxels of all cells."""
    cells = components((labels != term.border_class) & (labels != IGNORE), connectivity=1)
    result = np.zeros(labels.shape)
    for y, x in np.argwhere(labels == term.border_class):
        distances = sorted(
            np.hypot(*(np.argwhere(cells == number) - (y, x)).T).min() for number in range(1, cells.max() + 1)
        )
        if len(distances) > 1:
            result[y, x] = term.weight * np.exp(-((distances[0] + distances[1]) ** 2) / (2 * term.sigma**2))
    return result


def assert_same_in_float16(found: NDArray[np.float16], expected: NDArray[np.float64]) -> None:
    assert found.dtype == np.float16
    # Half a unit in the last place of float16 for the rounding, and as much for the term that is left out.
    allowed = np.spacing(np.maximum(expected, 2.0**-4).astype(np.float16)).astype(float)
    assert (abs(found.astype(float) - expected) <= allowed).all()


@given(planes, st.sampled_from([0.5, 2.0, 5.0]), st.sampled_from([1e-6, 1.0, 10.0]))
def test_the_border_term_is_its_definition(labels: NDArray[np.uint8], sigma: float, weight: float) -> None:
    term = BorderTerm(BORDER, weight, sigma)
    found = weight_map(labels[None], (0, 0), [1.0, 1.0, 1.0], term)
    expected = by_definition(labels, term) + (labels != IGNORE)
    assert_same_in_float16(found[0], expected)


@given(stacks, st.sampled_from([None, BorderTerm(BORDER, 10.0, 2.0)]))
def test_every_section_is_weighed_by_itself_and_the_margin_is_cut(
    labels: NDArray[np.uint8], term: BorderTerm | None
) -> None:
    classes = [0.25, 1.5, 3.0]
    whole = np.stack([weight_map(section[None], (0, 0), classes, term)[0] for section in labels])
    np.testing.assert_array_equal(weight_map(labels, (3, 2), classes, term), whole[:, 3:-3, 2:-2])


def test_cells_that_touch_at_corners_are_two() -> None:
    labels = np.array([[1, 0], [0, 1]], np.uint8)
    np.testing.assert_allclose(BorderTerm(BORDER, 10.0, 5.0).of(labels)[0, 1], 10 * np.exp(-4 / 50), rtol=1e-6)


def test_cells_of_different_classes_that_touch_are_one() -> None:
    # As a mitochondrion in its cell: the border class alone separates.
    labels = np.array([[1, 2, 0, 1]], np.uint8)
    np.testing.assert_allclose(BorderTerm(BORDER, 10.0, 5.0).of(labels)[0], [0, 0, 10 * np.exp(-4 / 50), 0], rtol=1e-6)


@pytest.mark.parametrize("weight", [1e-6, 1.0, 10.0, 1000.0])
@pytest.mark.parametrize("sigma", [0.5, 5.0, 20.0])
def test_beyond_the_reach_the_term_vanishes(weight: float, sigma: float) -> None:
    reach = BorderTerm(BORDER, weight, sigma).reach
    assert weight * np.exp(-(reach**2) / (2 * sigma**2)) <= 2.0**-15 * (1 + 1e-9)


@given(planes.filter(lambda labels: min(labels.shape) > 8))
def test_a_margin_as_wide_as_the_reach_gives_the_weights_of_the_whole(labels: NDArray[np.uint8]) -> None:
    # Cells that are whole within the cut: single voxels on a grid.
    labels = np.where(np.add.outer(*map(np.arange, labels.shape)) % 2, BORDER, labels).astype(np.uint8)
    term = BorderTerm(BORDER, 10.0, 0.6)
    assert term.reach <= 4
    whole = weight_map(labels[None], (0, 0), [0.5, 1.0, 2.0], term)[:, 4:-4, 4:-4]
    np.testing.assert_array_equal(weight_map(labels[None], (4, 4), [0.5, 1.0, 2.0], term), whole)


@given(planes, st.booleans())
def test_ignored_voxels_weigh_nothing_and_others_their_class(labels: NDArray[np.uint8], with_term: bool) -> None:
    classes = [0.25, 1.5, 3.0]
    term = BorderTerm(BORDER, 10.0, 5.0) if with_term else None
    weights = weight_map(labels[None], (0, 0), classes, term)[0]
    assert (weights[labels == IGNORE] == 0).all()
    for index in (1, 2):
        assert (weights[labels == index] == classes[index]).all()
    if term is None:
        assert (weights[labels == BORDER] == classes[BORDER]).all()
    else:
        assert (weights[labels == BORDER] >= classes[BORDER]).all()


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=6).filter(any), st.floats(0, 1))
def test_class_weights_are_one_on_average(voxels: list[int], balance: float) -> None:
    weights = class_weights(voxels, balance)
    assert np.average(weights, weights=voxels) == pytest.approx(1)
    assert ((weights == 0) == (np.array(voxels) == 0)).all()


def test_class_weights_follow_the_frequencies() -> None:
    np.testing.assert_allclose(class_weights([100, 300], 0.0), [1, 1])
    np.testing.assert_allclose(class_weights([100, 300], 1.0), [2, 2 / 3])
    half = class_weights([100, 400], 0.5)
    assert half[0] / half[1] == pytest.approx(2)


@given(
    st.lists(st.tuples(st.integers(0, 10**9), st.floats(0.01, 100)), min_size=1, max_size=6).filter(
        lambda classes: any(count for count, _ in classes)
    ),
    st.floats(0, 1),
)
def test_factors_change_the_ratios_of_class_weights_alone(classes: list[tuple[int, float]], balance: float) -> None:
    voxels, factors = map(list, zip(*classes, strict=True))
    plain, found = class_weights(voxels, balance), class_weights(voxels, balance, factors)
    assert np.average(found, weights=voxels) == pytest.approx(1)
    ratios = found[plain > 0] / (plain * factors)[plain > 0]
    np.testing.assert_allclose(ratios, ratios[0])
    assert ((found == 0) == (plain == 0)).all()


def test_weights_of_no_voxels_are_refused() -> None:
    with pytest.raises(ValueError, match="no voxel of any class"):
        class_weights([0, 0], 0.5)
