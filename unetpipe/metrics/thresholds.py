"""Scores of the probability of each class, at all thresholds at once, from a histogram.

A histogram is (2, 256) int64: row 0 counts the scored voxels of other classes, row 1 those of the class itself, by the
value of the class's channel. Histograms of the parts of a volume add up to that of the whole, so scores are exact
however the volume is cut.

A probability p is a value of 0, 1, … 255, divided by 255. The thresholds are the same 256 numbers: at the threshold
v / 255 a voxel is given to the class if p >= v / 255, so that at 0 every voxel is. No other threshold, on these
probabilities, gives the class other voxels, except that one beyond 1 gives it none. Each class is scored by itself,
against all others together.

Where a score is not defined it is None, never NaN: a class that is not in the truth has no recall, no average
precision and no best threshold; where no voxel is scored, there is no calibration error either.
"""

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetpipe.volume import IGNORE

Histogram = NDArray[np.int64]

VALUES = 256
"""Of a channel, and the number of thresholds."""

_VOXELS = 1 << 18
"""Counted at a time, so that what a pass needs stays in the processor's cache."""


def count(truth: NDArray[np.uint8], probability: NDArray[np.uint8]) -> Histogram:
    """Count voxels by class and probability, one histogram for each class.

    Parameters
    ----------
    truth:
        Class indices, uint8. Voxels with 255 (ignore) are left out.
    probability:
        (classes, ...) uint8, 255 = 1.0; each channel of the shape of ``truth``. At most 254 classes.

    Returns
    -------
    (classes, 2, 256) int64; [c, 1, v] is the number of voxels of class c, and [c, 0, v] of all other classes, with the
    value v in channel c.

    Raises
    ------
    ValueError
        If the shapes differ, or there is a label that is no class.
    """
    classes = len(probability)
    if probability.shape[1:] != truth.shape:
        raise ValueError(f"truth of shape {truth.shape}, probability of shape {probability.shape}")
    truth, channels = truth.reshape(-1), [channel.reshape(-1) for channel in probability]
    counts = np.zeros((classes, 2, VALUES), np.int64)
    for first in range(0, truth.size, _VOXELS):
        piece = slice(first, first + _VOXELS)
        labels = truth[piece].astype(np.uint16) << np.uint16(8)
        for index, channel in enumerate(channels):
            # One counter for each label and value: to tell own labels from others before would be a pass more.
            found = np.bincount(labels | channel[piece], minlength=256 * VALUES).reshape(256, VALUES)
            if found[classes:IGNORE].any():
                raise ValueError(f"class indices beyond the {classes} classes")
            counts[index] += found[:classes].sum(axis=0) - found[index], found[index]
    return counts


def precision_recall(histogram: Histogram) -> list[tuple[float | None, float | None]]:
    """Precision and recall at each threshold v / 255, for v = 0, 1, … 255.

    A precision is None where no voxel reaches the threshold; recalls are None if the class is not in the truth.
    """
    own, others = _reached(histogram)
    return [(_ratio(t, t + f), _ratio(t, own[0])) for t, f in zip(own, others, strict=True)]


def average_precision(histogram: Histogram) -> float | None:
    """Area under the curve of precision over recall, in steps; None if the class is not in the truth.

    It is sum (R_n - R_(n-1)) P_n over falling thresholds, without interpolation, as scikit-learn's
    ``average_precision_score`` defines it: the mean, over the voxels of the class, of the precision at the threshold
    that the voxel just reaches (see also Davis and Goadrich 2006, doi:10.1145/1143844.1143874, on why not to
    interpolate linearly).
    """
    own, others = _reached(histogram)
    if own[0] == 0:
        return None
    steps = zip(histogram[1].tolist(), own, others, strict=True)
    return math.fsum(n * t / (t + f) for n, t, f in steps if n) / own[0]


def calibration_error(histogram: Histogram) -> float | None:
    """Expected calibration error of one class; None if no voxel is scored.

    With n_v the scored voxels of value v and m_v those among them that are of the class, it is
    ``sum_v n_v / N |m_v / n_v - v / 255|``: how far, in the mean over all voxels, the share of the class differs from
    the probability that was given (Naeini et al. 2015, doi:10.1609/aaai.v29i1.9602; Guo et al. 2017, arXiv:1706.04599,
    equation 3). Two things differ from these papers: the bins are the 256 values, so that within a bin all
    probabilities are equal, and the error is class-wise, of the probability of this class in all voxels instead of
    that of the predicted class (Nixon et al. 2019, arXiv:1904.01685, whose static calibration error is the mean of
    these errors over the classes).
    """
    others, own = histogram.tolist()
    voxels = sum(others) + sum(own)
    # 255 times the sum, in Python's integers: the ratio is rounded once.
    apart = sum(abs((f + t) * value - 255 * t) for value, (f, t) in enumerate(zip(others, own, strict=True)))
    return _ratio(apart, 255 * voxels)


def best(histogram: Histogram) -> dict[str, float] | None:
    """The threshold with the best IoU, the lowest of equals; None if the class is not in the truth.

    Returns
    -------
    ``threshold`` (v / 255), and the ``iou``, ``dice``, ``precision`` and ``recall`` of the voxels with
    p >= threshold, as :mod:`unetpipe.metrics.confusion` defines them.
    """
    own, others = _reached(histogram)
    voxels = own[0]
    if voxels == 0:
        return None
    # Compared as fractions: rounded ones could be equal where these are not.
    value = max(range(VALUES), key=lambda v: Fraction(own[v], voxels + others[v]))
    true, false = own[value], others[value]
    # No divisor is 0, and true neither: at the threshold 0 the IoU is above 0.
    return {
        "threshold": value / 255,
        "iou": true / (voxels + false),
        "dice": 2 * true / (voxels + true + false),
        "precision": true / (true + false),
        "recall": true / voxels,
    }


def summary(counts: Histogram, classes: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Scores of each class as JSON data.

    Parameters
    ----------
    counts:
        (classes, 2, 256) of the whole volume, as :func:`count` gives it.
    classes:
        Names in the order of the channels.

    Returns
    -------
    For each name ``average_precision``, ``calibration_error`` and ``best`` (see :func:`best`).
    """
    return {
        name: {
            "average_precision": average_precision(histogram),
            "calibration_error": calibration_error(histogram),
            "best": best(histogram),
        }
        for name, histogram in zip(classes, counts, strict=True)
    }


def _reached(histogram: Histogram) -> tuple[list[int], list[int]]:
    """Voxels of the class, and of the others, that reach each threshold, as Python's integers."""
    others, own = np.cumsum(histogram[:, ::-1], axis=1)[:, ::-1].tolist()
    return own, others


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
