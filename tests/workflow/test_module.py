"""The workflow as a part of another one, which lies elsewhere."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from running import ROOT, write

pytestmark = [pytest.mark.workflow, pytest.mark.long]

OTHER = """
    configfile: "c.yaml"

    module segmentation:
        snakefile: "{root}/Snakefile"
        config: config["segmentation"]
        {prefix}

    use rule * from segmentation as segmentation_*

    rule share:
        default_target: True
        input: "results/small/predictions/test/job-0.json"
        output: "share.json"
        shell: "cp {{input}} {{output}}"
"""


def call(folder: Path, *arguments: str, prefix: str = "") -> "subprocess.CompletedProcess[str]":
    """Run the other workflow in its own folder."""
    (folder / "Snakefile").write_text(textwrap.dedent(OTHER).format(root=ROOT, prefix=prefix))
    return subprocess.run(
        [sys.executable, "-m", "snakemake", "--cores", "2", *arguments],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=280, check=False,
    )  # fmt: skip


def test_another_workflow_takes_it_as_a_module(small_run: Path, settings: dict[str, Any], tmp_path: Path) -> None:
    model = small_run / "results" / "small" / "model" / "checkpoint.safetensors"
    # Of a phantom that was trained on, what is predicted does not depend on who asks.
    wanted = {"model": str(model), "network": None, "augment": None, "train": None}
    changed = {name: value for name, value in (settings | wanted).items() if value is not None}
    write(tmp_path, {"segmentation": changed})
    result = call(tmp_path)
    assert result.returncode == 0, result.stdout
    assert "rule segmentation_predict:" in result.stdout
    assert "rule segmentation_train:" not in result.stdout
    assert json.loads((tmp_path / "share.json").read_text())["blocks"] > 0
    shards = "results/small/predictions/test/probability.zarr/0/c"
    ours, theirs = (
        {path.relative_to(folder): path.read_bytes() for path in (folder / shards).rglob("*") if path.is_file()}
        for folder in (tmp_path, small_run)
    )
    assert ours == theirs
    assert "Nothing to be done" in call(tmp_path).stdout


def test_stores_stay_where_their_descriptions_say(settings: dict[str, Any], tmp_path: Path) -> None:
    write(tmp_path, {"segmentation": settings})
    result = call(tmp_path, "--dry-run", prefix='prefix: "elsewhere"')
    assert result.returncode != 0
    assert "`run` and --directory" in result.stdout
    assert "Traceback" not in result.stdout
