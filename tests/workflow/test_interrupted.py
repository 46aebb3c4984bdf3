"""A run that is interrupted leaves nothing that a later run would take for whole, and goes on where it stopped."""

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from running import call, command, write

pytestmark = pytest.mark.workflow


@pytest.mark.long
def test_ctrl_c_in_training(tmp_path: Path, settings: dict[str, Any]) -> None:
    settings["train"] |= {"steps": 200, "validate_every": 100}
    configuration = write(tmp_path, settings)
    results = tmp_path / "results" / "small"
    with (tmp_path / "output").open("wb") as output:
        # In a session of its own, as in a terminal of its own: Ctrl-C reaches all its processes.
        process = subprocess.Popen(
            command(tmp_path, "--configfile", configuration),
            start_new_session=True,
            # A test runner in the background may have been told to ignore Ctrl-C; its children would be too.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        while process.poll() is None and not list((results / "model" / "resume").glob("*/state.safetensors")):
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        status = process.wait(timeout=60)
    text = (tmp_path / "output").read_text()
    assert status != 0, text
    assert "a rerun with the same settings goes on from step" in text
    assert "Traceback" not in text
    assert not (results / "model" / "checkpoint.safetensors").exists()
    result = call(tmp_path, "--configfile", configuration, "--rerun-incomplete")
    assert result.returncode == 0, result.stdout
    assert "going on from step" in result.stdout
    assert "rule ingest" not in result.stdout
    assert (results / "report.html").exists()
