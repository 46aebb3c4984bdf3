"""Which voxels of a volume were labelled, where not all of it was."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from unetpipe.config import Annotation
from unetpipe.grid import Region, Shape


class Annotated:
    """Sections and boxes that were labelled.

    Parameters
    ----------
    parts:
        As in the settings: numbers of sections, and boxes [[z0, z1], [y0, y1], [x0, x1]].
    shape:
        Of the volume, (z, y, x).
    """

    def __init__(self, parts: Sequence[Annotation], shape: Shape) -> None:
        self.boxes = [box_of(part, shape) for part in parts]
        self._shape = shape

    def known(self, z: int, low: int = 0, high: int | None = None) -> NDArray[np.bool_]:
        """The voxels of the section ``z`` that were labelled: (y, x), of the rows from ``low`` to ``high``."""
        rows = Region((z, low, 0), (z + 1, self._shape[1] if high is None else high, self._shape[2]))
        known = np.zeros(rows.shape[1:], bool)
        for box in self.boxes:
            start, stop = (max(low, box.start[1]), min(rows.stop[1], box.stop[1]))
            if box.start[0] <= z < box.stop[0] and start < stop:
                known[start - low : stop - low, box.slices[2]] = True
        return known


def box_of(part: Annotation, shape: Shape) -> Region:
    """A part as a box in a volume of ``shape`` (z, y, x)."""
    return Region.of((part, 0, 0), (1, *shape[1:])) if isinstance(part, int) else Region.between(part)
