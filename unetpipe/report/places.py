"""Pictures of the places that most deserve a look, as quality control has found them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from unetpipe.colours import Colour
from unetpipe.quality.places import Place
from unetpipe.report.crops import Crop, draw, read
from unetpipe.viewer.address import link
from unetpipe.volume import VolumeFile

MOST = 10
"""Places of each kind."""

EDGE = 256
"""Voxels of a picture along y and x: the place in the middle, and what lies around it."""

Kind = Literal["wrong", "uncertain"]


@dataclass(frozen=True)
class Shown:
    """A place with its picture.

    ``box`` is (y, x, height, width) within the crop. ``share``: of its voxels that are wrong, or their mean entropy.
    """

    volume: str
    place: Place
    crop: Crop
    box: tuple[int, int, int, int]
    link: str


def places(
    kind: Kind,
    volumes: Mapping[str, VolumeFile],
    allocated: Mapping[str, Mapping[str, Any]],
    quality: Mapping[str, Mapping[str, Any]],
    paint: Mapping[int, Colour],
    classes: int,
) -> Sequence[Shown]:
    """The worst places of all volumes that have such, at most ten.

    Parameters
    ----------
    volumes, allocated, quality:
        What the run says of each volume, by its name.
    paint, classes:
        Colours by the index of the class, and how many classes there are.

    Raises
    ------
    UserError
        If an image, labels or prediction cannot be opened.
    """
    found = [(name, Place.of(place)) for name, measured in quality.items() for place in measured[f"{kind}_places"]]
    found.sort(key=lambda item: -item[1].share)
    return [_shown(volumes[name], allocated[name], place, paint, classes) for name, place in found[:MOST]]


def viewer_of(volume: str) -> str:
    """What the address of a place of a volume begins with; ``z/y/x`` follows."""
    return link(volume, (0, 0, 0)).removesuffix("0/0/0")


def _shown(
    volume: VolumeFile, allocated: Mapping[str, Any], place: Place, paint: Mapping[int, Colour], classes: int
) -> Shown:
    _, y, x = place.centre
    rows, columns = (_around(at, size) for at, size in zip((y, x), volume.shape[1:], strict=True))
    crop = draw(read(volume, allocated, place.section, rows, columns), volume, paint, classes)
    box = (
        place.y[0] - rows[0],
        place.x[0] - columns[0],
        place.y[1] - place.y[0],
        place.x[1] - place.x[0],
    )
    return Shown(volume.name, place, crop, box, link(volume.name, place.centre))


def _around(at: int, size: int) -> tuple[int, int]:
    start = max(0, min(at - EDGE // 2, size - EDGE))
    return start, min(size, start + EDGE)
