"""Pictures of a few sections of the predicted volumes: image, truth, prediction, errors.

Only what is shown is read: a few crops, whatever the size of the volumes. How large the crops are follows from their
number, so that all pictures together have a bounded size.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from unetpipe.arrays import open_array
from unetpipe.colours import Colour, colours
from unetpipe.grid import Region
from unetpipe.metrics.confusion import most_likely
from unetpipe.report import pictures
from unetpipe.storage import join
from unetpipe.volume import IGNORE, Image, VolumeFile, read_labels

MOST_VOLUMES = 12
"""Volumes that are shown with pictures and figures, at most."""

_MOST_CROPS = 12
_MOST_PER_VOLUME = 3
_MOST_EDGE = 512
_MOST_BYTES = 7_500_000
_LAYERS = 4  # pictures of a crop, each of at most one byte a voxel, which is 4/3 bytes in base64
_SPREAD = 2.5  # standard deviations of a section's grey values that are black and white, either way


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

    section: int
    origin: tuple[int, int]
    shape: tuple[int, int]
    image: str
    panels: tuple[Panel, ...]
    scale_bar: ScaleBar
    wrong: float | None
    """Share of wrong voxels among those scored in the crop; None without labels, or if none is scored."""


@dataclass(frozen=True)
class Gallery:
    """Crops by volume, and what the colours mean."""

    crops: Mapping[str, Sequence[Crop]]
    paint: Mapping[int, Colour]
    """Colours by the index of the class; the most frequent one has none."""
    colours: Mapping[str, str]
    """The same by name, as CSS writes them."""
    background: str
    """The class without a colour."""


@dataclass(frozen=True)
class _Voxels:
    """What is shown of one section; all (y, x) uint8."""

    section: int
    origin: tuple[int, int]
    image: NDArray[np.uint8]
    predicted: NDArray[np.uint8]
    certainty: NDArray[np.uint8]
    truth: NDArray[np.uint8] | None


def gallery(
    volumes: Sequence[VolumeFile], allocated: Mapping[str, Mapping[str, Any]], classes: Sequence[str]
) -> Gallery:
    """Pictures of ``volumes``, of the first :data:`MOST_VOLUMES` of them.

    Parameters
    ----------
    allocated:
        ``allocated.json`` by the name of the volume.
    classes:
        In the order of the channels.

    Raises
    ------
    UserError
        If an image, labels or prediction cannot be opened.
    """
    shown = volumes[:MOST_VOLUMES]
    count = max(1, min(_MOST_PER_VOLUME, _MOST_CROPS // max(1, len(shown))))
    chosen = {volume.name: middle_sections(volume, count) for volume in shown}
    edge = crop_edge(sum(map(len, chosen.values())))
    voxels = {
        volume.name: [_read(volume, allocated[volume.name], z, edge) for z in chosen[volume.name]] for volume in shown
    }
    background = _most_frequent(voxels, len(classes))
    painted = [index for index in range(len(classes)) if index != background]
    paint = dict(zip(painted, colours(len(painted)), strict=True))
    return Gallery(
        crops={
            volume.name: [_draw(item, volume, paint, len(classes)) for item in voxels[volume.name]] for volume in shown
        },
        paint=paint,
        colours={classes[index]: pictures.css(colour) for index, colour in paint.items()},
        background=classes[background],
    )


def middle_sections(volume: VolumeFile, count: int) -> list[int]:
    """At most ``count`` sections that are there, evenly spread: the middles of as many equal parts."""
    missing = set(volume.missing_sections)
    there = [z for z in range(volume.shape[0]) if z not in missing]
    count = min(count, len(there))
    return [there[(2 * part + 1) * len(there) // (2 * count)] for part in range(count)]


def crop_edge(crops: int) -> int:
    """Voxels along y and x of each of ``crops`` crops: no more than 512, and than the size of the page allows."""
    return min(_MOST_EDGE, math.isqrt(_MOST_BYTES * 3 // (4 * _LAYERS * max(1, crops))))


def scale_bar(width: int, nm: float) -> ScaleBar:
    """The longest round length (1, 2 or 5 times a power of ten) in a third of ``width`` voxels of ``nm`` each."""
    most = width * nm / 3
    power = 10.0 ** math.floor(math.log10(most))
    length = max(step * power for step in (1, 2, 5) if step * power <= most)
    return ScaleBar(length / nm, f"{length / 1000:g} µm" if length >= 1000 else f"{length:g} nm")


def _read(volume: VolumeFile, allocated: Mapping[str, Any], section: int, edge: int) -> _Voxels:
    _, height, width = volume.shape
    y, x = max(0, (height - edge) // 2), max(0, (width - edge) // 2)
    region = Region((section, y, x), (section + 1, min(height, y + edge), min(width, x + edge)))
    probability = open_array(join(allocated["probability"], allocated["array"]))
    channels = np.asarray(probability[(slice(None), *region.slices)])[:, 0]  # (c, y, x)
    normalised = Image(volume).read(region)[0]
    return _Voxels(
        section=section,
        origin=(y, x),
        image=np.rint((np.clip(normalised / _SPREAD, -1, 1) + 1) * 127.5).astype(np.uint8),
        predicted=most_likely(channels),
        certainty=channels.max(axis=0),
        truth=None if volume.labels is None else read_labels(open_array(volume.labels), region, volume.shape)[0],
    )


def _most_frequent(voxels: Mapping[str, Sequence[_Voxels]], classes: int) -> int:
    counts = np.zeros(classes, np.int64)
    for items in voxels.values():
        for item in items:
            counts += np.bincount(item.predicted.ravel(), minlength=classes)
    return int(counts.argmax())


def _draw(item: _Voxels, volume: VolumeFile, paint: Mapping[int, Colour], classes: int) -> Crop:
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
        section=item.section,
        origin=item.origin,
        shape=(height, width),
        image=pictures.grey(item.image),
        panels=panels,
        scale_bar=scale_bar(width, volume.voxel_size_nm[2]),
        wrong=wrong,
    )
