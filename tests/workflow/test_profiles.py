"""What the profiles and the settings for a cluster make of the rules."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from running import ROOT, command, importing, write

pytestmark = pytest.mark.workflow

PROFILES = ROOT / "workflow" / "profiles"


def planned(folder: Path, settings: dict[str, Any], *arguments: str) -> str:
    """What a dry run says."""
    words = command(folder, "--configfile", write(folder, settings), "--dry-run", *arguments)
    if any("profile" in word or word == "pretended" for word in arguments):
        place = words.index("--cores")
        del words[place : place + 2]
    result = subprocess.run(
        words, env=importing(ROOT / "tests" / "support"), capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def job(output: str, rule: str) -> str:
    """What is said of one job."""
    found = re.search(rf"^(?:local)?rule {rule}:\n(.*?)\n\n", output, re.DOTALL | re.MULTILINE)
    assert found, output
    return found[1]


def test_on_this_machine_jobs_that_run_the_engine_come_one_after_another(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    said = planned(tmp_path, settings | {"gpus": 1}, "--workflow-profile", str(PROFILES / "local"))
    assert "gpu=1" in said
    for rule in ("certify", "allocate", "predict", "build_engine"):
        assert "gpu=1" in job(said, rule), rule
    assert "gpu=" not in job(said, "evaluate")


def test_a_prediction_is_scattered_over_jobs_and_all_are_waited_for(tmp_path: Path, settings: dict[str, Any]) -> None:
    settings["predict"]["jobs"] = 3
    settings["segment"] = {}
    said = planned(tmp_path, settings, "--executor", "pretended", "--jobs", "9")
    assert re.search(r"^predict +6$", said, re.MULTILINE), said
    for rule in ("pyramid", "evaluate", "segment", "report"):
        for number in range(3):
            assert f"/job-{number}.json" in job(said, rule), rule


def test_the_job_that_drives_workers_needs_little(tmp_path: Path, settings: dict[str, Any]) -> None:
    settings["predict"] = {"cluster": "tcp://somewhere:8786"}
    said = job(planned(tmp_path, settings | {"gpus": 1}, "--executor", "pretended", "--jobs", "9"), "predict")
    assert "threads" not in said
    assert "gpu=0" in said


def test_what_the_profile_of_slurm_asks_for() -> None:
    profile = yaml.safe_load((PROFILES / "slurm" / "config.yaml").read_text())
    assert profile["executor"] == "slurm"
    # With a number of cores, snakemake would bound those of all jobs together.
    assert "cores" not in profile
    assert profile["rerun-incomplete"] is True
