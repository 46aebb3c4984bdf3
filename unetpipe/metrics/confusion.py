"""Scores of a segmentation, all from one table that counts voxels by true and predicted class.

A confusion table is (classes, classes) int64: rows are the truth, columns the prediction. Tables of the parts of a
volume add up to the table of the whole, so scores are exact however the volume is cut. With the voxels of one class
counted as true positives (TP), false positives (FP) and false negatives (FN), see for example Taha and Hanbury 2015
(doi:10.1186/s12880-015-0068-x, section 3.1.1):

=========  =======================  =================
IoU        TP / (TP + FP + FN)      the Jaccard index
Dice       2 TP / (2 TP + FP + FN)  the F1 score
precision  TP / (TP + FP)
recall     TP / (TP + FN)
=========  =======================  =================

Where the divisor is 0, there is nothing to score and the score is None, never NaN: a class that is neither in the
truth nor in the prediction has no IoU, and is left out of means.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetpipe.volume import IGNORE

Table = NDArray[np.int64]

_VOXELS = 1 << 20
"""Counted at a time, so that what a pass needs stays in the processor's cache."""

_MOST_IN_A_BYTE = 15
"""Classes whose pairs, and one more value for each voxel to ignore, fit into a byte."""


def count(truth: NDArray[np.uint8], predicted: NDArray[np.uint8], classes: int) -> Table:
    """Count voxels by true and predicted class.

    Parameters
    ----------
    truth, predicted:
        Class indices, uint8, of the same shape. Voxels whose truth is 255 (ignore) are left out.
    classes:
        Their number, at most 254.

    Returns
    -------
    (classes, classes) int64; [t, p] is the number of voxels of class t that were predicted to be p.

    Raises
    ------
    ValueError
        If the shapes differ, or there is a value that is no class.
    """
    if truth.shape != predicted.shape:
        raise ValueError(f"truth of shape {truth.shape}, prediction of shape {predicted.shape}")
    truth, predicted = truth.reshape(-1), predicted.reshape(-1)
    counts = np.zeros(1 << 16, np.int64)
    for first in range(0, truth.size, _VOXELS):
        counts += _count(truth[first : first + _VOXELS], predicted[first : first + _VOXELS], classes)
    if classes <= _MOST_IN_A_BYTE:
        # Two voxels were counted together: the one in the low byte and the one in the high byte.
        pairs = counts.reshape(256, 256)
        counts = pairs.sum(axis=0) + pairs.sum(axis=1)
    return counts[: classes * classes].reshape(classes, classes)


def _count(truth: NDArray[np.uint8], predicted: NDArray[np.uint8], classes: int) -> Table:
    """Voxels, or pairs of neighbours, by the code ``truth * classes + predicted``.

    The codes of voxels to ignore lie beyond those of all classes: in 16 bits since 255 > classes, in 8 bits since the
    product wraps around to 256 - classes.
    """
    # The ignore value wraps around to 0.
    if np.max(truth + np.uint8(1)) > classes or np.max(predicted) >= classes:
        raise ValueError(f"class indices beyond the {classes} classes")
    if classes > _MOST_IN_A_BYTE:
        return np.bincount(truth.astype(np.uint16) * np.uint16(classes) + predicted, minlength=1 << 16)
    codes = np.full(truth.size + truth.size % 2, IGNORE, np.uint8)
    np.multiply(truth, np.uint8(classes), out=codes[: truth.size])
    codes[: truth.size] += predicted
    # Neighbours mostly agree, and a counter waits for its own last increment: pairs are counted twice as fast.
    return np.bincount(codes.view(np.uint16), minlength=1 << 16)


def most_likely(probability: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The first channel with the largest value, for each voxel.

    Parameters
    ----------
    probability:
        (classes, ...) uint8.

    Returns
    -------
    (...) uint8.
    """
    # The same as argmax along the first axis, twenty times as fast.
    largest = probability[0].copy()
    label = np.zeros(largest.shape, np.uint8)
    for channel in range(1, len(probability)):
        larger = probability[channel] > largest
        np.maximum(label, larger.view(np.uint8) * np.uint8(channel), out=label)
        np.maximum(largest, probability[channel], out=largest)
    return label


def iou(table: Table) -> list[float | None]:
    """Intersection over union of each class: TP / (TP + FP + FN)."""
    true, rows, columns = _sums(table)
    return [_ratio(t, r + c - t) for t, r, c in zip(true, rows, columns, strict=True)]


def dice(table: Table) -> list[float | None]:
    """Dice coefficient of each class: 2 TP / (2 TP + FP + FN)."""
    true, rows, columns = _sums(table)
    return [_ratio(2 * t, r + c) for t, r, c in zip(true, rows, columns, strict=True)]


def precision(table: Table) -> list[float | None]:
    """TP / (TP + FP) of each class: how much of what was predicted is right."""
    true, _, columns = _sums(table)
    return [_ratio(t, c) for t, c in zip(true, columns, strict=True)]


def recall(table: Table) -> list[float | None]:
    """TP / (TP + FN) of each class: how much of the truth was found."""
    true, rows, _ = _sums(table)
    return [_ratio(t, r) for t, r in zip(true, rows, strict=True)]


def pixel_error(table: Table) -> float | None:
    """Share of the scored voxels with a wrong class; None if no voxel is scored."""
    true, rows, _ = _sums(table)
    return _ratio(sum(rows) - sum(true), sum(rows))


def mean(values: Iterable[float | None]) -> float | None:
    """Mean of the values that are not None; None if there is none."""
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def mean_iou(table: Table) -> float | None:
    """Mean IoU over the classes that are in the truth or in the prediction."""
    return mean(iou(table))


def summary(table: Table, classes: Sequence[str]) -> dict[str, Any]:
    """All scores of a table as JSON data.

    Parameters
    ----------
    classes:
        Names in the order of the table.

    Returns
    -------
    ``scored_voxels``; ``classes``, for each name its ``iou``, ``dice``, ``precision``, ``recall`` and ``voxels`` (of
    the truth); ``mean_iou``, ``mean_dice``, ``pixel_error``; ``left_out``, the classes that are neither in the truth
    nor in the prediction and do not count in the means.
    """
    _, voxels, _ = _sums(table)
    columns = zip(classes, iou(table), dice(table), precision(table), recall(table), voxels, strict=True)
    keys = ("iou", "dice", "precision", "recall", "voxels")
    scores = {name: dict(zip(keys, values, strict=True)) for name, *values in columns}
    return {
        "scored_voxels": sum(voxels),
        "classes": scores,
        "mean_iou": mean_iou(table),
        "mean_dice": mean(dice(table)),
        "pixel_error": pixel_error(table),
        "left_out": [name for name, score in scores.items() if score["iou"] is None],
    }


def _sums(table: Table) -> tuple[list[int], list[int], list[int]]:
    """Diagonal, sums of rows and sums of columns, as Python's integers: their ratios are rounded once."""
    return table.diagonal().tolist(), table.sum(axis=1).tolist(), table.sum(axis=0).tolist()


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
