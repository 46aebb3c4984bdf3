"""Borders thinned by the watershed, and the scores of a section: against scikit-image, and by hand."""

import math
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from skimage.measure import label
from skimage.metrics import adapted_rand_error, variation_of_information
from skimage.segmentation import watershed

from unetpipe.metrics import partitions, warping
from unetpipe.metrics.components import THRESHOLDS, above
from unetpipe.metrics.thinned import section_scores, thinned
from unetpipe.volume import IGNORE

OBJECTS = 1

Plane = NDArray[np.uint8]


@st.composite
def sections(draw: st.DrawFn) -> tuple[Plane, Plane]:
    """Labels and probability of one section: noise or blobs, with plateaus or without."""
    shape = draw(st.tuples(st.integers(1, 16), st.integers(1, 16)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = draw(st.sampled_from([2, 12, 256]))
    grey = gaussian_filter(rng.random(shape), draw(st.sampled_from([0.0, 1.0]))) * draw(st.floats(0.0, 1.9))
    probability = np.round(grey.clip(0, 1) * (values - 1)) * (255 / (values - 1))
    inside = gaussian_filter(rng.random(shape), draw(st.sampled_from([0.0, 1.0]))) > draw(st.floats(0.0, 0.8))
    truth = np.where(inside, OBJECTS, rng.choice([0, 2, IGNORE], shape))
    return truth.astype(np.uint8), probability.astype(np.uint8)


def same(a: NDArray[np.integer], b: NDArray[np.integer]) -> bool:
    """Whether two arrays part the section alike: each number of one goes with one number of the other."""
    pairs = len(np.unique(np.stack([a.ravel(), b.ravel()]), axis=1).T)
    return pairs == len(np.unique(a)) == len(np.unique(b))


@given(sections(), st.sampled_from(THRESHOLDS))
def test_thinned_segments_are_those_of_the_watershed(case: tuple[Plane, Plane], threshold: float) -> None:
    _, probability = case
    markers = label(above(probability, threshold), connectivity=1)
    segments = thinned(probability, threshold)
    assert segments.shape == probability.shape
    assert segments.dtype == np.int32
    if markers.any():
        assert same(segments, watershed(255 - probability, markers))


@given(sections(), st.sampled_from(THRESHOLDS))
def test_every_voxel_is_in_the_segment_of_one_component(case: tuple[Plane, Plane], threshold: float) -> None:
    _, probability = case
    components = label(above(probability, threshold), connectivity=1)
    segments = thinned(probability, threshold)
    # Nothing above the threshold: no segment. Else there is no voxel without one.
    assert segments.all() == components.any() == segments.any()
    inside = components > 0
    assert same(segments[inside], components[inside])
    # A segment is in one piece: as many 4-connected pieces as components.
    assert label(segments, connectivity=1, background=-1).max() == max(components.max(), 1)


def assert_scores_are_those_of_scikit_image(truth: Plane, probability: Plane) -> int:
    """Compare at all thresholds where scikit-image has scores; how many these are."""
    segments = label(truth == OBJECTS, connectivity=1)
    compared = 0
    for threshold, scores in zip(THRESHOLDS, section_scores(truth, probability, OBJECTS), strict=True):
        markers = label(above(probability, threshold), connectivity=1)
        found = watershed(255 - probability, markers)
        pairs = all(np.bincount(labels[segments > 0], minlength=1).max() > 1 for labels in (segments, found))
        # It divides by 0 where no two voxels are in a segment, and takes voxels without a segment for one segment.
        if markers.any() and pairs:
            compared += 1
            error, _, _ = adapted_rand_error(segments, found, ignore_labels=[0])
            assert scores["adapted_rand_error"] == pytest.approx(error, abs=1e-12)
            split, merge = variation_of_information(segments, found, ignore_labels=[0])
            assert [scores["voi_split"], scores["voi_merge"]] == pytest.approx([split, merge], abs=1e-11)
    return compared


@given(sections())
def test_scores_are_those_of_scikit_image(case: tuple[Plane, Plane]) -> None:
    assume(assert_scores_are_those_of_scikit_image(*case))


@given(sections())
def test_a_section_has_all_scores_at_all_thresholds(case: tuple[Plane, Plane]) -> None:
    truth, probability = case
    result = section_scores(truth, probability, OBJECTS)
    assert len(result) == len(THRESHOLDS)
    for threshold, scores in zip(THRESHOLDS, result, strict=True):
        assert list(scores) == [*partitions.MEASURES, "warping_error"]
        expected = warping.error(truth == OBJECTS, above(probability, threshold), truth != IGNORE)
        assert scores.pop("warping_error") == expected
        known = (truth == OBJECTS).any()
        assert all(value is not None and math.isfinite(value) if known else value is None for value in scores.values())


@given(sections())
def test_a_perfect_prediction_is_perfect_at_all_thresholds(case: tuple[Plane, Plane]) -> None:
    truth, _ = case
    assume((truth == OBJECTS).any())
    for scores in section_scores(truth, np.where(truth == OBJECTS, 255, 0).astype(np.uint8), OBJECTS):
        assert {name: scores[name] for name in ("v_rand", "v_info", "warping_error")} == {
            "v_rand": 1.0,
            "v_info": 1.0,
            "warping_error": 0.0,
        }


@given(sections(), st.sampled_from([0, 2, 17]))
def test_the_objects_may_be_any_class(case: tuple[Plane, Plane], objects: int) -> None:
    truth, probability = case
    exchanged = truth.copy()
    exchanged[truth == OBJECTS], exchanged[truth == objects] = objects, OBJECTS
    assert section_scores(exchanged, probability, objects) == section_scores(truth, probability, OBJECTS)


def two_cells() -> Plane:
    """Two objects of 2 x 2 voxels in 4 x 7."""
    truth = np.zeros((4, 7), np.uint8)
    truth[1:3, 1:3] = truth[1:3, 4:6] = OBJECTS
    return truth


def test_borders_have_no_width() -> None:
    # What is predicted of each cell is one voxel; the flood gives it the rest, and the border between them to one.
    truth = two_cells()
    probability = np.zeros(truth.shape, np.uint8)
    probability[1, 1] = probability[2, 5] = 255
    for scores in section_scores(truth, probability, OBJECTS):
        assert scores["v_rand"] == scores["v_info"] == 1.0
        assert scores["voi"] == scores["rand_error"] == 0.0


def test_merged_cells_score_as_by_hand() -> None:
    # One segment: sum n_ij^2 = 16 + 16, of the truth 32, of the prediction 64. The gap costs the border two voxels,
    # where the one below the other must stay to part the cells.
    truth = two_cells()
    probability = np.where(truth == OBJECTS, 255, 0).astype(np.uint8)
    probability[1:3, 3] = 200
    low, high = THRESHOLDS.index(0.7), THRESHOLDS.index(0.8)
    merged, parted = (section_scores(truth, probability, OBJECTS)[index] for index in (low, high))
    assert merged["v_rand"] == 2 * 32 / (32 + 64)
    assert merged["v_rand_split"] == 1.0
    assert merged["v_rand_merge"] == 32 / 64
    assert merged["v_info"] == 0.0
    assert (merged["voi"], merged["voi_split"], merged["voi_merge"]) == (1.0, 0.0, 1.0)
    assert merged["warping_error"] == 2 / truth.size
    assert parted["v_rand"] == parted["v_info"] == 1.0
    assert parted["warping_error"] == 0.0


def test_nothing_above_the_threshold_is_no_segment() -> None:
    truth = two_cells()
    probability = np.full(truth.shape, 25, np.uint8)
    assert not thinned(probability, 0.1).any()
    # Each of the 8 voxels is alone: S_n = 8, S_a = 16 + 16, S_b = 8. H(S) = 3 bits, H(T) = 1 bit, I = 1 bit.
    for scores in section_scores(truth, probability, OBJECTS):
        assert scores["v_rand"] == 2 * 8 / (32 + 8)
        assert (scores["v_rand_split"], scores["v_rand_merge"]) == (8 / 32, 1.0)
        assert scores["v_info"] == pytest.approx(2 / 4, abs=1e-15)
        assert scores["voi_split"] == pytest.approx(2.0, abs=1e-15)
        assert scores["voi_merge"] == 0.0
        # Each object shrinks to a voxel.
        assert scores["warping_error"] == 2 / truth.size


def test_the_threshold_itself_is_not_above() -> None:
    # 51 / 255 is 0.2 exactly.
    probability = np.array([[51, 0, 52]], np.uint8)
    assert thinned(probability, 0.1)[0, [0, 2]].tolist() == [1, 2]
    assert thinned(probability, 0.2).tolist() == [[1, 1, 1]]


def test_what_is_not_scored_has_no_part() -> None:
    truth = two_cells()
    truth[:, 3] = IGNORE
    probability = np.where(truth == OBJECTS, 255, 0).astype(np.uint8)
    for scores in section_scores(truth, probability, OBJECTS):
        assert scores["warping_error"] == 0.0
    probability[3, 0] = 255
    for scores in section_scores(truth, probability, OBJECTS):
        # Of 28 voxels 4 are not scored.
        assert scores["warping_error"] == 1 / 24


def test_a_section_without_truth_has_no_scores() -> None:
    truth = np.full((3, 5), IGNORE, np.uint8)
    none = dict.fromkeys([*partitions.MEASURES, "warping_error"])
    for probability in (np.zeros((3, 5), np.uint8), np.full((3, 5), 255, np.uint8)):
        assert section_scores(truth, probability, OBJECTS) == [none] * len(THRESHOLDS)


def test_a_section_without_objects_has_a_warping_error_alone() -> None:
    truth, probability = np.zeros((2, 3, 5), np.uint8)
    probability[1, 1:3] = 255
    for scores in section_scores(truth, probability, OBJECTS):
        assert scores.pop("warping_error") == 2 / 15
        assert set(scores.values()) == {None}


def test_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"truth of shape \(2, 3\), probability of shape \(3, 2\)"):
        section_scores(np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.uint8), OBJECTS)


@pytest.mark.isbi
@pytest.mark.parametrize("z", range(16, 20), ids=lambda z: f"section-{z}")
def test_real_sections_score_as_in_scikit_image(isbi_dir: Path, z: int) -> None:
    truth = np.where(tifffile.imread(isbi_dir / "train-labels.tif", key=z) > 0, OBJECTS, 0).astype(np.uint8)
    # Membranes are dark: a blurred image is a bad probability, and a varied one. Half a section is enough.
    image = tifffile.imread(isbi_dir / "train-volume.tif", key=z)
    probability = gaussian_filter(image.astype(np.float32), 2.0).astype(np.uint8)
    assert assert_scores_are_those_of_scikit_image(truth[:256], probability[:256]) >= 7
