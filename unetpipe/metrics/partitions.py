"""Scores of one partition of voxels into segments against another, all from the sizes of their overlaps.

With n_ij voxels in truth segment i and predicted segment j, a_i = sum_j n_ij, b_j = sum_i n_ij and N = sum_ij n_ij,
the sums run over the voxels that lie in a segment of the truth; all others are left out. A voxel that the prediction
gives to no segment is a segment of its own there: one more j with n_ij = b_j = 1.

=====================  =========================================  ==================================================
v_rand                 2 S_n / (S_a + S_b)                        with S_x the sum of the squares of the sizes x
v_rand_split, _merge   S_n / S_a, S_n / S_b                       suffers where a segment is split, or two are merged
v_info                 2 I(S; T) / (H(S) + H(T))                  S the prediction, T the truth
v_info_split, _merge   I(S; T) / H(S), I(S; T) / H(T)
rand_error             pairs in one segment of one partition      a share of the pairs of distinct voxels
                       alone
adapted_rand_error     1 - F                                      F the F1 score of the pairs in one segment
voi                    H(S | T) + H(T | S)                        variation of information, in bits
voi_split, _merge      H(S | T), H(T | S)                         in bits
=====================  =========================================  ==================================================

The first six are those of Arganda-Carreras et al. 2015 (doi:10.3389/fnana.2015.00142, section 2.3, with alpha = 0.5);
rand_error is 1 - the index of Rand 1971 (doi:10.1080/01621459.1971.10482356), adapted_rand_error the error of the ISBI
2012 challenge, voi that of Meila 2007 (doi:10.1016/j.jmva.2006.11.013).

A ratio 0 / 0 compares two things that are both nothing, and is perfect: with one segment in the prediction alone,
nothing is split. Where no voxel lies in a segment of the truth, there is nothing to score and every score is None.

Counts are added as integers and ratios of them are rounded once; logarithms are added by ``math.fsum``, whose
result does not depend on the order. So scores do not depend on the numbers that the segments bear, to the last digit.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Sizes = NDArray[np.int64]

MEASURES = (
    "v_rand", "v_rand_split", "v_rand_merge",
    "v_info", "v_info_split", "v_info_merge",
    "rand_error", "adapted_rand_error",
    "voi", "voi_split", "voi_merge",
)  # fmt: skip
"""Names of the scores, in their order everywhere."""


@dataclass(frozen=True)
class Overlaps:
    """Sizes of the overlaps of two partitions: three arrays of one length, int64.

    ``truth`` and ``predicted`` are the numbers of two segments, ``voxels`` how many voxels they share. No pair comes
    twice; pairs are sorted. ``truth`` is at least 1; ``predicted`` 0 stands for the voxels that are in no segment.
    """

    truth: Sizes
    predicted: Sizes
    voxels: Sizes


def overlaps(truth: NDArray[np.integer], predicted: NDArray[np.integer]) -> Overlaps:
    """Count the voxels that two segments share, for each two that share any.

    Parameters
    ----------
    truth, predicted:
        Numbers of segments, of one shape, not negative. 0 is no segment: such voxels of the truth are left out.

    Raises
    ------
    ValueError
        If the shapes differ, a number is negative, or the numbers are so large that pairs of them do not fit into
        63 bits.
    """
    if truth.shape != predicted.shape:
        raise ValueError(f"truth of shape {truth.shape}, prediction of shape {predicted.shape}")
    truth, predicted = truth.reshape(-1), predicted.reshape(-1)
    # Neighbours are mostly in the same two segments: runs of equal voxels are few.
    differs = np.ones(truth.size, np.bool_)
    np.not_equal(truth[1:], truth[:-1], out=differs[1:])
    differs[1:] |= predicted[1:] != predicted[:-1]
    starts = np.flatnonzero(differs)
    voxels = np.diff(starts, append=truth.size)
    return _collected(truth[starts].astype(np.int64), predicted[starts].astype(np.int64), voxels)


def summed(parts: Sequence[Overlaps]) -> Overlaps:
    """Overlaps of the parts of a volume in which segments bear the same numbers, as those of the whole."""
    if not parts:
        return _collected(*(np.zeros(0, np.int64) for _ in range(3)))
    return _collected(
        np.concatenate([part.truth for part in parts]),
        np.concatenate([part.predicted for part in parts]),
        np.concatenate([part.voxels for part in parts]),
    )


def renumbered(found: Overlaps, truth: NDArray[np.integer], predicted: NDArray[np.integer]) -> Overlaps:
    """The same overlaps where segment s has the number ``truth[s]`` or ``predicted[s]``; equal numbers become one.

    The new number of 0 must be 0 in ``predicted``.
    """
    return _collected(
        truth[found.truth].astype(np.int64), predicted[found.predicted].astype(np.int64), found.voxels.astype(np.int64)
    )


def scores(found: Overlaps) -> dict[str, float | None]:
    """All scores, by the names and in the order of ``MEASURES``; every one None where no voxel is in a segment.

    Counts may be as large as int64 holds; their squares are Python's integers.
    """
    total = int(found.voxels.sum())
    if total == 0:
        return dict.fromkeys(MEASURES)
    inside = found.predicted > 0
    alone = int(found.voxels[~inside].sum())
    shared = found.voxels[inside]
    truth, of_truth = _totals(found.truth, found.voxels)
    predicted, of_predicted = _totals(found.predicted[inside], shared)

    together, in_truth, in_predicted = _squares(shared) + alone, _squares(truth), _squares(predicted) + alone
    disagreeing = in_truth + in_predicted - 2 * together

    # Each sum has terms of one sign alone: nothing cancels, and equal partitions give exactly 0.
    split = _entropy(np.where(inside, found.voxels, 1), of_truth, total, np.where(inside, 1, found.voxels))
    merge = _entropy(shared, of_predicted, total)
    entropy = _entropy(np.append(predicted, 1), total, total, np.append(np.ones_like(predicted), alone))
    truth_entropy = _entropy(truth, total, total)

    values = (
        2 * together / (in_truth + in_predicted),
        together / in_truth,
        together / in_predicted,
        _kept(split + merge, entropy + truth_entropy),
        _kept(split, entropy),
        _kept(merge, truth_entropy),
        _error(disagreeing, total * (total - 1)),
        _error(disagreeing, in_truth + in_predicted - 2 * total),
        split + merge,
        split,
        merge,
    )
    return dict(zip(MEASURES, values, strict=True))


def better(measure: str, values: Sequence[float | None]) -> int | None:
    """Index of the best value, the first of equals; None if none is defined.

    The best is the largest where the name begins with ``v_``, the smallest for all others, which are errors.
    """
    sign = -1.0 if measure.startswith("v_") else 1.0
    known = [(sign * value, index) for index, value in enumerate(values) if value is not None]
    return min(known)[1] if known else None


def _collected(truth: Sizes, predicted: Sizes, voxels: Sizes) -> Overlaps:
    """Each pair once, sorted, without those of no segment in the truth."""
    kept = truth != 0
    truth, predicted, voxels = truth[kept], predicted[kept], voxels[kept]
    if truth.size == 0:
        return Overlaps(truth, predicted, voxels)
    if min(truth.min(), predicted.min()) < 0:
        raise ValueError("a segment has a negative number")
    # Python's integers: the product may be larger than the limit that it is compared with.
    base = int(predicted.max()) + 1
    if (int(truth.max()) + 1) * base > np.iinfo(np.int64).max:
        raise ValueError("numbers of segments are so large that pairs of them do not fit into 63 bits")
    codes = truth * base + predicted
    order = np.argsort(codes, kind="stable")
    codes = codes[order]
    firsts = np.flatnonzero(np.diff(codes, prepend=-1))
    truth, predicted = np.divmod(codes[firsts], base)
    return Overlaps(truth, predicted, np.add.reduceat(voxels[order], firsts))


def _totals(segments: Sizes, voxels: Sizes) -> tuple[Sizes, Sizes]:
    """Voxels of each segment; and for each overlap, those of its segment."""
    _, which = np.unique(segments, return_inverse=True)
    totals = np.zeros(which.max(initial=-1) + 1, np.int64)
    np.add.at(totals, which, voxels)
    return totals, totals[which]


def _squares(sizes: Sizes) -> int:
    # Few sizes are different, where segments are many.
    different, times = np.unique(sizes, return_counts=True)
    return sum(n * n * m for n, m in zip(different.tolist(), times.tolist(), strict=True))


def _entropy(part: Sizes, whole: Sizes | int, total: int, times: Sizes | int = 1) -> float:
    """Sum of times * part / total * log2(whole / part), in bits.

    The logarithm is taken as that of 1 + (whole - part) / part: the quotient of two counts near each other would lose
    the digits that tell them apart.
    """
    terms = zip(*(values.tolist() for values in np.broadcast_arrays(part, whole, times)), strict=True)
    # Python's logarithm, since NumPy's may differ in the last digit from one place in an array to another.
    return math.fsum(m * n * math.log1p((w - n) / n) for n, w, m in terms) / total / math.log(2)


def _kept(lost: float, entropy: float) -> float:
    """1 - lost / entropy. What is lost is at most the entropy, and more by rounding alone."""
    return max(0.0, 1.0 - lost / entropy) if entropy else 1.0


def _error(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
