"""What was predicted of each prediction, beside what it took."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Planned:
    """One volume: what was predicted, and what the last run of its jobs took.

    ``seconds`` is predicted of the blocks that this run computed, and None where it computed none. ``took`` and
    ``peak_mb`` are what it took; None where nothing was computed, or not measured.
    """

    seconds: float | None
    took: float | None
    memory_mb: int
    peak_mb: int | None
    bytes_raw: int
    bytes_written: int | None
    basis: str
    mirror: tuple[str, ...] = ()
    """Axes along which each tile was mirrored as well."""

    @property
    def images(self) -> int:
        """Mirror images of a tile, itself among them."""
        return 1 << len(self.mirror)

    @property
    def off(self) -> float | None:
        """By how much longer it took, as a share of what was predicted; less than 0 if it was quicker."""
        return None if not self.seconds or self.took is None else self.took / self.seconds - 1


def planned(
    allocated: Mapping[str, Mapping[str, Any]], jobs: Mapping[str, Sequence[Mapping[str, Any]]]
) -> dict[str, Planned]:
    """By the name of the volume; those that another version has planned are left out.

    Parameters
    ----------
    allocated, jobs:
        ``allocated.json``, and what the jobs of ``predict`` wrote.
    """
    return {
        name: _planned(allocated[name]["predicted"], done)
        for name, done in jobs.items()
        if "predicted" in allocated[name]
    }


def _planned(predicted: Mapping[str, Any], jobs: Sequence[Mapping[str, Any]]) -> Planned:
    basis = predicted["basis"]
    computed = sum(job["computed"] for job in jobs)
    share = computed / predicted["blocks"]
    start = predicted["start_seconds"]
    peaks = [peak for job in jobs for peak in job.get("peak_memory_mb", ())]
    return Planned(
        seconds=start + share * (predicted["seconds"] - start) if computed else None,
        took=max(job["seconds"] for job in jobs) if computed else None,
        memory_mb=predicted["memory_mb_per_worker"],
        peak_mb=round(max(peaks)) if peaks else None,
        bytes_raw=round(share * predicted["bytes_written"]),
        bytes_written=sum(job["bytes_written"] for job in jobs) if computed else None,
        basis=f"{basis['library']} on {basis['host']}, {basis['measured']}",
        mirror=tuple(predicted.get("mirror", ())),
    )
