"""Mean and standard deviation of a section, which damage to a part of it hardly moves.

A fold, a charging artefact, bare resin or the black surroundings of a stitched section would shift the plain mean, and
with it the normalisation of everything that is intact. So a section is measured in patches on a fixed lattice, and the
section's mean and standard deviation are the medians of theirs, in which a patch weighs as much as its own standard
deviation: a patch without contrast says nothing, one of bare resin little, and a minority of damaged ones is outvoted.

Brightness and contrast of the whole section pass through: statistics of ``a * x + b`` are ``a * mean + b`` and
``a * std``, for positive ``a``.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_PATCHES = 8  # along y and x, at most
_PATCH_VOXELS = 128  # along y and x, at most; a million voxels of a section in all
_LEAST_VOXELS = 32  # along y and x: smaller patches show a membrane or none


def patches(ny: int, nx: int) -> list[tuple[slice, slice]]:
    """The patches in which a section of ``ny`` x ``nx`` voxels is measured, row by row.

    At most 8 x 8, in the middle of equal fields. Up to 1024 voxels a side they cover the section; beyond, each
    has 128 x 128 voxels.
    """
    return [(rows, columns) for rows in _intervals(ny) for columns in _intervals(nx)]


def patches_in(there: NDArray[np.bool_], unit: Sequence[int], shape: Sequence[int]) -> list[tuple[slice, slice]]:
    """Patches of a section of ``shape`` (y, x) of which only some parts, each of ``unit`` (y, x), are ``there``.

    As many as :func:`patches` gives at most, one in the middle of a part; of more parts, evenly many are left out.
    """
    places = np.argwhere(there)
    chosen = np.linspace(0, len(places) - 1, min(len(places), _PATCHES**2)).round().astype(int)
    found = []
    for place in places[chosen].tolist():
        rows, columns = (_middle(i * n, min((i + 1) * n, size)) for i, n, size in zip(place, unit, shape, strict=True))
        found.append((rows, columns))
    return found


def _intervals(size: int) -> list[slice]:
    count = min(_PATCHES, max(1, size // _LEAST_VOXELS))
    edges = [size * i // count for i in range(count + 1)]
    return [_middle(low, high) for low, high in itertools.pairwise(edges)]


def _middle(low: int, high: int) -> slice:
    length = min(high - low, _PATCH_VOXELS)
    start = low + (high - low - length) // 2
    return slice(start, start + length)


def mean_and_std(values: Sequence[NDArray[Any]], grey_range: Sequence[float] | None) -> tuple[float, float]:
    """Mean and standard deviation of a section.

    Parameters
    ----------
    values:
        The voxels of each patch, of any shape. What is not a number does not count.
    grey_range:
        (low, high), to which values are clipped first; None for integers as they are.

    Returns
    -------
    mean, std:
        ``std`` is 0 if and only if no patch has any contrast: the section is missing.
    """
    means, stds = [], []
    for patch in values:
        grey = patch.astype(np.float64).ravel()
        if grey_range is not None:
            grey = np.clip(grey[~np.isnan(grey)], grey_range[0], grey_range[1])
        if grey.size == 0:
            continue
        means.append(grey.mean())
        # The mean of equal numbers may differ from them in the last bit.
        stds.append(grey.std() if grey.min() < grey.max() else 0.0)
    if not means:
        return 0.0, 0.0
    weights = np.array(stds)
    if not weights.any():
        return float(np.median(means)), 0.0
    return _weighted_median(np.array(means), weights), _weighted_median(weights, weights)


def _weighted_median(values: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(reached, reached[-1] / 2)])
