"""What the page says, for programs: all that is needed to repeat a run and to see whether it came out the same."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import unetpipe
from unetpipe.ledger import added
from unetpipe.report import environment
from unetpipe.report.collect import Run
from unetpipe.report.planning import planned
from unetpipe.report.rules import Took

SCHEMA = 1
"""The version of what ``report.json`` holds: another one where a key changes its meaning or is gone."""

_GROWING = ("per_section", "histograms", "version", "digests")
"""Of a score file: what grows with its volume, and what is said elsewhere."""


def facts(run: Run, command: str, configuration: Sequence[str], rules: Mapping[str, Took]) -> dict[str, Any]:
    """The content of ``report.json``; ``docs/report.md`` lists its keys.

    Nothing in ``inputs``, ``digests`` and ``scores`` depends on folder, time or the name of a machine. What grows with
    a volume is left out.

    Parameters
    ----------
    configuration:
        The paths of the configuration files.
    rules:
        What each rule took.
    """
    proof = run.certificate
    return {
        "schema": SCHEMA,
        "run": run.name,
        "version": unetpipe.__version__,
        "versions": environment.versions(),
        "machine": environment.machine(),
        "command": command,
        "configuration": {path: Path(path).read_text(encoding="utf-8") for path in configuration},
        "settings": run.settings,
        "seed": run.settings["seed"],
        "backend": proof["backend"],
        "precision": proof["precision"],
        "device_class": proof["device_class"],
        "certificate": {
            key: proof[key]
            for key in ("verdict", "bound", "tiles_from", "iou", "changed_labels", "largest_absolute_error", "device")
        },
        "inputs": {name: _input(run, name) for name in run.volumes},
        "digests": _digests(run),
        "scores": {name: _score(score) for name, score in run.scores.items()},
        "quality": {
            name: {key: value for key, value in found.items() if key not in _GROWING}
            for name, found in run.quality.items()
        },
        "planned": {name: asdict(item) for name, item in planned(run.allocated, run.jobs).items()},
        "rules": {name: asdict(took) for name, took in rules.items()},
    }


def _input(run: Run, name: str) -> dict[str, Any]:
    """What a volume is and where it comes from; addresses as in the settings."""
    volume, asked = run.volumes[name], run.settings["volumes"][name]
    mask = (run.allocated.get(name, {}).get("selection") or {}).get("mask")
    return {
        "role": run.role(name),
        "image": asked["image"],
        "labels": asked.get("labels"),
        "mask": asked.get("mask"),
        "region": asked.get("region"),
        "in_place": bool(volume.source.get("in_place", False)),
        "shape": volume.shape,
        "sections": volume.source.get("sections"),
        "voxel_size_nm": volume.voxel_size_nm,
        "image_digest": volume.image_digest,
        "labels_digest": volume.labels_digest,
        "mask_digest": None if mask is None else mask["digest"],
    }


def _digests(run: Run) -> dict[str, Any]:
    """What was made, in the order in which one is made of the other."""
    predictions = {}
    for name, jobs in run.jobs.items():
        of_jobs = {job["job"]: job["digest"] for job in jobs}
        whole = next(iter(of_jobs.values())) if len(of_jobs) == 1 else added(of_jobs.values())
        predictions[name] = {"digest": whole, "jobs": of_jobs, "plan": run.allocated[name]["plan"]}
    return {
        "samples": None if run.samples is None else run.samples.digest,
        "checkpoint": run.certificate["checkpoint_digest"],
        "onnx": run.certificate["onnx_digest"],
        "engine": run.certificate["engine_digest"],
        "predictions": predictions,
        "pyramids": {name: made["digest"] for name, made in run.pyramids.items()},
        "segments": {name: made["digests"]["segments"] for name, made in run.segments.items()},
    }


def _score(score: Mapping[str, Any]) -> dict[str, Any]:
    found = {key: value for key, value in score.items() if key not in _GROWING}
    found["segments"] = {
        kind: {key: value for key, value in values.items() if key != "curve"} if isinstance(values, Mapping) else values
        for kind, values in score["segments"].items()
    }
    return found
