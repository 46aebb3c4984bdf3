"""Scores of one volume as rows of tables: which numbers stand beside each other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from unetpipe.metrics.seg import NOT_NUMBERED

MOST_SECTIONS = 200
"""Sections that the table of a volume lists."""

MOST_CLASSES = 16
"""Classes that are shown as curves; of more, tables have no column for each."""

WARPING_DIGITS = 6
"""After the point: good predictions differ by less than one voxel in a thousand."""

Score = Mapping[str, Any]

KINDS = {"thinned": "2D, thinned", "sections": "2D, as predicted", "volume": "3D, as predicted"}
"""How segments are made of the prediction, by the key in the scores."""

_VOXELS = {"mean_iou": "mean IoU", "mean_dice": "mean Dice", "pixel_error": "pixel error\N{NO-BREAK SPACE}↓"}

_SEGMENTS = {
    "v_rand": "V_rand",
    "v_info": "V_info",
    "rand_error": "Rand error\N{NO-BREAK SPACE}↓",
    "adapted_rand_error": "adapted Rand error\N{NO-BREAK SPACE}↓",
    "voi": "variation of information\N{NO-BREAK SPACE}↓",
}
_PARTS = {"v_rand": ("split", "merge"), "v_info": ("split", "merge"), "voi": ("split", "merge")}


@dataclass(frozen=True)
class Cell:
    """A score of the network: at the threshold that is best for it, and at the one chosen on validation volumes.

    ``threshold`` is the best one; None for scores that need none, and for missing ones.
    """

    value: float | None
    threshold: float | None = None
    at_validation: float | None = None


@dataclass(frozen=True)
class Row:
    """One score of the network and of the baselines; None is a dash.

    ``thresholded``: the network's value depends on a threshold. ``digits`` are those after the point.
    """

    name: str
    network: Cell
    blur: float | None = None
    one_class: float | None = None
    thresholded: bool = False
    digits: int = 4


def beside_baselines(score: Score) -> dict[str, list[Row]]:
    """All scores of the network, of blur with Otsu's threshold, and of all voxels in one class, in groups by title."""
    blur, one_class, segments = score["baseline"], score["one_class"], score["segments"]
    voxels = [Row(name, Cell(score[key]), blur[key], one_class[key]) for key, name in _VOXELS.items()]
    calibration = Row("calibration error\N{NO-BREAK SPACE}↓", Cell(score["calibration_error"]))
    warping = Row(
        "warping error\N{NO-BREAK SPACE}↓",
        _cell(segments["warping"], "warping_error"),
        thresholded=True,
        digits=WARPING_DIGITS,
    )
    thinned = [
        Row(name, _cell(segments["thinned"], key), None, one_class.get(key), thresholded=True)
        for key, name in _SEGMENTS.items()
    ]
    return {"Voxels": [*voxels, calibration, warping], f"Segments ({KINDS['thinned']})": thinned}


def of_segments(score: Score) -> list[tuple[str, bool, list[Cell]]]:
    """Rows of the scores of segments: the name, whether it is a part of the score above, and a cell for each of KINDS.

    The parts, split and merge, are those at the threshold that is best for the score itself.
    """
    segments = score["segments"]
    rows = []
    for measure, name in _SEGMENTS.items():
        whole = [_cell(segments[kind], measure) for kind in KINDS]
        rows.append((name, False, whole))
        for part in _PARTS.get(measure, ()):
            cells = [
                _at(segments[kind], f"{measure}_{part}", cell.threshold, segments["thresholds"])
                for kind, cell in zip(KINDS, whole, strict=True)
            ]
            rows.append((part, True, cells))
    return rows


def with_objects(scores: Mapping[str, Score]) -> dict[str, Score]:
    """Those of the volumes whose labels number objects, by name; also of one that has none of them to score."""
    return {name: score for name, score in scores.items() if score["instances"]["left_out"] != NOT_NUMBERED}


def of_sections(score: Score) -> tuple[Sequence[Mapping[str, Any]], int]:
    """The first sections, and how many are left out."""
    sections: Sequence[Mapping[str, Any]] = score["per_section"]
    return sections[:MOST_SECTIONS], max(0, len(sections) - MOST_SECTIONS)


def _cell(kind: Mapping[str, Any] | None, measure: str) -> Cell:
    if kind is None or kind["best"][measure] is None:
        return Cell(None)
    best = kind["best"][measure]
    return Cell(best["value"], best["threshold"], _at_validation(kind, measure))


def _at(kind: Mapping[str, Any] | None, measure: str, threshold: float | None, thresholds: Sequence[float]) -> Cell:
    if kind is None or threshold is None:
        return Cell(None)
    return Cell(kind["curve"][measure][thresholds.index(threshold)], threshold, _at_validation(kind, measure))


def _at_validation(kind: Mapping[str, Any], measure: str) -> float | None:
    value: float | None = None if kind["at_validation"] is None else kind["at_validation"][measure]
    return value
