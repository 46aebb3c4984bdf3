"""One page that holds everything: written from what a run has left behind, opened without a network."""

import logging
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from markupsafe import Markup

from unetpipe.files import write_bytes, write_json
from unetpipe.report import challenge, environment, explorer, inspection, pictures, tables
from unetpipe.report.collect import Run, collect, throughput
from unetpipe.report.drawings import Drawings
from unetpipe.report.facts import facts as facts_of
from unetpipe.report.findings import find
from unetpipe.report.places import Kind, Shown, places, viewer_of
from unetpipe.report.planning import planned
from unetpipe.report.rules import Took, rules_of, took
from unetpipe.report.rules import drawing as graph
from unetpipe.report.samples import sample_pictures
from unetpipe.report.sections import Gallery, gallery
from unetpipe.report.templates import template
from unetpipe.viewer.address import link

log = logging.getLogger(__name__)

MOST_LISTED = 200
"""Volumes that stand in tables; ``report.json`` has all."""

_ROLES = {
    "train": "training volume",
    "validate": "validation volume",
    "test": "test volume",
    "predict": "volume to predict",
}


def report(
    report: Path,
    facts: Path,
    figures: Path,
    *,
    run: str,
    settings: dict[str, Any],
    volumes: list[Path],
    scores: list[Path],
    quality: list[Path],
    allocated: list[Path],
    predictions: list[Path],
    pyramids: list[Path],
    certificate: Path,
    build: Path,
    model: Path,
    history: Path | None,
    samples: Path | None,
    command: str,
    configuration: list[str],
    benchmarks: Path,
    segments: list[Path] | None = None,
) -> None:
    """Back the rule ``report``: everything that a reader and a reproducer need, in one HTML file.

    Memory does not grow with the volumes: only the parts of sections that are shown are read. The page stays below
    20 MB whatever their size and number: at most 7.5 MB are pictures of sections, and 7 MB those of the worst places;
    figures, and scores by class and section, are those of the first 12 volumes, with 400 points a curve and 200
    sections a table; 200 volumes are listed. Roles that matter most come first.

    Parameters
    ----------
    report:
        The page, written last.
    facts:
        The same for programs: :func:`unetpipe.report.facts.facts`. It has all volumes.
    figures:
        A folder for the figures of the page, each an SVG.
    run, settings:
        The name of the run, and all its settings as plain data.
    volumes, scores, quality, allocated, predictions, pyramids:
        ``volume.json`` of all volumes; the scores of those with labels; of those predicted, ``quality/<volume>.json``,
        ``allocated.json`` and what the jobs of ``predict`` and ``pyramid`` wrote.
    certificate, build, model:
        Of the engine, and of the network: ``certificate.json``, ``build.json`` and ``model.json``.
    history, samples:
        ``history.csv`` and ``samples.json``; None where nothing was trained.
    command, configuration:
        What repeats the run, and the paths of its configuration files.
    benchmarks:
        The folder of what Snakemake has measured of each job.
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
        quality=quality,
    )
    ran = rules_of(found)
    times = took(benchmarks, ran, found.volumes)
    workflow = graph(ran, times)
    listed = found.first(MOST_LISTED)
    crops = gallery([listed.volumes[name] for name in listed.allocated], listed.allocated, list(settings["classes"]))
    drawings = Drawings.of(listed, crops.colours)
    page = render(listed, command, crops, drawings, workflow, times, more=len(found.volumes) - len(listed.volumes))
    data = page.encode()
    shutil.rmtree(figures, ignore_errors=True)
    for name, drawing in drawings.files():
        write_bytes(figures / f"{name}.svg", drawing.svg)
    write_bytes(figures / "workflow.svg", workflow.encode())
    write_json(facts, facts_of(found, command, configuration, times))
    write_bytes(report, data)
    log.info("%s: %.1f MB", report, len(data) / 1e6)


def render(
    run: Run, command: str, crops: Gallery, drawings: Drawings, workflow: str, times: Mapping[str, Took], more: int
) -> str:
    """The page as text; ``more`` volumes are not in ``run``."""
    count = len(run.settings["classes"])

    def worst(kind: Kind, names: Iterable[str]) -> Sequence[Shown]:
        quality = {name: run.quality[name] for name in names if name in run.quality}
        return places(kind, run.volumes, run.allocated, quality, crops.paint, count)

    return template("template.html.j2").render(
        run=run,
        more=more,
        roles=_ROLES,
        verdict=find(run),
        drawings=drawings,
        tables=tables,
        challenge=challenge,
        inspection=inspection,
        gallery=crops,
        wrong=worst("wrong", run.scores),
        uncertain=worst("uncertain", [name for name in run.allocated if name not in run.scores]),
        link=link,
        viewer_of=viewer_of,
        left_out=[name for name in run.allocated if name not in crops.crops],
        colours=crops.colours,
        colour_wrong=pictures.css(pictures.WRONG),
        colour_ignored=pictures.css(pictures.IGNORED),
        sample_pictures=[] if run.samples is None else sample_pictures(run.samples, crops.paint),
        certificate=run.certificate,
        build=run.build,
        network=run.model["network"],
        # A checkpoint from elsewhere need not tell how it was trained.
        training=run.model["training"],
        throughput={name: throughput(jobs) for name, jobs in run.jobs.items()},
        planned=planned(run.allocated, run.jobs),
        workflow=Markup(workflow),  # noqa: S704 – it escapes what it takes
        times=times,
        versions=environment.versions(),
        machine=environment.machine(),
        digests=digests(run),
        settings=yaml.safe_dump(run.settings, sort_keys=False, allow_unicode=True),
        command=command,
        script=explorer.script(),
        script_policy=explorer.policy(),
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
