"""Run the workflow as a user would."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]

SMALL: dict[str, Any] = {
    "run": "small",
    "classes": {"membrane": [0], "inside": [128, 255]},
    "phantom": {"shape": [10, 128, 128], "seed": 3},
    "volumes": {
        "train": {"role": "train", "image": "phantom", "labels": "phantom", "sections": [0, 5]},
        "validate": {"role": "validate", "image": "phantom", "labels": "phantom", "sections": [5, 7]},
        "test": {"role": "test", "image": "phantom", "labels": "phantom", "sections": [7, 10]},
    },
    "network": {"width": 4, "depth": 2},
    "augment": {"samples": 16, "tile": [104, 104], "border_class": "membrane"},
    "train": {"steps": 60, "batch": 2, "validate_every": 30, "checkpoint_every": 20, "threads": 1},
    "engine": {"precision": "fp32"},
    "predict": {"workers": 1, "labels": True},
}


def command(folder: Path, *arguments: str) -> list[str]:
    """The command line of snakemake in ``folder``."""
    start = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder)]
    return [*start, "--cores", "2", *arguments]


def importing(folder: Path) -> dict[str, str]:
    """An environment in which every Python finds the modules in ``folder``, and those that it found before."""
    path = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(path)}


def watched(calls: Path) -> dict[str, str]:
    """An environment in which every Python notes in the file ``calls`` whom it calls on other machines."""
    return importing(ROOT / "tests" / "support" / "watched") | {"CALLS": str(calls)}


def call(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run snakemake to its end; output and errors together. What its processes call elsewhere is in the file calls."""
    return subprocess.run(
        command(folder, *arguments),
        env=watched(folder / "calls"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=280,
        check=False,
    )


def write(folder: Path, settings: dict[str, Any], name: str = "c.yaml") -> str:
    """A configuration file in ``folder``."""
    (folder / name).write_text(yaml.safe_dump(settings, sort_keys=False))
    return str(folder / name)
