"""Scores of single objects in the page, and those of others beside them where it was asked for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pages import Tables
from pages_of_html import faults

from unetpipe.files import read_json, write_json
from unetpipe.metrics.components import THRESHOLDS
from unetpipe.report.challenge import SERIES, rows
from unetpipe.report.render import report

pytestmark = pytest.mark.usefixtures("without_curves")

VOLUMES = {"validate": "validate", "test": "test"}
CURVE = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.55, 0.4, 0.2]


def numbered(objects: int = 1234, validation: dict[str, Any] | None = None, left_out: str | None = None) -> Any:
    """The part of a score file that tells of objects."""
    if left_out is not None:
        nothing = dict.fromkeys(("curve", "best", "validation", "shown_at"))
        return {"seg": None, "instances": {"objects": 0, "left_out": left_out} | nothing}
    at = 0.6 if validation is None else validation["threshold"]
    best = {"threshold": 0.6, "value": 0.6}
    found = {"objects": objects, "left_out": None, "curve": CURVE, "best": best, "validation": validation}
    return {"seg": CURVE[THRESHOLDS.index(at)], "instances": {**found, "shown_at": at}}


@pytest.fixture(scope="module")
def plain(make_shared_run: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    """A run whose labels are classes."""
    return make_shared_run(VOLUMES)


@pytest.fixture
def run(plain: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """The same with the scores of objects."""
    paths = []
    for path in plain["scores"]:
        score = read_json(path)
        chosen = None if score["role"] == "validate" else {"threshold": 0.7, "volumes": ["validate"]}
        sections = [section | {"seg": 0.25} for section in score["per_section"]]
        paths.append(tmp_path / path.name)
        write_json(paths[-1], score | numbered(validation=chosen) | {"per_section": sections})
    return plain | {"scores": paths}


def page(run: dict[str, Any], series: str | None) -> tuple[Tables, str]:
    run["settings"]["evaluate"]["compared_with"] = series
    report(**run)
    text = run["report"].read_text(encoding="utf-8")
    assert faults(text) == []
    return Tables(text), text


def test_scores_of_objects_stand_in_the_page_with_their_threshold(run: dict[str, Any]) -> None:
    tables, text = page(run, None)
    assert tables.tables["objects"][0][1:] == [
        ["test", "test volume", "1,234", "0.5500", "0.7", "validate", "0.6000", "0.6"],
        ["validate", "validation volume", "1,234", "0.6000", "0.6", "the truth itself", "0.6000", "0.6"],
    ]
    assert all(row[-1] == "0.2500" for table in tables.tables["per-section"] for row in table[1:])
    assert "SEG 0.550" in text
    assert "compared" not in tables.tables
    assert "KTH-SE" not in text


def test_without_objects_there_is_no_table(plain: dict[str, Any]) -> None:
    tables, text = page(plain, None)
    assert "objects" not in tables.tables
    assert "Object by object" not in text


def test_a_volume_without_objects_has_a_reason(run: dict[str, Any]) -> None:
    path = next(path for path in run["scores"] if path.stem == "test")
    write_json(path, read_json(path) | numbered(left_out="No object of the truth lies in <voxels>."))
    tables, text = page(run, "dic-hela")
    assert tables.tables["objects"][0][1] == ["test", "test volume", "0", "–", "–", "–", "–", "–"]
    assert "test: No object of the truth lies in &lt;voxels&gt;." in text
    assert tables.tables["compared"][0][-1] == ["demo, validate", "0.6000"], "of those that have a score"


@pytest.mark.parametrize(
    ("series", "known"),
    [
        pytest.param("phc-u373", ["0.2669", "0.7953", "0.5323", "0.83", "0.9203"], id="PhC-U373"),
        pytest.param("dic-hela", ["0.2935", "0.4607", "–", "0.46", "0.7756"], id="DIC-HeLa"),
    ],
)
def test_others_stand_beside_the_volumes_to_test(run: dict[str, Any], series: str, known: list[str]) -> None:
    # Expected: arXiv:1505.04597, table 2.
    tables, text = page(run, series)
    (head, *found) = tables.tables["compared"][0]
    assert head == ["Method", "SEG"]
    assert [row[1] for row in found] == [*known, "0.5500"]
    assert [row[0] for row in found] == [
        *("IMCB-SG (2014)", "KTH-SE (2014)", "HOUS-US (2014)", "second-best 2015", "u-net (2015)", "demo, test")
    ]
    assert f"SEG on {SERIES[series]}" in text
    assert "scored on other frames" in " ".join(text.split())


def test_a_run_without_a_score_has_no_row() -> None:
    assert [row.volume for row in rows("r", "dic-hela", {"a": numbered(left_out="none") | {"role": "test"}})] == [
        None
    ] * 5
