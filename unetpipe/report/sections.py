"""Pictures of a few sections of the predicted volumes.

Only what is shown is read: a few crops, whatever the size of the volumes. How large the crops are follows from their
number, so that all pictures together have a bounded size.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from unetpipe.colours import Colour, colours
from unetpipe.report import pictures
from unetpipe.report.crops import LAYERS, Crop, Span, Voxels, draw, read
from unetpipe.volume import VolumeFile

MOST_VOLUMES = 12
"""Volumes that are shown with pictures and figures, at most."""

_MOST_CROPS = 12
_MOST_PER_VOLUME = 3
_MOST_EDGE = 512
_MOST_BYTES = 7_500_000


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
        volume.name: [read(volume, allocated[volume.name], z, *_middle(volume, edge)) for z in chosen[volume.name]]
        for volume in shown
    }
    background = _most_frequent(voxels, len(classes))
    painted = [index for index in range(len(classes)) if index != background]
    paint = dict(zip(painted, colours(len(painted)), strict=True))
    return Gallery(
        crops={
            volume.name: [draw(item, volume, paint, len(classes)) for item in voxels[volume.name]] for volume in shown
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
    return min(_MOST_EDGE, math.isqrt(_MOST_BYTES * 3 // (4 * LAYERS * max(1, crops))))


def _middle(volume: VolumeFile, edge: int) -> tuple[Span, Span]:
    """Rows and columns in the middle of a section, ``edge`` of each at most."""
    starts = [max(0, (size - edge) // 2) for size in volume.shape[1:]]
    rows, columns = ((a, min(size, a + edge)) for a, size in zip(starts, volume.shape[1:], strict=True))
    return rows, columns


def _most_frequent(voxels: Mapping[str, Sequence[Voxels]], classes: int) -> int:
    counts = np.zeros(classes, np.int64)
    for items in voxels.values():
        for item in items:
            counts += np.bincount(item.predicted.ravel(), minlength=classes)
    return int(counts.argmax())
