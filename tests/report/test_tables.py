"""Each number stands in the row and the column that say what it is."""

import random
from typing import Any

import pytest

from unetpipe.metrics.partitions import MEASURES
from unetpipe.report import tables

THRESHOLDS = [0.1, 0.2, 0.3]


def kind(seed: int, measures: tuple[str, ...] = MEASURES, validation: int | None = None) -> dict[str, Any]:
    """Scores that are all different; the best threshold of each is another one."""
    numbers = random.Random(seed)
    curve = {measure: [numbers.random() for _ in THRESHOLDS] for measure in measures}
    best = {}
    for measure, values in curve.items():
        at = numbers.randrange(len(THRESHOLDS))
        best[measure] = {"threshold": THRESHOLDS[at], "value": values[at]}
    at_validation = None if validation is None else {measure: values[validation] for measure, values in curve.items()}
    return {"curve": curve, "best": best, "at_validation": at_validation}


def score(validation: int | None = None, **segments: Any) -> dict[str, Any]:
    voxels = {"mean_iou": 0.5, "mean_dice": 0.6, "pixel_error": 0.7}
    return {
        **voxels,
        "calibration_error": 0.8,
        "baseline": {key: value / 10 for key, value in voxels.items()},
        "one_class": {key: value / 100 for key, value in voxels.items()} | {"v_rand": 0.01, "v_info": 0.02},
        "segments": {
            "thresholds": THRESHOLDS,
            "thinned": kind(1, validation=validation),
            "warping": kind(2, ("warping_error",), validation),
            "sections": kind(3, validation=validation),
            "volume": kind(4, validation=validation),
            **segments,
        },
    }


def rows(shown: dict[str, Any]) -> dict[str, tables.Row]:
    found = [row for group in tables.beside_baselines(shown).values() for row in group]
    return {row.name.removesuffix("\N{NO-BREAK SPACE}↓"): row for row in found}


@pytest.mark.parametrize("validation", [None, 2], ids=["not chosen", "chosen"])
def test_scores_stand_beside_those_of_the_baselines(validation: int | None) -> None:
    shown = score(validation)
    found = rows(shown)
    for name, value in (("mean IoU", 0.5), ("mean Dice", 0.6), ("pixel error", 0.7)):
        row = found.pop(name)
        assert (row.network, row.blur, row.one_class) == (tables.Cell(value), value / 10, value / 100)
        assert not row.thresholded
    assert found.pop("calibration error") == tables.Row("calibration error\N{NO-BREAK SPACE}↓", tables.Cell(0.8))
    for name, (part, measure), one_class in (
        ("V_rand", ("thinned", "v_rand"), 0.01),
        ("V_info", ("thinned", "v_info"), 0.02),
        ("warping error", ("warping", "warping_error"), None),
        ("Rand error", ("thinned", "rand_error"), None),
        ("adapted Rand error", ("thinned", "adapted_rand_error"), None),
        ("variation of information", ("thinned", "voi"), None),
    ):
        row, scores = found.pop(name), shown["segments"][part]
        best = scores["best"][measure]
        at_validation = None if validation is None else scores["curve"][measure][validation]
        assert row.network == tables.Cell(best["value"], best["threshold"], at_validation)
        assert (row.blur, row.one_class, row.thresholded) == (None, one_class, True)
    assert not found


@pytest.mark.parametrize("validation", [None, 2], ids=["not chosen", "chosen"])
def test_parts_are_those_at_the_best_threshold_of_the_whole(validation: int | None) -> None:
    shown = score(validation)
    measures = iter(MEASURES)
    whole = ""
    for _, part, cells in tables.of_segments(shown):
        measure = next(measures)
        whole = whole if part else measure
        assert part == measure.endswith(("_split", "_merge"))
        for name, cell in zip(tables.KINDS, cells, strict=True):
            scores = shown["segments"][name]
            assert cell.threshold == scores["best"][whole]["threshold"]
            assert cell.value == scores["curve"][measure][THRESHOLDS.index(cell.threshold)]
            assert cell.at_validation == (None if validation is None else scores["curve"][measure][validation])
    assert next(measures, None) is None


def test_what_was_left_out_is_missing() -> None:
    shown = score(thinned=None, warping=None)
    for name, row in rows(shown).items():
        assert (row.network.value is None) is (row.thresholded), name
    for _, _, (thinned, *others) in tables.of_segments(shown):
        assert thinned == tables.Cell(None)
        assert None not in [cell.value for cell in others]


def test_without_segments_all_their_scores_are_missing() -> None:
    curve = {measure: [None] * 3 for measure in (*MEASURES, "warping_error")}
    nothing = {"curve": curve, "best": dict.fromkeys(curve), "at_validation": dict.fromkeys(curve)}
    shown = score(**dict.fromkeys(("thinned", "warping", "sections", "volume"), nothing))
    assert {cell for _, _, cells in tables.of_segments(shown) for cell in cells} == {tables.Cell(None)}


@pytest.mark.parametrize(("sections", "listed"), [(0, 0), (1, 1), (200, 200), (201, 200), (5000, 200)])
def test_the_first_sections_are_listed(sections: int, listed: int) -> None:
    shown = [{"section": z} for z in range(sections)]
    assert tables.of_sections({"per_section": shown}) == (shown[:listed], sections - listed)
