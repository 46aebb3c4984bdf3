"""Labels that give each object a number, as classes: boundary where two objects touch, object elsewhere."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetpipe import config
from unetpipe.volume import IGNORE

_BACKGROUND = 0


class Instances:
    """The classes of a volume whose labels are object numbers.

    A voxel is boundary if its label is 0, or if another object lies near it in its section: at most ``reach`` voxels
    away, those along y and along x added. Other voxels of objects are object. Ignored and unknown voxels are
    :data:`~unetpipe.volume.IGNORE`, and as little an object as 0: beside them is no boundary.

    Parameters
    ----------
    classes:
        Names of the classes in the order of the channels.
    settings:
        The rule.
    """

    def __init__(self, classes: Sequence[str], settings: config.Instances) -> None:
        self._boundary, self._object = classes.index(settings.boundary), classes.index(settings.object)
        self.reach, self._ignored = settings.reach, settings.ignore
        self.description = (
            f"instances, {self._boundary} within {self.reach} of another and {self._object} elsewhere, "
            f"ignore: {list(self._ignored)}"
        )

    def encode(self, labels: NDArray[Any], known: NDArray[np.bool_] | None = None) -> NDArray[np.uint8]:
        """Class indices of a section of integer ``labels`` (y, x); ``known`` are those to look at, None for all."""
        limits = np.iinfo(labels.dtype)
        ignored = self._ignored_in(labels, known)
        objects = (labels != _BACKGROUND) & ~ignored
        # The least and the largest number nearby; what is no object has no part in either.
        least = np.where(objects, labels, labels.dtype.type(limits.max))
        largest = np.where(objects, labels, labels.dtype.type(limits.min))
        for _ in range(self.reach):
            least, largest = _over_neighbours(np.minimum, least), _over_neighbours(np.maximum, largest)
        classes = np.full(labels.shape, self._boundary, np.uint8)
        classes[objects & (least == largest)] = self._object
        classes[ignored] = IGNORE
        return classes

    def objects(self, labels: NDArray[Any], known: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        """The same ``labels``, 0 where :meth:`encode` ignores them."""
        return np.where(self._ignored_in(labels, known), labels.dtype.type(_BACKGROUND), labels)

    def _ignored_in(self, labels: NDArray[Any], known: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
        limits = np.iinfo(labels.dtype)
        ignored = np.zeros(labels.shape, bool) if known is None else ~known
        for value in self._ignored:
            # Others cannot occur in this type, and would make NumPy compare floating-point numbers.
            if limits.min <= value <= limits.max:
                ignored |= labels == labels.dtype.type(value)
        return ignored


def _over_neighbours(combine: np.ufunc, plane: NDArray[Any]) -> NDArray[Any]:
    """``combine`` over each voxel of ``plane`` (y, x) and the up to four that share an edge with it."""
    result = plane.copy()
    for inner, outer in ((np.s_[1:, :], np.s_[:-1, :]), (np.s_[:, 1:], np.s_[:, :-1])):
        combine(result[inner], plane[outer], out=result[inner])
        combine(result[outer], plane[inner], out=result[outer])
    return result
