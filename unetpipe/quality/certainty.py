"""How sure a prediction is of itself, from its probabilities alone."""

import numpy as np
from numpy.typing import NDArray


def entropy(probability: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The normalised entropy of each voxel of ``probability`` (c, z, y, x), bytes of which 255 is 1: (z, y, x).

    -sum(p ln p) / ln c over the c classes (Shannon 1948, doi:10.1002/j.1538-7305.1948.tb01338.x): 0 where one class has
    all, 1 where all are as likely; and 0 where all probabilities are 0, which is what was not predicted.
    """
    table = _entropies(len(probability))
    found = np.zeros(probability.shape[1:], np.float32)
    for channel in probability:
        found += table[channel]
    # The bytes of a voxel add up to 255 within one or two.
    return np.minimum(found, 1, out=found)


def _entropies(classes: int) -> NDArray[np.float32]:
    """What each value of a byte adds."""
    p = np.arange(1, 256) / 255
    return np.concatenate([[0], -p * np.log(p) / np.log(classes)]).astype(np.float32)
