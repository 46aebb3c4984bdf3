"""What quality control without labels has found, in words and as pictures."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from unetpipe.data.sources.contract import some
from unetpipe.quality.faults import LEAST, ratios
from unetpipe.report.drawing import (
    DASHED,
    FIRST,
    INK,
    MOST_POINTS,
    SECOND,
    Drawing,
    along_sections,
    drawn,
    legend,
    marker,
    numbers,
    thinned,
)

Quality = Mapping[str, Any]

FAULTS = {
    "missing": "missing",
    "repeated": "the same as the one before",
    "incomplete": "lacking a part",
    "low_contrast": "faint",
    "blurred": "blurred",
    "folded": "folded or dirty",
}
"""What a section is, by the kind of its fault."""

_MOST_NAMED = 12
_MOST_CLASSES = 8


def sentence(quality: Quality) -> str:
    """What is most worth knowing of a volume."""
    faults = [
        f"{word} ({some(map(str, sections), _MOST_NAMED)})"
        for kind, word in FAULTS.items()
        if (sections := quality["faults"][kind])
    ]
    sections = f"Sections that look {', '.join(faults)}." if faults else "No section looks faulty."
    if quality["uncertain"] is None:
        return f"Nothing was predicted where it was looked. {sections}"
    share = f"{100 * quality['uncertain']:.1f}\N{NO-BREAK SPACE}%"
    return f"The network is uncertain of {share} of the voxels. {sections}"


def count_of_faults(quality: Quality) -> int:
    """Sections with at least one fault."""
    return len({section for sections in quality["faults"].values() for section in sections})


def rows(quality: Quality) -> list[tuple[str, int, str]]:
    """By kind of fault: in words, how many sections, and which."""
    return [
        (word, len(sections), some(map(str, sections), _MOST_NAMED))
        for kind, word in FAULTS.items()
        if (sections := quality["faults"][kind])
    ]


def of(quality: Quality, colours: Mapping[str, str]) -> dict[str, Drawing]:
    """All figures of a volume by their names: ``uncertainty``, ``image``, ``shares``; those with nothing are left out.

    Parameters
    ----------
    colours:
        Of the classes, as CSS writes them; a class without one is drawn in that of the text.
    """
    by_section = quality["per_section"]
    sections = numbers(by_section["section"])
    found = {}
    if quality["uncertain"] is not None:
        found["uncertainty"] = _uncertainty(quality, sections)
    compared = {key: ratios(by_section[key]) for key in ("contrast", "sharpness")}
    if any(value is not None for values in compared.values() for value in values):
        found["image"] = _image(quality, sections, compared)
    if quality["shares"] is not None:
        found["shares"] = _shares(quality, sections, colours)
    return found


def _uncertainty(quality: Quality, sections: Any) -> Drawing:
    def draw(axes: Axes) -> None:
        for key, label, colour in (
            ("entropy", "entropy, mean", FIRST),
            ("uncertain", "share of uncertain voxels", SECOND),
        ):
            x, y = thinned(sections, numbers(quality["per_section"][key]))
            axes.plot(x, y, color=colour, label=label, marker=marker(x), markersize=2.5)
        _mark_faults(axes, quality)
        axes.set(ylabel="of the prediction", ylim=(0, None))
        _finish(axes)

    return drawn(draw, f"Entropy and uncertain voxels of each section of {quality['volume']}", height=2.9)


def _image(quality: Quality, sections: Any, compared: Mapping[str, Sequence[float | None]]) -> Drawing:
    def draw(axes: Axes) -> None:
        for (name, values), colour in zip(compared.items(), (FIRST, SECOND), strict=True):
            x, y = thinned(sections, numbers(values))
            axes.plot(x, y, color=colour, label=name, marker=marker(x), markersize=2.5)
        axes.axhline(LEAST, color=INK, alpha=0.6, linewidth=1, linestyle=DASHED, label="below: told of")
        _mark_faults(axes, quality)
        axes.set(ylabel="to the median of the neighbours", ylim=(0, None))
        _finish(axes)

    return drawn(draw, f"Contrast and sharpness of each section of {quality['volume']}, as ratios", height=2.9)


def _shares(quality: Quality, sections: Any, colours: Mapping[str, str]) -> Drawing:
    names: Sequence[str] = quality["classes"][:_MOST_CLASSES]

    def draw(axes: Axes) -> None:
        for index, name in enumerate(names):
            values = numbers([None if row is None else row[index] for row in quality["per_section"]["shares"]])
            x, y = thinned(sections, values)
            style: dict[str, Any] = {"color": colours.get(name, INK), "alpha": 1.0 if name in colours else 0.55}
            axes.plot(x, y, label=name, marker=marker(x), markersize=2.5, **style)
        axes.set(ylabel="share of the voxels", ylim=(0, 1.02))
        _finish(axes)

    return drawn(draw, f"Shares of the classes in each section of {quality['volume']}", height=2.9)


def _mark_faults(axes: Axes, quality: Quality) -> None:
    """A tick at the foot of each section that has a fault."""
    places = sorted({section for sections in quality["faults"].values() for section in sections})
    if places:
        # Ticks that would lie on one another are one.
        step = max(1, len(quality["per_section"]["section"]) // MOST_POINTS)
        few = np.unique(np.array(places) // step * step)
        axes.plot(
            few, np.zeros(len(few)), linestyle="", marker="|", markersize=9, color=INK, label="with a fault",
            transform=axes.get_xaxis_transform(), clip_on=False,
        )  # fmt: skip


def _finish(axes: Axes) -> None:
    along_sections(axes)
    legend(axes, below=True)
