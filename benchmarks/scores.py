"""Scores by voxel, by threshold and by segment, against the plain ways to count them. All on one core."""

from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from sklearn.metrics import confusion_matrix

from benchmarks.rows import Row, Rows
from benchmarks.timing import rates, ratios
from unetpipe.grid import Shape
from unetpipe.metrics import confusion, segments, thinned, thresholds
from unetpipe.volume import IGNORE

SHAPE = (16, 2048, 2048)
CLASSES = 2


@dataclass(frozen=True)
class Labelled:
    """``truth`` and ``predicted`` are (z, y, x) labels, ``probability`` is (classes, z, y, x), all uint8."""

    truth: NDArray[np.uint8]
    predicted: NDArray[np.uint8]
    probability: NDArray[np.uint8]

    @property
    def million_voxels(self) -> float:
        """Ignored ones too: they are read like all."""
        return self.truth.size / 1e6

    def section(self, edge: int = SHAPE[1]) -> "Labelled":
        """The first section alone, up to ``edge`` voxels along y and x."""
        box = slice(1), slice(edge), slice(edge)
        return Labelled(self.truth[box], self.predicted[box], self.probability[:, *box])


def textured(shape: Shape) -> Labelled:
    """Cells with thin membranes, and a prediction that is sure of itself, and wrong at some membranes.

    Membranes (class 0) are where a smooth random field is near 0; some regions are ignored.
    """
    rng = np.random.default_rng(0)

    def field() -> NDArray[np.float32]:
        smooth = gaussian_filter(rng.standard_normal(shape[1:], np.float32), 10)
        scaled: NDArray[np.float32] = smooth / smooth.std()
        return scaled

    truth = np.empty(shape, np.uint8)
    probability = np.empty((CLASSES, *shape), np.uint8)
    for z in range(shape[0]):
        anatomy = field()
        truth[z] = np.abs(anatomy) > 0.2
        truth[z][anatomy > 2.2] = IGNORE
        inside = 1 / (1 + np.exp(-30 * (np.abs(anatomy + 0.1 * field()) - 0.2)))
        probability[1, z] = np.rint(255 * inside)
    probability[0] = 255 - probability[1]
    return Labelled(truth, confusion.most_likely(probability), probability)


def unordered(shape: Shape) -> Labelled:
    """Every voxel is drawn by itself."""
    rng = np.random.default_rng(0)
    probability = rng.integers(0, 256, (CLASSES, *shape), np.uint8)
    return Labelled(rng.integers(0, CLASSES, shape, np.uint8), confusion.most_likely(probability), probability)


def table(voxels: Labelled) -> NDArray[np.int64]:
    """The confusion table, as it is counted in every block."""
    return confusion.count(voxels.truth, voxels.predicted, CLASSES)


def histograms(voxels: Labelled) -> NDArray[np.int64]:
    """The histograms of all classes, as they are counted in every block."""
    return thresholds.count(voxels.truth, voxels.probability)


def fragments(voxels: Labelled) -> segments.Counts:
    """What every block gives for the scores of segments as predicted."""
    return segments.count(voxels.truth, voxels.probability[1], 1, below=False, open_faces=False)


def flooded(voxels: Labelled) -> list[dict[str, float | None]]:
    """The scores of a section in memory."""
    return thinned.section_scores(voxels.truth[0], voxels.probability[1, 0], 1)


def with_numpy(voxels: Labelled) -> NDArray[np.int64]:
    """The confusion table as it is counted where speed is no concern."""
    scored = voxels.truth != IGNORE
    codes = voxels.truth[scored] * np.uint8(CLASSES) + voxels.predicted[scored]
    return np.bincount(codes, minlength=CLASSES * CLASSES).reshape(CLASSES, CLASSES)


def with_sklearn(voxels: Labelled) -> NDArray[np.int64]:
    """The confusion table of scikit-learn."""
    scored = voxels.truth != IGNORE
    found: NDArray[np.int64] = confusion_matrix(voxels.truth[scored], voxels.predicted[scored], labels=range(CLASSES))
    return found


def counting(shape: Shape = SHAPE) -> Rows:
    """Ratios against peers, and rates in million voxels a second."""
    rows: Rows = []
    alone = "million voxels a second, one core"
    for name, voxels in (("textured", textured(shape)), ("random", unordered(shape))):
        section = voxels.section()
        # A ratio of different results would say nothing.
        assert np.array_equal(table(voxels), with_numpy(voxels))
        assert np.array_equal(table(section), with_sklearn(section))
        whole, part = (f"{name} labels, {v.million_voxels:.3g} million voxels" for v in (voxels, section))
        rows += [
            Row(
                f"confusion table ({whole})", "NumPy",
                ratios(partial(table, voxels), partial(with_numpy, voxels)),
            ),
            Row(
                f"confusion table ({part})", "scikit-learn",
                ratios(partial(table, section), partial(with_sklearn, section)),
            ),
            Row(f"confusion table ({whole})", alone, rates(partial(table, voxels), voxels.million_voxels)),
            Row(
                f"histograms over thresholds ({whole}), each class", alone,
                rates(partial(histograms, voxels), CLASSES * voxels.million_voxels),
            ),
        ]  # fmt: skip
        if name == "textured":
            corner = section.section(min(1024, shape[1]))
            million = corner.million_voxels
            part = f"{name} labels, {million:.3g} million voxels"
            rows += [
                Row(f"segments at nine thresholds ({part})", alone, rates(partial(fragments, corner), million)),
                Row(f"the same thinned, and warping error ({part})", alone, rates(partial(flooded, corner), million)),
            ]
    return rows
