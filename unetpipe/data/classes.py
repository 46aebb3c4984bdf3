"""Label values as class indices."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetpipe.volume import IGNORE


class Classes:
    """The classes of a volume: which label values stand for each.

    Parameters
    ----------
    label_values:
        The label values of each class, in the order of the channels.
    ignore:
        Label values of voxels that are neither learnt nor scored.
    """

    reach = 0
    """Voxels around one that decide on its class."""

    def __init__(self, label_values: Mapping[str, Sequence[int]], ignore: Sequence[int]) -> None:
        index = {value: i for i, values in enumerate(label_values.values()) for value in values}
        index |= dict.fromkeys(ignore, IGNORE)
        self._declared = sorted(index.items())
        self.description = ", ".join(
            [f"{name}: {list(values)}" for name, values in label_values.items()] + [f"ignore: {list(ignore)}"]
        )

    def encode(self, labels: NDArray[Any], known: NDArray[np.bool_] | None = None) -> NDArray[np.uint8]:
        """Class indices of integer ``labels``, of the same shape; :data:`~unetpipe.volume.IGNORE` for ignored ones.

        Parameters
        ----------
        known:
            Those to look at; all others are ignored, whatever they are. None for all.

        Raises
        ------
        UndeclaredError
            If a label value belongs to no class and is not ignored.
        """
        if known is not None:
            classes = np.full(labels.shape, IGNORE, np.uint8)
            classes[known] = self.encode(labels[known])
            return classes
        # Values that the labels' type cannot hold cannot occur, and would make NumPy compare floating-point numbers.
        limits = np.iinfo(labels.dtype)
        possible = [(value, i) for value, i in self._declared if limits.min <= value <= limits.max]
        if not possible:
            raise UndeclaredError(labels)
        values = np.array([value for value, _ in possible], labels.dtype)
        indices = np.array([i for _, i in possible], np.uint8)
        at = np.minimum(np.searchsorted(values, labels), len(values) - 1)
        unknown = values[at] != labels
        if unknown.any():
            raise UndeclaredError(labels[unknown])
        return indices[at]


class UndeclaredError(ValueError):
    """Label values that belong to no class; ``counts`` has how many voxels have each, the most frequent first."""

    def __init__(self, labels: NDArray[Any]) -> None:
        values, counts = np.unique(labels, return_counts=True)
        order = np.argsort(-counts, kind="stable")
        self.counts = {int(values[i]): int(counts[i]) for i in order}
        super().__init__(self.counts)
