"""The workflow as its users run it."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from running import ROOT, call, watched, write

pytestmark = pytest.mark.workflow


def jobs(output: str) -> dict[str, int]:
    """The rules that a dry run would run, and how often."""
    table = re.search(r"Job stats:\njob\s+count\n-+\s+-+\n(.*?)\ntotal", output, re.DOTALL)
    return {name: int(count) for name, count in re.findall(r"(\S+)\s+(\d+)", table[1])} if table else {}


def test_the_run_leaves_what_the_design_says(small_run: Path) -> None:
    results = small_run / "results" / "small"
    scores = json.loads((results / "scores" / "test.json").read_text())
    assert scores["role"] == "test"
    assert 0 < scores["mean_iou"] <= 1
    assert scores["classes"].keys() == {"membrane", "inside"}
    probability = zarr.open_array(results / "predictions" / "test" / "probability.zarr" / "0", mode="r")
    assert probability.shape == (2, 3, 128, 128)
    total = probability[...].astype(int).sum(axis=0)
    assert np.abs(total - 255).max() <= 1, "the probabilities of a voxel add up to one"
    labels = zarr.open_array(
        results / "predictions" / "test" / "probability.zarr" / "labels" / "classes" / "0", mode="r"
    )
    np.testing.assert_array_equal(labels[...], probability[...].argmax(axis=0))
    made = json.loads((results / "predictions" / "test" / "pyramid.json").read_text())
    assert (len(made["levels"]), made["labels"]) == (1, "labels/classes")
    assert (results / "report.html").stat().st_size > 10_000
    facts = json.loads((results / "report.json").read_text())
    assert facts["configuration"] == {"c.yaml": (small_run / "c.yaml").read_text()}
    assert facts["rules"]["predict"]["jobs"] == 2
    assert (results / "figures" / "scores-test-per_section.svg").exists()
    assert (results / "logs" / "train.log").read_text().strip()


def test_no_process_calls_another_machine(small_run: Path, tmp_path: Path) -> None:
    calls = small_run / "calls"
    assert not calls.exists(), calls.read_text()
    # All were watched, workers of Dask and processes that measure among them; and it would be noticed.
    looked = (small_run / "calls.watched").read_text()
    for process in ("train.py", "certify.py", "predict.py", "spawn_main", "unetpipe.measure"):
        assert process in looked, process
    code = "import socket; socket.getaddrinfo('elsewhere.invalid', 80)"
    noted = watched(tmp_path / "calls")
    subprocess.run([sys.executable, "-c", code], env=noted, stderr=subprocess.DEVNULL, check=False)
    assert "elsewhere.invalid" in (tmp_path / "calls").read_text()


def test_a_second_run_has_nothing_to_do(small_run: Path) -> None:
    result = call(small_run, "--configfile", str(small_run / "c.yaml"))
    assert result.returncode == 0
    assert "Nothing to be done" in result.stdout


def test_every_file_that_a_job_makes_is_asked_for_but_the_phantom(tmp_path: Path, settings: dict[str, Any]) -> None:
    # What is not asked for is not missed once what is made from it is there. The phantom is a source, as others' files.
    del settings["engine"]  # so that there are lower precisions
    shown = call(tmp_path, "--dry-run", "--configfile", write(tmp_path, settings)).stdout
    made = {path for paths in re.findall(r"^    output: (.*)$", shown, re.MULTILINE) for path in paths.split(", ")}
    (asked,) = re.findall(r"^(?:local)?rule all:\n    input: (.*)$", shown, re.MULTILINE)
    assert made - set(asked.split(", ")) == {f"results/small/phantom/{name}.tif" for name in ("image", "labels")}


@pytest.mark.parametrize(
    ("gone", "again"),
    [
        pytest.param(
            ["predictions/test/allocated.json", "predictions/test/probability.zarr"],
            {"allocate": 1, "predict": 1, "pyramid": 1, "evaluate": 1, "quality": 1, "report": 1, "all": 1},
            id="a plan and its store",
        ),
        pytest.param(
            ["engine/auto-fp32/candidates.json"],
            {
                "build_engine": 1,
                "certify": 1,
                "allocate": 2,
                "predict": 2,
                "pyramid": 2,
                "evaluate": 2,
                "quality": 2,
                "report": 1,
                "all": 1,
            },
            id="the engines that were built",
        ),
    ],
)
def test_what_is_deleted_is_made_again(gone: list[str], again: dict[str, int], small_run: Path, tmp_path: Path) -> None:
    finished = small_run / "results" / "small"
    for path in gone:
        (finished / path).rename(tmp_path / Path(path).name)
    try:
        result = call(small_run, "--dry-run", "--configfile", str(small_run / "c.yaml"))
    finally:
        for path in gone:
            (tmp_path / Path(path).name).rename(finished / path)
    assert jobs(result.stdout) == again


def test_a_new_volume_runs_its_own_jobs_alone(small_run: Path, settings: dict[str, Any]) -> None:
    rng = np.random.default_rng(1)
    tifffile.imwrite(small_run / "new.tif", rng.integers(0, 255, (4, 80, 90), np.uint8), photometric="minisblack")
    # First of all: no other volume may depend on its place.
    settings["volumes"] = {"new": {"role": "predict", "image": str(small_run / "new.tif")}} | settings["volumes"]
    result = call(small_run, "--dry-run", "--configfile", write(small_run, settings, "more.yaml"))
    own = dict.fromkeys(["ingest", "allocate", "predict", "pyramid", "quality"], 1)
    assert jobs(result.stdout) == {**own, "report": 1, "all": 1}


@pytest.mark.long
def test_a_model_needs_no_training(small_run: Path, settings: dict[str, Any], tmp_path: Path) -> None:
    settings |= {"run": "model", "model": str(small_run / "results" / "small" / "model" / "checkpoint.safetensors")}
    del settings["volumes"]["train"], settings["volumes"]["validate"]
    result = call(tmp_path, "--configfile", write(tmp_path, settings))
    assert result.returncode == 0, result.stdout
    assert "rule train" not in result.stdout
    assert "rule augment" not in result.stdout
    ours, theirs = (
        json.loads((folder / "results" / run / "predictions" / "test" / "job-0.json").read_text())["digest"]
        for folder, run in ((tmp_path, "model"), (small_run, "small"))
    )
    assert ours == theirs, "the same model gives the same voxels"


@pytest.mark.long
def test_another_seed_is_another_run_and_refused(small_run: Path, settings: dict[str, Any], tmp_path: Path) -> None:
    shutil.copytree(small_run / "results", tmp_path / "results")
    shutil.copytree(small_run / ".snakemake", tmp_path / ".snakemake")
    store = tmp_path / "results" / "small" / "predictions" / "test"
    before = {path: path.read_bytes() for path in store.rglob("*") if path.is_file() and path.suffix != ".json"}
    settings["seed"] = 2
    target = "results/small/predictions/test/allocated.json"
    result = call(tmp_path, target, "--configfile", write(tmp_path, settings))
    assert result.returncode == 1
    assert "was made with other inputs or settings" in result.stdout
    assert "engine: was" in result.stdout
    assert "restart" in result.stdout
    assert "Traceback" not in result.stdout
    assert {path: path.read_bytes() for path in before} == before, "a refusal touches nothing"
    settings["predict"]["on_change"] = "restart"
    result = call(tmp_path, target, "--configfile", write(tmp_path, settings))
    assert result.returncode == 0, result.stdout


def test_mistakes_come_together_before_any_job(tmp_path: Path, settings: dict[str, Any]) -> None:
    settings["network"]["widht"] = 3
    settings["volumes"]["test"]["sections"] = [20, 40]
    settings["volumes"]["new"] = {"role": "predict", "image": "none.tif"}
    configuration = write(tmp_path, settings)
    result = call(tmp_path, "--configfile", configuration)
    checked = subprocess.run(
        [sys.executable, "-m", "unetpipe", "check", configuration],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert (result.returncode, checked.returncode) == (1, 1)
    for output in (result.stdout, checked.stderr):
        assert "3 mistakes" in output
        assert "network.widht: is no setting" in output
        assert "volumes.test.sections" in output
        assert "none.tif" in output
        assert "Traceback" not in output
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(("cores", "threads"), [(None, {"1", "2"}), (1, {"1"}), (9, {"1", "2"})])
def test_a_job_takes_as_many_cores_as_it_may(
    cores: int | None, threads: set[str], settings: dict[str, Any], tmp_path: Path
) -> None:
    settings["cores"] = cores
    shown = call(tmp_path, "--dry-run", "--configfile", write(tmp_path, settings)).stdout
    # Snakemake tells it where it is more than one.
    assert {"1", *re.findall(r"threads: (\d+)", shown)} == threads


def test_a_configuration_stands_alone(tmp_path: Path, isbi_dir: Path) -> None:
    result = call(
        tmp_path,
        "--dry-run",
        "--configfile",
        str(ROOT / "config" / "isbi2012.yaml"),
        "--config",
        f"data_dir={isbi_dir}",
    )
    assert result.returncode == 0, result.stdout
    assert "phantom" not in jobs(result.stdout)
    assert jobs(result.stdout)["ingest"] == 3
    assert "results/demo" not in result.stdout


def test_data_dir_may_be_relative(tmp_path: Path, isbi_dir: Path) -> None:
    (tmp_path / "data").symlink_to(isbi_dir)
    result = call(
        tmp_path, "--dry-run", "--configfile", str(ROOT / "config" / "isbi2012.yaml"), "--config", "data_dir=data"
    )
    assert result.returncode == 0, result.stdout


def test_the_demo_is_what_runs_without_a_configuration(tmp_path: Path) -> None:
    result = call(tmp_path, "--dry-run")
    assert result.returncode == 0, result.stdout
    assert jobs(result.stdout)["phantom"] == 1


def test_snakemakes_own_report(small_run: Path) -> None:
    result = call(small_run, "--configfile", str(small_run / "c.yaml"), "--report", str(small_run / "snakemake.html"))
    assert result.returncode == 0, result.stdout
    page = (small_run / "snakemake.html").read_text()
    for name in ("report.html", "figures/training-loss.svg", "figures/quality-test-uncertainty.svg"):
        assert name in page


def test_an_altered_engine_is_not_used(small_run: Path, tmp_path: Path) -> None:
    shutil.copytree(small_run / "results", tmp_path / "results", copy_function=shutil.copy2)
    shutil.copytree(small_run / ".snakemake", tmp_path / ".snakemake")
    engine = tmp_path / "results" / "small" / "engine" / "auto-fp32" / "engine"
    times = engine.stat()
    data = bytearray(engine.read_bytes())
    data[len(data) // 2] ^= 1
    engine.write_bytes(data)

    os.utime(engine, ns=(times.st_atime_ns, times.st_mtime_ns))
    shutil.rmtree(tmp_path / "results" / "small" / "predictions" / "test")
    target = "results/small/predictions/test/job-0.json"
    result = call(tmp_path, target, "--configfile", str(small_run / "c.yaml"), "--rerun-triggers", "mtime")
    assert result.returncode == 1
    assert "digest" in result.stdout
    assert "Traceback" not in result.stdout
