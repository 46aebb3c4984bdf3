"""Whether an image, its labels and the settings of its volume go together: metadata alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unetpipe.data.sources import Source
from unetpipe.grid import Shape


@dataclass(frozen=True)
class Facts:
    """Shape (z, y, x) and type of a volume."""

    shape: Shape
    dtype: str

    @classmethod
    def of(cls, source: Source) -> "Facts":
        """Those of an open source."""
        return cls(source.shape, str(source.dtype))


def misfits(
    image: Facts | None,
    labels: Facts | None,
    sections: Sequence[int] | None,
    grey_range: Sequence[float] | None,
) -> list[tuple[str, str]]:
    """What does not go together, as the setting of the volume concerned and what is wrong with it.

    Parameters
    ----------
    image, labels:
        None where there are none, or none that can be read.
    sections:
        [first, end) as in the settings; None for all.
    grey_range:
        ``range`` as in the settings.
    """
    found = []
    if image is not None:
        signed = np.dtype(image.dtype).kind in "if"
        if signed and grey_range is None:
            found.append(
                ("range", f"is required: the image is {image.dtype}; give the grey values that mean black and white")
            )
        count = image.shape[0]
        if sections is not None and sections[1] > count:
            found.append(
                ("sections", f"[{sections[0]}, {sections[1]}) reaches beyond the image, which has {count} sections")
            )
    if labels is not None and np.dtype(labels.dtype).kind not in "ui":
        found.append(("labels", f"are {labels.dtype}; label values are integers: convert them"))
    if image is not None and labels is not None and image.shape != labels.shape:
        found.append(
            ("labels", f"have the shape {labels.shape} (z, y, x), the image has {image.shape}; they must be the same")
        )
    return found
