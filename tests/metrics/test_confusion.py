"""Scores follow their definitions, agree with scikit-learn, and add up over the parts of a volume."""

import itertools
import math
from collections.abc import Callable, Iterator
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
from skimage.metrics import contingency_table
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, jaccard_score, precision_score, recall_score

from unetpipe.metrics import confusion

IGNORE = 255

Labels = NDArray[np.uint8]


@st.composite
def labellings(draw: st.DrawFn) -> tuple[Labels, Labels, int]:
    """Truth with ignored voxels, prediction and the number of classes, of which some may be absent."""
    classes = draw(st.one_of(st.integers(1, 16), st.sampled_from([17, 100, 254])))
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=9))
    indices = st.integers(0, classes - 1)
    truth = draw(hnp.arrays(np.uint8, shape, elements=st.one_of(indices, st.just(IGNORE))))
    return truth, draw(hnp.arrays(np.uint8, shape, elements=indices)), classes


def counted(truth: Labels, predicted: Labels, classes: int) -> list[list[int]]:
    """The table, voxel by voxel."""
    table = [[0] * classes for _ in range(classes)]
    for t, p in zip(truth.ravel().tolist(), predicted.ravel().tolist(), strict=True):
        if t != IGNORE:
            table[t][p] += 1
    return table


@given(labellings())
def test_confusion_counts_every_scored_voxel(case: tuple[Labels, Labels, int]) -> None:
    truth, predicted, classes = case
    table = confusion.count(truth, predicted, classes)
    assert table.dtype == np.int64
    assert table.tolist() == counted(truth, predicted, classes)


@given(labellings())
def test_confusion_is_that_of_scikit_image(case: tuple[Labels, Labels, int]) -> None:
    truth, predicted, classes = case
    scored = truth != IGNORE
    expected = np.zeros((classes, classes))
    if scored.any():
        sparse = contingency_table(truth[scored].astype(int), predicted[scored].astype(int), sparse_type="array")
        part = sparse.toarray()
        expected[: part.shape[0], : part.shape[1]] = part
    assert np.array_equal(confusion.count(truth, predicted, classes), expected)


@pytest.mark.parametrize("classes", [2, 15, 16, 254])
def test_tables_of_parts_add_up_across_the_pieces_that_are_counted_at_a_time(classes: int) -> None:
    rng = np.random.default_rng(classes)
    size = 2 * confusion._VOXELS + 7
    truth = rng.integers(0, classes, size).astype(np.uint8)
    truth[rng.random(size) < 0.1] = IGNORE
    predicted = rng.integers(0, classes, size).astype(np.uint8)
    whole = confusion.count(truth, predicted, classes)
    assert whole.sum() == np.count_nonzero(truth != IGNORE)
    cuts = [0, 3, confusion._VOXELS - 1, confusion._VOXELS + 2, size]
    parts = (confusion.count(truth[a:b], predicted[a:b], classes) for a, b in itertools.pairwise(cuts))
    assert np.array_equal(sum(parts), whole)


def test_arrays_that_do_not_lie_in_one_piece_are_counted_alike() -> None:
    rng = np.random.default_rng(0)
    truth, predicted = rng.integers(0, 3, (2, 5, 7, 9)).astype(np.uint8)
    whole = confusion.count(truth[:, 1:, ::2], predicted[:, 1:, ::2], 3)
    assert np.array_equal(whole, confusion.count(truth[:, 1:, ::2].copy(), predicted[:, 1:, ::2].copy(), 3))


@pytest.mark.parametrize("classes", [2, 15, 16])
@pytest.mark.parametrize("value", [0, 1, 100, 200], ids=lambda value: f"beyond-by-{value}")
@pytest.mark.parametrize("where", ["truth", "predicted"])
def test_a_value_that_is_no_class_is_refused(classes: int, value: int, where: str) -> None:
    arrays = {name: np.zeros(9, np.uint8) for name in ("truth", "predicted")}
    arrays[where][4] = classes + value
    with pytest.raises(ValueError, match=f"beyond the {classes} classes"):
        confusion.count(**arrays, classes=classes)


def test_the_ignore_value_is_no_prediction() -> None:
    with pytest.raises(ValueError, match="beyond the 2 classes"):
        confusion.count(np.zeros(3, np.uint8), np.full(3, IGNORE, np.uint8), 2)


def test_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"truth of shape \(2, 3\), prediction of shape \(3, 2\)"):
        confusion.count(np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.uint8), 2)


def overlap(a: set[int], b: set[int], formula: str) -> Fraction | None:
    """Scores as ratios of sets of voxels: a is the truth, b the prediction."""
    part, whole = {
        "iou": (len(a & b), len(a | b)),
        "dice": (2 * len(a & b), len(a) + len(b)),
        "precision": (len(a & b), len(b)),
        "recall": (len(a & b), len(a)),
    }[formula]
    return Fraction(part, whole) if whole else None


@pytest.mark.parametrize("formula", ["iou", "dice", "precision", "recall"])
@given(case=labellings())
def test_scores_of_a_class_are_ratios_of_sets_of_voxels(case: tuple[Labels, Labels, int], formula: str) -> None:
    truth, predicted, classes = case
    scored = np.flatnonzero(truth != IGNORE)
    values = getattr(confusion, formula)(confusion.count(truth, predicted, classes))
    for index, value in enumerate(values):
        a, b = ({int(i) for i in scored if labels.flat[i] == index} for labels in (truth, predicted))
        expected = overlap(a, b, formula)
        assert value == (None if expected is None else float(expected))


@given(labellings())
def test_the_summary_is_defined_for_every_table(case: tuple[Labels, Labels, int]) -> None:
    truth, predicted, classes = case
    names = [f"class {index}" for index in range(classes)]
    table = confusion.count(truth, predicted, classes)
    summary = confusion.summary(table, names)
    scored = truth != IGNORE
    assert list(summary["classes"]) == names
    assert summary["scored_voxels"] == np.count_nonzero(scored)
    assert [score["voxels"] for score in summary["classes"].values()] == [
        np.count_nonzero(truth == index) for index in range(classes)
    ]
    wrong = np.count_nonzero((truth != predicted) & scored)
    assert summary["pixel_error"] == (float(Fraction(wrong, int(scored.sum()))) if scored.any() else None)
    present = {*truth[scored].tolist(), *predicted[scored].tolist()}
    assert summary["left_out"] == [name for index, name in enumerate(names) if index not in present]
    ious = [summary["classes"][names[index]]["iou"] for index in sorted(present)]
    assert summary["mean_iou"] == (pytest.approx(math.fsum(ious) / len(ious), rel=1e-15) if ious else None)
    assert not any(isinstance(value, float) and math.isnan(value) for value in leaves(summary))


def leaves(data: Any) -> list[Any]:
    if isinstance(data, dict):
        return [leaf for value in data.values() for leaf in leaves(value)]
    return [data]


@given(labellings())
def test_a_perfect_prediction_scores_one(case: tuple[Labels, Labels, int]) -> None:
    _, labels, classes = case
    summary = confusion.summary(confusion.count(labels, labels, classes), [str(index) for index in range(classes)])
    present = np.unique(labels).tolist()
    assert [score["iou"] for score in summary["classes"].values()] == [
        1.0 if index in present else None for index in range(classes)
    ]
    assert summary["mean_iou"] == summary["mean_dice"] == (1.0 if present else None)
    assert summary["pixel_error"] == (0.0 if present else None)


def test_where_all_is_ignored_nothing_is_scored() -> None:
    table = confusion.count(np.full((2, 3), IGNORE, np.uint8), np.zeros((2, 3), np.uint8), 2)
    none = {"iou": None, "dice": None, "precision": None, "recall": None, "voxels": 0}
    assert confusion.summary(table, ["membrane", "inside"]) == {
        "scored_voxels": 0,
        "classes": {"membrane": none, "inside": none},
        "mean_iou": None,
        "mean_dice": None,
        "pixel_error": None,
        "left_out": ["membrane", "inside"],
    }


def test_counts_beyond_the_precision_of_a_float_are_scored_exactly() -> None:
    table = np.array([[2**53 + 1, 0], [0, 1]], np.int64)
    assert confusion.recall(table) == [1.0, 1.0]
    table[0, 1] = 1
    assert confusion.pixel_error(table) == float(Fraction(1, 2**53 + 3))


@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 6), st.integers(0, 4), st.integers(0, 5))))
def test_the_most_likely_class_is_the_first_with_the_largest_value(probability: Labels) -> None:
    label = confusion.most_likely(probability)
    assert label.dtype == np.uint8
    assert np.array_equal(label, np.argmax(probability, axis=0))


@given(hnp.arrays(np.uint8, (4, 3, 5), elements=st.integers(0, 2)))
def test_ties_go_to_the_first_channel(probability: Labels) -> None:
    assert np.array_equal(confusion.most_likely(probability), np.argmax(probability, axis=0))


@given(labellings(), st.data())
def test_any_cut_into_blocks_adds_up_to_the_same(case: tuple[Labels, Labels, int], data: st.DataObject) -> None:
    truth, predicted, classes = case
    cuts = [sorted(data.draw(st.sets(st.integers(1, side - 1))) if side > 1 else []) for side in truth.shape]
    pieces = [
        [slice(a, b) for a, b in itertools.pairwise([0, *cut, side])]
        for cut, side in zip(cuts, truth.shape, strict=True)
    ]
    parts = [confusion.count(truth[block], predicted[block], classes) for block in itertools.product(*pieces)]
    order = data.draw(st.permutations(range(len(parts))))
    assert np.array_equal(sum(parts[index] for index in order), confusion.count(truth, predicted, classes))


def random_labellings(pairs: int) -> Iterator[tuple[Labels, Labels, int]]:
    """Truth with gaps and a prediction of any quality, of any mix of classes; at least one voxel is scored."""
    for seed in range(pairs):
        rng = np.random.default_rng(seed)
        classes = int(rng.integers(1, 6))
        size = rng.integers(1, 200)
        # Some classes are rare or missing.
        mix = rng.dirichlet(np.full(classes, 0.5))
        truth = rng.choice(classes, size, p=mix).astype(np.uint8)
        wrong = rng.random(size) < rng.random()
        predicted = np.where(wrong, rng.choice(classes, size, p=rng.permutation(mix)), truth).astype(np.uint8)
        truth[1:][rng.random(size - 1) < rng.choice([0.0, 0.3])] = IGNORE
        yield truth, predicted, classes


def of_table(truth: Labels, predicted: Labels, classes: int) -> tuple[list[Any], list[Any]]:
    # scikit-learn warns of a table of one class: one more, which no voxel has, is cut off again.
    matrix = confusion_matrix(truth[truth != IGNORE], predicted[truth != IGNORE], labels=np.arange(classes + 1))
    return confusion.count(truth, predicted, classes).ravel().tolist(), matrix[:classes, :classes].ravel().tolist()


def of_accuracy(truth: Labels, predicted: Labels, classes: int) -> tuple[list[Any], list[Any]]:
    accuracy = accuracy_score(truth[truth != IGNORE], predicted[truth != IGNORE])
    return [confusion.pixel_error(confusion.count(truth, predicted, classes))], [1 - accuracy]


def of_classes(
    ours: Callable[[NDArray[np.int64]], list[float | None]], theirs: Callable[..., NDArray[np.float64]]
) -> Callable[[Labels, Labels, int], tuple[list[Any], list[Any]]]:
    def both(truth: Labels, predicted: Labels, classes: int) -> tuple[list[Any], list[Any]]:
        found = ours(confusion.count(truth, predicted, classes))
        scored = truth != IGNORE
        options = {"labels": range(classes), "average": None, "zero_division": 0.0}
        expected = theirs(truth[scored], predicted[scored], **options)
        # A score that is not defined is a 0 there.
        return [0.0 if value is None else value for value in found], expected.tolist()

    return both


PEERS = pytest.mark.parametrize(
    "both",
    [
        of_table,
        of_accuracy,
        of_classes(confusion.iou, jaccard_score),
        of_classes(confusion.dice, f1_score),
        of_classes(confusion.precision, precision_score),
        of_classes(confusion.recall, recall_score),
    ],
    ids=["table", "pixel-error", "iou", "dice", "precision", "recall"],
)

Both = Callable[[Labels, Labels, int], tuple[list[Any], list[Any]]]


@PEERS
def test_1000_random_pairs_against_scikit_learn(both: Both) -> None:
    for pair in random_labellings(1000):
        found, expected = both(*pair)
        assert found == pytest.approx(expected, rel=1e-12, abs=1e-15)


@pytest.fixture(scope="module")
def sections(isbi_dir: Path) -> tuple[Labels, Labels]:
    """Truth of real sections with gaps, and a blurred image at a threshold as the prediction."""
    truth = (tifffile.imread(isbi_dir / "train-labels.tif")[16:20] > 0).astype(np.uint8)
    truth[:, ::7] = IGNORE
    blurred = gaussian_filter(tifffile.imread(isbi_dir / "train-volume.tif")[16:20], (0, 2, 2))
    return truth, (blurred >= 110).astype(np.uint8)


@pytest.mark.isbi
@PEERS
def test_real_sections_against_scikit_learn(both: Both, sections: tuple[Labels, Labels]) -> None:
    found, expected = both(*sections, 2)
    assert found == pytest.approx(expected, rel=1e-12, abs=1e-15)
