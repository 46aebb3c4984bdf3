"""Quality control of one predicted volume, in one pass over a bounded part of its image and probabilities.

A run that was killed goes on with the looks that are missing: what each gave stands in a record beside the result.
"""

import logging
import math
from collections.abc import Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

import unetpipe
from unetpipe import config
from unetpipe.allocate import read_plan
from unetpipe.cluster import for_each
from unetpipe.data.sources.contract import some
from unetpipe.errors import UserError
from unetpipe.files import write_json
from unetpipe.handover import prediction_digest, read_allocated
from unetpipe.processes import connect
from unetpipe.progress import Record
from unetpipe.progress_bar import track
from unetpipe.quality.faults import drift, faults
from unetpipe.quality.look import Look, Seen, look, pixel_nm
from unetpipe.quality.places import Place, worst
from unetpipe.quality.squares import Sample
from unetpipe.selection import Selection
from unetpipe.storage import folder_at, join
from unetpipe.volume import VolumeFile

log = logging.getLogger(__name__)

_FEW_VOXELS = 40_000_000
"""That are looked at within the seconds that processes take to start."""

_AT_ONCE = 2
"""Looks that a worker works on: while one reads, the other counts."""


def quality(
    volume: Path,
    allocated: Path,
    predicted: list[Path],
    quality: Path,
    *,
    settings: config.Quality,
    cores: int,
) -> None:
    """Back the rule ``quality``: how sure a prediction is of itself, and which sections of its image have faults.

    At most ``settings.squares`` squares of about 256 x 256 voxels are looked at in each section, at the same places in
    all; no more than those that meet blocks which were to be predicted. So what is read grows with the number of
    sections alone, and the memory of a worker is that of a few squares in some 80 sections. The numbers do not depend
    on how the prediction was cut, or on workers. Where there are labels, wrong voxels are counted on the way.

    Parameters
    ----------
    volume, allocated:
        ``volume.json`` and ``allocated.json``.
    predicted:
        What the jobs of ``predict`` wrote, among it the digest of the prediction.
    quality:
        The result, JSON. What was counted so far lies beside it, in a folder of the volume's name.
    cores:
        Worker processes.

    Raises
    ------
    UserError
        If a shard of the prediction is gone.
    """
    source, description = VolumeFile.read(volume), read_allocated(allocated)
    selection = Selection.read(description)
    probability = join(description["probability"], description["array"])
    _refuse_lost_shards(source.name, probability, description, selection)
    sample = Sample.of_selection(selection, settings.squares)
    prediction = prediction_digest(predicted)
    looks = [
        Look(volume, probability, first, end, squares, settings.uncertain, 1) for first, end, squares in sample.looks
    ]
    key = {
        "image": source.image_digest,
        "labels": source.labels_digest,
        "missing": list(source.missing_sections),
        "prediction": prediction,
        "settings": settings.model_dump(mode="json"),
        "looks": [each.name for each in looks],
        "version": unetpipe.__version__,
    }
    record = Record.open(quality.parent / source.name / "progress", key, "restart", f"the quality of {source.name}")
    seen = {name: Seen.of(entry) for name, entry in record.done().items()}
    todo = [each for each in looks if each.name not in seen]
    workers = 0 if sample.voxels * len(todo) / len(looks) < _FEW_VOXELS else min(cores, len(todo))
    with closing(_look(todo, workers)) as results:
        for name, found in track(results, f"quality of {source.name}", len(looks), "looks", done=len(seen)):
            # One writer, so that the log is as short as can be.
            record.append("looks", found.entry(name))
            seen[name] = found
    result = {
        "volume": source.name,
        "shape": list(source.shape),
        "settings": settings.model_dump(mode="json"),
        "looked_at": {
            "sections": [sample.first, sample.end],
            "squares": [[[s.y0, s.y1], [s.x0, s.x1]] for s in sample.squares],
            "of": sample.of,
            "voxels": sample.voxels,
            "share": sample.voxels / math.prod(source.shape),
        },
        **summary(source, description["classes"], sample, [seen[each.name] for each in looks]),
        "digests": {"image": source.image_digest, "prediction": prediction},
        "version": unetpipe.__version__,
    }
    write_json(quality, result)
    _tell(result)


def _look(looks: Sequence[Look], workers: int) -> Generator[tuple[str, Seen], None, None]:
    """What each look gives, with its name; in this process where ``workers`` is 0."""
    if workers == 0:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            yield from pool.map(_named, looks)
    else:
        with connect(workers, _AT_ONCE) as client:
            yield from for_each(client, _named, looks)


def _named(task: Look) -> tuple[str, Seen]:
    return task.name, look(task)


def _refuse_lost_shards(name: str, address: str, description: Mapping[str, Any], selection: Selection) -> None:
    """UserError if a shard of the prediction is gone: it would pass for what was not to be predicted."""
    place = folder_at(address)
    there = {entry.name for entry in place.entries()}
    lost = [block.shard for block in selection.blocks(read_plan(dict(description))) if block.shard not in there]
    if lost:
        raise UserError(
            f"the quality of the prediction of {name} was to be measured",
            f"{len(lost)} shards of {place} are gone, {place.where(lost[0])} among them",
            "delete all job-*.json beside the store and run snakemake again: it predicts what is missing",
        )


def summary(source: VolumeFile, classes: Sequence[str], sample: Sample, seen: Iterable[Seen]) -> dict[str, Any]:
    """What all looks of a volume come to, for the file; sums are taken in their order, which is fixed."""
    sections = sample.end - sample.first
    laplacian = np.zeros((sections, 3))
    empty, voxels, uncertain = np.zeros((3, sections), np.int64)
    entropy = np.zeros(sections)
    counts = np.zeros((sections, len(classes)), np.int64)
    bands: list[int | None] = [None] * sections
    digests: list[list[str]] = [[] for _ in range(sections)]
    places: dict[str, list[Place]] = {"uncertain_places": [], "wrong_places": []}
    for each in seen:
        here = slice(each.first - sample.first, each.first - sample.first + len(each.voxels))
        laplacian[here] += each.laplacian
        empty[here] += each.empty
        voxels[here] += each.voxels
        entropy[here] += each.entropy
        uncertain[here] += each.uncertain
        counts[here] += each.classes
        for place, (band, digest) in enumerate(zip(each.band, each.digest, strict=True), here.start):
            bands[place] = max((b for b in (bands[place], band) if b is not None), default=None)
            digests[place] += [] if digest is None else [digest]
        for kind, found in places.items():
            places[kind] = worst([*found, *getattr(each, kind)])
    missing = [z for z in source.missing_sections if sample.first <= z < sample.end]
    is_missing = np.isin(np.arange(sample.first, sample.end), missing)
    looked = sum(square.voxels for square in sample.squares)
    nm = pixel_nm(source)
    gone = is_missing.tolist()
    per_section: dict[str, list[Any]] = {
        "contrast": [None if no else float(source.std[z]) for z, no in enumerate(gone, sample.first)],
        "sharpness": [(squares / n - (total / n) ** 2) if n else None for n, total, squares in laplacian.tolist()],
        "empty": [None if no else n / looked for n, no in zip(empty.tolist(), gone, strict=True)],
        "band_nm": [None if band is None else band * nm for band in bands],
    }
    shares = np.full(counts.shape, np.nan)
    shares[voxels > 0] = counts[voxels > 0] / voxels[voxels > 0, None]
    drifted = drift(np.where(is_missing[:, None], np.nan, shares))
    total = int(voxels.sum())
    return {
        "classes": list(classes),
        "voxels": total,
        "entropy": float(entropy.sum()) / total if total else None,
        "uncertain": int(uncertain.sum()) / total if total else None,
        "shares": (counts.sum(axis=0) / total).tolist() if total else None,
        "drift": drifted,
        "faults": faults(
            first=sample.first,
            missing=missing,
            digest=["".join(parts) or None for parts in digests],
            **per_section,
        ),
        **{kind: [asdict(place) for place in found] for kind, found in places.items()},
        "per_section": {
            "section": list(range(sample.first, sample.end)),
            **per_section,
            "entropy": _over(entropy.tolist(), voxels.tolist()),
            "uncertain": _over(uncertain.tolist(), voxels.tolist()),
            "shares": [None if np.isnan(row).any() else row.tolist() for row in shares],
        },
    }


def _over(amounts: Sequence[float], counts: Sequence[int]) -> list[float | None]:
    return [amount / count if count else None for amount, count in zip(amounts, counts, strict=True)]


def _tell(result: dict[str, Any]) -> None:
    """What matters most, for the log."""
    if result["uncertain"] is not None:
        log.info("%s: %.1f %% of the voxels are uncertain", result["volume"], 100 * result["uncertain"])
    for kind, found in result["faults"].items():
        if found:
            log.info("%s: %s: sections %s", result["volume"], kind.replace("_", " "), some(map(str, found), 20))
