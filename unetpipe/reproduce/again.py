"""Make a run again in a new folder, from what its report says, and compare."""

import copy
import itertools
import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

import unetpipe
from unetpipe.arrays import ERRORS, Array, open_array
from unetpipe.check import check
from unetpipe.config import PHANTOM
from unetpipe.errors import UserError
from unetpipe.files import read_json
from unetpipe.parse import parse
from unetpipe.reproduce.compare import Comparison, compare
from unetpipe.reproduce.recorded import NAME, Report, altered, read_report
from unetpipe.storage import is_remote, join

Say = Callable[[str], None]

RESULTS = "results"
"""Where the runs lie, seen from where snakemake runs."""

_COMPARED_BYTES = 1 << 26
"""Of voxels that are read at a time from each of two arrays."""


def reproduce(report: Path, folder: Path | None, data: Path | None, cores: int, say: Say) -> Comparison:
    """Make the run of ``report`` again, and compare digests and scores.

    Parameters
    ----------
    report:
        Its ``report.json``, the page beside it, or their folder.
    folder:
        A new one, in which all of it is made; ``reproduced-<run>`` where None.
    data:
        From where relative addresses of the settings count; where None, the folder above the ``results`` in which the
        report lies, or this one if it lies elsewhere.
    cores:
        For snakemake.
    say:
        Takes the lines for the user.

    Raises
    ------
    UserError
        If the report cannot be read, the folder is not new, an input is not what it was, or a job fails.
    """
    path, recorded = read_report(report)
    asked = f"the run of {path} was to be made again"
    # Before anything is made of them: the file may be anybody's.
    run = parse(recorded.settings, str(path)).run
    folder = Path(f"reproduced-{run}") if folder is None else folder
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(asked, f"{folder} is there already", "give a folder that is new: --folder DIR")
    settings = moved(recorded.settings, (_base(path) if data is None else data).absolute())
    asked_for = check(settings, str(path))
    if recorded.inputs.keys() != asked_for.volumes.keys():
        raise UserError(
            asked,
            f"its settings have the volumes {', '.join(asked_for.volumes)}, its inputs {', '.join(recorded.inputs)}",
            "give the report as it was written",
        )
    snakefile = _snakefile(asked)
    for line in _other_circumstances(recorded):
        say(line)
    folder.mkdir(parents=True, exist_ok=True)
    configuration = folder / "config.yaml"
    configuration.write_text(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True), encoding="utf-8")
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(snakefile), "--directory", str(folder)]
    command += ["--cores", str(cores), "--configfile", str(configuration.absolute())]
    results = folder / RESULTS / run

    say(f"in {folder}: its inputs first")
    volumes = {name: f"{RESULTS}/{run}/volumes/{name}/volume.json" for name in recorded.inputs}
    _run(asked, [*command, "--", *volumes.values()])
    changed = altered(recorded.inputs, {name: read_json(folder / path) for name, path in volumes.items()})
    if changed:
        raise UserError(
            asked,
            "; ".join(changed),
            "find the inputs of that time; --data DIR tells from where relative addresses count",
        )
    say("all inputs are what they were; now the run")
    _run(asked, command)
    _, made = read_report(results / NAME)
    before = path.parent

    def predicted(volume: str) -> int | None:
        places = [_predicted(each, volume) for each in (before, results)]
        return differing(places[0], places[1])

    def numbered(volume: str) -> int | None:
        places = [_numbered(each, volume) for each in (before, results)]
        return differing(places[0], places[1])

    return compare(recorded, made, predicted, numbered)


def _base(report: Path) -> Path:
    results = report.absolute().parent.parent
    return results.parent if results.name == RESULTS else Path()


def moved(settings: Mapping[str, Any], base: Path) -> dict[str, Any]:
    """The settings of a run for another folder: what was there is found, and nothing that was made is written again."""
    found = copy.deepcopy(dict(settings))

    def place(holder: dict[str, Any], key: str) -> None:
        address = holder.get(key)
        if address is not None and address != PHANTOM and not is_remote(address):
            holder[key] = str(base / address)

    place(found, "model")
    place(found.get("train", {}), "init")
    for volume in found["volumes"].values():
        for key in ("image", "labels", "mask"):
            place(volume, key)
    # A report may be a stranger's, and whoever leads a scheduler or writes options for `sbatch` runs what he likes. On
    # this machine alone the bytes are the same.
    for key in ("store", "cluster", "slurm"):
        found.get("predict", {}).pop(key, None)
    return found


def _snakefile(asked: str) -> Path:
    places = [Path("Snakefile"), Path(unetpipe.__file__).parents[1] / "Snakefile"]
    for place in places:
        if place.is_file():
            return place.absolute()
    raise UserError(
        asked, "there is no Snakefile here", "call it in the folder of the workflow, where its Snakefile is"
    )


def _other_circumstances(recorded: Report) -> Iterator[str]:
    """What is not as it was, so that digests may differ; said before anything starts."""
    # Not at the top: they know engines.
    from unetpipe.engines.select import device_class
    from unetpipe.report.environment import versions

    if recorded.version != unetpipe.__version__:
        yield f"another version: this is unetpipe {unetpipe.__version__}, that was {recorded.version}"
    here = versions()
    others = [
        f"{name} {here.get(name, 'absent')} (was {version})"
        for name, version in recorded.versions.items()
        if name != "unetpipe" and here.get(name) != version
    ]
    if others:
        yield f"other versions of packages: {', '.join(others)}"
    found = json.loads(json.dumps(device_class(recorded.backend)))
    if found != recorded.device_class:
        yield (
            f"another class of device: this is {_one_line(found)}, that was {_one_line(recorded.device_class)}; "
            "digests of engine and prediction are promised within a class alone"
        )


def _one_line(facts: Any) -> str:
    if isinstance(facts, Mapping):
        return ", ".join(f"{name} {_one_line(value)}" for name, value in facts.items())
    return " ".join(map(str, facts)) if isinstance(facts, list) else str(facts)


def _run(asked: str, command: list[str]) -> None:
    # Its output is the user's, as that of any run; no word of it passes a shell.
    code = subprocess.run(command, check=False).returncode  # noqa: S603
    if code:
        raise UserError(asked, f"snakemake ended with status {code}", "see its messages above")


def _predicted(results: Path, volume: str) -> str | None:
    """The address of the probabilities of a volume; None if they are gone, or nothing whole tells where they are."""
    return _told_by(results, results / "predictions" / volume / "allocated.json", "probability")


def _numbered(results: Path, volume: str) -> str | None:
    """The address of the objects of a volume; None likewise."""
    return _told_by(results, results / "segments" / volume / "segments.json", "segments")


def _told_by(results: Path, description: Path, store: str) -> str | None:
    try:
        told = read_json(description)
        address = join(told[store], told["array"])
    except (FileNotFoundError, UserError, KeyError, TypeError, AttributeError):
        # The run is made by now: what else is there is still compared.
        return None
    return address if is_remote(address) else str(results.absolute().parent.parent / address)


def differing(one: str | None, other: str | None) -> int | None:
    """How many voxels of two arrays differ; None if one is not there, or damaged. Memory is bounded."""
    if one is None or other is None:
        return None
    try:
        first, second = open_array(one), open_array(other)
    except UserError:
        return None
    if first.shape != second.shape:
        return max(math.prod(first.shape), math.prod(second.shape))
    try:
        return sum(int((first[box] != second[box]).sum()) for box in _boxes(first))
    except ERRORS:
        return None


def _boxes(array: Array) -> Iterator[tuple[slice, ...]]:
    """All of an array, in boxes of whole shards as far as their number of bytes allows."""
    size = list(array.shard)
    while math.prod(size) * array.dtype.itemsize > _COMPARED_BYTES:
        longest = int(np.argmax(size))
        size[longest] = -(-size[longest] // 2)
    spans = ([slice(a, min(a + n, end)) for a in range(0, end, n)] for n, end in zip(size, array.shape, strict=True))
    yield from itertools.product(*spans)
