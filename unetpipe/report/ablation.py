"""The report of an ablation: one page, opened without a network, and the same as JSON beside it."""

import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from matplotlib.axes import Axes

import unetpipe
from unetpipe.config import Network
from unetpipe.files import write_bytes, write_json
from unetpipe.report import environment
from unetpipe.report.compared import MEASURES, Row, Table, conclusions, costs, found, tables
from unetpipe.report.drawing import DOTTED, FIRST, INK, Drawing, drawn
from unetpipe.report.templates import template

log = logging.getLogger(__name__)

_DRAWN = ("mean_iou", "v_rand")


def ablation_report(
    report: Path,
    summary: Path,
    *,
    settings: dict[str, Any],
    trials: list[dict[str, Any]],
    left_out: list[str],
    scores: list[Path],
    histories: list[Path],
    models: list[Path],
    certificates: list[Path],
    allocated: list[Path],
    jobs: list[Path],
    command: str,
) -> None:
    """Back the rule ``ablation_report``: all runs beside each other.

    Parameters
    ----------
    report, summary:
        The page, and what it shows as JSON; that is written first.
    settings:
        Of the ablation, as plain data.
    trials:
        The runs: ``run``, ``dataset``, ``variant``, ``seed``, ``network``, ``classes`` and ``scored``, the names of its
        volumes to test.
    left_out:
        Datasets that could not be used, for want of their data.
    scores, allocated, jobs:
        ``scores/<volume>.json``, ``allocated.json`` and ``job-0.json`` of the volumes to test of all runs, in their
        order.
    histories, models, certificates:
        ``history.csv``, ``model.json`` and ``certificate.json`` of all runs.
    command:
        What repeats the ablation.
    """
    runs = []
    start = 0
    for trial, history, model, certificate in zip(trials, histories, models, certificates, strict=True):
        mine = slice(start, start + len(trial["scored"]))
        runs.append(
            found(
                trial, scores=scores[mine], history=history, model=model, certificate=certificate, jobs=jobs[mine],
                allocated=allocated[start],
            )
        )  # fmt: skip
        start = mine.stop
    compared = tables(runs, {name: dataset["title"] for name, dataset in settings["datasets"].items()})
    sentences = list(conclusions(compared))
    first = {trial["variant"]: trial for trial in reversed(trials) if trial["dataset"] == compared[0].dataset}
    for row in compared[0].rows:
        trial = first[row.variant]
        network = Network.model_validate(trial["network"], strict=False)
        sentences += filter(None, [costs(row, network, len(trial["classes"]))])
    facts = {"machine": environment.machine(), "versions": environment.versions()}
    write_json(
        summary,
        {
            "ablation": settings["ablation"],
            "runs": [asdict(run) for run in runs],
            "conclusions": sentences,
            "left_out": left_out,
            "version": unetpipe.__version__,
            **facts,
        },
    )
    page = template("ablation.html.j2").render(
        name=settings["ablation"],
        variants=settings["variants"],
        tables=compared,
        drawings={table.dataset: [_drawing(table, measure) for measure in _DRAWN] for table in compared},
        measures=MEASURES,
        sentences=sentences,
        left_out=left_out,
        command=command,
        settings=yaml.safe_dump(settings, sort_keys=False, allow_unicode=True),
        **facts,
    )
    write_bytes(report, page.encode())
    for line in told(compared):
        log.info("%s", line)


def told(compared: Sequence[Table]) -> list[str]:
    """The tables as lines of text."""
    lines = []
    for table in compared:
        lines.append(f"{table.title} ({table.dataset}), seeds {', '.join(map(str, table.seeds))}")
        width = max(len(row.variant) for row in table.rows)
        lines += [
            f"  {row.variant:{width}}  {'  '.join(_cell(row, measure) for measure in MEASURES)}" for row in table.rows
        ]
    return lines


def _cell(row: Row, measure: str) -> str:
    mean, difference = row.mean(measure), row.difference(measure)
    value = "–" if mean is None else f"{mean:.4f}"
    return f"{MEASURES[measure]} {value}" + ("" if difference is None else f" ({difference:+.4f})")


def _drawing(table: Table, measure: str) -> Drawing:
    """A point for each run, by variant; a line where the runs lie that the others are compared with."""

    def draw(axes: Axes) -> None:
        for place, row in enumerate(table.rows):
            values = row.values(measure)
            axes.plot(values, [place] * len(values), "o", color=FIRST, markersize=4, alpha=0.75)
        for value in table.rows[0].values(measure):
            axes.axvline(value, color=INK, alpha=0.5, linewidth=0.8, linestyle=DOTTED)
        axes.set_yticks(range(len(table.rows)), [row.variant for row in table.rows])
        axes.invert_yaxis()
        axes.set(xlabel=f"{MEASURES[measure]} on the volumes to test")

    return drawn(draw, f"{MEASURES[measure]} of each run, by variant: {table.title}", 0.8 + 0.22 * len(table.rows))
