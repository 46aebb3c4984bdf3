"""Pictures of a few training samples: what the network saw, and how much each voxel weighed."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from unetpipe.arrays import open_array
from unetpipe.colours import Colour
from unetpipe.data.samples import SamplesFile
from unetpipe.report import pictures
from unetpipe.volume import IGNORE

_MOST = 4
_MOST_EDGE = 256


@dataclass(frozen=True)
class SamplePicture:
    """The middle section of a sample, which is number ``section`` of its volume.

    Its label and weight lie within the image: ``inside`` is (y, x, height, width), ``shape`` (y, x).
    """

    number: int
    volume: str
    section: int
    shape: tuple[int, int]
    inside: tuple[int, int, int, int]
    image: str
    label: str
    weight: str
    highest_weight: float


def sample_pictures(samples: SamplesFile, paint: Mapping[int, Colour]) -> Sequence[SamplePicture]:
    """At most four training samples, evenly spread; large ones are thinned, not cut.

    Parameters
    ----------
    paint:
        Colours by the index of the class; others have none.

    Raises
    ------
    UserError
        If the store of the samples cannot be opened.
    """
    image, label, weight, source = (
        open_array(f"{samples.store}/train/{name}") for name in ("image", "label", "weight", "source")
    )
    count = min(_MOST, samples.train)
    shown = []
    for number in ((2 * part + 1) * samples.train // (2 * count) for part in range(count)):
        step = math.ceil(max(samples.tile[1:]) / _MOST_EDGE)
        # That of the centre, to which the source refers.
        grey, index, weights = (np.asarray(array[number, array.shape[1] // 2]) for array in (image, label, weight))
        weights = weights.astype(np.float32)
        volume, section = (int(value) for value in np.asarray(source[number])[:2])
        shown.append(
            SamplePicture(
                number=number,
                volume=samples.volumes[volume]["name"],
                section=section,
                shape=samples.tile[1:],
                inside=(*samples.border[1:], *weights.shape),
                image=pictures.grey(grey[::step, ::step]),
                label=pictures.overlay(index[::step, ::step], {**paint, IGNORE: pictures.IGNORED}),
                weight=pictures.heat(weights[::step, ::step], float(weights.max())),
                highest_weight=float(weights.max()),
            )
        )
    return shown
