"""Objects are numbered where the settings ask for it, and by jobs of their own."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from running import call, write
from segmenting import in_memory

pytestmark = [pytest.mark.workflow, pytest.mark.long]


def test_objects_are_numbered_where_it_is_asked_for(small_run: Path, settings: dict[str, Any], tmp_path: Path) -> None:
    shutil.copytree(small_run / "results", tmp_path / "results", copy_function=shutil.copy2)
    shutil.copytree(small_run / ".snakemake", tmp_path / ".snakemake")
    results = tmp_path / "results" / "small"
    assert not (results / "segments").exists()
    settings["segment"] = {"threshold": "validation", "min_voxels": 5}
    result = call(tmp_path, "--configfile", write(tmp_path, settings))
    assert result.returncode == 0, result.stdout
    assert "rule predict:" not in result.stdout
    assert "rule evaluate:" not in result.stdout
    probability = zarr.open_array(results / "predictions" / "test" / "probability.zarr" / "0", mode="r")[1]
    found = json.loads((results / "segments" / "test" / "segments.json").read_text())
    assert found["threshold_chosen_on"] == ["validate"]
    chosen = json.loads((results / "scores" / "test.json").read_text())["segments"]["validation"]["threshold"]
    assert found["threshold"] == chosen
    expected = in_memory(probability > round(chosen * 10) * 25.5, min_voxels=5)
    objects = zarr.open_array(results / "segments" / "test" / "segments.zarr" / "0", mode="r")[...]
    np.testing.assert_array_equal(objects, expected)
    assert f"{found['count']:,} objects" in (results / "report.html").read_text()
    again = call(tmp_path, "--configfile", str(tmp_path / "c.yaml"))
    assert "Nothing to be done" in again.stdout
    settings["segment"]["min_voxels"] = 50
    dry = call(tmp_path, "--dry-run", "--configfile", write(tmp_path, settings)).stdout
    assert "rule segment:" in dry
    assert "rule predict:" not in dry
