"""Whether an image, its labels and the settings of its volume go together: metadata alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unetpipe.combinations import region_problems
from unetpipe.config import Annotation
from unetpipe.data.annotation import box_of
from unetpipe.data.sources import Source
from unetpipe.data.sources.contract import VoxelSize, some
from unetpipe.data.sources.series import SeriesLabels
from unetpipe.grid import Shape


@dataclass(frozen=True)
class Facts:
    """Shape (z, y, x), type and voxel size (z, y, x) of a volume; the last is None where it is not told.

    ``labelled``: the sections that labels are there for; None for all.
    """

    shape: Shape
    dtype: str
    voxel_size_nm: VoxelSize | None
    labelled: tuple[int, ...] | None = None

    @classmethod
    def of(cls, source: Source) -> "Facts":
        """Those of an open source."""
        labelled = source.labelled_sections if isinstance(source, SeriesLabels) else None
        return cls(source.shape, str(source.dtype), source.voxel_size_nm, labelled)


def misfits(
    image: Facts | None,
    labels: Facts | None,
    sections: Sequence[int] | None,
    grey_range: Sequence[float] | None,
    annotated: Sequence[Annotation] | None = None,
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
    annotated:
        As in the settings; None for all of the volume.
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
        first, end = sections or (0, count)
        if first < end <= count:
            found += _beyond(annotated or (), (end - first, *image.shape[1:]))
    if labels is not None and np.dtype(labels.dtype).kind not in "ui":
        found.append(("labels", f"are {labels.dtype}; label values are integers: convert them"))
    if image is not None and labels is not None and image.shape != labels.shape:
        found.append(
            ("labels", f"have the shape {labels.shape} (z, y, x), the image has {image.shape}; they must be the same")
        )
    if labels is not None and labels.labelled is not None:
        found += _unlabelled(labels.labelled, sections or (0, labels.shape[0]), annotated or ())
    return found


def _beyond(annotated: Sequence[Annotation], used: Shape) -> list[tuple[str, str]]:
    """What of ``annotated`` lies beyond the part of the image that is used."""
    found = []
    for number, part in enumerate(annotated):
        if isinstance(part, int):
            if part >= used[0]:
                found.append((f"annotated.{number}", f"there is no section {part}: {used[0]} are used, from 0 on"))
        elif not region_problems(box := box_of(part, used)):
            # Of one without a voxel, that is said already.
            found += [(f"annotated.{number}", text) for text in region_problems(box, used)]
    return found


def _unlabelled(
    labelled: Sequence[int], sections: Sequence[int], annotated: Sequence[Annotation]
) -> list[tuple[str, str]]:
    """What is asked for of sections that labels are not there for."""
    first, end = sections
    there = some(map(str, labelled), 20)
    if first < end and not any(first <= z < end for z in labelled):
        return [("sections", f"[{first}, {end}) has no labels: they are there for the sections {there}")]
    return [
        (f"annotated.{number}", f"there are no labels for section {first + part}, but for {there}")
        for number, part in enumerate(annotated)
        if isinstance(part, int) and first + part not in labelled
    ]
