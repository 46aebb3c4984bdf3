"""The truth is warped as far as topology allows, and no further; what remains is the error."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy import ndimage

from unetpipe.metrics import warping

Mask = NDArray[np.bool_]
EDGES, CORNERS = ndimage.generate_binary_structure(2, 1), ndimage.generate_binary_structure(2, 2)


def pieces(objects: Mask) -> tuple[int, int]:
    """How many 4-connected objects there are, and 8-connected pieces of the rest, with all that lies outside."""
    return ndimage.label(objects, EDGES)[1], ndimage.label(~np.pad(objects, 1), CORNERS)[1]


def keeps_topology(objects: Mask, y: int, x: int) -> bool:
    """Whether a flip changes neither number: in the plane, no other change of topology leaves both as they are."""
    flipped = objects.copy()
    flipped[y, x] ^= True
    return pieces(flipped) == pieces(objects)


def everywhere(mask: Mask) -> Mask:
    return np.ones(mask.shape, bool)


@st.composite
def cases(draw: st.DrawFn, largest: int = 9) -> tuple[Mask, Mask, Mask]:
    """Truth, prediction and scored voxels of one shape: noise, or blobs."""
    shape = draw(st.tuples(st.integers(1, largest), st.integers(1, largest)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    truth, predicted = (
        ndimage.gaussian_filter(rng.random(shape), draw(st.sampled_from([0.0, 0.7, 1.5]))) > level
        for level in draw(st.tuples(*[st.floats(0.2, 0.8)] * 2))
    )
    return truth, predicted, rng.random(shape) < draw(st.sampled_from([0.0, 0.7, 1.0, 1.0]))


@given(hnp.arrays(np.bool_, st.tuples(st.integers(1, 6), st.integers(1, 6))))
def test_a_single_difference_is_removed_where_that_keeps_the_topology(truth: Mask) -> None:
    for y, x in np.ndindex(truth.shape):
        predicted = truth.copy()
        predicted[y, x] ^= True
        warped = warping.warp(truth, predicted, everywhere(truth))
        assert np.array_equal(warped, predicted if keeps_topology(truth, y, x) else truth)


def test_of_256_neighbourhoods_116_are_simple() -> None:
    # The number of simple 3 x 3 configurations in the plane, the same with objects and rest exchanged.
    assert np.count_nonzero(warping.simple()) == 116


@given(cases(largest=24))
def test_the_topology_is_kept(case: tuple[Mask, Mask, Mask]) -> None:
    assert pieces(warping.warp(*case)) == pieces(case[0])


@given(cases())
def test_nothing_that_differs_could_still_be_flipped(case: tuple[Mask, Mask, Mask]) -> None:
    _, predicted, scored = case
    warped = warping.warp(*case)
    for y, x in np.argwhere((warped != predicted) & scored):
        assert not keeps_topology(warped, y, x)


@given(cases(largest=24))
def test_only_scored_differences_are_flipped(case: tuple[Mask, Mask, Mask]) -> None:
    truth, predicted, scored = case
    warped = warping.warp(*case)
    assert np.all((warped == truth) | ((warped == predicted) & scored))
    assert np.count_nonzero((warped != predicted) & scored) <= np.count_nonzero((truth != predicted) & scored)


@given(cases())
def test_flips_at_once_are_flips_one_after_the_other(case: tuple[Mask, Mask, Mask]) -> None:
    truth, predicted, scored = case
    warped = truth.copy()
    # The rest grows, then the objects.
    for target in (truth & predicted, predicted):
        before = None
        while before is None or not np.array_equal(warped, before):
            before = warped.copy()
            for first_y, first_x in np.ndindex(2, 2):
                for y in range(first_y, truth.shape[0], 2):
                    for x in range(first_x, truth.shape[1], 2):
                        if scored[y, x] and warped[y, x] != target[y, x] and keeps_topology(warped, y, x):
                            warped[y, x] ^= True
    assert np.array_equal(warping.warp(*case), warped)


@given(cases(largest=24))
def test_the_error_is_the_share_of_scored_voxels_that_still_differ(case: tuple[Mask, Mask, Mask]) -> None:
    truth, predicted, scored = case
    wrong = sum(
        1 for w, p, s in zip(*(a.flat for a in (warping.warp(*case), predicted, scored)), strict=True) if s and w != p
    )
    expected = wrong / int(scored.sum()) if scored.any() else None
    assert warping.error(*case) == expected
    assert warping.error(truth, np.where(scored, predicted, ~predicted), scored) == expected


@given(cases(largest=24))
def test_what_is_right_has_no_error(case: tuple[Mask, Mask, Mask]) -> None:
    truth, _, scored = case
    assert warping.error(truth, truth, scored) == (0.0 if scored.any() else None)


def test_the_arguments_stay_as_they_are() -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.random((20, 30)) < 0.6 for _ in range(3)]
    copies = [array.copy() for array in arrays]
    warping.warp(arrays[0], arrays[1], arrays[2])
    assert all(np.array_equal(a, b) for a, b in zip(arrays, copies, strict=True))


# Even, so that a mirrored section has other parities.
HEIGHT, WIDTH = 16, 22

TURNS: dict[str, Callable[[Mask], Mask]] = {
    "as-it-is": lambda mask: mask,
    "upside-down": lambda mask: mask[::-1],
    "mirrored": lambda mask: mask[:, ::-1],
    "transposed": lambda mask: mask.T,
}
"""Each gives another order to the flips."""


@pytest.fixture(params=TURNS.values(), ids=TURNS.keys())
def wrong_voxels(request: pytest.FixtureRequest) -> Callable[[Mask, Mask], int]:
    """Voxels that still differ, turned; the error is a whole number of them."""

    def count(truth: Mask, predicted: Mask) -> int:
        truth, predicted = request.param(truth), request.param(predicted)
        error = warping.error(truth, predicted, everywhere(truth))
        assert error is not None
        assert error == round(error * truth.size) / truth.size
        return round(error * truth.size)

    return count


def cells(border: int, width: int) -> Mask:
    """Two cells with a membrane from edge to edge between them."""
    mask = np.ones((HEIGHT, WIDTH), bool)
    mask[:, border : border + width] = False
    return mask


def framed() -> Mask:
    """One cell with a membrane around it."""
    return np.pad(np.ones((HEIGHT - 4, WIDTH - 4), bool), 2)


@pytest.mark.parametrize("width", [1, 2, 3, 5], ids=lambda width: f"membrane-{width}")
def test_a_shifted_membrane_is_no_error(width: int, wrong_voxels: Callable[[Mask, Mask], int]) -> None:
    for shift in range(-width, width + 1):
        assert wrong_voxels(cells(8, width), cells(8 + shift, width)) == 0


@pytest.mark.parametrize("width", [1, 2, 3, 5], ids=lambda width: f"membrane-{width}")
def test_a_wider_or_thinner_membrane_is_no_error(width: int, wrong_voxels: Callable[[Mask, Mask], int]) -> None:
    for other in range(1, 8):
        assert wrong_voxels(cells(8, width), cells(8, other)) == 0


@pytest.mark.parametrize("gap", [1, 2, 5], ids=lambda gap: f"gap-{gap}")
@pytest.mark.parametrize("width", [1, 2, 3], ids=lambda width: f"membrane-{width}")
@pytest.mark.parametrize("first", [0, 1, 6], ids=["at-the-edge", "near-the-edge", "inside"])
def test_merged_cells_cost_the_length_of_the_gap(
    first: int, width: int, gap: int, wrong_voxels: Callable[[Mask, Mask], int]
) -> None:
    # A membrane of one voxel must stay across the gap.
    predicted = cells(8, width)
    predicted[first : first + gap] = True
    assert wrong_voxels(cells(8, width), predicted) == gap


@pytest.mark.parametrize("width", [1, 2, 3], ids=lambda width: f"membrane-{width}")
def test_a_cell_that_is_cut_in_two_costs_the_width_of_the_cut(
    width: int, wrong_voxels: Callable[[Mask, Mask], int]
) -> None:
    # The cut grows from both sides until a bridge of one voxel's breadth is left.
    assert wrong_voxels(framed(), framed() & cells(8, width)) == width
    assert wrong_voxels(np.ones((HEIGHT, WIDTH), bool), cells(8, width)) == width


def blob(height: int, width: int) -> Mask:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[5 : 5 + height, 6 : 6 + width] = True
    return mask


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 2), (3, 4), (6, 7)], ids=str)
def test_an_object_that_is_invented_costs_its_area_and_one_that_is_missing_a_voxel(
    height: int, width: int, wrong_voxels: Callable[[Mask, Mask], int]
) -> None:
    empty = np.zeros((HEIGHT, WIDTH), bool)
    assert wrong_voxels(empty, blob(height, width)) == height * width
    assert wrong_voxels(blob(height, width), empty) == 1


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 2), (3, 4), (6, 7)], ids=str)
def test_a_hole_that_is_invented_costs_its_area_and_one_that_is_missing_a_voxel(
    height: int, width: int, wrong_voxels: Callable[[Mask, Mask], int]
) -> None:
    full = framed()
    assert wrong_voxels(full, full & ~blob(height, width)) == height * width
    assert wrong_voxels(full & ~blob(height, width), full) == 1


def test_outside_the_section_is_no_object(wrong_voxels: Callable[[Mask, Mask], int]) -> None:
    full = np.ones((HEIGHT, WIDTH), bool)
    stub = full.copy()
    stub[: HEIGHT // 2, 8] = False
    # A membrane may grow out of the edge into a cell that it does not part, and retreat from it.
    assert wrong_voxels(full, stub) == wrong_voxels(stub, full) == 0
    # A cell may shrink away from the edge.
    assert wrong_voxels(full, framed()) == wrong_voxels(framed(), full) == 0


def test_a_section_that_is_all_object_or_has_none_keeps_one_voxel(wrong_voxels: Callable[[Mask, Mask], int]) -> None:
    full, empty = np.ones((HEIGHT, WIDTH), bool), np.zeros((HEIGHT, WIDTH), bool)
    assert wrong_voxels(full, empty) == 1
    # The rest is joined to what lies outside, so that nothing of it must stay: but no object can be made.
    assert wrong_voxels(empty, full) == HEIGHT * WIDTH


def test_what_is_not_scored_is_in_the_way() -> None:
    truth, predicted = cells(8, 1), cells(9, 1)
    scored = everywhere(truth)
    assert warping.error(truth, predicted, scored) == 0.0
    # Where the middle row cannot change, its membrane stays: the rows above and below shift, and remain joined to it.
    scored[7] = False
    assert warping.error(truth, predicted, scored) == 0.0
    warped = warping.warp(truth, predicted, scored)
    assert np.array_equal(warped[7], truth[7])
    assert np.array_equal(np.delete(warped, 7, axis=0), np.delete(predicted, 7, axis=0))
    # A gap costs what is scored of it, a section of which nothing is scored has no error.
    predicted = truth.copy()
    predicted[5:9] = True
    assert warping.error(truth, predicted, scored) == 3 / (truth.size - WIDTH)
    assert warping.error(truth, predicted, np.zeros_like(scored)) is None


@pytest.mark.parametrize("odd", range(3), ids=["truth", "predicted", "scored"])
def test_different_shapes_are_refused(odd: int) -> None:
    masks = [np.ones((3, 2) if index == odd else (2, 3), bool) for index in range(3)]
    with pytest.raises(ValueError, match=r"truth of shape \(.*, prediction \(.*, scored voxels \("):
        warping.warp(masks[0], masks[1], masks[2])
