"""What was measured, what had been expected, and a table of both."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.timing import Range

_HEAD = ("what", "against", "expected", "least", "median", "most", "beside it")


@dataclass(frozen=True)
class Row:
    """A ratio, or a rate.

    ``against``: the other side of the ratio. ``expected``: the median, as it was predicted before it was measured.
    ``beside``: what must be known to read it. ``brief``: its name in the line of summary; none: it is not in there.
    """

    what: str
    against: str
    found: Range
    expected: float | None = None
    beside: str = ""
    brief: str = ""


@dataclass(frozen=True)
class Skipped:
    """What could not be measured here, and why."""

    what: str
    why: str


Rows = list[Row | Skipped]


def table(rows: Iterable[Row | Skipped]) -> str:
    """Markdown."""
    lines = [_HEAD, ("---",) * len(_HEAD)]
    for row in rows:
        if isinstance(row, Skipped):
            lines.append((row.what, "", "", "", "", "", f"not measured: {row.why}"))
        else:
            expected = "" if row.expected is None else _number(row.expected)
            lines.append((row.what, row.against, expected, *map(_number, row.found), row.beside))
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def summary(rows: Sequence[Row | Skipped]) -> str:
    """One line: the medians of rows with a brief name, and how many came out as expected."""
    measured = [row for row in rows if isinstance(row, Row)]
    named = [f"{row.brief} {_number(row.found[1])}" for row in measured if row.brief]
    shares = [row.found[1] / row.expected for row in measured if row.expected is not None]
    above = sum(share > 1 + _NEAR for share in shares)
    below = sum(share < 1 - _NEAR for share in shares)
    told = f"of {len(shares)} expectations {above} exceeded and {below} missed by more than {_NEAR:.0%}"
    return "; ".join([*named, told])


_NEAR = 0.1


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}" if value >= 1 else f"{value:.2f}"
