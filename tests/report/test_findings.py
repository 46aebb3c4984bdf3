"""The verdict says what was found, and does not hide what was not."""

from collections.abc import Callable
from typing import Any

import pytest

from unetpipe.files import read_json, write_json
from unetpipe.report.collect import collect
from unetpipe.report.findings import Verdict, find, missing_scores

MakeRun = Callable[..., dict[str, Any]]

NO_TEST = "no test volume"
NO_VALIDATION = "no validation volume"
ON_TRAINING = "on data that the network was trained on"
UNLABELLED = "Without labels, and so without a score: rest."
NOT_TRAINED = "not trained in this run"
MISSING = "1 of 5 sections of test"


def verdict(run: dict[str, Any]) -> Verdict:
    return find(collect(name=run["run"], **{key: run[key] for key in run if key not in ("report", "run", "command")}))


@pytest.mark.parametrize(
    ("volumes", "options", "caveats"),
    [
        pytest.param({"train": "train", "validate": "validate", "test": "test"}, {}, [], id="complete"),
        pytest.param({"train": "train", "validate": "validate"}, {}, [NO_TEST], id="no test"),
        pytest.param({"train": "train", "test": "test"}, {}, [NO_VALIDATION, ON_TRAINING], id="no validation"),
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


def test_the_baseline_is_compared(make_run: MakeRun) -> None:
    run = make_run({"train": "train", "validate": "validate", "test": "test"})
    for path in run["scores"]:
        score = read_json(path)
        write_json(path, score | {"mean_iou": score["baseline"]["mean_iou"] + 1e-6})
    assert (
        "beats the baseline (Gaussian blur, sigma 2 voxels, Otsu's threshold) on each scored" in verdict(run).sentence
    )
    write_json(path, score | {"mean_iou": score["baseline"]["mean_iou"]})
    assert "does not beat the baseline" in verdict(run).sentence
    assert verdict(run).sentence.endswith(f"on {score['volume']}.")
    for path in run["scores"]:
        write_json(path, read_json(path) | {"mean_iou": None})
    assert "Nothing was scored" in verdict(run).sentence


def test_the_engine_is_judged_by_its_certificate(make_run: MakeRun) -> None:
    text = verdict(make_run({"train": "train", "test": "test"})).engine
    assert text == (
        "Predicted by ONNX Runtime in fp32, which passed the comparison with PyTorch in fp32 on 16 tiles: no class's "
        "IoU may fall by more than 0.002; the largest fall is 2 × 10⁻⁶, and 0.00012 % of the voxels have another class."
    )


def test_each_missing_score_has_a_reason() -> None:
    known = {"iou": 0.5, "precision": 0.5, "recall": 0.5}
    score = {
        "mean_iou": 0.5,
        "classes": {
            "a": known,
            "b": dict.fromkeys(known),
            "c": known | {"precision": None},
            "d": known | {"recall": None},
        },
        "baseline": {"classes": {"a": known, "b": dict.fromkeys(known), "c": known, "d": dict.fromkeys(known)}},
    }
    assert [reason[:4] for reason in missing_scores(score)] == ["– b:", "– c:", "– d:", "– d:"]
    assert missing_scores({"mean_iou": None}) == ["– No voxel is scored: all labels are to be ignored."]
