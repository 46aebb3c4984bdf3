"""What a run spends beside the functions of its rules: snakemake, starting processes, imports."""

import csv
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from benchmarks.rows import Row, Rows
from benchmarks.setting import CORES
from benchmarks.timing import once, spread
from unetpipe.files import write_bytes

_DONE = re.compile(r"done in ([0-9.]+) s$", re.MULTILINE)


def of_rules() -> Rows:
    """The seconds of each job beyond its function, and of a whole run over the sum of its functions'.

    To be called where snakemake is. The run is the demo's, made small: so small that this is most of what it does.
    """
    settings = yaml.safe_load(Path("config/config.yaml").read_text())
    settings["phantom"] |= {"shape": [16, 192, 192], "missing": 15, "fold": 14}
    for name, sections in (("train", [0, 8]), ("validate", [8, 11]), ("test", [11, 16])):
        settings["volumes"][name]["sections"] = sections
    settings["augment"] |= {"samples": 8, "tile": [188, 188]}
    settings["train"] |= {"steps": 4, "validate_every": 4}
    with tempfile.TemporaryDirectory() as folder:
        seconds = once(lambda: _run(Path(folder), settings))
        results = Path(folder) / "results" / settings["run"]
        beyond, inside = [], 0.0
        for table in sorted((results / "benchmarks").rglob("*.tsv")):
            name = table.relative_to(results / "benchmarks").with_suffix(".log")
            (found,) = _DONE.findall((results / "logs" / name).read_text())
            with table.open(newline="") as file:
                (row,) = csv.DictReader(file, delimiter="\t")
            beyond.append(float(row["s"]) - float(found))
            inside += float(found)
        again = once(lambda: _run(Path(folder), settings))
    what = f"a small run of {len(beyond)} jobs"
    share = CORES * seconds / inside
    beside = f"{seconds:.0f} s on {CORES} cores, {inside:.0f} s in functions"
    return [
        Row(
            f"{what}: seconds of a job", "that its function takes", spread(beyond), 2.5, "starting, imports",
            "seconds of a job beyond its function",
        ),
        Row(f"{what}: seconds of a core", "those of its functions", (share, share, share), 3.0, beside),
        Row("the same with nothing to do: seconds", "", (again, again, again), 6.0),
    ]  # fmt: skip


def _run(folder: Path, settings: dict[str, Any]) -> None:
    configuration = folder / "settings.yaml"
    write_bytes(configuration, yaml.safe_dump(settings, sort_keys=False).encode())
    command = [sys.executable, "-m", "snakemake", "--cores", str(CORES), "--snakefile", "Snakefile"]
    subprocess.run(
        [*command, "--directory", str(folder), "--configfile", str(configuration)],
        check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
