"""How far a run is: the prediction of each volume, and the scores that there are."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unetpipe.errors import UserError
from unetpipe.files import read_json
from unetpipe.handover import read_allocated, store_of
from unetpipe.progress import record_beside
from unetpipe.volume import VolumeFile

_RESULTS = "results"
"""Where the runs lie, seen from where snakemake runs."""

_WINDOW_SECONDS = 600.0
"""The last minutes: long enough for many blocks, short enough to follow a machine that has become slower."""

_LEAST_SECONDS = 1.0
"""Workers that finish at the same moment show no rate."""

_PATIENCE_SECONDS = 120.0
_PATIENCE_BLOCKS = 10
"""A prediction is taken to be running until no block has come for so long, and for the time of so many blocks."""

_HEADER = ("volume", "role", "blocks", "of", "skipped", "", "blocks/min", "state")
_NUMBERS = range(2, 7)


@dataclass(frozen=True)
class Progress:
    """How far the prediction of one volume is.

    ``of``: blocks that are asked for; ``skipped``: those of the volume that are not. ``last``: when the last block was
    recorded, in seconds since 1970; None before the first. ``seconds_per_block``: None where nothing shows it.
    """

    done: int
    of: int
    skipped: int
    last: float | None
    seconds_per_block: float | None

    @classmethod
    def of_prediction(cls, store: str, description: dict[str, Any]) -> "Progress":
        """From the record beside ``store``, and what ``allocated.json`` says."""
        every = description["plan"]["blocks"]
        selection = description.get("selection")
        wanted = every if selection is None else selection["blocks"]
        record = record_beside(store)
        times = record.latest(lambda entry: entry.get("finished"))
        finished = sorted(when for when in times.values() if when is not None)
        # Where entries bear no time, their logs do.
        last = finished[-1] if finished else max((log.written for log in record.logs().values()), default=None)
        recent = [when for when in finished if when > finished[-1] - _WINDOW_SECONDS]
        span = recent[-1] - recent[0] if recent else 0.0
        return cls(
            done=len(times),
            of=wanted,
            skipped=every - wanted,
            last=last,
            seconds_per_block=span / (len(recent) - 1) if span >= _LEAST_SECONDS else None,
        )

    def state(self, now: float) -> str:
        """In words, at the time ``now``: finished, running and until when, or stopped since when."""
        if self.done >= self.of:
            return "finished"
        if self.last is None:
            return "not begun"
        idle = max(0.0, now - self.last)
        if idle > max(_PATIENCE_SECONDS, _PATIENCE_BLOCKS * (self.seconds_per_block or 0)):
            return f"stopped: no block for {_duration(idle)}; a rerun goes on from there"
        text = f"seems to run: last block {_duration(idle)} ago"
        if not self.seconds_per_block:
            return text
        left = max(0.0, (self.of - self.done) * self.seconds_per_block - idle)
        end = time.strftime("%Y-%m-%d %H:%M", time.localtime(now + left))
        return f"{text}, ends in {_duration(left)} ({end})"


def status(run: Path, now: float) -> str:
    """What there is of a run, for the terminal.

    Parameters
    ----------
    run:
        A folder such as ``results/demo``, or the name of one in ``results``.
    now:
        The time, in seconds since 1970.

    Raises
    ------
    UserError
        If nothing of a run is there.
    """
    folder = run if run.is_dir() else Path(_RESULTS) / run
    if (folder / "ablation.json").exists():
        return _ablation(folder)
    paths = {path.parent.name: path for path in sorted(folder.glob("predictions/*/allocated.json"))}
    plans = {name: read_allocated(path) for name, path in paths.items()}
    names = sorted({*plans, *(path.parent.name for path in folder.glob("volumes/*/volume.json"))})
    scored = any(folder.glob("scores/*.json")) or (folder / "report.html").exists()
    if not names and not scored:
        raise UserError(
            f"the run {run} was to be shown",
            f"neither volumes nor scores in {folder}",
            "give the folder of a run, such as results/demo, or its name, and let snakemake begin it",
        )
    roles = _roles(folder)
    rows = []
    for name in names:
        cells = [name, roles.get(name, "–")]
        if name in plans:
            progress = Progress.of_prediction(store_of(paths[name], plans[name]), plans[name])
            rows.append([*cells, *_numbers(progress), progress.state(now)])
        else:
            what = "for training alone" if roles.get(name) == "train" else "no prediction planned yet"
            rows.append([*cells, *["–"] * len(_NUMBERS), what])
    lines = [f"run {folder.name} in {folder}", ""]
    if rows:
        lines += [*_aligned([_HEADER, *rows]), ""]
    return "\n".join([*lines, _scores(folder) if scored else "nothing is scored yet"])


def _ablation(folder: Path) -> str:
    path = folder / "ablation.json"
    try:
        told = list(read_json(path)["conclusions"])
    except (KeyError, TypeError):
        raise UserError(
            f"what the ablation in {folder} says was to be shown",
            f"{path} is damaged, or that of another version",
            "delete it and run snakemake again",
        ) from None
    return "\n".join([f"ablation {folder.name} in {folder}", "", *told, "", f"report: {folder / 'report.html'}"])


def _scores(folder: Path) -> str:
    # Not at the top: it brings what the report needs, and most of a run there are no scores.
    from unetpipe.report.summary import summary

    return summary(folder)


def _roles(folder: Path) -> dict[str, str]:
    """The roles of volumes, as far as the run has written them down."""
    samples = folder / "samples.json"
    try:
        learnt = read_json(samples)["volumes"] if samples.exists() else []
        roles = {volume["name"]: volume["role"] for volume in learnt}
        scored = {score["volume"]: score["role"] for score in map(read_json, folder.glob("scores/*.json"))}
    except (KeyError, TypeError) as error:
        raise UserError(
            f"the roles of the volumes in {folder} were to be shown",
            f"{samples.name} or a file in scores is damaged, or that of another version ({error!r})",
            "show it with the version that made it, or run snakemake again",
        ) from None
    for path in folder.glob("volumes/*/volume.json"):
        # All other roles need labels.
        if VolumeFile.read(path).labels is None:
            roles[path.parent.name] = "predict"
    return roles | scored


def _numbers(progress: Progress) -> list[str]:
    # Not rounded up: the last block of a million is not done because all others are.
    percent = math.floor(1000 * progress.done / progress.of) / 10 if progress.of else 100.0
    rate = 60 / progress.seconds_per_block if progress.seconds_per_block else None
    return [
        str(progress.done),
        str(progress.of),
        str(progress.skipped) if progress.skipped else "–",
        f"{percent:.1f} %",
        "–" if rate is None else f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}",
    ]


def _duration(seconds: float) -> str:
    """In the two largest units, or the one."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    if not hours:
        return f"{minutes} min"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if days else f"{hours} h {minutes} min"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if number in _NUMBERS else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
