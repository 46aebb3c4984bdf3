"""An ablation as its users run it."""

import json
import subprocess
import sys
import time
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from pages_of_html import faults
from running import ROOT, SMALL

from unetpipe.status import status

pytestmark = pytest.mark.workflow


def call(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run the ablation of c.yaml in ``folder``."""
    return subprocess.run(
        [
            sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "workflow" / "ablation.smk"),
            "--directory", str(folder), "--cores", "2", "--configfile", str(folder / "c.yaml"), *arguments,
        ],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=280, check=False,
    )  # fmt: skip


@pytest.mark.long
def test_variants_stand_beside_each_other(tmp_path: Path) -> None:
    common: dict[str, Any] = deepcopy(SMALL)
    volumes = common.pop("volumes")
    del common["run"]
    common["train"] |= {"steps": 10, "validate_every": 5, "checkpoint_every": 5}
    settings = {
        "ablation": "few",
        "common": common,
        "datasets": {"phantom": {"title": "<Phantom>", "seeds": [1], "settings": {"volumes": volumes}}},
        "variants": {
            "unet": {"title": "the U-Net"},
            "patches": {"title": "patches", "settings": {"network": {"name": "patch_classifier"}}},
        },
    }
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    result = call(tmp_path)
    assert result.returncode == 0, result.stdout
    page = (tmp_path / "results" / "few" / "report.html").read_text()
    found = json.loads((tmp_path / "results" / "few" / "ablation.json").read_text())
    scores = [
        json.loads((tmp_path / "results" / f"few-phantom-{name}-1" / "scores" / "test.json").read_text())
        for name in ("unet", "patches")
    ]
    assert [run["scores"]["mean_iou"] for run in found["runs"]] == [score["mean_iou"] for score in scores]
    for score in scores:
        assert f"{score['mean_iou']:.4f}" in page
    assert "multiply-adds" in page
    assert "&lt;Phantom&gt;" in page
    assert "<Phantom>" not in page
    assert faults(page) == []
    told = status(tmp_path / "results" / "few", time.time())
    assert all(sentence in told for sentence in found["conclusions"])
    assert "report.html" in told
    # More seeds are more runs; what is there is not run again.
    again = call(tmp_path)
    assert "Nothing to be done" in again.stdout, again.stdout
    settings["datasets"]["phantom"]["seeds"] = [1, 2]
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    planned = call(tmp_path, "--dry-run", "--quiet", "rules")
    assert "few-phantom-unet-2" in planned.stdout
    assert "few-phantom-unet-1" not in planned.stdout, planned.stdout
    # A variant that is changed is trained and predicted again.
    settings["datasets"]["phantom"]["seeds"] = [1]
    settings["variants"]["patches"]["settings"]["train"] = {"steps": 5}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    changed = call(tmp_path)
    assert changed.returncode == 0, changed.stdout
    assert "rule few-phantom-unet-1" not in changed.stdout
    assert json.loads((tmp_path / "results" / "few" / "ablation.json").read_text())["runs"][1]["step"] == 5


def test_mistakes_come_before_any_job(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("ablation: few\ncommon: {}\ndatasets: {}\nvariants: {}\n")
    result = call(tmp_path)
    assert result.returncode == 1
    assert "2 mistakes" in result.stdout
    assert "Traceback" not in result.stdout
    assert not (tmp_path / "results").exists()
