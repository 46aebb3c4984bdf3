"""The result of a run in a few lines of text, for the terminal."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unetpipe.errors import UserError
from unetpipe.files import read_json
from unetpipe.report.collect import ROLES

_HEADER = ("volume", "role", "mean IoU", "baseline", "V_rand", "V_info", "threshold")
_WORDS = 2
"""Columns of text; all others hold numbers."""


def summary(run_folder: Path) -> str:
    """A table of the scored volumes, and where the report lies.

    Parameters
    ----------
    run_folder:
        Such as ``results/demo``.

    Raises
    ------
    UserError
        If there is neither a score nor a report in it.
    """
    scores = [read_json(path) for path in sorted((run_folder / "scores").glob("*.json"))]
    page = run_folder / "report.html"
    if not scores and not page.exists():
        raise UserError(
            f"the result of the run in {run_folder} was to be shown",
            "neither scores nor a report there",
            "give the folder of a run, such as results/demo, and let snakemake finish it",
        )
    try:
        scores.sort(key=lambda score: ROLES.index(score["role"]))
        rows = [_row(score) for score in scores]
    except (KeyError, TypeError) as error:
        raise UserError(
            f"the scores of the run in {run_folder} were to be shown",
            f"another version made them: {error} is missing",
            f"delete {run_folder / 'scores'} and run snakemake again",
        ) from None
    lines = _aligned([_HEADER, *rows]) if rows else ["no volume was scored: none of those predicted has labels"]
    lines += ["", f"report: {page}" if page.exists() else "there is no report yet: the run is not finished"]
    return "\n".join(lines)


def _row(score: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        score["volume"],
        score["role"],
        *map(_number, (score["mean_iou"], score["baseline"]["mean_iou"], score["v_rand"], score["v_info"])),
        # That of V_rand and V_info.
        "validation" if score["shown_at"]["chosen_on"] else "best",
    )


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of columns: text to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if number < _WORDS else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
