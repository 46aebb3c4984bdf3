"""What is reached without learning: blur and Otsu's threshold, and one class for all. A network must beat both.

For the first, each section is blurred, and one threshold parts the voxels of the whole volume into dark and bright.
Which class is the dark one and which the bright one is chosen by looking at the truth: the pair with the best mean IoU
counts. That is generous to the baseline. With more than two classes the others are never predicted. All that is needed
is one table, blurred grey value by true class, and tables of parts add up: the result is exact however the volume is
cut.

The second needs only how many voxels each class has. It shows how much of a score comes from these shares alone.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from unetpipe.grid import Region
from unetpipe.metrics import confusion
from unetpipe.volume import IGNORE, Image

LOW, HIGH = -4.0, 4.0
"""Grey values that are told apart, in standard deviations of a section; what lies beyond falls into the outer bins."""

BINS = 256

_TRUNCATE = 4.0
"""The Gaussian is cut off here, in sigmas."""


def blurred(image: Image, region: Region, sigma: float) -> NDArray[np.float32]:
    """Normalised grey values of ``region`` after a Gaussian blur of each section.

    The image is mirrored at its edges. It is read with a halo as wide as the Gaussian, so that a voxel comes out the
    same in every region.

    Parameters
    ----------
    region:
        Within the volume.
    sigma:
        In voxels, along y and x.

    Returns
    -------
    (z, y, x) float32.
    """
    radius = int(_TRUNCATE * sigma + 0.5)
    read = region.grow((0, radius, radius))
    # The filter's own mirroring reaches the halo alone.
    wide = gaussian_filter(image.read(read), (0, sigma, sigma), mode="mirror", truncate=_TRUNCATE)
    grey: NDArray[np.float32] = wide[region.relative_to(read.start).slices]
    return grey


def count(grey: NDArray[np.float32], truth: NDArray[np.uint8], classes: int) -> confusion.Table:
    """Count voxels by label and blurred grey value.

    Parameters
    ----------
    grey, truth:
        Of the same shape; normalised grey values and labels.
    classes:
        Their number, at most 254.

    Returns
    -------
    (classes + 1, BINS) int64: a row for each class, and a last one for the voxels to ignore.
    """
    bins = np.clip((grey - np.float32(LOW)) * np.float32(BINS / (HIGH - LOW)), 0, BINS - 1).astype(np.uint16)
    codes = truth.astype(np.uint16) << np.uint16(8) | bins
    counts = np.bincount(codes.reshape(-1), minlength=256 * BINS).reshape(256, BINS)
    return np.concatenate([counts[:classes], counts[IGNORE:]])


def otsu(histogram: confusion.Table) -> int:
    """The last bin of the dark side, by Otsu 1979 (doi:10.1109/TSMC.1979.4310076, equation 18).

    It is the first one that makes the variance between the two sides, w0 w1 (m0 - m1)^2, largest: w0 and w1 are the
    shares of voxels on the two sides, m0 and m1 their mean bins. The last bin is never dark. Where all voxels lie in
    one bin, no threshold parts them, and the bin 0 is the result.

    Parameters
    ----------
    histogram:
        (bins,) int64.
    """
    voxels = np.cumsum(histogram)
    total = np.cumsum(histogram * np.arange(len(histogram)))
    dark, bright = voxels[:-1], voxels[-1] - voxels[:-1]
    both = (dark > 0) & (bright > 0)
    dark_mean = total[:-1] / np.maximum(dark, 1)
    bright_mean = (total[-1] - total[:-1]) / np.maximum(bright, 1)
    # The product of two counts overflows int64 from three billion voxels.
    variance = np.where(both, dark.astype(np.float64) * bright * (dark_mean - bright_mean) ** 2, 0.0)
    return int(np.argmax(variance))


def summary(counts: confusion.Table, classes: Sequence[str], sigma: float) -> dict[str, Any]:
    """Scores of the baseline as JSON data.

    Parameters
    ----------
    counts:
        (classes + 1, BINS) of the whole volume, as :func:`count` gives it. Ignored voxels have a part in the threshold,
        which must not know the truth, and none in the scores.
    classes:
        Names in the order of the label values, at least two.

    Returns
    -------
    ``name``, ``threshold`` (in standard deviations of a section; larger values are bright), ``dark`` and ``bright``
    (their classes), and what :func:`unetpipe.metrics.confusion.summary` gives.
    """
    last = otsu(counts.sum(axis=0))
    scored = counts[: len(classes)]
    dark, bright = scored[:, : last + 1].sum(axis=1), scored[:, last + 1 :].sum(axis=1)

    def table(pair: tuple[int, int]) -> confusion.Table:
        result = np.zeros((len(classes), len(classes)), np.int64)
        result[:, pair[0]], result[:, pair[1]] = dark, bright
        return result

    # The first pair of equals; where nothing is scored, all are equal.
    best = max(itertools.permutations(range(len(classes)), 2), key=lambda pair: confusion.mean_iou(table(pair)) or 0.0)
    return {
        "name": f"Gaussian blur, sigma {sigma:g} voxels, Otsu's threshold",
        "threshold": LOW + (last + 1) * (HIGH - LOW) / BINS,
        "dark": classes[best[0]],
        "bright": classes[best[1]],
        **confusion.summary(table(best), classes),
    }


def one_class(table: confusion.Table, classes: Sequence[str]) -> dict[str, Any]:
    """Scores where every voxel is given to one class, as JSON data: the class for which the mean IoU is the best.

    Only the class itself has an IoU above 0, its share of the voxels, and the mean is over the classes of the truth.
    So it is the class with the most voxels, the first of equals; where nothing is scored, the first class.

    Parameters
    ----------
    table:
        (classes, classes), of any prediction (see :func:`unetpipe.metrics.confusion.count`): only the sums of its rows
        matter, the voxels of each class.
    classes:
        Names in the order of the table.

    Returns
    -------
    ``name``, ``class``, and what :func:`unetpipe.metrics.confusion.summary` gives.
    """
    voxels = table.sum(axis=1)
    best = int(np.argmax(voxels))
    predicted = np.zeros_like(table)
    predicted[:, best] = voxels
    name = classes[best]
    return {"name": f"all voxels {name}", "class": name, **confusion.summary(predicted, classes)}
