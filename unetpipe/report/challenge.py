"""What others have reached on the series of the Cell Tracking Challenge, beside what a run has.

The methods of 2014 and 2015 with their SEG: Ronneberger et al. 2015 (arXiv:1505.04597), table 2.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SOURCE = "Ronneberger et al. 2015, arXiv:1505.04597, table 2"

SERIES = {"phc-u373": "PhC-U373", "dic-hela": "DIC-HeLa"}
"""Names in that table, by the setting ``evaluate.compared_with``."""

_REPORTED: dict[str, tuple[float | None, float | None]] = {
    "IMCB-SG (2014)": (0.2669, 0.2935),
    "KTH-SE (2014)": (0.7953, 0.4607),
    "HOUS-US (2014)": (0.5323, None),
    "second-best 2015": (0.83, 0.46),
    "u-net (2015)": (0.9203, 0.7756),
}


@dataclass(frozen=True)
class Row:
    """SEG of a method, None where it was not reported, with so many digits; or that of this run on a ``volume``."""

    method: str
    seg: float | None
    digits: int = 4
    volume: str | None = None


def rows(run: str, series: str, scores: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    """Those of the table, and one for each volume of the run that has a score: of those to test, or else of all.

    Parameters
    ----------
    run, scores:
        Its name, and the scores of its volumes by name.
    series:
        One of :data:`SERIES`.
    """
    column = list(SERIES).index(series)
    known = [
        Row(method, values[column], 2 if method.startswith("second") else 4) for method, values in _REPORTED.items()
    ]
    scored = {name: score for name, score in scores.items() if score["seg"] is not None}
    tested = [name for name, score in scored.items() if score["role"] == "test"]
    return known + [Row(f"{run}, {name}", scored[name]["seg"], volume=name) for name in tested or scored]
