"""Score the prediction of one volume against its labels, piece by piece."""

import logging
from pathlib import Path
from typing import Any

import unetpipe
from unetpipe import config
from unetpipe.allocate import read_plan
from unetpipe.cluster import for_each
from unetpipe.errors import UserError
from unetpipe.files import read_json, write_json
from unetpipe.metrics.seg import NOT_NUMBERED
from unetpipe.metrics.streaming import Cut, Task, Totals, count
from unetpipe.metrics.summary import summary
from unetpipe.processes import connect
from unetpipe.progress_bar import track
from unetpipe.volume import VolumeFile

log = logging.getLogger(__name__)


def evaluate(
    volume: Path,
    allocated: Path,
    predicted: list[Path],
    validation: list[Path],
    scores: Path,
    *,
    role: str,
    classes: list[str],
    objects: str,
    settings: config.Evaluate,
    cores: int,
    instances: str | None = None,
) -> None:
    """Back the rule ``evaluate``: scores by voxel, threshold, segment and object, of the volume and of its sections.

    The memory of a worker grows with the voxels of a slab: the sections of a block of the prediction, whole ones where
    they have at most ``settings.largest_section`` voxels, rectangles else. The driver keeps what
    :class:`unetpipe.metrics.segments.Segments` says, which grows with the number of segments, and the counts of each
    section. Sections that are missing in the data are scored like others; voxels of blocks that were not to be
    predicted are left out, as those to ignore.

    Parameters
    ----------
    volume, allocated:
        ``volume.json`` and ``allocated.json``.
    predicted:
        What the jobs of ``predict`` wrote at their end, among it the digest of the prediction.
    validation:
        Scores of the validation volumes, on which a threshold is chosen; none for a validation volume itself.
    scores:
        The result, JSON.
    role:
        Of the volume.
    classes:
        Names in the order of the channels.
    objects:
        The class whose components are the segments.
    cores:
        Worker processes.
    instances:
        The class of the objects that the labels number; None where they are classes.

    Raises
    ------
    UserError
        If the volume has no labels, or the prediction has other classes or another shape.
    """
    source = VolumeFile.read(volume)
    description = read_json(allocated)
    _check(source, description, classes)
    cut = Cut.of(read_plan(description), settings.largest_section, cores)
    probability = f"{description['probability']}/{description['array']}"
    index = classes.index(objects)
    without_objects = _without_objects(source, instances, objects)
    tasks = [
        Task(volume, probability, index, settings.baseline_sigma, cut, region, allocated, without_objects is None)
        for region in cut.runs()
    ]
    with connect(min(cores, len(tasks))) as client:
        runs = track(for_each(client, count, tasks), f"evaluate {source.name}", len(tasks), "runs of sections")
        totals = Totals.of(runs, cut, len(classes))
    chosen_on = {score["volume"]: score for score in map(read_json, validation)}
    result = {
        "volume": source.name,
        "role": role,
        "shape": list(source.shape),
        "sections": source.shape[0],
        **summary(source, totals, classes, objects, settings, chosen_on, without_objects),
        "version": unetpipe.__version__,
        "digests": {
            "image": source.image_digest,
            "labels": source.labels_digest,
            "engine": description["key"]["engine"],
            "prediction": {path.stem: read_json(path)["digest"] for path in predicted},
        },
    }
    write_json(scores, result)
    _tell(result)


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


def _without_objects(source: VolumeFile, instances: str | None, objects: str) -> str | None:
    """Why objects are not compared one by one; None if they are."""
    if source.instances is None:
        return NOT_NUMBERED
    if instances != objects:
        return f"The labels number objects of the class {instances}, and the segments are those of {objects}."
    return None


def _tell(result: dict[str, Any]) -> None:
    """The most important scores, and why some are missing, for the log."""
    name = result["volume"]
    log.info(
        "%s: mean IoU %s, baseline %s; V_rand %s, V_info %s",
        name,
        *map(_rounded, (result["mean_iou"], result["baseline"]["mean_iou"], result["v_rand"], result["v_info"])),
    )
    if result["seg"] is not None:
        log.info("%s: SEG %.4f over %d objects", name, result["seg"], result["instances"]["objects"])
    if left_out := result["left_out"]:
        log.info("%s: neither labelled nor predicted, and not in the means: %s", name, ", ".join(left_out))
    if reason := result["segments"]["left_out"]:
        log.info("%s: %s", name, reason)


def _rounded(value: float | None) -> str:
    return "none" if value is None else f"{value:.4f}"
