"""Probabilities that were made up."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def halves(shape: Sequence[int], seed: int = 0, classes: int = 2) -> NDArray[np.uint8]:
    """Probabilities (c, z, y, x) that add up to 255."""
    random = np.random.default_rng(seed)
    cuts = np.sort(random.integers(0, 256, (classes - 1, *shape)), axis=0)
    ends = [np.zeros((1, *shape), int), cuts, np.full((1, *shape), 255)]
    return np.diff(np.concatenate(ends), axis=0).astype(np.uint8)
