"""A part of one section as pictures: image, truth, prediction, errors. Only what is shown is read."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from unetpipe.arrays import open_array
from unetpipe.colours import Colour
from unetpipe.grid import Region, Shape
from unetpipe.metrics.confusion import most_likely
from unetpipe.report import pictures
from unetpipe.storage import join
from unetpipe.volume import IGNORE, Image, VolumeFile, read_labels

LAYERS = 4
"""Pictures of a crop, each of at most one byte a voxel, which is 4/3 bytes in base64."""

_SPREAD = 2.5  # standard deviations of a section's grey values that are black and white, either way


Span = tuple[int, int]


@dataclass(frozen=True)
class Panel:
    """One view of a crop: the image, or ``picture`` (a data URI) over it, over the faded image, or in its place."""

    caption: str
    description: str
    kind: Literal["image", "over", "faded", "instead"]
    picture: str | None = None


@dataclass(frozen=True)
class ScaleBar:
    """A round length: ``voxels`` along x, and as text."""

    voxels: float
    text: str


@dataclass(frozen=True)
class Crop:
    """A part of one section; ``origin`` and ``shape`` are (y, x) in voxels."""

    volume: str
    section: int
    origin: tuple[int, int]
    shape: tuple[int, int]
    image: str
    panels: tuple[Panel, ...]
    scale_bar: ScaleBar
    wrong: float | None
    """Share of wrong voxels among those scored in the crop; None without labels, or if none is scored."""

    @property
    def middle(self) -> Shape:
        """A voxel (z, y, x)."""
        y, x = (start + size // 2 for start, size in zip(self.origin, self.shape, strict=True))
        return self.section, y, x


@dataclass(frozen=True)
class Voxels:
    """What is shown of one section; all (y, x) uint8."""

    section: int
    origin: tuple[int, int]
    image: NDArray[np.uint8]
    predicted: NDArray[np.uint8]
    certainty: NDArray[np.uint8]
    truth: NDArray[np.uint8] | None


def scale_bar(width: int, nm: float) -> ScaleBar:
    """The longest round length (1, 2 or 5 times a power of ten) in a third of ``width`` voxels of ``nm`` each."""
    most = width * nm / 3
    power = 10.0 ** math.floor(math.log10(most))
    length = max(step * power for step in (1, 2, 5) if step * power <= most)
    return ScaleBar(length / nm, f"{length / 1000:g} µm" if length >= 1000 else f"{length:g} nm")


def read(volume: VolumeFile, allocated: Mapping[str, Any], section: int, rows: Span, columns: Span) -> Voxels:
    """The voxels of ``rows`` and ``columns``, each [start, stop), of a section.

    Raises
    ------
    UserError
        If an image, labels or prediction cannot be opened.
    """
    region = Region((section, rows[0], columns[0]), (section + 1, rows[1], columns[1]))
    probability = open_array(join(allocated["probability"], allocated["array"]))
    channels = np.asarray(probability[(slice(None), *region.slices)])[:, 0]  # (c, y, x)
    normalised = Image(volume).read(region)[0]
    return Voxels(
        section=section,
        origin=(rows[0], columns[0]),
        image=np.rint((np.clip(normalised / _SPREAD, -1, 1) + 1) * 127.5).astype(np.uint8),
        predicted=most_likely(channels),
        certainty=channels.max(axis=0),
        truth=None if volume.labels is None else read_labels(open_array(volume.labels), region, volume.shape)[0],
    )


def draw(item: Voxels, volume: VolumeFile, paint: Mapping[int, Colour], classes: int) -> Crop:
    """As pictures; ``paint`` are the colours by the index of the class, of which there are ``classes``."""
    where = f"section {item.section} of {volume.name}"
    image = Panel("Image", f"Grey values of {where}", "image")
    predicted = Panel("Prediction", f"Predicted classes of {where}", "over", pictures.overlay(item.predicted, paint))
    wrong = None
    if item.truth is None:
        # Of c classes the most probable one has at least 1/c: that is black.
        least = 255 / classes
        certainty = np.clip((item.certainty - least) / (255 - least), 0, 1)
        panels: tuple[Panel, ...] = (
            image,
            predicted,
            Panel(
                "Probability of the prediction",
                f"Probability of the predicted class in {where}: white is 1, black no better than chance",
                "instead",
                pictures.grey(np.rint(255 * certainty).astype(np.uint8)),
            ),
        )
    else:
        scored = item.truth != IGNORE
        errors = scored & (item.truth != item.predicted)
        wrong = float(errors.sum() / scored.sum()) if scored.any() else None
        panels = (
            image,
            Panel(
                "Truth", f"Labels of {where}", "over", pictures.overlay(item.truth, {**paint, IGNORE: pictures.IGNORED})
            ),
            predicted,
            Panel(
                "Errors",
                f"Voxels of {where} whose predicted class is wrong",
                "faded",
                pictures.overlay(
                    np.where(scored, errors, 2).astype(np.uint8), {1: pictures.WRONG, 2: pictures.IGNORED}
                ),
            ),
        )
    height, width = item.image.shape
    return Crop(
        volume=volume.name,
        section=item.section,
        origin=item.origin,
        shape=(height, width),
        image=pictures.grey(item.image),
        panels=panels,
        scale_bar=scale_bar(width, volume.voxel_size_nm[2]),
        wrong=wrong,
    )
