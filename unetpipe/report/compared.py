"""Variants beside each other: what the runs of an ablation have found, and what follows from it."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unetpipe.config import Network
from unetpipe.files import read_json
from unetpipe.grid import Shape, triple
from unetpipe.nets.cost import fully_convolutional, sliding_window
from unetpipe.report.collect import read_history
from unetpipe.report.text import listed

MEASURES = {"mean_iou": "mean IoU", "v_rand": "V_rand", "v_info": "V_info"}
"""Scores that are compared, by the key in the scores."""


@dataclass(frozen=True)
class Found:
    """What one run has found. ``scores`` are means over its volumes to test; None where one has none.

    ``training_seconds``: of a step, without validation as far as it can be told apart (the median).
    ``megavoxels_per_second``: of the prediction of its volumes to test, in ``precision``. ``chosen_on_validation``: the
    threshold of the segments; else it is the best one, chosen with the truth.
    """

    run: str
    dataset: str
    variant: str
    seed: int
    scores: dict[str, float | None]
    parameters: int
    step: int
    training_seconds: float
    megavoxels_per_second: float | None
    tile: Shape
    precision: str
    chosen_on_validation: bool


@dataclass(frozen=True)
class Row:
    """A variant on one dataset: its runs, one for each seed, and those of the variant that it is compared with."""

    variant: str
    runs: list[Found]
    reference: list[Found]

    def values(self, measure: str) -> list[float]:
        """Of all runs that have it."""
        return _values(self.runs, measure)

    def mean(self, measure: str) -> float | None:
        """Over the seeds."""
        return statistics.fmean(values) if (values := self.values(measure)) else None

    def difference(self, measure: str) -> float | None:
        """Of the means, to the variant that it is compared with; None for that one itself."""
        mine, other = self.values(measure), _values(self.reference, measure)
        if self.runs == self.reference or not mine or not other:
            return None
        return statistics.fmean(mine) - statistics.fmean(other)

    def verdict(self, measure: str) -> str | None:
        """``lower`` or ``higher`` in every run than in any of the other variant; ``alike`` where runs overlap.

        None where a single seed tells nothing of the spread, and for the variant that others are compared with.
        """
        mine, other = self.values(measure), _values(self.reference, measure)
        if self.runs == self.reference or min(len(mine), len(other)) < 2:
            return None
        if max(mine) < min(other):
            return "lower"
        return "higher" if min(mine) > max(other) else "alike"

    @property
    def precision(self) -> str:
        """Of prediction."""
        return ", ".join(dict.fromkeys(run.precision for run in self.runs))

    @property
    def training_seconds(self) -> float:
        """Of a step."""
        return statistics.median(run.training_seconds for run in self.runs)

    @property
    def megavoxels_per_second(self) -> float | None:
        """Of prediction."""
        rates = [run.megavoxels_per_second for run in self.runs if run.megavoxels_per_second is not None]
        return statistics.median(rates) if rates else None


@dataclass(frozen=True)
class Table:
    """All variants on one dataset."""

    dataset: str
    title: str
    seeds: list[int]
    rows: list[Row] = field(default_factory=list)

    @property
    def threshold(self) -> str:
        """That of the segments, in words."""
        if all(run.chosen_on_validation for row in self.rows for run in row.runs):
            return "the threshold chosen on validation"
        return "the best threshold, chosen with the truth"


def found(
    trial: Mapping[str, Any],
    *,
    scores: Sequence[Path],
    history: Path,
    model: Path,
    certificate: Path,
    jobs: Sequence[Path],
    allocated: Path,
) -> Found:
    """Read the files of one run; KeyError or ValueError if one does not hold what its producer promises."""
    read = [read_json(path) for path in scores]
    described = read_json(model)
    seconds = [row["seconds"] or 0.0 for row in read_history(history)]
    steps = [after - before for before, after in zip([0.0, *seconds], seconds, strict=False)]
    predicted = [read_json(path) for path in jobs]
    voxels, took = (sum(item[name] for item in predicted) for name in ("voxels", "seconds"))
    return Found(
        run=trial["run"],
        dataset=trial["dataset"],
        variant=trial["variant"],
        seed=trial["seed"],
        scores={measure: _mean([score[measure] for score in read]) for measure in MEASURES},
        parameters=described["parameters"],
        step=described["training"]["best_step"],
        training_seconds=statistics.median(steps),
        megavoxels_per_second=voxels / took / 1e6 if voxels and took else None,
        tile=triple(read_json(allocated)["plan"]["tile"]),
        precision=read_json(certificate)["precision"],
        chosen_on_validation=all(score["shown_at"]["chosen_on"] for score in read),
    )


def tables(runs: Sequence[Found], titles: Mapping[str, str]) -> list[Table]:
    """A table for each dataset, in the order of ``runs``; ``titles`` of the datasets, by name.

    The first variant of a dataset is the one that the others are compared with.
    """
    result = []
    for dataset in dict.fromkeys(run.dataset for run in runs):
        mine = [run for run in runs if run.dataset == dataset]
        variants = list(dict.fromkeys(run.variant for run in mine))
        by_variant = {name: [run for run in mine if run.variant == name] for name in variants}
        reference = by_variant[variants[0]]
        rows = [Row(name, of, reference) for name, of in by_variant.items()]
        result.append(Table(dataset, titles[dataset], sorted({run.seed for run in mine}), rows))
    return result


def conclusions(compared: Sequence[Table], measure: str = "mean_iou") -> Iterator[str]:
    """Sentences on what the variants are worth, by ``measure``; no more than the seeds allow."""
    name = MEASURES[measure]
    for table in compared:
        first = table.rows[0].variant
        groups: dict[str | None, list[Row]] = {}
        for row in table.rows[1:]:
            if row.difference(measure) is not None:
                groups.setdefault(row.verdict(measure), []).append(row)
        if lower := groups.get("lower"):
            yield f"{table.title}: {name} is lower than that of {first} with every seed for {_told(lower, measure)}."
        if higher := groups.get("higher"):
            yield f"{table.title}: {name} is higher than that of {first} with every seed for {_told(higher, measure)}."
        if alike := groups.get("alike"):
            yield f"{table.title}: no difference that the seeds do not make as well for {_told(alike, measure)}."
        if single := groups.get(None):
            yield (
                f"{table.title}, one seed, so small differences mean nothing: {name} beside that of {first} is "
                f"{_told(single, measure)}."
            )


def costs(row: Row, network: Network, classes: int) -> str | None:
    """What a classifier of patches costs beside a window that slides over the volume; None for other networks."""
    if network.name != "patch_classifier":
        return None
    alone, dense = sliding_window(network, classes), fully_convolutional(network, classes, row.runs[0].tile)
    tile = " × ".join(map(str, row.runs[0].tile))
    return (
        f"{row.variant}: {alone:,} multiply-adds for each voxel where a window slides over the volume, {dense:,.0f} in "
        f"tiles of {tile} voxels (z × y × x), with the same result: {alone / dense:,.0f} times less."
    )


def _told(rows: Sequence[Row], measure: str) -> str:
    differences = {row.variant: row.difference(measure) or 0.0 for row in rows}
    ordered = sorted(differences.items(), key=lambda item: item[1])
    return listed([f"{name} ({_signed(value)})" for name, value in ordered])


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "\N{MINUS SIGN}")


def _values(runs: Sequence[Found], measure: str) -> list[float]:
    return [value for run in runs if (value := run.scores[measure]) is not None]


def _mean(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return statistics.fmean(there) if len(there) == len(values) and there else None
