"""The rules of a run: which there are, what each took, and a drawing of what was made from what."""

import csv
import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from unetpipe.config import PHANTOM, Engine
from unetpipe.report.collect import Run
from unetpipe.report.text import duration

FEEDS: Mapping[str, Sequence[str]] = {
    "phantom": ("ingest",),
    "ingest": ("augment", "allocate"),
    "augment": ("train",),
    "train": ("export",),
    "export": ("quantize", "build_engine"),
    "quantize": ("build_engine",),
    "build_engine": ("certify",),
    "certify": ("allocate", "predict"),
    "allocate": ("predict",),
    "predict": ("pyramid", "evaluate", "quality", "segment"),
    "pyramid": ("report",),
    "evaluate": ("report",),
    "quality": ("report",),
    "segment": ("report",),
    "report": (),
}
"""By rule, those that take what it makes; in the order of the data flow."""

_FIRST_LINE = ("phantom", "ingest", "augment", "train", "export", "quantize", "build_engine", "certify")
_SIDE_BY_SIDE = ("pyramid", "evaluate", "quality", "segment")

_WIDTH, _HEIGHT, _GAP, _LEADING = 104, 40, 22, 14
_BEND = 11
"""Pixels between a box and where an edge turns."""


@dataclass(frozen=True)
class Took:
    """What the jobs of a rule took when they last ran: ``seconds`` together, ``peak_mb`` of the one that took most.

    ``peak_mb`` is None where a job was too short to be measured.
    """

    jobs: int
    seconds: float
    peak_mb: float | None


def rules_of(run: Run) -> list[str]:
    """The rules that a run has, in the order of the data flow."""
    settings = run.settings
    addresses = [volume.get(key) for volume in settings["volumes"].values() for key in ("image", "labels")]
    absent = {
        "phantom": PHANTOM not in addresses,
        "augment": run.samples is None,
        "train": run.samples is None,
        "quantize": set(Engine.model_validate(settings["engine"]).precisions) == {"fp32"},
        "evaluate": not run.scores,
        "segment": not run.segments,
    }
    return [rule for rule in FEEDS if not absent.get(rule, False)]


def took(benchmarks: Path, rules: Sequence[str], volumes: Iterable[str]) -> dict[str, Took]:
    """By rule, what Snakemake has measured; rules of which there is nothing are left out.

    Parameters
    ----------
    benchmarks:
        The folder: ``<rule>.tsv``, or a folder of the rule's name with a file for each job, ``<volume>.tsv`` or
        ``<volume>.<job>.tsv``.
    volumes:
        Those of the run; what is left of others does not count.
    """
    names, found = set(volumes), {}
    for rule in rules:
        of_volumes = sorted(path for path in (benchmarks / rule).glob("*.tsv") if path.name.split(".")[0] in names)
        files = [benchmarks / f"{rule}.tsv", *of_volumes]
        rows = [row for path in files if path.exists() for row in _rows(path)]
        if rows:
            peaks = [peak for row in rows if (peak := _number(row.get("max_rss"))) is not None]
            seconds = sum(_number(row.get("s")) or 0.0 for row in rows)
            found[rule] = Took(len(rows), seconds, max(peaks, default=None))
    return found


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def _number(text: str | None) -> float | None:
    # Snakemake writes NA, or -, for what it could not measure.
    try:
        return float(text or "")
    except ValueError:
        return None


def drawing(rules: Sequence[str], times: Mapping[str, Took]) -> str:
    """An SVG of ``rules``, each with what it took; colours are those of the text around it.

    Two lines: what makes an engine, and what that is used for. ::

        ingest ─ augment ─ train ─ export ─ … ─ certify
           └──────────┬───────────────────────────┘
                  allocate ─ predict ┬ pyramid ─┬ report
                                     └ evaluate ┘
    """
    places = _places(rules)
    width = max(x for x, _ in places.values()) + _WIDTH + 2
    height = max(y for _, y in places.values()) + _HEIGHT + 2
    lines = [_edge(places, rule, other) for rule in rules for other in FEEDS[rule] if other in places]
    boxes = [_box(rule, *places[rule], times.get(rule)) for rule in rules]
    told = html.escape(f"Rules of this run, by what takes what they make: {', '.join(rules)}", quote=True)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'class="rules" role="img" aria-label="{told}" font-family="sans-serif" font-size="12" fill="currentColor">'
        f'<g fill="none" stroke="currentColor" opacity="0.5">{"".join(lines)}</g>{"".join(boxes)}</svg>'
    )


def _places(rules: Sequence[str]) -> dict[str, tuple[int, int]]:
    """The upper left corner of each box, (x, y)."""
    step, line = _WIDTH + _GAP, _HEIGHT + _LEADING
    first = [rule for rule in _FIRST_LINE if rule in rules]
    found = {rule: (1 + n * step, 1) for n, rule in enumerate(first)}
    side = [rule for rule in _SIDE_BY_SIDE if rule in rules]
    below = 1 + line + 2 * _BEND
    middle = below + (len(side) - 1) * line // 2
    found |= {"allocate": (1 + step, middle), "predict": (1 + 2 * step, middle), "report": (1 + 4 * step, middle)}
    return found | {rule: (1 + 3 * step, below + n * line) for n, rule in enumerate(side)}


def _edge(places: Mapping[str, tuple[int, int]], rule: str, other: str) -> str:
    """From one side of a box to that of another, behind what lies between; lines apart, through the space there."""
    (x, y), (to_x, to_y) = places[rule], places[other]
    if y == 1 and to_y != 1:
        end = to_x + _WIDTH // 2
        return f'<path d="M{x + _WIDTH // 2} {y + _HEIGHT}v{_BEND}H{end}V{to_y}m-4 -6l4 6l4 -6"/>'
    start, end = y + _HEIGHT // 2, to_y + _HEIGHT // 2
    return f'<path d="M{x + _WIDTH} {start}H{to_x - _BEND}V{end}H{to_x}m-6 -4l6 4l-6 4"/>'


def _box(rule: str, x: int, y: int, time: Took | None) -> str:
    below = "" if time is None else duration(time.seconds) + (f", {time.jobs} jobs" if time.jobs > 1 else "")
    centre = x + _WIDTH // 2
    small = f'<text x="{centre}" y="{y + 32}" text-anchor="middle" font-size="10" opacity="0.7">{below}</text>'
    return (
        f'<rect x="{x}" y="{y}" width="{_WIDTH}" height="{_HEIGHT}" rx="4" style="fill: var(--paper, #fff)" '
        f'stroke="currentColor" stroke-opacity="0.6"/>'
        f'<text x="{centre}" y="{y + (18 if below else 25)}" text-anchor="middle">{rule}</text>{small if below else ""}'
    )
