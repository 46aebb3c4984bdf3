"""What the terminal shows at the end of a run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unetpipe.errors import UserError
from unetpipe.files import write_json
from unetpipe.report.summary import summary


def score(folder: Path, volume: str, role: str, *numbers: float | None) -> None:
    mean_iou, baseline, v_rand, v_info = numbers
    scores = {"volume": volume, "role": role, "mean_iou": mean_iou, "baseline": {"mean_iou": baseline}}
    shown = {"v_rand": v_rand, "v_info": v_info, "shown_at": {"chosen_on": ["v"] if role == "test" else []}}
    write_json(folder / "scores" / f"{volume}.json", scores | shown)


def test_a_table_the_test_volume_first(tmp_path: Path) -> None:
    score(tmp_path, "a-long-name", "validate", 0.91234, 0.5, 0.98765, 1.0)
    score(tmp_path, "b", "test", 0.9, None, None, None)
    (tmp_path / "report.html").touch()
    assert summary(tmp_path).splitlines() == [
        "volume       role      mean IoU  baseline  V_rand  V_info   threshold",
        "b            test        0.9000         –       –       –  validation",
        "a-long-name  validate    0.9123    0.5000  0.9877  1.0000        best",
        "",
        f"report: {tmp_path / 'report.html'}",
    ]


def test_scores_of_a_real_run(make_run: Callable[..., dict[str, Any]]) -> None:
    run = make_run({"train": "train", "test": "test"})
    text = summary(run["report"].parent)
    assert len(text.splitlines()) == 4
    assert "there is no report yet" in text


def test_scores_of_another_version_are_told(tmp_path: Path) -> None:
    write_json(tmp_path / "scores" / "v.json", {"volume": "v", "role": "test", "mean_iou": 0.8})
    with pytest.raises(UserError, match="another version made them: 'baseline' is missing"):
        summary(tmp_path)


def test_nothing_scored(tmp_path: Path) -> None:
    (tmp_path / "report.html").touch()
    assert summary(tmp_path).startswith("no volume was scored")


def test_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither scores nor a report"):
        summary(tmp_path / "absent")
