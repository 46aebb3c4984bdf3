"""SVG pictures that follow the reader's colour scheme."""

import base64
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from unetpipe.report.text import abbreviated

INK = "#010203"
"""Stands for the colour of text and axes, which depends on the reader's colour scheme."""

_SCHEMES = ":root{--ink:#1f2328}@media(prefers-color-scheme:dark){:root{--ink:#d7dbe0}}"
FIRST, SECOND = "#2f86c9", "#d55e00"
DASHED: Any = (0, (4, 3))
DOTTED: Any = (0, (1, 2))
_MOST_WITH_MARKERS = 60
"""Points of a curve that are still marked one by one."""

MOST_SIGNS = 26
"""Of a name in a figure: longer ones would leave no room for what is drawn."""

MOST_POINTS = 400
"""Of a curve: more are not seen apart, and would make a page grow with its volume."""

_STYLE: Any = {
    "axes.edgecolor": INK,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "grid.alpha": 0.15,
    "grid.color": INK,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.4,
    "svg.fonttype": "none",
    "svg.hashsalt": "unetpipe",
    "text.color": INK,
    # Names of classes are text, whatever signs they hold.
    "text.parse_math": False,
    "xtick.color": INK,
    "xtick.major.width": 0.6,
    "ytick.color": INK,
    "ytick.major.width": 0.6,
}


@dataclass(frozen=True)
class Drawing:
    """A picture by its address (a data URI), and what it shows in words."""

    picture: str
    description: str

    @property
    def svg(self) -> bytes:
        """The content of a file."""
        return base64.b64decode(self.picture.partition(",")[2])


def numbers(values: Sequence[float | None]) -> NDArray[np.float64]:
    """Values to draw; what is None becomes a gap."""
    return np.array([math.nan if value is None else value for value in values], np.float64)


def marker(values: NDArray[np.float64]) -> str:
    """Of the points of a curve: none where they are many."""
    return "o" if len(values) <= _MOST_WITH_MARKERS else ""


def thinned(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The finite points, as means of equal parts where there are more than a figure can show."""
    there = np.isfinite(x) & np.isfinite(y)
    x, y = x[there], y[there]
    parts = math.ceil(len(x) / max(1, math.ceil(len(x) / MOST_POINTS)))
    if parts == len(x):
        return x, y
    return tuple(np.array([part.mean() for part in np.array_split(values, parts)]) for values in (x, y))  # type: ignore[return-value]


def legend(axes: Axes, *, below: bool = False) -> None:
    """Name the curves, unless there is one alone: where there is most room, or ``below`` where there is none."""
    handles, labels = axes.get_legend_handles_labels()
    if len(handles) > 1:
        named = handles, [abbreviated(str(label), MOST_SIGNS) for label in labels]
        if below:
            axes.figure.legend(*named, loc="outside lower center", ncols=2, columnspacing=1.2)
        else:
            axes.legend(*named, loc="best")


def along_sections(axes: Axes) -> None:
    """Mark the x axis with numbers of sections, be there one alone."""
    axes.set_xlabel("section")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.margins(x=0.02)


def drawn(draw: Callable[[Axes], None], description: str, height: float = 2.5) -> Drawing:
    """The picture that ``draw`` makes, 3.8 inches wide; ``height`` is in inches."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(3.8, height), layout="constrained")
        axes = figure.add_subplot()
        draw(axes)
        figure.patch.set_visible(False)
        axes.patch.set_visible(False)
        text = io.StringIO()
        # The metadata hold the date, which would make every report another.
        figure.savefig(text, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    svg = text.getvalue().replace("<defs>", f"<defs><style>{_SCHEMES}</style>", 1).replace(INK, "var(--ink)")
    return Drawing("data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode("ascii"), description)
