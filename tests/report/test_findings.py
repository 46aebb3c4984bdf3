"""The verdict says what was found, and does not hide what was not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unetpipe.allocate import read_plan
from unetpipe.files import read_json, write_json
from unetpipe.grid import Region
from unetpipe.report.collect import collect
from unetpipe.report.findings import Verdict, find, missing_scores
from unetpipe.selection import Selection

MakeRun = Callable[..., dict[str, Any]]

NO_TEST = "no test volume"
NO_VALIDATION = "no validation volume"
ON_TRAINING = "on data that the network was trained on"
NO_THRESHOLD = "scores of segments of test are those at the threshold that is best for each"
LEFT_OUT = "Without thinned scores of segments and warping error: test and validate."
UNLABELLED = "Without labels, and so without a score: rest."
NOT_TRAINED = "not trained in this run"
MISSING = "1 of 5 sections of test"


def verdict(run: dict[str, Any]) -> Verdict:
    others = ("report", "facts", "figures", "configuration", "benchmarks", "run", "command")
    return find(collect(name=run["run"], **{key: run[key] for key in run if key not in others}))


@pytest.mark.parametrize(
    ("volumes", "options", "caveats"),
    [
        pytest.param({"train": "train", "validate": "validate", "test": "test"}, {}, [], id="complete"),
        pytest.param({"train": "train", "validate": "validate"}, {}, [NO_TEST], id="no test"),
        pytest.param(
            {"train": "train", "test": "test"}, {}, [NO_VALIDATION, NO_THRESHOLD, ON_TRAINING], id="no validation"
        ),
        pytest.param(
            {"train": "train", "validate": "validate", "test": "test"},
            {"whole": False},
            [LEFT_OUT],
            id="large sections",
        ),
        pytest.param(
            {"train": "train", "validate": "validate", "test": "test", "rest": "predict"},
            {"unlabelled": ["rest"]},
            [UNLABELLED],
            id="one without labels",
        ),
        pytest.param(
            {"rest": "predict"},
            {"unlabelled": ["rest"], "trained": False},
            ["No score", NOT_TRAINED, "without labels: that both agree"],
            id="no labels at all",
        ),
        pytest.param(
            {"train": "train", "validate": "validate", "test": "test"},
            {"missing": {"test": [2]}},
            [MISSING],
            id="missing section",
        ),
    ],
)
def test_what_was_not_shown_is_said(
    volumes: dict[str, str], options: dict[str, Any], caveats: list[str], make_run: MakeRun
) -> None:
    found = verdict(make_run(volumes, **options))
    assert len(found.caveats) == len(caveats)
    for expected, text in zip(caveats, found.caveats, strict=True):
        assert expected in text


def change(path: Path, **scores: Any) -> None:
    write_json(path, read_json(path) | scores)


def test_the_baselines_are_compared(make_run: MakeRun) -> None:
    run = make_run({"train": "train", "validate": "validate", "test": "test"})
    for path in run["scores"]:
        score = read_json(path)
        one_class = score["one_class"] | {"mean_iou": score["baseline"]["mean_iou"] / 2}
        change(path, mean_iou=score["baseline"]["mean_iou"] + 1e-6, one_class=one_class)
    assert verdict(run).sentence.startswith(
        "In mean IoU, the network beats both baselines (Gaussian blur, sigma 2 voxels, Otsu's threshold; all voxels in "
        "one class) on test and validate. "
    )
    # Behind one of the two.
    change(path, one_class=one_class | {"mean_iou": read_json(path)["mean_iou"]})
    assert "the network does not beat both baselines (Gaussian" in verdict(run).sentence
    assert f"all voxels in one class) on {score['volume']}. " in verdict(run).sentence
    change(path, one_class=one_class, mean_iou=score["baseline"]["mean_iou"])
    assert "does not beat both" in verdict(run).sentence
    for path in run["scores"]:
        change(path, mean_iou=None)
    assert "Nothing was scored" in verdict(run).sentence


def test_segments_are_compared_with_a_single_one(make_run: MakeRun) -> None:
    run = make_run({"train": "train", "validate": "validate", "test": "test"})
    (path,) = (path for path in run["scores"] if path.stem == "test")
    segments, one_class = (read_json(path)[key] for key in ("segments", "one_class"))
    at_validation = segments["thinned"]["at_validation"]["v_rand"]
    with_truth = "In V_rand (thinned; best threshold, chosen with the truth at hand), it beats a single segment"
    chosen = "In V_rand (thinned; threshold from validation), it"
    assert f"{chosen} beats a single segment that holds all voxels on test. {with_truth}" in verdict(run).sentence
    # The score at the chosen threshold counts, not the best one.
    change(path, v_rand=1.0, one_class=one_class | {"v_rand": at_validation})
    assert f"{chosen} does not beat a single segment that holds all voxels on test." in verdict(run).sentence
    change(path, v_rand=None)
    assert chosen not in verdict(run).sentence


def test_the_engine_is_judged_by_its_certificate(make_run: MakeRun) -> None:
    text = verdict(make_run({"train": "train", "test": "test"})).engine
    assert text == (
        "Predicted by ONNX Runtime in fp32, which passed the comparison with PyTorch in fp32 on 16 tiles: no class's "
        "IoU may fall by more than 0.002; the largest fall is 2 × 10⁻⁶, and 0.00012 % of the voxels have another "
        "class. Not built in int8: the processor lacks it."
    )


def test_mirror_images_are_said_to_be_in_the_scores_and_not_in_the_certificate(make_run: MakeRun) -> None:
    run = make_run({"train": "train", "validate": "validate", "test": "test"})
    assert "mirror" not in verdict(run).engine
    for path in run["allocated"]:
        description = read_json(path)
        description["key"]["mirror"] = ["y", "x"]
        write_json(path, description)
    assert verdict(run).engine.endswith(
        " Probabilities of test and validate, and scores with them, are the mean over 4 mirror images of each tile, "
        "along y and x; the engine was compared on tiles that were not mirrored."
    )
    description["key"]["mirror"] = ["x"]
    write_json(path, description)
    assert "mean over 2 mirror images of each tile, along x; " in verdict(run).engine
    assert "mean over 4 mirror images of each tile, along y and x; " in verdict(run).engine


def test_each_missing_score_has_a_reason() -> None:
    known = {"iou": 0.5, "precision": 0.5, "recall": 0.5}
    segments = {"objects": "a", "left_out": None, "sections": {"best": {"v_rand": {"threshold": 0.5, "value": 0.5}}}}
    score: dict[str, Any] = {
        "mean_iou": 0.5,
        "classes": {
            "a": known,
            "b": dict.fromkeys(known),
            "c": known | {"precision": None},
            "d": known | {"recall": None},
        },
        "baseline": {"classes": dict.fromkeys("ac", known) | dict.fromkeys("bd", dict.fromkeys(known))},
        "segments": segments,
    }
    assert [reason[:10] for reason in missing_scores(score)] == [
        "– b: neith",
        "– c: never",
        "– d: not i",
        "– d: not i",
    ]
    nothing = {"sections": {"best": {"v_rand": None}}}
    assert missing_scores(score | {"segments": segments | nothing})[-1] == (
        "– a: not in the truth, so there are no segments to score."
    )
    too_large = segments | {"left_out": "Too large."}
    assert missing_scores(score | {"segments": too_large})[0] == "– Too large."
    none = "– No voxel is scored: all labels are to be ignored."
    assert missing_scores({"mean_iou": None, "segments": segments | nothing}) == [none]
    assert missing_scores({"mean_iou": None, "segments": too_large}) == ["– Too large.", none]


@pytest.mark.parametrize("labelled", [True, False], ids=["scored", "not scored"])
def test_what_was_not_predicted_is_said(labelled: bool, make_run: MakeRun) -> None:
    run = make_run({"rest": "predict"}, unlabelled=[] if labelled else ["rest"], trained=False, shape=(20, 72, 80))
    (path,) = run["allocated"]
    plan = read_plan(read_json(path))
    chosen = Selection.of(plan, Region((19, 0, 0), (20, 72, 80)))
    skipped = chosen.total - chosen.count
    before = verdict(run).caveats
    assert skipped > 0
    change(path, selection=chosen.as_json())
    (said,) = set(verdict(run).caveats) - set(before)
    where = f"rest ({skipped} of {chosen.total} blocks skipped: region 19:20,0:72,0:80)."
    assert said.startswith(f"Predicted in part, and 0 in all classes elsewhere: {where}")
    assert said.endswith(" Voxels outside of them are not scored.") == labelled


def test_precisions_that_did_not_pass_are_named(make_run: MakeRun) -> None:
    run = make_run({"train": "train", "test": "test"})
    fallen = {"membrane": {"fall": 0.0123}, "inside": {"fall": None}}
    refused = [
        {"precision": "int8", "why": "the IoU falls", "iou": fallen},
        {"precision": "bf16", "why": "3 of 8 values are no probabilities"},
    ]
    change(run["certificate"], refused=refused)
    assert verdict(run).engine.endswith(
        "It did not pass in int8: the IoU of a class falls by 0.012. "
        "It did not pass in bf16: 3 of 8 values are no probabilities. Not built in int8: the processor lacks it."
    )
