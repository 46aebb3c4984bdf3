"""A run made again from its report: the same, refused for its inputs, or first different where it must be."""

import json
import shutil
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from running import SMALL, call, write

from unetpipe.data.phantom import phantom

# Two runs, one after the other.
pytestmark = [pytest.mark.workflow, pytest.mark.long, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def settings_with_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Those of a small run whose volumes are files."""
    settings = deepcopy(SMALL)
    # As few jobs as there can be: each starts a Python.
    del settings["phantom"], settings["volumes"]["validate"]
    settings["train"]["steps"] = 20
    for name in settings["volumes"]:
        settings["volumes"][name] |= {"image": "data/image.tif", "labels": "data/labels.tif"}
    return settings


@pytest.fixture(scope="module")
def finished(settings_with_files: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "data").mkdir()
    phantom(
        folder / "data" / "image.tif", folder / "data" / "labels.tif", shape=[10, 128, 128],
        voxel_size_nm=[40.0, 4.0, 4.0], seed=3, missing=None, fold=None,
    )  # fmt: skip
    result = call(folder, "--configfile", write(folder, settings_with_files))
    assert result.returncode == 0, result.stdout
    return folder


def reproduced(finished: Path, report: Path, folder: Path) -> "subprocess.CompletedProcess[str]":
    words = ["-m", "unetpipe", "reproduce", str(report), "--folder", str(folder), "--data", str(finished)]
    return subprocess.run(
        [sys.executable, *words, "--cores", "2"],
        cwd=folder.parent,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def test_an_untouched_run_is_the_same(finished: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    done = reproduced(finished, finished / "results" / "small" / "report.html", tmp_path / "again")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.rstrip().endswith("the same")
    for step in ("samples", "checkpoint", "ONNX file", "engine", "prediction of test", "scores of test"):
        assert f"same      {step}: " in done.stdout
    assert (tmp_path / "again" / "results" / "small" / "report.json").exists()
    assert {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()} == before, "never in place"


def test_an_altered_input_is_refused_and_named(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "data", tmp_path / "data")
    path = tmp_path / "data" / "image.tif"
    voxels = tifffile.imread(path)
    voxels[8, 60, 60] ^= 1  # of the volume to test alone
    tifffile.imwrite(path, np.ascontiguousarray(voxels), photometric="minisblack")
    done = reproduced(tmp_path, finished / "results" / "small" / "report.json", tmp_path / "again")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "volumes.test.image" in done.stderr
    assert "volumes.train.image" not in done.stderr.rpartition("was to be made again")[2]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "again" / "results" / "small" / "samples.json").exists()


def test_another_seed_differs_first_at_the_samples(finished: Path, tmp_path: Path) -> None:
    told = json.loads((finished / "results" / "small" / "report.json").read_text())
    told["settings"]["seed"] += 1
    report = tmp_path / "results" / "small" / "report.json"
    report.parent.mkdir(parents=True)
    report.write_text(json.dumps(told))
    done = reproduced(finished, report, tmp_path / "again")
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stdout.rstrip().endswith("differs first: samples")
    assert "DIFFERS   checkpoint" in done.stdout
