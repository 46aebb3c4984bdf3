"""report.json says what the page says, and what a run can be repeated and compared by."""

import json
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unetpipe.config import Settings
from unetpipe.files import read_json, write_json
from unetpipe.report.facts import SCHEMA
from unetpipe.report.render import report

pytestmark = pytest.mark.usefixtures("without_curves")

MakeRun = Callable[..., dict[str, Any]]

VOLUMES = {"train": "train", "validate": "validate", "test": "test", "rest": "predict"}


@pytest.fixture(scope="module")
def made(make_shared_run: MakeRun) -> tuple[dict[str, Any], dict[str, Any]]:
    """A run and its report.json, not to be changed."""
    run = make_shared_run(VOLUMES, name="facts", unlabelled=["rest"])
    report(**run)
    return run, read_json(run["facts"])


def test_it_holds_what_repeats_the_run(made: tuple[dict[str, Any], dict[str, Any]]) -> None:
    run, facts = made
    assert facts["schema"] == SCHEMA == 1
    assert facts["command"] == run["command"]
    assert facts["settings"] == run["settings"]
    assert facts["seed"] == run["settings"]["seed"]
    assert facts["configuration"] == {path: Path(path).read_text() for path in run["configuration"]}
    assert facts["versions"]["python"] == platform.python_version()
    assert facts["device_class"] == read_json(run["certificate"])["device_class"]
    assert set(facts["settings"]) == set(Settings.model_fields)


def test_inputs_and_results_are_those_of_the_files(made: tuple[dict[str, Any], dict[str, Any]]) -> None:
    run, facts = made
    assert set(facts["inputs"]) == set(VOLUMES)
    for path in run["volumes"]:
        volume, told = read_json(path), facts["inputs"][path.parent.name]
        assert (told["image_digest"], told["labels_digest"]) == (volume["image_digest"], volume["labels_digest"])
        assert told["image"] == run["settings"]["volumes"][path.parent.name]["image"]
        assert told["role"] == VOLUMES[path.parent.name]
    digests, proof = facts["digests"], read_json(run["certificate"])
    assert list(digests)[:5] == ["samples", "checkpoint", "onnx", "engine", "predictions"]
    assert digests["samples"] == read_json(run["samples"])["digest"]
    assert digests["onnx"] == proof["onnx_digest"]
    for path in run["predictions"]:
        name = path.parent.name
        assert digests["predictions"][name]["digest"] == read_json(path)["digest"]
        assert digests["predictions"][name]["plan"] == read_json(path.with_name("allocated.json"))["plan"]
    for path in run["scores"]:
        assert facts["scores"][path.stem]["mean_iou"] == read_json(path)["mean_iou"]
    assert set(facts["quality"]) == {"validate", "test", "rest"}


def test_what_is_compared_tells_of_neither_place_nor_time(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run({"train": "train", "test": "test"})
    report(**run)
    facts = read_json(run["facts"])
    compared = json.dumps([facts[key] for key in ("inputs", "digests", "scores")])
    assert str(tmp_path) not in compared
    assert platform.node() not in compared
    before = run["facts"].read_bytes()
    os.utime(run["certificate"])
    report(**run)
    assert run["facts"].read_bytes() == before


def test_jobs_that_share_a_prediction_have_one_digest(make_run: MakeRun) -> None:
    run = make_run({"test": "test"}, trained=False)
    (job,) = run["predictions"]
    write_json(other := job.with_name("job-1.json"), read_json(job) | {"job": "job-1", "digest": "7" * 64})
    run["predictions"].append(other)
    report(**run)
    (told,) = read_json(run["facts"])["digests"]["predictions"].values()
    assert told["jobs"] == {"job-0": "d" * 64, "job-1": "7" * 64}
    assert len({told["digest"], *told["jobs"].values()}) == 3
    assert read_json(run["facts"])["digests"]["samples"] is None


def test_it_does_not_grow_with_the_volume(make_run: MakeRun) -> None:
    run = make_run({"test": "test"}, trained=False)
    report(**run)
    size = run["facts"].stat().st_size
    score, quality = read_json(run["scores"][0]), read_json(run["quality"][0])
    write_json(run["scores"][0], score | {"per_section": score["per_section"] * 2000})
    sections = {
        key: np.repeat(values, 2000).tolist() for key, values in quality["per_section"].items() if key != "shares"
    }
    shares = quality["per_section"]["shares"] * 2000
    write_json(run["quality"][0], quality | {"per_section": {**sections, "shares": shares}})
    report(**run)
    assert run["facts"].stat().st_size == size


def test_figures_are_files_of_what_the_page_shows(made: tuple[dict[str, Any], dict[str, Any]]) -> None:
    run, _ = made
    names = {path.name for path in run["figures"].iterdir()}
    for name in (
        "workflow.svg", "training-loss.svg", "training-iou.svg", "scores-classes.svg", "scores-test-per_section.svg",
        "scores-test-precision_recall.svg", "quality-rest-uncertainty.svg", "quality-test-shares.svg",
    ):  # fmt: skip
        assert name in names
    assert not any(name.startswith("scores-rest") for name in names)
    assert all((run["figures"] / name).read_text().lstrip().startswith(("<?xml", "<svg")) for name in names)
