"""Scores of partitions follow their definitions, and are those of other implementations."""

import decimal
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from partitions_reference import by_definition, by_libraries, by_pairs

from unetpipe.metrics import partitions
from unetpipe.metrics.partitions import MEASURES, Overlaps

Labels = NDArray[np.integer[Any]]

PERFECT = dict(zip(MEASURES, [1.0] * 6 + [0.0] * 5, strict=True))


def scores(truth: Labels, predicted: Labels) -> dict[str, float | None]:
    return partitions.scores(partitions.overlaps(truth, predicted))


def random_pair(rng: np.random.Generator) -> tuple[Labels, Labels]:
    """Of various sizes and numbers of segments, in runs or by voxel, with gaps between numbers and with zeros."""
    shape = tuple(rng.integers(1, 7, rng.integers(1, 4)))
    size = int(np.prod(shape))
    pair = []
    for dtype in rng.choice([np.uint8, np.int32, np.int64, np.uint16], 2):
        values = rng.choice(120, rng.integers(1, 7), replace=False) + 1
        values[: rng.integers(0, 2)] = 0
        labels = rng.choice(values, size)
        if rng.random() < 0.5:
            labels = np.sort(labels)
        pair.append(labels.reshape(shape).astype(dtype))
    if rng.random() < 0.2:
        pair[1] = np.where(rng.random(shape) < 0.2, 0, pair[0])
    if rng.random() < 0.1:
        pair[1] = np.arange(1, size + 1).reshape(shape)
    return pair[0], pair[1]


@pytest.mark.parametrize("reference", [by_definition, by_libraries, by_pairs])
def test_a_thousand_random_pairs_score_as_by(reference: Callable[[Labels, Labels], dict[str, float]]) -> None:
    rng = np.random.default_rng(20)
    compared = dict.fromkeys(MEASURES, 0)
    empty = 0
    for _ in range(1000):
        truth, predicted = random_pair(rng)
        found, expected = scores(truth, predicted), reference(truth, predicted)
        empty += not expected
        if not expected:
            assert found == dict.fromkeys(MEASURES)
        for measure, value in expected.items():
            assert found[measure] == pytest.approx(value, rel=0, abs=1e-12), (measure, truth, predicted)
            compared[measure] += 1
    assert empty > 10
    never = {by_definition: set(), by_pairs: set(MEASURES[3:6] + MEASURES[8:]), by_libraries: set(MEASURES[:3])}
    assert all((count > 500) != (measure in never[reference]) for measure, count in compared.items())


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Labels, Labels]:
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=6))
    labels = hnp.arrays(np.int32, shape, elements=st.integers(0, 4))
    return draw(labels), draw(labels)


@given(pairs())
def test_overlaps_count_every_voxel_of_a_true_segment(pair: tuple[Labels, Labels]) -> None:
    truth, predicted = pair
    found = partitions.overlaps(truth, predicted)
    table: dict[tuple[int, int], int] = {}
    for t, p in zip(truth.ravel().tolist(), predicted.ravel().tolist(), strict=True):
        if t:
            table[t, p] = table.get((t, p), 0) + 1
    rows = zip(found.truth.tolist(), found.predicted.tolist(), found.voxels.tolist(), strict=True)
    assert [((t, p), n) for t, p, n in rows] == sorted(table.items())
    assert {found.truth.dtype, found.predicted.dtype, found.voxels.dtype} == {np.dtype(np.int64)}


@given(pairs(), st.data())
def test_overlaps_of_parts_add_up(pair: tuple[Labels, Labels], data: st.DataObject) -> None:
    truth, predicted = (labels.ravel() for labels in pair)
    cut = data.draw(st.integers(0, truth.size))
    parts = [partitions.overlaps(truth[s], predicted[s]) for s in (slice(cut, None), slice(0, cut))]
    same(partitions.summed(parts), partitions.overlaps(truth, predicted))


@given(pairs(), st.data())
def test_renumbered_overlaps_are_those_of_renumbered_arrays(pair: tuple[Labels, Labels], data: st.DataObject) -> None:
    truth, predicted = pair
    tables = [np.array([0, *data.draw(st.lists(st.integers(1, 3), min_size=4, max_size=4))]) for _ in range(2)]
    found = partitions.renumbered(partitions.overlaps(truth, predicted), *tables)
    same(found, partitions.overlaps(tables[0][truth], tables[1][predicted]))


def same(one: Overlaps, other: Overlaps) -> None:
    for name in ("truth", "predicted", "voxels"):
        assert getattr(one, name).tolist() == getattr(other, name).tolist()


@given(pairs(), st.permutations(range(1, 5)), st.permutations(range(1, 5)))
def test_scores_do_not_depend_on_the_numbers_of_segments(
    pair: tuple[Labels, Labels], one: list[int], other: list[int]
) -> None:
    truth, predicted = pair
    assert scores(np.array([0, *one])[truth], np.array([0, *other])[predicted] * 1000) == scores(truth, predicted)


@given(pairs())
def test_scores_are_defined_and_within_their_range(pair: tuple[Labels, Labels]) -> None:
    found = scores(*pair)
    assert tuple(found) == MEASURES
    if not pair[0].any():
        assert set(found.values()) == {None}
        return
    for measure, value in found.items():
        assert isinstance(value, float)
        assert value >= 0
        assert math.copysign(1, value) == 1
        assert value <= 1 or measure.startswith("voi")
    assert found["voi"] == pytest.approx(found["voi_split"] + found["voi_merge"], abs=1e-15)


@given(pairs())
def test_equal_partitions_are_exactly_perfect(pair: tuple[Labels, Labels]) -> None:
    truth, other = pair
    # The prediction may do as it likes where the truth has no segment.
    predicted = np.where(truth == 0, other, truth)
    assert scores(truth, predicted) == (PERFECT if truth.any() else dict.fromkeys(MEASURES))


@pytest.mark.parametrize(
    ("truth", "predicted", "expected"),
    [
        pytest.param([1], [7], PERFECT, id="one-voxel"),
        pytest.param([1], [0], PERFECT, id="one-voxel-not-predicted"),
        pytest.param([3, 9, 200], [0, 0, 0], PERFECT, id="single-voxels-not-predicted"),
        pytest.param([255, 255, 0], [4, 4, 9], PERFECT, id="one-segment"),
        pytest.param([0, 0], [1, 2], dict.fromkeys(MEASURES), id="no-segment-in-the-truth"),
        pytest.param(
            # S_n = 4, S_a = 16, S_b = 4; H(T) = 0, H(S) = 2 bits.
            [5, 5, 5, 5], [0, 0, 0, 0],
            {"v_rand": 8 / 20, "v_rand_split": 0.25, "v_rand_merge": 1.0, "v_info": 0.0, "v_info_split": 0.0,
             "v_info_merge": 1.0, "rand_error": 1.0, "adapted_rand_error": 1.0,
             "voi": 2.0, "voi_split": 2.0, "voi_merge": 0.0},
            id="nothing-predicted",
        ),
        pytest.param(
            [1, 2, 3, 4], [9, 9, 9, 9],
            {"v_rand": 8 / 20, "v_rand_split": 1.0, "v_rand_merge": 0.25, "v_info": 0.0, "v_info_split": 1.0,
             "v_info_merge": 0.0, "rand_error": 1.0, "adapted_rand_error": 1.0,
             "voi": 2.0, "voi_split": 0.0, "voi_merge": 2.0},
            id="all-in-one-segment",
        ),
        pytest.param(
            # Of two segments of two voxels, each is split over both of the other: nothing is known of it.
            [1, 1, 2, 2], [1, 2, 1, 2],
            {"v_rand": 0.5, "v_rand_split": 0.5, "v_rand_merge": 0.5, "v_info": 0.0, "v_info_split": 0.0,
             "v_info_merge": 0.0, "rand_error": 4 / 6, "adapted_rand_error": 1.0,
             "voi": 2.0, "voi_split": 1.0, "voi_merge": 1.0},
            id="independent",
        ),
    ],
)  # fmt: skip
def test_edge_cases_are_defined(truth: list[int], predicted: list[int], expected: dict[str, float | None]) -> None:
    assert scores(np.array(truth), np.array(predicted)) == expected


def exactly(found: Overlaps) -> dict[str, float]:
    """The scores by fractions, and by logarithms of 60 digits."""
    rows = list(zip(found.truth.tolist(), found.predicted.tolist(), found.voxels.tolist(), strict=True))
    a: dict[int, int] = {}
    b: dict[int, int] = {}
    for t, p, n in rows:
        a[t], b[p] = a.get(t, 0) + n, b.get(p, 0) + n
    total = sum(a.values())
    s_n, s_a, s_b = (sum(n * n for n in sizes) for sizes in ([n for *_, n in rows], a.values(), b.values()))
    with decimal.localcontext(prec=60):
        # sum of p log2(1 / p)
        h, h_truth, h_predicted = (
            sum(decimal.Decimal(n) / total * (decimal.Decimal(total) / n).ln() / decimal.Decimal(2).ln() for n in sizes)
            for sizes in ([n for *_, n in rows], a.values(), b.values())
        )
        mutual = h_truth + h_predicted - h
        entropies = [
            2 * mutual / (h_truth + h_predicted), mutual / h_predicted, mutual / h_truth,
            2 * h - h_truth - h_predicted, h - h_truth, h - h_predicted,
        ]  # fmt: skip
    ratios = [
        Fraction(2 * s_n, s_a + s_b), Fraction(s_n, s_a), Fraction(s_n, s_b),
        Fraction(s_a + s_b - 2 * s_n, total * (total - 1)), Fraction(s_a + s_b - 2 * s_n, s_a + s_b - 2 * total),
    ]  # fmt: skip
    v_rand, pairs_of_voxels = ratios[:3], ratios[3:]
    return dict(zip(MEASURES, map(float, [*v_rand, *entropies[:3], *pairs_of_voxels, *entropies[3:]]), strict=True))


@pytest.mark.parametrize(
    "voxels",
    [
        pytest.param([[10**12, 0], [0, 10**12 + 1]], id="equal"),
        pytest.param([[10**12, 1], [0, 10**12]], id="one-voxel-of-10**12-is-wrong"),
        pytest.param([[10**12, 1], [1, 2]], id="one-large-segment"),
        pytest.param([[3 * 10**12, 10**12], [2 * 10**12, 5 * 10**11]], id="all-mixed"),
    ],
)
def test_counts_of_1e12_neither_overflow_nor_lose_digits(voxels: list[list[int]]) -> None:
    rows = [(t + 1, p + 1, n) for t, row in enumerate(voxels) for p, n in enumerate(row) if n]
    found = Overlaps(*np.array(rows, np.int64).T)
    # 12 digits also of errors of 1e-12; what is 0 is so to the 60 digits of the logarithms.
    assert partitions.scores(found) == pytest.approx(exactly(found), rel=1e-12, abs=1e-50)


def test_unassigned_voxels_beyond_the_precision_of_a_float_are_segments_of_their_own() -> None:
    n = 10**12
    found = partitions.scores(Overlaps(*np.array([[1, 0, n], [1, 1, n]], np.int64).T))
    assert found["v_rand_split"] == float(Fraction(n * n + n, 4 * n * n))
    assert found["v_rand_merge"] == 1.0
    assert found["rand_error"] == float(Fraction(3 * n * n - n, 2 * n * (2 * n - 1)))
    # Half of the voxels are together, the other half are 10**12 segments.
    assert found["voi_split"] == pytest.approx(0.5 + 0.5 * math.log2(2 * n), rel=1e-14)


@pytest.mark.parametrize(
    ("measure", "values", "index"),
    [
        ("v_rand", [0.5, 0.9, 0.7], 1),
        ("v_info_split", [0.9, 0.9, None], 0),
        ("rand_error", [0.5, 0.1, 0.1], 1),
        ("voi", [None, 3.0, 2.0], 2),
        ("warping_error", [0.0, 0.1], 0),
        ("v_info", [None, 0.0], 1),
        ("voi_merge", [None, None], None),
        ("v_rand", [], None),
    ],
    ids=str,
)
def test_better_is_the_first_of_the_best(measure: str, values: list[float | None], index: int | None) -> None:
    assert partitions.better(measure, values) == index


def test_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"truth of shape \(2, 3\), prediction of shape \(3, 2\)"):
        partitions.overlaps(np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.uint8))


@pytest.mark.parametrize("pair", [([-1, 1], [1, 1]), ([1, 1], [1, -1])], ids=["truth", "predicted"])
def test_negative_numbers_are_refused(pair: tuple[list[int], list[int]]) -> None:
    with pytest.raises(ValueError, match="a segment has a negative number"):
        partitions.overlaps(np.array(pair[0]), np.array(pair[1]))


def test_numbers_that_are_too_large_for_pairs_are_refused() -> None:
    large = np.array([2**31 - 1, 1])
    assert partitions.overlaps(large, large).truth.tolist() == [1, 2**31 - 1]
    with pytest.raises(ValueError, match="do not fit into 63 bits"):
        partitions.overlaps(large * 2, large * 2)
