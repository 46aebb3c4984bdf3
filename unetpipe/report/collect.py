"""What a run has left behind, read into one place, and what follows from it."""

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from unetpipe.data.samples import SamplesFile
from unetpipe.errors import UserError
from unetpipe.files import read_json
from unetpipe.volume import VolumeFile

ROLES = ("test", "validate", "predict", "train")
"""Roles of volumes, those that matter most for the result first."""

_OF_SCORES = (
    *("volume", "role", "scored_voxels", "classes", "mean_iou", "v_rand", "v_info", "seg", "instances", "shown_at"),
    *("segments", "per_section", "baseline", "one_class", "confusion", "histograms", "digests"),
)
"""What the page tells of the scores of a volume."""

T = TypeVar("T")

History = list[dict[str, float | None]]


@dataclass(frozen=True)
class Run:
    """The content of the files of a run; what there is for each volume is in the order of :data:`ROLES`."""

    name: str
    settings: Mapping[str, Any]
    volumes: Mapping[str, VolumeFile]
    scores: Mapping[str, Mapping[str, Any]]
    allocated: Mapping[str, Mapping[str, Any]]
    jobs: Mapping[str, Sequence[Mapping[str, Any]]]
    pyramids: Mapping[str, Mapping[str, Any]]
    certificate: Mapping[str, Any]
    build: Mapping[str, Any]
    model: Mapping[str, Any]
    history: History
    samples: SamplesFile | None
    segments: Mapping[str, Mapping[str, Any]]
    quality: Mapping[str, Mapping[str, Any]]

    def role(self, volume: str) -> str:
        """What a volume is for."""
        role: str = self.settings["volumes"][volume]["role"]
        return role

    def first(self, most: int) -> "Run":
        """The same of the first ``most`` volumes alone."""
        names = list(self.volumes)[:most]

        def of(found: Mapping[str, T]) -> dict[str, T]:
            return {name: found[name] for name in names if name in found}

        return replace(
            self,
            volumes=of(self.volumes),
            scores=of(self.scores),
            allocated=of(self.allocated),
            jobs=of(self.jobs),
            pyramids=of(self.pyramids),
            segments=of(self.segments),
            quality=of(self.quality),
        )

    def with_role(self, role: str) -> list[str]:
        """Names of the volumes with ``role``."""
        return [name for name in self.volumes if self.role(name) == role]


@dataclass(frozen=True)
class Throughput:
    """How one volume was predicted, over its jobs."""

    computed: int
    resumed: int
    voxels: int
    seconds: float
    workers: str
    bytes_written: int

    @property
    def megavoxels_per_second(self) -> float | None:
        """None where nothing was computed."""
        return self.voxels / self.seconds / 1e6 if self.voxels and self.seconds > 0 else None


def collect(
    *,
    name: str,
    settings: Mapping[str, Any],
    volumes: Iterable[Path],
    scores: Iterable[Path],
    allocated: Iterable[Path],
    predictions: Iterable[Path],
    pyramids: Iterable[Path],
    certificate: Path,
    build: Path,
    model: Path,
    history: Path | None,
    samples: Path | None,
    segments: Iterable[Path] = (),
    quality: Iterable[Path] = (),
) -> Run:
    """Read all files; KeyError or ValueError if one does not hold what its producer promises.

    Raises
    ------
    UserError
        If scores are those of another version, which has other ones.
    """
    order = {role: number for number, role in enumerate(ROLES)}

    def by_role(items: Iterable[tuple[str, Any]]) -> dict[str, Any]:
        return dict(sorted(items, key=lambda item: order[settings["volumes"][item[0]]["role"]]))

    jobs: dict[str, list[Mapping[str, Any]]] = {}
    for path in predictions:
        job = read_json(path)
        jobs.setdefault(job["volume"], []).append(job)
    return Run(
        name=name,
        settings=settings,
        volumes=by_role((volume.name, volume) for volume in map(VolumeFile.read, volumes)),
        scores=by_role((score["volume"], score) for score in map(_read_scores, scores)),
        allocated=by_role((plan["volume"], plan) for plan in map(read_json, allocated)),
        jobs=by_role(jobs.items()),
        pyramids=by_role((made["volume"], made) for made in map(read_json, pyramids)),
        certificate=read_json(certificate),
        build=read_json(build),
        model=read_json(model),
        history=[] if history is None else read_history(history),
        samples=None if samples is None else SamplesFile.read(samples),
        segments=by_role((found["volume"], found) for found in map(read_json, segments)),
        quality=by_role((found["volume"], found) for found in map(read_json, quality)),
    )


def _read_scores(path: Path) -> Mapping[str, Any]:
    score = read_json(path)
    lacking = [key for key in _OF_SCORES if not isinstance(score, Mapping) or key not in score]
    if lacking:
        raise UserError(
            f"the scores in {path} were to be told",
            f"they are damaged, or another version made them: without {', '.join(lacking)}",
            "delete the file and run snakemake again",
        )
    found: Mapping[str, Any] = score
    return found


def read_history(path: Path) -> History:
    """The rows of ``history.csv``; None for what was not measured at a step, or is not finite."""
    with path.open(newline="", encoding="utf-8") as file:
        return [{key: _number(text) for key, text in row.items()} for row in csv.DictReader(file)]


def _number(text: str | None) -> float | None:
    if not text:
        return None
    value = float(text)
    return value if math.isfinite(value) else None


def throughput(jobs: Sequence[Mapping[str, Any]]) -> Throughput:
    """The jobs of one volume taken together; jobs run side by side, so the longest one counts."""
    return Throughput(
        computed=sum(job["computed"] for job in jobs),
        resumed=sum(job["resumed"] for job in jobs),
        voxels=sum(job["voxels"] for job in jobs),
        seconds=max(job["seconds"] for job in jobs),
        workers=" + ".join(f"{job['workers']} × {job['threads_per_worker']}" for job in jobs),
        bytes_written=sum(job["bytes_written"] for job in jobs),
    )
