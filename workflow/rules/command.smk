"""What repeats a run."""

import os
import shlex
from pathlib import Path


def configuration():
    """The configuration files of this run, from the working directory where they lie in it."""
    paths = [Path(path).resolve() for path in workflow.configfiles]
    return [os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path) for path in paths]


def command(*options):
    """The command that repeats this run, with ``options`` first."""
    words = ["snakemake", "--cores", "all", *options]
    for path in workflow.config_settings.configfiles:
        words += ["--configfile", os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)]
    if workflow.config_settings.config:
        words += ["--config", *(f"{key}={value}" for key, value in workflow.config_settings.config.items())]
    return shlex.join(words)
