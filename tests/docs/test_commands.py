"""Every command, configuration and piece of Python in the documentation: parsed by what it calls, or run as written.

What is run, runs in a folder that has what the README asks for: ``mine.yaml`` as it stands there, but for a small
network, with data at the addresses that it names. A command of no known kind fails.
"""

import ast
import importlib.util
import itertools
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import buckets
import numpy as np
import pytest
import tifffile
import yaml
from documents import ROOT, Command, Place, blocks, commands, mentioned
from running import SMALL
from stores import make_store
from uploading import upload

from unetpipe.cli import parser
from unetpipe.config import Settings
from unetpipe.data.phantom import phantom
from unetpipe.parse import parse
from unetpipe.volume import LEVEL

BIN = Path(sys.executable).parent
COMMANDS = commands()

RUN = ("check", "fsck", "package", "plan", "preview", "status")
"""Commands of unetpipe that are run as they stand."""

RUN_ELSEWHERE = {
    "unetpipe view": "it serves until it is ended: tests/viewer",
    "unetpipe reproduce": "it makes a run again: tests/workflow/test_reproduce.py",
    "snakemake --workflow-profile workflow/profiles/slurm": "it needs SLURM: tests/slurm",
    "snakemake --cores all --configfile config/phc-u373.yaml": "it needs the series: tests/workflow/test_cells.py",
    "snakemake --cores all --configfile config/dic-hela.yaml": "it needs the series: tests/workflow/test_cells.py",
    "snakemake --cores all --configfile config/isbi2012.yaml": "it needs the stacks: tests/workflow/test_isbi.py",
}
"""Commands that are only parsed here, by how they begin, and why."""

NOT_HERE = {
    "docker": "no image is built by the tests, as docs/hpc.md says",
    "napari": "no part of the environment, as it needs a display",
}
"""Programs that are not called at all, and why."""

NOT_INSTALLED = {"napari"}
"""Packages that Python in the documentation may ask for and the environment does not have."""


def words(command: Command) -> str:
    """The command without the folder of its program."""
    return " ".join((command.program, *command.words[1:]))


def elsewhere(command: Command) -> str | None:
    """Why a command is not run here; None if it is not one of these."""
    return next((why for start, why in RUN_ELSEWHERE.items() if words(command).startswith(start)), None)


def is_run(command: Command) -> bool:
    """Whether a command is run as it stands."""
    if elsewhere(command) is not None:
        return False
    return command.program == "snakemake" or (command.program == "unetpipe" and command.words[1] in RUN)


def refuse_extras(requirement: str) -> None:
    """Fail unless the package has the extras of ``.[a,b]`` or ``unetpipe[a]``."""
    found = re.fullmatch(r"(?:\.|unetpipe)\[([\w,-]+)\]", requirement)
    assert found, requirement
    there = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(found[1].split(",")) <= set(there)


def parse_by_tool(command: Command) -> None:
    """Let what a command calls read it; fails where it refuses."""
    program, arguments = command.program, list(command.words[1:])
    if program == "unetpipe":
        if "--help" not in arguments:
            parser().parse_args(arguments)
    elif program == "snakemake":
        from snakemake.cli import get_argument_parser

        get_argument_parser().parse_args(arguments)
        for place, word in enumerate(arguments):
            if word.startswith(("--configfile", "--snakefile", "--workflow-profile")):
                assert arguments[place + 1] in ("mine.yaml", "FILE") or (ROOT / arguments[place + 1]).exists()
    elif program == "make":
        done = subprocess.run(["make", "--dry-run", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    elif program == "pip":
        assert arguments[0] == "install"
        refuse_extras(arguments[-1])
    else:
        assert program in NOT_HERE, "a new kind of command: let this file run it, parse it, or say why neither is done"
        for option, value in itertools.pairwise(arguments):
            assert option != "--file" or (ROOT / value).is_file()


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_a_command_is_what_its_program_takes(command: Command) -> None:
    parse_by_tool(command)
    if command.program in ("unetpipe", "snakemake"):
        assert is_run(command) or elsewhere(command), "neither run nor known to be run elsewhere"


def test_a_command_within_a_sentence_is_what_its_program_takes() -> None:
    # With names in sharp brackets and in capitals, and without what a command needs where it is only named.
    for command in mentioned():
        if command.program == "unetpipe" and len(command.words) == 2:
            assert command.words[1] in parser().format_help().split(), command
        else:
            parse_by_tool(command)


def test_what_is_not_run_is_there_and_has_a_reason() -> None:
    assert {start for start in RUN_ELSEWHERE if not any(words(c).startswith(start) for c in COMMANDS)} == set()
    assert set(NOT_HERE) == {c.program for c in COMMANDS} - {"unetpipe", "snakemake", "make", "pip"}


def test_an_unknown_command_or_option_is_found() -> None:
    place = Place(ROOT / "README.md", 1, "sh", "")
    for text in ("unetpipe chekc mine.yaml", "unetpipe plan mine.yaml --core 2 x", "snakemake --core-s", "make dmeo",
                 "pip install -e .[nothing]", "curl example.org"):  # fmt: skip
        with pytest.raises((AssertionError, SystemExit)):
            parse_by_tool(Command(place, text, tuple(text.split())))


def complete(settings: dict[str, Any]) -> bool:
    """Whether settings are a configuration by themselves, but for its name."""
    return {"classes", "volumes"} <= set(settings)


def mine() -> dict[str, Any]:
    """The configuration of the README."""
    every = [yaml.safe_load(block.text) for block in blocks("yaml")]
    settings: dict[str, Any]
    (settings,) = [settings for settings in every if "run" in settings]
    return settings


def merged(settings: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """``settings`` with ``changes``, level by level."""
    for key, value in changes.items():
        inner = settings.get(key)
        settings[key] = merged(dict(inner), value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return settings


@pytest.mark.parametrize("block", blocks("yaml"), ids=str)
def test_a_configuration_or_a_part_of_one_can_be_used(block: Place) -> None:
    settings = yaml.safe_load(block.text)
    assert set(settings) <= set(Settings.model_fields)
    parse({"run": "part", **settings} if complete(settings) else merged(mine(), settings), str(block))


@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_python_is_python(block: Place) -> None:
    imported = {
        name.split(".")[0]
        for node in ast.walk(ast.parse(block.text))
        for name in ([a.name for a in node.names] if isinstance(node, ast.Import) else [getattr(node, "module", "")])
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    assert {name for name in imported if importlib.util.find_spec(name) is None} <= NOT_INSTALLED


def called(folder: Path, text: str) -> str:
    """What a line of the shell says in ``folder``; fails where it fails."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text],
        cwd=folder,
        env=os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{text}\n{done.stdout}"
    return done.stdout


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of the repository as a lab has it, with data, after the README's run."""
    folder = tmp_path_factory.mktemp("lab")
    for name in ("Snakefile", "config", "unetpipe", "workflow"):
        (folder / name).symlink_to(ROOT / name)
    (folder / ".venv").symlink_to(BIN.parent)
    (folder / "data").mkdir()
    image, labels = folder / "data" / "em.tif", folder / "data" / "labels.tif"
    phantom(image, labels, shape=[20, 128, 128], voxel_size_nm=[40.0, 4.0, 4.0], seed=3, missing=None, fold=None)
    # The README has two classes.
    tifffile.imwrite(labels, np.where(tifffile.imread(labels) == 0, 0, 255).astype(np.uint8), photometric="minisblack")
    whole = make_store(
        folder / "whole.zarr", shape=(4, 256, 256), dtype="uint8", chunk=(4, 128, 128), shard=(4, 256, 256),
        voxel_size_nm=(40.0, 4.0, 4.0),
    )  # fmt: skip
    whole[...] = np.tile(tifffile.imread(image)[:4], (1, 2, 2))
    assert (folder / "whole.zarr" / LEVEL).is_dir()
    small = {key: deepcopy(SMALL[key]) for key in ("network", "augment", "train", "engine", "predict")}
    (folder / "mine.yaml").write_text(yaml.safe_dump(merged(mine(), small | {"segment": {}}), sort_keys=False))
    with buckets.server() as endpoint, pytest.MonkeyPatch.context() as patch:
        buckets.make_bucket(endpoint, "lab")
        upload(folder / "whole.zarr", endpoint, "lab", "whole.zarr")
        for name, value in buckets.environment(endpoint).items():
            patch.setenv(name, value)
        called(folder, next(command.text for command in COMMANDS if command.program == "snakemake" and is_run(command)))
        yield folder


TO_RUN = {words(command): command for command in COMMANDS if is_run(command)}


@pytest.mark.long
@pytest.mark.workflow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("command", TO_RUN.values(), ids=list(TO_RUN))
def test_a_command_runs_as_written(command: Command, lab: Path) -> None:
    said = called(lab, command.text)
    if command.program == "snakemake":
        assert "Nothing to be done" in said
    assert "Traceback" not in said


@pytest.mark.long
@pytest.mark.workflow
@pytest.mark.parametrize("page", sorted({block.page for block in blocks("python")}), ids=lambda page: page.name)
def test_python_runs_as_written(page: Path, lab: Path) -> None:
    code = [block.text for block in blocks("python") if block.page == page]
    here = [text for text in code if not any(f"import {name}" in text for name in NOT_INSTALLED)]
    assert here
    (lab / "page.py").write_text("\n".join(here))
    called(lab, "python page.py")
