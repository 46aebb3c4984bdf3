"""Scores of one volume as pictures."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MultipleLocator
from numpy.typing import NDArray

from unetpipe.metrics import thresholds as metrics
from unetpipe.report.drawing import (
    DASHED,
    DOTTED,
    FIRST,
    INK,
    MOST_POINTS,
    MOST_SIGNS,
    SECOND,
    Drawing,
    along_sections,
    drawn,
    legend,
    marker,
    numbers,
)
from unetpipe.report.tables import MOST_CLASSES
from unetpipe.report.text import abbreviated

_BINS = 10
"""Equal parts of the probabilities in the diagram of their reliability."""

Score = Mapping[str, Any]
Points = NDArray[np.float64]


def of(score: Score, colours: Mapping[str, str]) -> dict[str, Drawing]:
    """All figures of a volume by their names: ``thresholds``, ``precision_recall``, ``reliability``, ``per_section``.

    A figure that would be empty is left out; where no voxel is scored, there is none.

    Parameters
    ----------
    score:
        The scores of the volume.
    colours:
        Of the classes, as CSS writes them; a class without one is drawn in that of the text.
    """
    if score["mean_iou"] is None:
        return {}
    found = {
        "precision_recall": precision_recall(score, colours),
        "reliability": reliability(score, colours),
        "per_section": per_section(score),
    }
    return (
        found
        if score["segments"]["sections"]["best"]["v_rand"] is None
        else {"thresholds": over_thresholds(score)} | found
    )


def by_class(scores: Mapping[str, Score], colours: Mapping[str, str]) -> Drawing:
    """IoU of each class in each volume, its mean over the classes, and that of blur with Otsu's threshold."""
    names = list(dict.fromkeys(name for score in scores.values() for name in score["classes"]))[:MOST_CLASSES]

    def draw(axes: Axes) -> None:
        places = np.arange(len(scores))
        for name in names:
            found = numbers([score["classes"].get(name, {"iou": None})["iou"] for score in scores.values()])
            alpha = 1.0 if name in colours else 0.55
            axes.plot(found, places, "o", color=colours.get(name, INK), alpha=alpha, markersize=5, label=name)
        for label, sign, values in (
            ("mean", "D", [score["mean_iou"] for score in scores.values()]),
            ("mean, blur + Otsu", "x", [score["baseline"]["mean_iou"] for score in scores.values()]),
        ):
            axes.plot(numbers(values), places, sign, color=INK, markersize=6, markerfacecolor="none", label=label)
        axes.set_yticks(places, [abbreviated(name, MOST_SIGNS) for name in scores])
        axes.invert_yaxis()
        axes.set(xlabel="IoU", xlim=(0, 1.02), ylim=(len(scores) - 0.5, -0.5))
        legend(axes, below=True)

    return drawn(draw, "IoU of each class in each scored volume", 1.5 + 0.3 * len(scores) + 0.1 * len(names))


def per_section(score: Score) -> Drawing:
    """Mean IoU of each section, V_rand after thinning where there is one; missing sections are shaded.

    Of more sections than a figure can show, the mean of each few neighbouring ones.
    """
    every = np.array([item["section"] for item in score["per_section"]], np.float64)
    lost = np.array([item["missing"] for item in score["per_section"]], bool)
    parts = np.array_split(np.arange(len(every)), min(len(every), MOST_POINTS))
    sections = np.array([every[part].mean() for part in parts])
    missing = np.array([lost[part].any() for part in parts])
    half = (every[-1] - every[0] + 1) / len(parts) / 2

    def curve(key: str) -> Points:
        """Means over the sections that are there and have a value."""
        values = np.where(lost, np.nan, numbers([item[key] for item in score["per_section"]]))
        known = [part[np.isfinite(values[part])] for part in parts]
        return np.array([values[part].mean() if len(part) else np.nan for part in known])

    both = any(item["v_rand"] is not None for item in score["per_section"])

    def draw(axes: Axes) -> None:
        curves = [("mean_iou", "mean IoU", FIRST), *([("v_rand", "V_rand, thinned", SECOND)] if both else [])]
        for key, label, colour in curves:
            axes.plot(sections, curve(key), color=colour, marker=marker(sections), markersize=3, label=label)
        baseline = score["baseline"]["mean_iou"]
        if baseline is not None:
            label = "mean IoU, blur + Otsu"
            axes.axhline(baseline, color=INK, alpha=0.6, linewidth=1, linestyle=DASHED, label=label)
        if missing.any():
            edges = np.stack([sections - half, sections + half], axis=1).ravel()
            axes.fill_between(
                edges,
                0,
                1,
                where=np.repeat(missing, 2).tolist(),
                transform=axes.get_xaxis_transform(),
                color=INK,
                alpha=0.18,
                linewidth=0,
                label="missing section",
            )
        axes.set(ylabel="score" if both else "mean IoU", ylim=(0, 1.02))
        along_sections(axes)
        legend(axes, below=True)

    kinds = "Mean IoU and V_rand" if both else "Mean IoU"
    return drawn(draw, f"{kinds} of each section of {score['volume']}", height=2.9)


def precision_recall(score: Score, colours: Mapping[str, str]) -> Drawing:
    """Precision over recall of each class, and a point where the threshold is best.

    The area below the steps is the average precision.
    """

    def draw(axes: Axes) -> None:
        for name, style in _classes(score, colours):
            recall, precision = precision_recall_points(score["histograms"][name])
            axes.plot(recall, precision, drawstyle="steps-pre", label=name, **style)
            best = score["classes"][name]["best"]
            if best is not None and None not in (best["recall"], best["precision"]):
                axes.plot(best["recall"], best["precision"], marker="o", markersize=5, **style)
        axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1.02), ylim=(0, 1.02))
        legend(axes)

    return drawn(draw, f"Precision over recall of each class on {score['volume']}, the best threshold marked")


def precision_recall_points(histogram: Mapping[str, Sequence[int]]) -> tuple[Points, Points]:
    """Recall and precision at each threshold, the highest first; nothing, where the class is not in the truth.

    The first point has the recall 0 and the precision of the second one.

    Parameters
    ----------
    histogram:
        ``own`` and ``others``: voxels of the truth by the probability of the class, 0 to 255.
    """
    pairs = metrics.precision_recall(np.array([histogram["others"], histogram["own"]], np.int64))[::-1]
    known = [(recall, precision) for precision, recall in pairs if None not in (precision, recall)]
    recall, precision = np.array([(0.0, known[0][1]), *known] if known else np.empty((0, 2)), np.float64).T
    return recall, precision


def reliability(score: Score, colours: Mapping[str, str]) -> Drawing:
    """How often a class is true over how probable it was said to be (DeGroot and Fienberg 1983, doi:10.2307/2987588).

    The larger a point is, the more voxels have such a probability.
    """

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=INK, alpha=0.6, linewidth=1, linestyle=DASHED, label="as likely as said")
        for name, style in _classes(score, colours):
            said, true, share = reliability_points(score["histograms"][name])
            axes.plot(said, true, label=name, **style)
            axes.scatter(said, true, s=4 + 60 * share, color=style["color"], alpha=style["alpha"], linewidths=0)
        axes.set(xlabel="probability", ylabel="share of the class in the truth", xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
        legend(axes)

    return drawn(draw, f"Reliability of the probabilities of each class on {score['volume']}")


def reliability_points(histogram: Mapping[str, Sequence[int]]) -> tuple[Points, Points, Points]:
    """Mean probability, share of the class in the truth, and share of the voxels, of ten equal parts of probabilities.

    Parts without a voxel are left out.

    Parameters
    ----------
    histogram:
        As for :func:`precision_recall_points`.
    """
    own, others = (np.array(histogram[side], np.int64) for side in ("own", "others"))
    values = np.arange(len(own))
    # A probability of 1 belongs to the last part.
    part = np.minimum(values * _BINS // (len(own) - 1), _BINS - 1)
    voxels, true, said = (np.bincount(part, weights, _BINS) for weights in (own + others, own, (own + others) * values))
    there = voxels > 0
    return (
        said[there] / voxels[there] / (len(own) - 1),
        true[there] / voxels[there],
        voxels[there] / max(1, voxels.sum()),
    )


def over_thresholds(score: Score) -> Drawing:
    """V_rand and V_info over the threshold, after thinning and as predicted; that of the validation is marked."""
    segments = score["segments"]

    def draw(axes: Axes) -> None:
        for kind, told, style in (("thinned", "thinned", "-"), ("sections", "as predicted", DASHED)):
            for measure, label, colour in (("v_rand", "V_rand", FIRST), ("v_info", "V_info", SECOND)):
                if segments[kind] is not None:
                    values = numbers(segments[kind]["curve"][measure])
                    axes.plot(
                        segments["thresholds"],
                        values,
                        color=colour,
                        linestyle=style,
                        marker="o",
                        markersize=3,
                        label=f"{label}, {told}",
                    )
        if segments["validation"] is not None:
            at = segments["validation"]["threshold"]
            axes.axvline(at, color=INK, alpha=0.6, linewidth=1, linestyle=DOTTED, label="chosen on validation")
        axes.xaxis.set_major_locator(MultipleLocator(0.1))
        axes.set(
            xlabel=f"threshold of {abbreviated(segments['objects'], MOST_SIGNS)}",
            ylabel="mean over sections",
            ylim=(None, 1.02),
        )
        legend(axes, below=True)

    kinds = "after thinning and as predicted" if segments["thinned"] is not None else "as predicted"
    return drawn(draw, f"V_rand and V_info of {score['volume']} over the threshold, {kinds}", height=3.1)


def _classes(score: Score, colours: Mapping[str, str]) -> list[tuple[str, dict[str, Any]]]:
    """Names of the first classes, each with its style."""
    return [
        (name, {"color": colours.get(name, INK), "alpha": 1.0 if name in colours else 0.55})
        for name in list(score["classes"])[:MOST_CLASSES]
    ]
