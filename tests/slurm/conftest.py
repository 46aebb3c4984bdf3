"""A cluster, and one small run on this machine alone, with whose bytes all others are compared."""

import shutil
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import slurm
import torch
from running import SMALL, call, write

from unetpipe import config
from unetpipe.nets.build import build
from unetpipe.nets.checkpoint import save_checkpoint

VOLUME = "test"
"""Which is predicted in 27 blocks."""


_TOLD = pytest.StashKey[list[str]]()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """One line for all."""
    if told := config.stash.get(_TOLD, []):
        terminalreporter.write_line(f"SLURM: {'; '.join(told)}")


@pytest.fixture(scope="session")
def told(request: pytest.FixtureRequest) -> list[str]:
    """What is to stand in the line of summary."""
    return request.config.stash.setdefault(_TOLD, [])


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest, told: list[str]) -> Iterator[None]:
    """SLURM, while the tests of this folder run."""
    if "slurm" not in request.config.option.markexpr:
        pytest.skip("installs SLURM and writes /etc/slurm: make test-slurm runs it")
    if reason := slurm.unavailable():
        pytest.skip(f"no SLURM here: {reason}")
    with slurm.running():
        yield
        jobs = slurm.said("squeue", "--noheader", "--states=all", "--format=%i").split()
        told.insert(0, f"{max(map(int, jobs), default=0)} jobs, {len(slurm.queue())} of them left in the queue")


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Settings of a run with a model that nobody has trained."""
    settings = deepcopy(SMALL)
    model = tmp_path_factory.mktemp("model") / "checkpoint.safetensors"
    torch.manual_seed(1)
    network, classes = config.Network(**settings.pop("network")), list(settings["classes"])
    save_checkpoint(model, build(network, len(classes)), {"classes": classes})
    del settings["augment"], settings["train"], settings["volumes"]["train"], settings["volumes"]["validate"]
    settings["model"] = str(model)
    settings["phantom"] = {"shape": [28, 128, 128], "seed": 3}
    settings["volumes"][VOLUME]["sections"] = [4, 28]
    settings["engine"] = {"backend": "openvino", "precision": "fp32"}
    settings["predict"] = {
        "workers": 1,
        "tile": [84, 84],
        "batch": 1,
        "memory_mb": 1000,
        "labels": True,
        "grace_seconds": 2.0,
    }
    settings["cores"] = 1
    return settings


@pytest.fixture(scope="session")
def planned(base: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which everything is done but to predict."""
    folder = tmp_path_factory.mktemp("planned")
    target = f"results/small/predictions/{VOLUME}/allocated.json"
    result = call(folder, "--configfile", write(folder, base), "--", target)
    assert result.returncode == 0, result.stdout
    return folder


@pytest.fixture(scope="session")
def unbroken(base: dict[str, Any], planned: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the whole run, on this machine."""
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    shutil.copytree(planned, folder)
    result = call(folder, "--configfile", write(folder, base))
    assert result.returncode == 0, result.stdout
    return folder
