"""The graph shows the rules that a run has, and what each took."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from unetpipe.report.collect import collect
from unetpipe.report.rules import FEEDS, Took, drawing, rules_of, took

MakeRun = Callable[..., dict[str, Any]]

ROOT = Path(__file__).parents[2]
RULES = {path.stem for path in (ROOT / "workflow" / "rules").glob("*.smk")} - {"common", "command", "ablation_report"}

CHAIN = ["ingest", "export", "build_engine", "certify", "allocate", "predict", "pyramid", "quality", "report"]


def found(run: dict[str, Any]) -> list[str]:
    others = ("report", "facts", "figures", "configuration", "benchmarks", "run", "command")
    return rules_of(collect(name=run["run"], **{key: run[key] for key in run if key not in others}))


def test_every_rule_of_the_workflow_has_its_place() -> None:
    assert set(FEEDS) == RULES
    order = list(FEEDS)
    for rule, others in FEEDS.items():
        assert all(order.index(other) > order.index(rule) for other in others)


def test_what_feeds_what_is_what_the_rules_say() -> None:
    """Inputs of the Snakefile's rules, by the folders of files: those that name another rule's output."""
    text = {rule: (ROOT / "workflow" / "rules" / f"{rule}.smk").read_text() for rule in RULES}
    made = {
        "certify": "certificate.json", "allocate": "allocated.json", "predict": "predict", "evaluate": "/scores/",
        "quality": "/quality/", "pyramid": "pyramid.json", "segment": "segments.json",
    }  # fmt: skip
    for rule, name in made.items():
        for other in FEEDS[rule]:
            inputs = text[other].split("    input:")[1].split("    output:")[0]
            assert name in inputs, f"{rule} feeds {other}"


@pytest.mark.parametrize(
    ("volumes", "options", "beside"),
    [
        pytest.param({"a": "train", "b": "test"}, {}, {"augment", "train", "quantize", "evaluate"}, id="usual"),
        pytest.param(
            {"a": "train", "b": "test"},
            {"engine": {"precision": "fp32"}},
            {"augment", "train", "evaluate"},
            id="fp32 alone",
        ),
        pytest.param(
            {"b": "predict"}, {"trained": False, "unlabelled": ["b"]}, {"quantize"}, id="a model and no labels"
        ),
    ],
)
def test_a_run_has_the_rules_that_it_needs(
    make_run: MakeRun, volumes: dict[str, str], options: dict[str, Any], beside: set[str]
) -> None:
    assert set(found(make_run(volumes, **options))) == {*CHAIN} | beside


def test_a_phantom_is_made_where_a_volume_is_one(make_run: MakeRun) -> None:
    run = make_run({"a": "train", "b": "test"})
    run["settings"]["volumes"]["b"]["image"] = "phantom"
    assert "phantom" in found(run)


def test_times_are_those_of_all_jobs(tmp_path: Path) -> None:
    head = "s\th:m:s\tmax_rss\tmax_vms\n"
    (tmp_path / "predict").mkdir()
    (tmp_path / "predict" / "a.job-0.tsv").write_text(head + "1.5\t0:00:01\t100.5\t7\n")
    (tmp_path / "predict" / "b.job-0.tsv").write_text(head + "2.0\t0:00:02\t300.0\t7\n")
    (tmp_path / "train.tsv").write_text(head + "0.2\t0:00:00\tNA\tNA\n")
    (tmp_path / "predict" / "gone.job-0.tsv").write_text(head + "9.0\t0:00:09\t900.0\t7\n")
    measured = took(tmp_path, ["train", "predict", "report"], ["a", "b"])
    assert measured == {"train": Took(1, 0.2, None), "predict": Took(2, 3.5, 300.0)}
    assert took(tmp_path / "gone", ["train"], ["a"]) == {}


@pytest.mark.parametrize(
    "left_out",
    [[], ["phantom", "augment", "train"], ["phantom", "quantize", "segment", "evaluate"]],
    ids=["all", "a model", "few"],
)
def test_boxes_stand_apart_and_lines_join_them(left_out: list[str]) -> None:
    rules = [rule for rule in FEEDS if rule not in left_out]
    picture = ET.fromstring(drawing(rules, {"predict": Took(2, 75.0, None)}))
    space = "{http://www.w3.org/2000/svg}"
    boxes = [
        tuple(float(rect.get(key, "")) for key in ("x", "y", "width", "height"))
        for rect in picture.iter(f"{space}rect")
    ]
    assert len(boxes) == len(rules)
    width, height = (float(picture.get(key, "")) for key in ("width", "height"))
    for n, (x, y, w, h) in enumerate(boxes):
        assert x >= 0
        assert x + w <= width
        assert y >= 0
        assert y + h <= height
        for other_x, other_y, _, _ in boxes[:n]:
            assert abs(x - other_x) >= w or abs(y - other_y) >= h
    edges = [path.get("d", "") for path in picture.iter(f"{space}path")]
    assert len(edges) == sum(other in rules for rule in rules for other in FEEDS[rule])
    assert all(re.fullmatch(r"M\d+ \d+([HVv]\d+)+m.*", edge) for edge in edges)
    words = [text.text for text in picture.iter(f"{space}text")]
    assert set(rules) <= set(words)
    assert "1\N{NO-BREAK SPACE}min 15\N{NO-BREAK SPACE}s, 2 jobs" in words
