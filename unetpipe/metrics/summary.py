"""The scores of a volume as JSON data, from what was counted."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from unetpipe import config
from unetpipe.errors import UserError
from unetpipe.metrics import baseline, confusion, partitions, seg, thresholds
from unetpipe.metrics.components import THRESHOLDS
from unetpipe.metrics.streaming import Scores, Totals
from unetpipe.volume import VolumeFile

_SHOWN = ("v_rand", "v_info", "warping_error")


def summary(
    source: VolumeFile,
    totals: Totals,
    classes: Sequence[str],
    objects: str,
    settings: config.Evaluate,
    validation: Mapping[str, Mapping[str, Any]],
    without_objects: str | None = seg.NOT_NUMBERED,
) -> dict[str, Any]:
    """All scores of a volume.

    Parameters
    ----------
    totals:
        What was counted.
    classes, objects:
        Names in the order of the channels, and the class whose components are the segments.
    validation:
        Scores of the validation volumes by name, to choose the threshold of the segments; empty for none.
    without_objects:
        Why objects that the labels number are not compared; None if they are.
    """
    table = totals.tables.sum(axis=0)
    scores = confusion.summary(table, classes)
    by_threshold = thresholds.summary(totals.histograms, classes)
    for name, values in scores["classes"].items():
        values |= by_threshold[name]
    sections = totals.segments.sections()
    kinds = segment_scores(totals, sections)
    chosen = choose_threshold(validation, objects)
    if chosen is not None:
        at = THRESHOLDS.index(chosen["threshold"])
        for kind in kinds.values():
            if kind is not None:
                kind["at_validation"] = {measure: values[at] for measure, values in kind["curve"].items()}
    shown = _shown(kinds, chosen)
    numbered = totals.segments.objects() if without_objects is None else None
    by_object = seg.summary(numbered, without_objects, validation)
    at = by_object["instances"]["shown_at"]
    by_section = None if numbered is None or at is None else numbered[THRESHOLDS.index(at)]
    return {
        **scores,
        "calibration_error": confusion.mean(values["calibration_error"] for values in scores["classes"].values()),
        **{measure: _at(kinds, measure, threshold) for measure, threshold in shown.items()},
        **by_object,
        "shown_at": {"thresholds": shown, "chosen_on": [] if chosen is None else chosen["volumes"]},
        "segments": {
            "objects": objects,
            "thresholds": list(THRESHOLDS),
            "left_out": None if totals.thinned is not None else _left_out(source, settings.largest_section),
            "validation": chosen,
            **kinds,
        },
        "per_section": [
            _section(z, source, totals, classes, shown)
            | {"seg": None if by_section is None else seg.mean(by_section[z : z + 1])}
            for z in range(source.shape[0])
        ],
        "baseline": baseline.summary(totals.grey, classes, settings.baseline_sigma),
        "one_class": baseline.one_class(table, classes) | _one_segment(totals),
        "confusion": table.tolist(),
        "histograms": {
            name: {"others": others.tolist(), "own": own.tolist()}
            for name, (others, own) in zip(classes, totals.histograms, strict=True)
        },
    }


def segment_scores(totals: Totals, sections: list[list[Scores]]) -> dict[str, dict[str, Any] | None]:
    """Scores of the segments over the thresholds: thinned, warping error, 2D and 3D as predicted."""
    thinned: list[list[Scores]] | None = None
    if totals.thinned is not None:
        thinned = [list(at) for at in zip(*totals.thinned, strict=True)]
    volume = totals.segments.volume()
    return {
        "thinned": None if thinned is None else _mean_over_sections(thinned, partitions.MEASURES),
        "warping": None if thinned is None else _mean_over_sections(thinned, ("warping_error",)),
        "sections": _mean_over_sections(sections, partitions.MEASURES),
        "volume": _kind({m: [at[m] for at in volume] for m in partitions.MEASURES}),
    }


def choose_threshold(validation: Mapping[str, Mapping[str, Any]], objects: str) -> dict[str, Any] | None:
    """The threshold with the best mean V_rand over the sections of the validation volumes; None if none is scored.

    It is V_rand in 2D after thinning, or as predicted where a volume has no thinned scores.

    Raises
    ------
    UserError
        If the scores of a volume were made by another version, or of the components of another class.
    """
    for name, scores in validation.items():
        made = {key: scores.get("segments", {}).get(key) for key in ("objects", "thresholds")}
        if made != {"objects": objects, "thresholds": list(THRESHOLDS)}:
            raise UserError(
                f"a threshold was to be chosen on {name}",
                f"its scores are those of the components of {made['objects']} at the thresholds {made['thresholds']}, "
                f"not of {objects} at {list(THRESHOLDS)}",
                f"delete the scores of {name} and run again",
            )
    thinned = all(scores["segments"]["thinned"] is not None for scores in validation.values())
    kinds = {name: scores["segments"]["thinned" if thinned else "sections"] for name, scores in validation.items()}
    kinds = {name: kind for name, kind in kinds.items() if kind["scored_sections"]}
    if not kinds:
        return None
    sums = [
        math.fsum(kind["curve"]["v_rand"][at] * kind["scored_sections"] for kind in kinds.values())
        for at in range(len(THRESHOLDS))
    ]
    return {"threshold": THRESHOLDS[sums.index(max(sums))], "volumes": list(kinds)}


def threshold_to_number(
    validation: Mapping[str, Mapping[str, Any]], objects: str, *, sections: bool
) -> dict[str, Any] | None:
    """The threshold at which objects get numbers: as :func:`choose_threshold` has it.

    But where objects are those of single ``sections``, and labels number them: the one with the best SEG.
    """
    chosen = choose_threshold(validation, objects)
    return (seg.choose_threshold(validation) if sections else None) or chosen


def _shown(kinds: Mapping[str, Mapping[str, Any] | None], chosen: Mapping[str, Any] | None) -> dict[str, float | None]:
    """The thresholds of the thinned scores that stand for the volume: that from validation, or the best of each.

    The warping error is shown where V_rand is best: a missing object costs it so little that it is none to choose by.
    """
    thinned = kinds["thinned"]
    if thinned is None or thinned["best"]["v_rand"] is None:
        return dict.fromkeys(_SHOWN)
    if chosen is not None:
        return dict.fromkeys(_SHOWN, chosen["threshold"])
    best = {measure: thinned["best"][measure]["threshold"] for measure in ("v_rand", "v_info")}
    return {**best, "warping_error": best["v_rand"]}


def _at(kinds: Mapping[str, Mapping[str, Any] | None], measure: str, threshold: float | None) -> float | None:
    kind = kinds["warping" if measure == "warping_error" else "thinned"]
    if kind is None or threshold is None:
        return None
    value: float | None = kind["curve"][measure][THRESHOLDS.index(threshold)]
    return value


def _mean_over_sections(scores: list[list[Scores]], measures: Sequence[str]) -> dict[str, Any]:
    curve = {m: [confusion.mean(section[m] for section in at) for at in scores] for m in measures}
    scored = sum(section[measures[0]] is not None for section in scores[0])
    return {"scored_sections": scored, **_kind(curve)}


def _kind(curve: dict[str, list[float | None]]) -> dict[str, Any]:
    best: dict[str, Any] = {}
    for measure, values in curve.items():
        at = partitions.better(measure, values)
        best[measure] = None if at is None else {"threshold": THRESHOLDS[at], "value": values[at]}
    return {"curve": curve, "best": best, "at_validation": None}


def _section(
    z: int,
    source: VolumeFile,
    totals: Totals,
    classes: Sequence[str],
    shown: Mapping[str, float | None],
) -> dict[str, Any]:
    """Scores of one section; those of its segments at the thresholds that are shown for the volume."""
    scores = confusion.summary(totals.tables[z], classes)
    of_segments: Scores = dict.fromkeys(_SHOWN)
    for measure, threshold in shown.items():
        if totals.thinned is not None and threshold is not None:
            of_segments[measure] = totals.thinned[z][THRESHOLDS.index(threshold)][measure]
    keys = ("scored_voxels", "mean_iou", "mean_dice", "pixel_error", "classes")
    return {
        "section": z,
        "missing": z in source.missing_sections,
        **{key: scores[key] for key in keys},
        **of_segments,
    }


def _one_segment(totals: Totals) -> Scores:
    """V_rand and V_info, means over the sections, of the prediction that is one segment."""
    sections = totals.segments.one_segment()
    return {measure: confusion.mean(section[measure] for section in sections) for measure in ("v_rand", "v_info")}


def _left_out(source: VolumeFile, largest_section: int) -> str:
    _, height, width = source.shape
    return (
        f"Thinned scores and the warping error need a section in memory: one of {height} × {width} voxels is larger "
        f"than evaluate.largest_section, {largest_section}."
    )
