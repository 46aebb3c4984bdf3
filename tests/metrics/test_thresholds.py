"""Scores over thresholds follow their definitions, agree with scikit-learn, and add up over the parts of a volume."""

import itertools
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from sklearn.metrics import average_precision_score, f1_score, jaccard_score, precision_recall_curve

from unetpipe.metrics import confusion, thresholds

IGNORE = 255

Voxels = NDArray[np.uint8]
Counts = NDArray[np.int64]


@st.composite
def maps(draw: st.DrawFn) -> tuple[Voxels, Voxels]:
    """Truth with ignored voxels, and the probability of each class: few values, so that they are met again, or all."""
    classes = draw(st.integers(1, 4))
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=6))
    truth = draw(hnp.arrays(np.uint8, shape, elements=st.sampled_from([*range(classes), IGNORE])))
    values = draw(st.sampled_from([st.sampled_from([0, 1, 128, 254, 255]), st.integers(0, 255)]))
    return truth, draw(hnp.arrays(np.uint8, (classes, *shape), elements=values))


def names(counts: Counts) -> list[str]:
    return [f"class {index}" for index in range(len(counts))]


def voxels(truth: Voxels, channel: Voxels, index: int) -> list[tuple[bool, int]]:
    """Whether it is of the class, and the value of its channel, for each scored voxel."""
    pairs = zip(truth.ravel().tolist(), channel.ravel().tolist(), strict=True)
    return [(label == index, value) for label, value in pairs if label != IGNORE]


@given(maps())
def test_every_scored_voxel_is_counted_by_class_and_value(case: tuple[Voxels, Voxels]) -> None:
    truth, probability = case
    counts = thresholds.count(truth, probability)
    assert counts.dtype == np.int64
    assert counts.shape == (len(probability), 2, 256)
    expected = np.zeros_like(counts)
    for index, channel in enumerate(probability):
        for own, value in voxels(truth, channel, index):
            expected[index, int(own), value] += 1
    assert np.array_equal(counts, expected)


@given(maps(), st.data())
def test_any_cut_into_blocks_adds_up_to_the_same(case: tuple[Voxels, Voxels], data: st.DataObject) -> None:
    truth, probability = case
    cuts = [sorted(data.draw(st.sets(st.integers(1, side - 1))) if side > 1 else []) for side in truth.shape]
    pieces = [
        [slice(a, b) for a, b in itertools.pairwise([0, *cut, side])]
        for cut, side in zip(cuts, truth.shape, strict=True)
    ]
    parts = [thresholds.count(truth[block], probability[:, *block]) for block in itertools.product(*pieces)]
    order = data.draw(st.permutations(range(len(parts))))
    whole = thresholds.count(truth, probability)
    added = np.sum([parts[index] for index in order], axis=0)
    assert np.array_equal(added, whole)
    assert thresholds.summary(added, names(added)) == thresholds.summary(whole, names(whole))


@pytest.mark.parametrize("classes", [1, 3])
def test_counts_add_up_across_the_pieces_that_are_counted_at_a_time(classes: int) -> None:
    rng = np.random.default_rng(classes)
    size = 2 * thresholds._VOXELS + 7
    truth = rng.integers(0, classes, size).astype(np.uint8)
    truth[rng.random(size) < 0.1] = IGNORE
    probability = rng.integers(0, 256, (classes, size)).astype(np.uint8)
    counts = thresholds.count(truth, probability)
    for index in range(classes):
        for row, chosen in enumerate([(truth != index) & (truth != IGNORE), truth == index]):
            assert np.array_equal(counts[index, row], np.bincount(probability[index][chosen], minlength=256))


def test_the_largest_number_of_classes() -> None:
    truth = np.arange(256, dtype=np.uint8)
    truth[254] = 0
    probability = np.random.default_rng(0).integers(0, 256, (254, 256)).astype(np.uint8)
    counts = thresholds.count(truth, probability)
    assert np.array_equal(counts.sum(axis=1), [np.bincount(channel[:255], minlength=256) for channel in probability])
    assert [np.flatnonzero(own).tolist() for own in counts[1:, 1]] == [[probability[c, c]] for c in range(1, 254)]
    assert counts[:, 1].sum() == 255


@given(maps())
def test_views_are_counted_as_their_copies(case: tuple[Voxels, Voxels]) -> None:
    truth, probability = case
    views = truth.T[::-1], np.moveaxis(probability, 0, -1).T[:, ::-1]
    copies = [view.copy() for view in views]
    assert np.array_equal(thresholds.count(*views), thresholds.count(*copies))


@pytest.mark.parametrize(
    ("truth", "channels", "message"),
    [
        (np.zeros((2, 3), np.uint8), (2, 3, 2), r"truth of shape \(2, 3\), probability of shape \(2, 3, 2\)"),
        (np.full((2, 3), 2, np.uint8), (2, 2, 3), "beyond the 2 classes"),
        (np.full((2, 3), 254, np.uint8), (2, 2, 3), "beyond the 2 classes"),
    ],
    ids=["shape", "label", "largest-label"],
)
def test_what_cannot_be_counted_is_refused(truth: Voxels, channels: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        thresholds.count(truth, np.zeros(channels, np.uint8))


@given(maps())
def test_a_voxel_is_given_to_the_class_if_it_reaches_the_threshold(case: tuple[Voxels, Voxels]) -> None:
    truth, probability = case
    counts = thresholds.count(truth, probability)
    index = len(probability) - 1
    curve = thresholds.precision_recall(counts[index])
    assert len(curve) == 256
    of_class = (truth == index).astype(np.uint8)
    of_class[truth == IGNORE] = IGNORE
    for value in (0, 1, 2, 128, 200, 254, 255):
        given_to_it = (probability[index] / 255 >= value / 255).astype(np.uint8)
        table = confusion.count(of_class, given_to_it, 2)
        assert curve[value] == (confusion.precision(table)[1], confusion.recall(table)[1])


@given(maps())
def test_the_best_threshold_has_the_best_iou_of_all_and_is_the_lowest_of_equals(case: tuple[Voxels, Voxels]) -> None:
    truth, probability = case
    index = len(probability) - 1
    found = thresholds.best(thresholds.count(truth, probability)[index])
    scored = voxels(truth, probability[index], index)
    own = sum(of_class for of_class, _ in scored)
    if own == 0:
        assert found is None
        return
    reached = {v: [of_class for of_class, value in scored if value >= v] for v in range(256)}
    true = {v: sum(given_to_it) for v, given_to_it in reached.items()}
    iou = {v: Fraction(true[v], own + len(reached[v]) - true[v]) for v in reached}
    expected = min(v for v in iou if iou[v] == max(iou.values()))
    assert found == {
        "threshold": expected / 255,
        "iou": float(iou[expected]),
        "dice": float(Fraction(2 * true[expected], own + len(reached[expected]))),
        "precision": float(Fraction(true[expected], len(reached[expected]))),
        "recall": float(Fraction(true[expected], own)),
    }


@given(maps())
def test_average_precision_is_the_mean_precision_over_the_voxels_of_the_class(case: tuple[Voxels, Voxels]) -> None:
    truth, probability = case
    index = len(probability) - 1
    found = thresholds.average_precision(thresholds.count(truth, probability)[index])
    scored = voxels(truth, probability[index], index)
    precisions = []
    for own, value in scored:
        if own:
            reached = [of_class for of_class, v in scored if v >= value]
            precisions.append(Fraction(sum(reached), len(reached)))
    if not precisions:
        assert found is None
        return
    # Each term is rounded, their sum, and the mean.
    assert found == pytest.approx(float(sum(precisions) / len(precisions)), rel=4e-16, abs=0.0)


@given(maps())
def test_the_calibration_error_is_the_distance_of_shares_from_probabilities(case: tuple[Voxels, Voxels]) -> None:
    truth, probability = case
    index = len(probability) - 1
    found = thresholds.calibration_error(thresholds.count(truth, probability)[index])
    scored = voxels(truth, probability[index], index)
    error = Fraction(0)
    for value in {value for _, value in scored}:
        inside = [own for own, v in scored if v == value]
        error += Fraction(len(inside), len(scored)) * abs(Fraction(sum(inside), len(inside)) - Fraction(value, 255))
    assert found == (float(error) if scored else None)


@given(maps())
def test_every_score_is_a_share_or_none(case: tuple[Voxels, Voxels]) -> None:
    truth, probability = case
    counts = thresholds.count(truth, probability)
    summary = thresholds.summary(counts, names(counts))
    assert list(summary) == names(counts)
    for index, score in enumerate(summary.values()):
        assert list(score) == ["average_precision", "calibration_error", "best"]
        assert (score["calibration_error"] is None) == bool((truth == IGNORE).all())
        assert (score["average_precision"] is None) == (score["best"] is None) == bool((truth != index).all())
        assert all(value is None or 0.0 <= value <= 1.0 for value in leaves(score))
    for precision, recall in thresholds.precision_recall(counts[0]):
        assert all(value is None or 0.0 <= value <= 1.0 for value in (precision, recall))


def leaves(data: Any) -> list[Any]:
    if isinstance(data, dict):
        return [leaf for value in data.values() for leaf in leaves(value)]
    return [data]


def of(truth: list[int], channel: list[int]) -> Counts:
    """The histogram of a class 1 of two."""
    values = np.array(channel, np.uint8)
    histogram: Counts = thresholds.count(np.array(truth, np.uint8), np.stack([255 - values, values]))[1]
    return histogram


@pytest.mark.parametrize(
    ("truth", "channel", "average", "calibration", "threshold"),
    [
        ([0, 0, 1, 1], [0, 0, 255, 255], 1.0, 0.0, 1 / 255),
        ([1, 1, 1], [255, 255, 255], 1.0, 0.0, 0.0),
        ([1, 1, 1], [0, 0, 0], 1.0, 1.0, 0.0),
        ([0, 0, 0], [0, 51, 255], None, 0.4, None),
        ([IGNORE, IGNORE], [0, 255], None, None, None),
        ([IGNORE, 0, IGNORE, 1], [255, 0, 0, 255], 1.0, 0.0, 1 / 255),
        ([0, 1], [255, 0], 0.5, 1.0, 0.0),
        ([0, 1, 0, 0, 0], [51, 51, 51, 51, 51], 0.2, 0.0, 0.0),
        ([], [], None, None, None),
    ],
    ids=[
        "perfect", "one-class", "one-class-missed", "no-foreground", "nothing-scored", "gaps", "inverted", "calibrated",
        "no-voxel",
    ],
)  # fmt: skip
def test_cases_worked_out_by_hand(
    truth: list[int], channel: list[int], average: float | None, calibration: float | None, threshold: float | None
) -> None:
    score = thresholds.summary(of(truth, channel)[None], ["inside"])["inside"]
    assert score["average_precision"] == average
    assert score["calibration_error"] == calibration
    assert (None if score["best"] is None else score["best"]["threshold"]) == threshold


def test_a_threshold_that_no_voxel_reaches_has_no_precision() -> None:
    curve = thresholds.precision_recall(of([0, 1], [7, 9]))
    assert curve[7:11] == [(0.5, 1.0), (1.0, 1.0), (1.0, 1.0), (None, 0.0)]
    assert [recall for _, recall in thresholds.precision_recall(of([0, 0], [7, 9]))] == [None] * 256


def test_counts_beyond_the_precision_of_a_float_are_compared_exactly() -> None:
    histogram = np.zeros((2, 256), np.int64)
    # At 1/255 and above it is right everywhere, at 0 not quite: as floats both have an IoU of 1.
    histogram[0, 0], histogram[1, 9] = 1, 2**60
    found = thresholds.best(histogram)
    assert found is not None
    assert found["threshold"] == 1 / 255
    assert found["iou"] == 1.0


def random_maps(pairs: int) -> Iterator[tuple[Voxels, Voxels]]:
    """Truth with gaps, and one channel, of any quality and coarseness; at least one voxel is scored."""
    for seed in range(pairs):
        rng = np.random.default_rng(seed)
        truth = (rng.random(rng.integers(1, 300)) < rng.random()).astype(np.uint8)
        levels = int(rng.choice([1, 2, 8, 255]))
        grey = rng.random() * truth + rng.random(truth.size)
        channel = (np.round(grey / 2 * levels) * (255 // levels)).astype(np.uint8)
        truth[1:][rng.random(truth.size - 1) < rng.choice([0.0, 0.3])] = IGNORE
        yield truth, channel


def check_against_scikit_learn(truth: Voxels, channel: Voxels) -> bool:
    """Whether the class is in the truth: scikit-learn has a value, and a warning, where it is not."""
    histogram = thresholds.count(truth, np.stack([255 - channel, channel]))[1]
    own, values = truth[truth != IGNORE] == 1, channel[truth != IGNORE]
    if not own.any():
        assert thresholds.average_precision(histogram) is None
        return False
    expected = average_precision_score(own, values)
    assert thresholds.average_precision(histogram) == pytest.approx(expected, rel=1e-12)
    precision, recall, reached = precision_recall_curve(own, values)
    curve = np.array(thresholds.precision_recall(histogram), np.float64)
    # Its last point stands for a threshold beyond all values.
    np.testing.assert_allclose(curve[reached], np.stack([precision, recall], axis=1)[:-1], rtol=1e-12)
    return True


def test_1000_random_pairs_against_scikit_learn() -> None:
    assert sum(check_against_scikit_learn(*pair) for pair in random_maps(1000)) > 900


@pytest.mark.isbi
def test_real_sections_against_scikit_learn(isbi_dir: Path) -> None:
    sections = np.s_[16:20]
    truth = (tifffile.imread(isbi_dir / "train-labels.tif")[sections] > 0).astype(np.uint8)
    truth[:, ::7] = IGNORE
    # A blurred image is bright inside of cells.
    channel = gaussian_filter(tifffile.imread(isbi_dir / "train-volume.tif")[sections], (0, 2, 2))
    assert check_against_scikit_learn(truth, channel)
    best = thresholds.best(thresholds.count(truth, np.stack([255 - channel, channel]))[1])
    assert best is not None
    own, values = truth[truth != IGNORE] == 1, channel[truth != IGNORE]
    value = round(best["threshold"] * 255)
    assert 0 < value < 255
    assert best["iou"] == pytest.approx(jaccard_score(own, values >= value), rel=1e-12)
    assert best["dice"] == pytest.approx(f1_score(own, values >= value), rel=1e-12)
    for other in (value - 1, value + 1):
        assert jaccard_score(own, values >= other) <= best["iou"]
