"""Scores of partitions by other people's implementations, and by the definitions in floating point."""

import math
import warnings
from typing import Any

import numpy as np
import sklearn.metrics
from numpy.typing import NDArray
from skimage.metrics import adapted_rand_error, contingency_table, variation_of_information

Labels = NDArray[np.integer[Any]]


def scored(truth: Labels, predicted: Labels) -> tuple[Labels, Labels]:
    """The voxels in a segment of the truth; those that the prediction leaves out get numbers of their own."""
    kept = truth != 0
    truth, predicted = truth[kept].astype(np.int64), predicted[kept].astype(np.int64)
    alone = predicted == 0
    predicted[alone] = predicted.max(initial=0) + 1 + np.arange(np.count_nonzero(alone))
    return truth, predicted


def by_definition(truth: Labels, predicted: Labels) -> dict[str, float | None]:
    """The measures from p_ij, the share of voxels in truth segment i and predicted segment j, in float64."""
    truth, predicted = scored(truth, predicted)
    if truth.size == 0:
        return {}
    joint = contingency_table(truth, predicted, sparse_type="array") / truth.size
    p, a, b = joint.data, joint.sum(axis=1), joint.sum(axis=0)
    together, in_truth, in_predicted = (float((x**2).sum()) for x in (p, a, b))
    h_truth, h_predicted, h_both = (entropy(x) for x in (a, b, p))
    mutual = h_truth + h_predicted - h_both
    # Entropies of one segment and of equal partitions are 0 up to rounding.
    ratio = [1.0 if whole < 1e-12 else part / whole for part, whole in (
        (2 * mutual, h_truth + h_predicted), (mutual, h_predicted), (mutual, h_truth)
    )]  # fmt: skip
    n = truth.size
    pairs = (in_truth + in_predicted) * n - 2
    return {
        "v_rand": together / (0.5 * in_truth + 0.5 * in_predicted),
        "v_rand_split": together / in_truth,
        "v_rand_merge": together / in_predicted,
        "v_info": ratio[0],
        "v_info_split": ratio[1],
        "v_info_merge": ratio[2],
        "rand_error": (in_truth + in_predicted - 2 * together) * n / (n - 1) if n > 1 else 0.0,
        "adapted_rand_error": 1 - 2 * (together * n - 1) / pairs if pairs > 1e-9 else 0.0,
        "voi": 2 * h_both - h_truth - h_predicted,
        "voi_split": h_both - h_truth,
        "voi_merge": h_both - h_predicted,
    }


def entropy(p: NDArray[np.float64]) -> float:
    """In bits."""
    return -math.fsum(p[p > 0] * np.log2(p[p > 0]))


def by_libraries(truth: Labels, predicted: Labels) -> dict[str, float]:
    """What scikit-image and scikit-learn give of the measures, where they define them."""
    truth, predicted = scored(truth, predicted)
    if truth.size == 0:
        return {}
    split, merge = variation_of_information(truth, predicted)
    with warnings.catch_warnings():
        # It takes many segments for a sign that they are no classes.
        warnings.filterwarnings("ignore", "The number of unique classes is greater than 50%", UserWarning)
        merge_share, split_share, both = sklearn.metrics.homogeneity_completeness_v_measure(truth, predicted)
        found = {
            "v_info": both,
            "v_info_split": split_share,
            "v_info_merge": merge_share,
            "rand_error": 1 - sklearn.metrics.rand_score(truth, predicted),
            "voi": split + merge,
            "voi_split": split,
            "voi_merge": merge,
        }
    if any(len(np.unique(labels)) == truth.size for labels in (truth, predicted)):
        return found  # In one of them no two voxels are together: scikit-image divides by 0.
    return found | {"adapted_rand_error": float(adapted_rand_error(truth, predicted, ignore_labels=())[0])}


def by_pairs(truth: Labels, predicted: Labels) -> dict[str, float | None]:
    """What is defined on pairs of voxels, by going through them all. In V_rand a voxel makes a pair with itself too."""
    truth, predicted = scored(truth, predicted)
    voxels = list(zip(truth.tolist(), predicted.tolist(), strict=True))
    if not voxels:
        return {}
    both = in_truth = in_predicted = disagree = 0
    for i, (t, p) in enumerate(voxels):
        for j, (u, q) in enumerate(voxels):
            if i != j:
                both += t == u and p == q
                in_truth += t == u
                in_predicted += p == q
                disagree += (t == u) != (p == q)
    n = len(voxels)
    return {
        "v_rand": 2 * (both + n) / (in_truth + in_predicted + 2 * n),
        "v_rand_split": (both + n) / (in_truth + n),
        "v_rand_merge": (both + n) / (in_predicted + n),
        "rand_error": disagree / (n * (n - 1)) if n > 1 else 0.0,
        "adapted_rand_error": 1 - 2 * both / (in_truth + in_predicted) if in_truth + in_predicted else 0.0,
    }
