"""One page that holds everything: written from what a run has left behind, opened without a network."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from unetpipe.files import write_bytes
from unetpipe.report import environment, figures, pictures, score_figures, tables
from unetpipe.report.collect import Run, collect, throughput
from unetpipe.report.findings import find
from unetpipe.report.planning import planned
from unetpipe.report.samples import sample_pictures
from unetpipe.report.sections import MOST_VOLUMES, gallery
from unetpipe.report.templates import template

log = logging.getLogger(__name__)

_ROLES = {
    "train": "training volume",
    "validate": "validation volume",
    "test": "test volume",
    "predict": "volume to predict",
}


def report(
    report: Path,
    *,
    run: str,
    settings: dict[str, Any],
    volumes: list[Path],
    scores: list[Path],
    allocated: list[Path],
    predictions: list[Path],
    pyramids: list[Path],
    certificate: Path,
    build: Path,
    model: Path,
    history: Path | None,
    samples: Path | None,
    command: str,
    segments: list[Path] | None = None,
) -> None:
    """Back the rule ``report``: everything that a reader and a reproducer need, in one HTML file.

    Memory does not grow with the volumes: only the parts of sections that are shown are read.

    Parameters
    ----------
    report:
        The page.
    run, settings:
        The name of the run, and all its settings as plain data.
    volumes, scores, allocated, predictions, pyramids:
        ``volume.json`` of all volumes; the scores of those with labels; ``allocated.json`` and what the jobs of
        ``predict`` and ``pyramid`` wrote of those predicted.
    certificate, build, model:
        Of the engine, and of the network: ``certificate.json``, ``build.json`` and ``model.json``.
    history, samples:
        ``history.csv`` and ``samples.json``; None where nothing was trained.
    command:
        What repeats the run.
    segments:
        ``segments.json`` of the volumes whose objects were numbered; None where none were.

    Raises
    ------
    UserError
        If a volume or a prediction cannot be opened.
    """
    found = collect(
        name=run,
        settings=settings,
        volumes=volumes,
        scores=scores,
        allocated=allocated,
        predictions=predictions,
        pyramids=pyramids,
        certificate=certificate,
        build=build,
        model=model,
        history=history,
        samples=samples,
        segments=segments or (),
    )
    page = render(found, command).encode()
    write_bytes(report, page)
    log.info("%s: %.1f MB", report, len(page) / 1e6)


def render(run: Run, command: str) -> str:
    """The page as text."""
    classes = list(run.settings["classes"])
    shown = gallery([run.volumes[name] for name in run.allocated], run.allocated, classes)
    # A checkpoint from elsewhere need not tell how it was trained.
    training = run.model["training"]
    return template("template.html.j2").render(
        run=run,
        roles=_ROLES,
        verdict=find(run),
        drawings={
            "scores": {
                name: score_figures.of(run.scores[name], shown.colours) for name in list(run.scores)[:MOST_VOLUMES]
            },
            "training": figures.training(run.history, training["best_step"] if training else None, shown.colours),
        },
        tables=tables,
        gallery=shown,
        left_out=[name for name in run.allocated if name not in shown.crops],
        colours=shown.colours,
        colour_wrong=pictures.css(pictures.WRONG),
        colour_ignored=pictures.css(pictures.IGNORED),
        sample_pictures=[] if run.samples is None else sample_pictures(run.samples, shown.paint),
        certificate=run.certificate,
        build=run.build,
        network=run.model["network"],
        training=training,
        throughput={name: throughput(jobs) for name, jobs in run.jobs.items()},
        planned=planned(run.allocated, run.jobs),
        versions=environment.versions(),
        machine=environment.machine(),
        digests=digests(run),
        settings=yaml.safe_dump(run.settings, sort_keys=False, allow_unicode=True),
        command=command,
    )


def digests(run: Run) -> Mapping[str, str]:
    """What identifies the inputs, what was made of them, and the results, in the order of the data flow."""
    found: dict[str, str] = {}
    for name, volume in run.volumes.items():
        found[f"{name}, image"] = volume.image_digest
        if volume.labels_digest is not None:
            found[f"{name}, labels"] = volume.labels_digest
    if run.samples is not None:
        found["samples"] = run.samples.digest
    found["checkpoint"] = run.certificate["checkpoint_digest"]
    found["ONNX"] = run.certificate["onnx_digest"]
    found["engine"] = run.certificate["engine_digest"]
    for name, jobs in run.jobs.items():
        for job in jobs:
            found[f"prediction of {name}, {job['job']}"] = job["digest"]
    for name, made in run.segments.items():
        found[f"objects of {name}"] = made["digests"]["segments"]
    return found
