"""The tables of scores hold the numbers of the files, and a dash with a reason where there is none."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from pages import Tables

from unetpipe.files import read_json, write_json
from unetpipe.metrics.partitions import MEASURES
from unetpipe.report.render import report
from unetpipe.volume import IGNORE

pytestmark = pytest.mark.usefixtures("without_curves")

MakeRun = Callable[..., dict[str, Any]]

VOLUMES = {"train": "train", "validate": "validate", "test": "test"}
WITHOUT = {"train": "train", "test": "test"}
KINDS = ("thinned", "sections", "volume")


Made = tuple[Tables, list[dict[str, Any]]]


def made(run: dict[str, Any]) -> Made:
    """The page, and the scores in its order."""
    report(**run)
    scores = sorted((read_json(path) for path in run["scores"]), key=lambda score: score["role"] != "test")
    return Tables(run["report"].read_text(encoding="utf-8")), scores


def told(value: float | None, digits: int = 4) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def at_best(kind: Mapping[str, Any] | None, measure: str) -> tuple[float | None, float | None, float | None]:
    """The score, its threshold, and the score at the threshold from validation."""
    best = kind and kind["best"][measure]
    if not kind or not best:
        return None, None, None
    chosen = kind["at_validation"]
    return best["value"], best["threshold"], None if chosen is None else chosen[measure]


def uncertain(shape: Any, seed: int, classes: int) -> Any:
    """Neighbours that the prediction merges, so that best thresholds differ and the baseline falls behind."""
    random = np.random.default_rng(seed)
    labels = np.ones(shape, np.uint8)
    labels[:, 8 + 4 * seed :: 17] = labels[:, :, 5::13] = 0
    return np.clip(90 + 70 * labels + random.normal(scale=60, size=shape), 0, 255).astype(np.uint8), labels


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((VOLUMES, {"missing": {"test": [1]}}), id="all scores"),
        pytest.param((WITHOUT, {"classes": ("membrane", "vesicle", "inside")}), id="no validation"),
        pytest.param((VOLUMES, {"whole": False}), id="large sections"),
        pytest.param((VOLUMES, {"data": uncertain}), id="merged objects"),
    ],
)
def page(request: pytest.FixtureRequest, make_shared_run: MakeRun) -> Made:
    volumes, options = request.param
    return made(make_shared_run(volumes, name=str(request.param_index), **options))


def test_all_scores_are_those_of_the_file(page: Made) -> None:
    for score, (head, *rows) in zip(page[1], page[0].tables["beside-baselines"], strict=True):
        segments, blur, one_class = score["segments"], score["baseline"], score["one_class"]
        chosen = segments["validation"]
        assert head[:5] == ["Score", "Network", "Blur + Otsu", f"All {one_class['class']}", "Best threshold"]
        assert head[5:] == ([] if chosen is None else [f"At {chosen['threshold']}"])
        assert [row[0] for row in rows if len(row) == 1] == ["Voxels", "Segments (2D, thinned)"]
        found = {name.removesuffix(" ↓"): cells for name, *cells in rows if cells}
        for name, key in (("mean IoU", "mean_iou"), ("mean Dice", "mean_dice"), ("pixel error", "pixel_error")):
            assert found.pop(name)[:3] == [told(score[key]), told(blur[key]), told(one_class[key])]
        assert found.pop("calibration error")[:3] == [told(score["calibration_error"]), "–", "–"]
        for name, (kind, measure), digits in (
            ("warping error", ("warping", "warping_error"), 6),
            ("V_rand", ("thinned", "v_rand"), 4),
            ("V_info", ("thinned", "v_info"), 4),
            ("Rand error", ("thinned", "rand_error"), 4),
            ("adapted Rand error", ("thinned", "adapted_rand_error"), 4),
            ("variation of information", ("thinned", "voi"), 4),
        ):
            value, threshold, at_chosen = at_best(segments[kind], measure)
            expected = [told(value, digits), "–", told(one_class.get(measure)), told(threshold, 1)]
            assert found.pop(name) == expected + ([] if chosen is None else [told(at_chosen, digits)])
        assert not found


def test_scores_of_segments_are_those_of_the_file(page: Made) -> None:
    for score, (kinds, _, *rows) in zip(page[1], page[0].tables["segments"], strict=True):
        segments = score["segments"]
        assert kinds[1:] == ["2D, thinned", "2D, as predicted", "3D, as predicted"]
        whole = ""
        for measure, (_, *cells) in zip(MEASURES, rows, strict=True):
            part = measure.endswith(("_split", "_merge"))
            whole = whole if part else measure
            expected = []
            for kind in KINDS:
                threshold = at_best(segments[kind], whole)[1]
                at = None if threshold is None else segments["thresholds"].index(threshold)
                value = None if at is None else segments[kind]["curve"][measure][at]
                expected += [told(value), "" if part else told(threshold, 1)]
                if segments["validation"] is not None:
                    expected.append(told(at_best(segments[kind], measure)[2]))
            assert cells == expected


def test_scores_of_classes_are_those_of_the_file(page: Made) -> None:
    for score, (_, *rows, mean) in zip(page[1], page[0].tables["classes"], strict=True):
        for (name, values), row in zip(score["classes"].items(), rows, strict=True):
            best = values["best"]
            shown = [values["iou"], score["baseline"]["classes"][name]["iou"]]
            shown += [values[key] for key in ("dice", "precision", "recall", "average_precision")]
            assert row == [
                name,
                *map(told, [*shown, best["iou"]]),
                told(best["threshold"], 2),
                told(values["calibration_error"]),
                f"{values['voxels']:,}",
            ]
        means = [score["mean_iou"], score["baseline"]["mean_iou"], score["mean_dice"], score["calibration_error"]]
        assert [mean[1], mean[2], mean[3], mean[9]] == [told(value) for value in means]


def test_scores_of_sections_are_those_of_the_file(page: Made) -> None:
    for score, (_, *rows) in zip(page[1], page[0].tables["per-section"], strict=True):
        for section, row in zip(score["per_section"], rows, strict=True):
            ious = [values["iou"] for values in section["classes"].values()]
            numbers = [section["mean_iou"], *ious, section["mean_dice"], section["pixel_error"]]
            assert row == [
                f"{section['section']} (missing)" if section["missing"] else str(section["section"]),
                f"{section['scored_voxels']:,}",
                *map(told, [*numbers, section["v_rand"], section["v_info"]]),
                told(section["warping_error"], 6),
            ]
            assert (section["v_rand"] is None) is (score["segments"]["left_out"] is not None)


def test_scores_that_were_left_out_have_their_reason_and_others_none(page: Made) -> None:
    reasons = [score["segments"]["left_out"] for score in page[1]]
    assert page[0].reasons == [[f"– {reason}"] for reason in reasons if reason is not None]
    assert all("evaluate.largest_section" in reason for reason in reasons if reason is not None)


def test_the_first_sections_are_listed_and_the_others_counted(make_run: MakeRun) -> None:
    run = make_run({"train": "train", "test": "test"})
    (path,) = run["scores"]
    score = read_json(path)
    first = score["per_section"][0]
    write_json(path, score | {"per_section": [first | {"section": z} for z in range(1234)]})
    page, _ = made(run)
    assert [row[0] for row in page.tables["per-section"][0][1:]] == [str(z) for z in range(200)]
    assert "1,034 more sections are in the volume's file of scores alone." in run["report"].read_text()


@pytest.mark.parametrize(
    ("label", "reasons", "figures"),
    [
        pytest.param(IGNORE, ["– No voxel is scored: all labels are to be ignored."], [], id="no truth"),
        pytest.param(
            0,
            [
                "– inside: neither in the truth nor in the prediction, and not in the means.",
                "– inside: not in the truth, so there are no segments to score.",
            ],
            ["IoU", "Precision", "Reliability", "Mean"],
            id="no objects",
        ),
    ],
)
def test_missing_scores_are_dashes_with_a_reason(
    make_run: MakeRun, label: int, reasons: list[str], figures: list[str]
) -> None:
    def data(shape: Any, seed: int, classes: int) -> Any:
        image = np.random.default_rng(seed).integers(0, 255, shape, np.uint8)
        return image, np.full(shape, label, np.uint8)

    page, (score,) = made(make_run({"test": "test"}, trained=False, data=data))
    assert page.reasons == [reasons]
    assert score["v_rand"] is None
    (segments,) = page.tables["segments"]
    assert {cell for row in segments[2:] for cell in row[1:]} == {"–", ""}
    # Those of quality control need no labels.
    of_quality = ["Entropy", "Contrast", "Shares"]
    assert [alternative.split()[0] for alternative in page.pictures] == [*figures, *of_quality]
    text = page.tables["beside-baselines"][0] + page.tables["classes"][0] + page.tables["per-section"][0]
    assert not {"None", "nan", "null"} & {cell for row in text for cell in row}
