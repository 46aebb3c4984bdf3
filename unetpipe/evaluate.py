"""Score the prediction of one volume against its labels, block by block."""

import functools
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr

import unetpipe
from unetpipe import config
from unetpipe.allocate import read_plan
from unetpipe.cluster import connect, for_each
from unetpipe.errors import UserError
from unetpipe.files import read_json, write_json
from unetpipe.grid import Block, Plan, Shape
from unetpipe.metrics import baseline, confusion
from unetpipe.progress_bar import track
from unetpipe.volume import Image, VolumeFile, open_array, read_labels

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Task:
    """All that a worker must know for one block; small, since it travels for each."""

    volume: Path
    allocated: Path
    sigma: float
    index: Shape


@dataclass(frozen=True)
class Counts:
    """What one block gives.

    ``tables`` is (sections, classes, classes) int64, for the sections from ``first`` on; ``grey`` is the table of
    the baseline (:func:`unetpipe.metrics.baseline.count`).
    """

    first: int
    tables: confusion.Table
    grey: confusion.Table


def evaluate(
    volume: Path,
    allocated: Path,
    predicted: list[Path],
    scores: Path,
    *,
    role: str,
    classes: list[str],
    settings: config.Evaluate,
    cores: int,
) -> None:
    """Back the rule ``evaluate``: scores over the whole volume and for each section, and those of the baseline.

    Memory grows with the block and the number of worker processes; beside that, the counts of each section, 8 bytes
    for each pair of classes, are kept to the end. Sections that are missing in the data are scored like others.

    Parameters
    ----------
    volume, allocated:
        ``volume.json`` and ``allocated.json``.
    predicted:
        What the jobs of ``predict`` wrote at their end, among it the digest of the prediction.
    scores:
        The result, JSON.
    role:
        Of the volume.
    classes:
        Names in the order of the channels.
    cores:
        Worker processes.

    Raises
    ------
    UserError
        If the volume has no labels, or the prediction has other classes or another shape.
    """
    source = VolumeFile.read(volume)
    description = read_json(allocated)
    _check(source, description, classes)
    plan = read_plan(description)
    blocks: int = description["plan"]["blocks"]
    tasks = (Task(volume, allocated, settings.baseline_sigma, block.index) for block in plan.blocks())
    with connect(min(cores, blocks)) as client:
        results = track(for_each(client, count_block, tasks), f"evaluate {source.name}", blocks, "blocks")
        sections, grey = add_up(results, plan, len(classes))
    result = summary(source, role, classes, sections, grey, settings.baseline_sigma)
    result["digests"] |= {
        "engine": description["key"]["engine"],
        "prediction": {path.stem: read_json(path)["digest"] for path in predicted},
    }
    write_json(scores, result)
    log.info(
        "%s: mean IoU %s, baseline %s",
        source.name,
        _rounded(result["mean_iou"]),
        _rounded(result["baseline"]["mean_iou"]),
    )
    if left_out := result["left_out"]:
        log.info("%s: neither labelled nor predicted, and not in the means: %s", source.name, ", ".join(left_out))


def count_block(task: Task) -> Counts:
    """Count the voxels of one block; runs in a worker."""
    place = _open(task.volume, task.allocated)
    region = Block(place.plan, task.index).write
    truth = read_labels(place.labels, region, place.plan.shape)
    probability = np.asarray(place.probability[(slice(None), *region.slices)])
    label = confusion.most_likely(probability)
    tables = [confusion.count(a, b, len(probability)) for a, b in zip(truth, label, strict=True)]
    blurred = baseline.blurred(place.image, region, task.sigma)
    grey = [baseline.count(a, b, len(probability)) for a, b in zip(blurred, truth, strict=True)]
    return Counts(region.start[0], np.stack(tables), np.sum(grey, axis=0))


def add_up(blocks: Iterable[Counts], plan: Plan, classes: int) -> tuple[confusion.Table, confusion.Table]:
    """Confusion of each section, (sections, classes, classes), and the baseline's table of the whole volume."""
    sections = np.zeros((plan.shape[0], classes, classes), np.int64)
    grey = np.zeros((classes + 1, baseline.BINS), np.int64)
    for block in blocks:
        sections[block.first : block.first + len(block.tables)] += block.tables
        grey += block.grey
    return sections, grey


def summary(
    source: VolumeFile, role: str, classes: list[str], sections: confusion.Table, grey: confusion.Table, sigma: float
) -> dict[str, Any]:
    """The scores of a volume as JSON data, from what :func:`add_up` gives."""
    table = sections.sum(axis=0)
    return {
        "volume": source.name,
        "role": role,
        "shape": list(source.shape),
        "sections": source.shape[0],
        **confusion.summary(table, classes),
        "per_section": [
            {"section": z, "mean_iou": confusion.mean_iou(section), "missing": z in source.missing_sections}
            for z, section in enumerate(sections)
        ],
        "baseline": baseline.summary(grey, classes, sigma),
        "confusion": table.tolist(),
        "version": unetpipe.__version__,
        "digests": {"image": source.image_digest, "labels": source.labels_digest},
    }


@dataclass(frozen=True)
class _Place:
    """What a worker keeps open of one volume."""

    plan: Plan
    image: Image
    labels: zarr.Array[Any]
    probability: zarr.Array[Any]


@functools.lru_cache(maxsize=1)
def _open(volume: Path, allocated: Path) -> _Place:
    source = VolumeFile.read(volume)
    description = read_json(allocated)
    return _Place(
        plan=read_plan(description),
        image=Image(source),
        labels=open_array(str(source.labels)),
        probability=open_array(f"{description['probability']}/{description['array']}"),
    )


def _check(source: VolumeFile, description: dict[str, Any], classes: list[str]) -> None:
    asked = f"the prediction of {source.name} was to be scored"
    if source.labels is None:
        raise UserError(asked, "the volume has no labels", f"set volumes.{source.name}.labels to score it")
    plan = read_plan(description)
    if plan.shape != source.shape or description["classes"] != classes:
        raise UserError(
            asked,
            f"the volume has the shape {source.shape} (z, y, x) and the classes {', '.join(classes)}, "
            f"its prediction {plan.shape} and {', '.join(description['classes'])}",
            "predict the volume again",
        )


def _rounded(value: float | None) -> str:
    return "none (no voxel is scored)" if value is None else f"{value:.4f}"
