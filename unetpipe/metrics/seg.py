"""SEG, the score of the Cell Tracking Challenge: intersection over union, object by object.

An object R of the truth is matched by the object S of the prediction that holds more than half of its voxels; there is
one at most. It scores what both share over what is in either, and 0 if there is none. SEG is the mean over all objects
of the truth in all sections (Maška et al. 2014, doi:10.1093/bioinformatics/btu080).

Objects of the truth are numbered in the labels, in each section for themselves; those of the prediction are the
4-connected components of p > t in a section. Voxels without a label count nowhere. An object of the prediction that
matches none costs nothing, so that SEG is defined where only some objects were outlined.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetpipe.errors import UserError
from unetpipe.metrics.components import THRESHOLDS, Numbers
from unetpipe.metrics.partitions import Overlaps

Scores = NDArray[np.float64]
"""Of the objects of a section, in the order of their numbers."""

NOT_NUMBERED = "The labels are classes: there are no objects to compare one by one."
"""Why most volumes have no score of objects."""

_BACKGROUND = 1
"""In :class:`Truth`: a voxel that has a label and is in no object. Objects follow; 0 has no label."""


@dataclass(frozen=True)
class Truth:
    """The objects of one block: ``sections`` (n,) int32 and ``numbers`` (n,) of each, as sections lie in the block.

    ``voxels`` is (z, y, x) int32: 0 without a label, 1 in no object, i + 2 in object i.
    """

    sections: Numbers
    numbers: NDArray[Any]
    voxels: Numbers


@dataclass(frozen=True)
class Objects:
    """What one block tells of them: ``sections`` and ``numbers`` of :class:`Truth`.

    ``overlaps`` has for each threshold (3, n) int32: what a voxel of :class:`Truth` holds, predicted fragment or 0,
    voxels.
    """

    sections: Numbers
    numbers: NDArray[Any]
    overlaps: tuple[Numbers, ...]


def truth_of(instances: NDArray[Any], known: NDArray[np.bool_]) -> Truth:
    """The objects of a block.

    Parameters
    ----------
    instances, known:
        (z, y, x): numbers of objects, 0 for none; and which voxels have a label.
    """
    voxels = np.zeros(instances.shape, np.int32)
    sections, numbers, before = [], [], _BACKGROUND
    for z, (section, there) in enumerate(zip(instances, known, strict=True)):
        found, which = np.unique(section[there], return_inverse=True)
        objects = found != 0
        place = np.full(len(found), _BACKGROUND, np.int32)
        place[objects] = before + 1 + np.arange(np.count_nonzero(objects))
        voxels[z][there] = place[which]
        numbers.append(found[objects])
        sections.append(np.full(len(numbers[-1]), z, np.int32))
        before += len(numbers[-1])
    return Truth(np.concatenate(sections), np.concatenate(numbers), voxels)


def renumbered(blocks: Sequence[Objects]) -> tuple[Numbers, list[Numbers]]:
    """The objects of blocks that have the same sections: an object with one number in one section is one.

    Returns
    -------
    The section of each object, in ascending order; and for each block, what becomes of the numbers in its overlaps:
    of object i of all of them, i + 2.
    """
    sections = np.concatenate([block.sections for block in blocks])
    numbers = np.concatenate([block.numbers for block in blocks])
    order = np.lexsort((numbers, sections))
    first = np.ones(len(order), np.bool_)
    first[1:] = (np.diff(sections[order]) != 0) | (numbers[order][1:] != numbers[order][:-1])
    which = np.empty(len(order), np.int32)
    which[order] = np.cumsum(first, dtype=np.int32) - 1
    ends = np.cumsum([len(block.numbers) for block in blocks])[:-1]
    kept = np.array([0, _BACKGROUND], np.int32)
    return sections[order][first], [np.concatenate([kept, part + 2]) for part in np.split(which, ends)]


def scores(found: Overlaps, objects: int) -> Scores:
    """The score of each of so many objects, from the overlaps of the whole section.

    Parameters
    ----------
    found:
        Overlaps of what :func:`renumbered` gives with predicted segments, 0 for none.
    """
    truth, predicted, voxels = found.truth, found.predicted, found.voxels.astype(np.int64)
    of_truth = np.zeros(objects + 2, np.int64)
    of_predicted = np.zeros(int(predicted.max(initial=0)) + 1, np.int64)
    np.add.at(of_truth, truth, voxels)
    np.add.at(of_predicted, predicted, voxels)
    matched = (truth > _BACKGROUND) & (predicted > 0) & (2 * voxels > of_truth[truth])
    result = np.zeros(objects)
    both = voxels[matched]
    result[truth[matched] - 2] = both / (of_truth[truth[matched]] + of_predicted[predicted[matched]] - both)
    return result


def summary(
    found: Sequence[Sequence[Scores]] | None, left_out: str | None, validation: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """SEG over the thresholds as JSON data.

    Parameters
    ----------
    found:
        For each threshold the scores of each section; None where nothing was compared.
    left_out:
        Why not.
    validation:
        Scores of the validation volumes by name, to choose a threshold on; empty for none.

    Raises
    ------
    UserError
        If the scores of a validation volume were made by another version.
    """
    objects = 0 if found is None else sum(map(len, found[0]))
    if found is None or not objects:
        left_out = left_out or "No object of the truth lies in voxels that are scored."
        return {"seg": None, "instances": {"objects": 0, "left_out": left_out} | dict.fromkeys(_OF_SCORES)}
    curve = [mean(at) for at in found]
    best = curve.index(max(value for value in curve if value is not None))
    chosen = choose_threshold(validation)
    at = best if chosen is None else THRESHOLDS.index(chosen["threshold"])
    return {
        "seg": curve[at],
        "instances": {
            "objects": objects,
            "left_out": None,
            "curve": curve,
            "best": {"threshold": THRESHOLDS[best], "value": curve[best]},
            "validation": chosen,
            "shown_at": THRESHOLDS[at],
        },
    }


_OF_SCORES = ("curve", "best", "validation", "shown_at")


def mean(sections: Sequence[Scores]) -> float | None:
    """Over all objects of all sections; None where there is none. It does not depend on their order."""
    every = [value for section in sections for value in section.tolist()]
    return math.fsum(every) / len(every) if every else None


def choose_threshold(validation: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """The threshold with the best mean over all objects of the validation volumes; None if they have none."""
    for name, score in validation.items():
        if "instances" not in score:
            raise UserError(
                f"a threshold was to be chosen on {name}",
                "its scores do not tell of objects: another version wrote them",
                f"delete the scores of {name} and run again",
            )
    told = {name: score["instances"] for name, score in validation.items() if score["instances"]["objects"]}
    if not told:
        return None
    sums = [math.fsum(item["curve"][at] * item["objects"] for item in told.values()) for at in range(len(THRESHOLDS))]
    return {"threshold": THRESHOLDS[sums.index(max(sums))], "volumes": list(told)}
