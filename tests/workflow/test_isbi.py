"""A network that has learnt from real sections, in every engine and precision that there is here."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from running import ROOT, call, importing, write

pytestmark = [pytest.mark.workflow, pytest.mark.long]


def table(text: str) -> dict[tuple[str, str], list[str]]:
    """The further cells, by engine and precision."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    return {(row[0], row[1]): row[2:] for row in rows[1:]}


@pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx is not installed")
def test_it_runs_in_every_engine_or_is_built_for_those_that_cannot_run(isbi_dir: Path, tmp_path: Path) -> None:
    settings = yaml.safe_load((ROOT / "config" / "isbi2012.yaml").read_text())
    settings["train"] |= {"steps": 30, "validate_every": 30}
    settings["augment"] |= {"samples": 8}
    settings["volumes"]["train"]["sections"], settings["volumes"]["validate"]["sections"] = [0, 3], [16, 17]
    wanted = ["model/checkpoint.safetensors", "volumes/validate/volume.json"]
    configured = ["--configfile", write(tmp_path, settings), "--config", f"data_dir={isbi_dir}"]
    result = call(tmp_path, *configured, "--", *(f"results/isbi2012/{name}" for name in wanted))
    assert result.returncode == 0, result.stdout
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks.precisions", "results/isbi2012"],
        cwd=tmp_path, env=importing(ROOT) | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2")},
        stdout=subprocess.PIPE, text=True, timeout=280, check=True,
    )  # fmt: skip
    found = table(result.stdout)
    for precision in ("fp32", "bf16", "fp16", "int8"):
        assert "built twice with equal bytes" in found["tensorrt_rtx", precision][1], precision
    for backend in ("openvino", "onnxruntime"):
        _, iou, _, fall, changed, *_ = found[backend, "fp32"]
        assert 0 < float(iou) < 1
        assert abs(float(fall)) < 1e-4
        assert float(changed) < 0.01
    # int8 costs something, and not much.
    assert 0 < float(found["onnxruntime", "int8"][4]) < 10
