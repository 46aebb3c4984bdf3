"""A job that fails is tried again where that can help: on the nodes of a cluster, whose walltime and memory end."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
from running import ROOT, command, importing, write

from unetpipe.config import Engine

pytestmark = pytest.mark.workflow


@pytest.mark.parametrize(
    ("where", "tries"),
    [
        pytest.param(["--executor", "local"], 1, id="this machine"),
        pytest.param(
            ["--executor", "pretended", "--jobs", "1", "--seconds-between-status-checks", "1"], 3, id="a cluster"
        ),
    ],
)
@pytest.mark.long
def test_a_prediction_that_fails_is_tried_again_on_a_cluster_alone(
    where: list[str], tries: int, tmp_path: Path, settings: dict[str, Any]
) -> None:
    settings["engine"] = {"backend": "openvino"}
    results = tmp_path / "results" / "small"
    for path in ("predictions/test/allocated.json", f"engine/{Engine(backend='openvino').folder}/certificate.json"):
        (results / path).parent.mkdir(parents=True)
        (results / path).write_text("{")
    configuration = ["--configfile", write(tmp_path, settings)]
    result = subprocess.run(
        command(
            tmp_path, *configuration, *where, "--allowed-rules", "predict",
            "--", "results/small/predictions/test/job-0.json",
        ),
        env=importing(ROOT / "tests" / "support"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=280,
        check=False,
    )  # fmt: skip
    assert result.returncode == 1, result.stdout
    # What the user is told.
    assert result.stdout.count("allocated.json was to be read\n  found: it is no whole JSON") == tries, result.stdout
