"""The baselines are Gaussian blur with Otsu's threshold, and one class for all: exact, and at their most favourable."""

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from skimage.filters import threshold_otsu

from unetpipe.grid import Region
from unetpipe.metrics import baseline, confusion
from unetpipe.volume import Image, VolumeFile

IGNORE = 255
CENTRES = np.arange(baseline.BINS)

Histogram = NDArray[np.int64]


@pytest.fixture
def image(make_volume: Callable[..., Path]) -> Image:
    """Sections of noise; the middle one is missing."""
    grey = np.random.default_rng(0).integers(0, 256, (3, 41, 37)).astype(np.uint8)
    grey[1] = 0
    return Image(VolumeFile.read(make_volume(grey)))


@pytest.mark.parametrize("sigma", [0.5, 1.2, 13.0], ids=lambda sigma: f"sigma-{sigma}")
def test_the_blur_is_that_of_whole_mirrored_sections(image: Image, sigma: float) -> None:
    whole = Region.of((0, 0, 0), image.volume.shape)
    sections = [gaussian_filter(section, sigma, mode="mirror") for section in image.read(whole)]
    assert np.array_equal(baseline.blurred(image, whole, sigma), np.stack(sections))


@pytest.mark.parametrize("sigma", [0.5, 1.2, 13.0], ids=lambda sigma: f"sigma-{sigma}")
@pytest.mark.parametrize("block", [(1, 41, 3), (2, 9, 37), (3, 16, 16)], ids=str)
def test_a_voxel_is_blurred_alike_in_every_region(image: Image, sigma: float, block: tuple[int, int, int]) -> None:
    shape = image.volume.shape
    whole = baseline.blurred(image, Region.of((0, 0, 0), shape), sigma)
    for start in itertools.product(*(range(0, n, b) for n, b in zip(shape, block, strict=True))):
        region = Region.of(start, block).clip(shape)
        assert np.array_equal(baseline.blurred(image, region, sigma), whole[region.slices])


def test_a_missing_section_is_that_which_is_shown_in_its_place(image: Image) -> None:
    before, missing = (baseline.blurred(image, Region.of((z, 0, 0), (1, 41, 37)), 2.0) for z in (0, 1))
    assert np.array_equal(missing, before)


# Multiples of a part of a bin's width: exact in float32, on the edges of bins too.
greys = hnp.arrays(np.float32, (3, 7), elements=st.integers(-600, 600).map(lambda value: value / 128))
labels = hnp.arrays(np.uint8, (3, 7), elements=st.sampled_from([0, 1, 2, IGNORE]))


@given(greys, labels)
def test_every_voxel_is_counted_by_its_label_and_bin(grey: NDArray[np.float32], truth: NDArray[np.uint8]) -> None:
    counts = baseline.count(grey, truth, 3)
    edges = np.linspace(baseline.LOW, baseline.HIGH, baseline.BINS + 1)
    assert counts.sum() == grey.size
    for row, value in enumerate([0, 1, 2, IGNORE]):
        inside = np.clip(grey[truth == value], baseline.LOW, baseline.HIGH)
        assert np.array_equal(counts[row], np.histogram(inside, edges)[0])


def spread(histogram: Histogram, last: int) -> float:
    """Otsu's variance between the bins up to ``last`` and the others, from the voxels themselves."""
    dark, bright = (np.repeat(CENTRES[part], histogram[part]) for part in (np.s_[: last + 1], np.s_[last + 1 :]))
    if not dark.size or not bright.size:
        return 0.0
    return float(dark.size * bright.size * (dark.mean() - bright.mean()) ** 2)


def within(histogram: Histogram) -> slice:
    """The bins between the first and the last that hold a voxel: scikit-image divides by 0 beyond them."""
    filled = np.flatnonzero(histogram)
    return slice(int(filled[0]), int(filled[-1]) + 1)


histograms = hnp.arrays(np.int64, baseline.BINS, elements=st.integers(0, 40), fill=st.just(0)).filter(
    lambda histogram: np.count_nonzero(histogram) > 1
)


@given(histograms)
def test_no_other_threshold_parts_the_voxels_better(histogram: Histogram) -> None:
    spreads = [spread(histogram, last) for last in range(baseline.BINS - 1)]
    assert spreads[baseline.otsu(histogram)] == pytest.approx(max(spreads), rel=1e-9)


@given(histograms)
def test_the_threshold_is_as_good_as_that_of_scikit_image(histogram: Histogram) -> None:
    filled = within(histogram)
    peer = threshold_otsu(hist=(histogram[filled], CENTRES[filled]))
    # scikit-image counts in float32: of two thresholds that are nearly as good it may take the other.
    assert spread(histogram, baseline.otsu(histogram)) >= spread(histogram, int(peer)) * (1 - 1e-6)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("share", [0.03, 0.3, 0.5], ids=lambda share: f"dark-share-{share}")
def test_the_threshold_is_that_of_scikit_image(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    dark = rng.random(50_000) < share
    grey = np.where(dark, rng.normal(60, 15, dark.size), rng.normal(150, 25, dark.size))
    histogram = np.bincount(np.clip(grey, 0, 255).astype(int), minlength=baseline.BINS)
    filled = within(histogram)
    assert baseline.otsu(histogram) == threshold_otsu(hist=(histogram[filled], CENTRES[filled]))


def test_the_threshold_does_not_depend_on_the_size_of_the_volume() -> None:
    rng = np.random.default_rng(3)
    histogram = np.bincount(rng.integers(0, 256, 5000) // 2 + rng.integers(0, 128, 5000), minlength=256)
    assert baseline.otsu(histogram * 10**12) == baseline.otsu(histogram)


@pytest.mark.parametrize("level", [0, 100, 255])
def test_one_grey_value_has_no_threshold(level: int) -> None:
    assert baseline.otsu(np.bincount(np.full(9, level), minlength=256)) == 0


def mean_iou(truth: NDArray[np.uint8], predicted: NDArray[np.uint8], classes: int) -> float:
    """Over the classes that are in one of both."""
    scored = truth != IGNORE
    ious = []
    for index in range(classes):
        a, b = (truth == index) & scored, (predicted == index) & scored
        if (a | b).any():
            ious.append(np.count_nonzero(a & b) / np.count_nonzero(a | b))
    return float(np.mean(ious)) if ious else 0.0


@given(greys, labels)
def test_the_pair_of_classes_is_the_best_of_all(grey: NDArray[np.float32], truth: NDArray[np.uint8]) -> None:
    names = ["membrane", "mitochondrion", "inside"]
    summary = baseline.summary(baseline.count(grey, truth, 3), names, 2.0)
    bright = np.clip(grey, None, np.nextafter(np.float32(baseline.HIGH), np.float32(0))) >= summary["threshold"]

    def predicted(pair: tuple[int, int]) -> NDArray[np.uint8]:
        return np.where(bright, pair[1], pair[0]).astype(np.uint8)

    values = {pair: mean_iou(truth, predicted(pair), 3) for pair in itertools.permutations(range(3), 2)}
    chosen = names.index(summary["dark"]), names.index(summary["bright"])
    assert values[chosen] == pytest.approx(max(values.values()))
    expected = confusion.summary(confusion.count(truth, predicted(chosen), 3), names)
    assert {key: summary[key] for key in expected} == expected


def test_the_threshold_sees_ignored_voxels_and_the_scores_do_not() -> None:
    grey = np.repeat(np.float32([-1, 0, 2]), 10)
    truth = np.repeat(np.array([0, 1, IGNORE], np.uint8), 10)
    summary = baseline.summary(baseline.count(grey, truth, 2), ["membrane", "inside"], 1.5)
    # Without the ignored voxels the threshold would lie between -1 and 0, and all would be right.
    assert 0 < summary["threshold"] <= 2
    assert summary["scored_voxels"] == 20
    assert summary["mean_iou"] == 0.25
    assert summary["name"] == "Gaussian blur, sigma 1.5 voxels, Otsu's threshold"


def test_where_all_is_ignored_the_baseline_has_no_score() -> None:
    counts = baseline.count(np.zeros((4, 4), np.float32), np.full((4, 4), IGNORE, np.uint8), 2)
    summary = baseline.summary(counts, ["membrane", "inside"], 2.0)
    assert summary["mean_iou"] is None
    assert summary["scored_voxels"] == 0


@given(labels, labels.map(lambda predicted: np.where(predicted == IGNORE, 0, predicted).astype(np.uint8)))
def test_one_class_is_the_best_of_all(truth: NDArray[np.uint8], predicted: NDArray[np.uint8]) -> None:
    names = ["membrane", "mitochondrion", "inside"]
    summary = baseline.one_class(confusion.count(truth, predicted, 3), names)
    values = [mean_iou(truth, np.full_like(truth, index), 3) for index in range(3)]
    chosen = names.index(summary["class"])
    assert chosen == values.index(max(values))
    assert summary["name"] == f"all voxels {names[chosen]}"
    expected = confusion.summary(confusion.count(truth, np.full_like(truth, chosen), 3), names)
    assert list(summary) == ["name", "class", *expected]
    assert {key: summary[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("voxels", "expected"),
    [([3, 3], "membrane"), ([2, 3], "inside"), ([0, 1], "inside"), ([2**60, 2**60 + 1], "inside")],
    ids=["first-of-equals", "most-voxels", "alone", "beyond-the-precision-of-a-float"],
)
def test_one_class_is_that_with_the_most_voxels(voxels: list[int], expected: str) -> None:
    for predicted in (0, 1):
        table = np.zeros((2, 2), np.int64)
        table[:, predicted] = voxels
        assert baseline.one_class(table, ["membrane", "inside"])["class"] == expected


def test_where_all_is_ignored_one_class_has_no_score() -> None:
    summary = baseline.one_class(np.zeros((2, 2), np.int64), ["membrane", "inside"])
    assert summary["class"] == "membrane"
    assert summary["mean_iou"] is None
    assert summary["mean_dice"] is None
    assert summary["pixel_error"] is None
    assert summary["scored_voxels"] == 0
