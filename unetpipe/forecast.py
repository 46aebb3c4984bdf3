"""What a prediction will take: seconds, memory, bytes and files."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from unetpipe.grid import Plan, Shape
from unetpipe.layout import Layout
from unetpipe.volume import mirrored

_FILES_OF_A_STORE = 2
_FILES_OF_A_RECORD = 1
_FILES_OF_THE_RULES = 2
"""``allocated.json`` and that of the job."""


@dataclass(frozen=True)
class Stored:
    """How an image is stored: ``chunk`` (z, y, x) is what is decoded at once; ``first_section`` is where it begins."""

    shape: Shape
    chunk: Shape
    itemsize: int
    first_section: int = 0


def forecast(layout: Layout, image: Stored, wanted: int) -> dict[str, Any]:
    """What to expect of a prediction of ``wanted`` blocks of ``layout``, as JSON data.

    Bytes are those of voxels: what is decoded to be read, and what is encoded to be written. Files are those of the
    store (one a block, and its metadata) and of the record. The coarser levels, which are made of it, are left out.
    """
    plan, rate = layout.plan, layout.rate
    blocks = math.prod(plan.block_counts)
    part = wanted / blocks
    # Few blocks do not keep all workers busy: a single one takes as long as a block takes.
    turns = math.ceil(wanted / layout.limits.workers)
    work_seconds = min(layout.work_seconds, turns * layout.block_seconds)
    return {
        "seconds": round(rate.start_seconds + work_seconds, 3),
        "start_seconds": round(rate.start_seconds, 3),
        "block_seconds": round(layout.block_seconds, 3),
        "voxels_per_second": round(layout.voxels_per_second),
        "kept_fraction": plan.kept_fraction,
        "tiles": round(part * layout.tiles),
        "mirror": list(rate.mirror),
        "blocks": wanted,
        "bytes_read": round(part * bytes_read(plan, image)),
        "bytes_written": round(part * layout.limits.classes * math.prod(plan.shape)),
        "files": wanted
        + _FILES_OF_A_STORE
        + _FILES_OF_A_RECORD
        + _FILES_OF_THE_RULES
        + min(layout.limits.workers, wanted),
        "memory_mb_per_worker": round(layout.memory_mb),
        "basis": {
            "library": rate.library,
            "host": rate.host,
            "measured": rate.measured,
            "seconds_per_call": rate.seconds_per_call,
            "tile": list(rate.call.tile),
            "batch": rate.call.batch,
            "workers": rate.workers,
            "threads": rate.threads,
        },
    }


def told(plan: Plan, predicted: Mapping[str, Any]) -> dict[str, str]:
    """The plan and what to expect of it, for the terminal: what, and how much."""
    basis = predicted["basis"]
    blocks = math.prod(plan.block_counts)
    part = "" if predicted["blocks"] == blocks else f" of {blocks}, the others are not wanted"
    together = f", {plan.batch} a call" if plan.batch > 1 else ""
    # An earlier version did not mirror.
    mirror = predicted.get("mirror", [])
    images = f", in {2 ** len(mirror)} mirror images (along {', '.join(mirror)})" if mirror else ""
    work = predicted["seconds"] - predicted["start_seconds"]
    kept = f"keep {size(plan.kept)} ({100 * plan.kept_fraction:.0f} %)"
    workers = f"{basis['workers']} workers of {basis['threads']} threads"
    parts = [
        f"{duration(predicted['start_seconds'])} to start",
        f"{duration(work)} to compute",
        f"{duration(predicted['block_seconds'])} a block",
    ]
    return {
        "voxels": f"{size(plan.shape)} (z, y, x)",
        "tiles": f"{predicted['tiles']:,} of {size(plan.tile)} that {kept}{together}{images}",
        "blocks": f"{predicted['blocks']:,}{part}, each a shard of {size(plan.block)}, chunks {size(plan.chunk)}",
        "reads": f"{amount(predicted['bytes_read'])} of decoded chunks, borders included",
        "writes": f"{amount(predicted['bytes_written'])} before compression, {predicted['files']:,} files",
        "memory": f"{predicted['memory_mb_per_worker']:,} MB for each of {basis['workers']} workers",
        "time": f"{duration(predicted['seconds'])}: {', '.join(parts)}",
        "basis": f"{basis['seconds_per_call']:.3g} s a call of {basis['batch']} x {size(basis['tile'])}{images}, "
        f"{workers}, {basis['library']} on {basis['host']}, {basis['measured']}",
    }


def size(shape: Sequence[int]) -> str:
    """A shape as text."""
    return " x ".join(map(str, shape))


def amount(count: float) -> str:
    """Bytes with a unit, in powers of ten."""
    power = min(4, int(math.log10(max(1, count))) // 3)
    return f"{count / 1000**power:.3g} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"


def duration(seconds: float) -> str:
    """Seconds with a unit that suits them."""
    if seconds < 120:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


def bytes_read(plan: Plan, image: Stored) -> int:
    """Bytes of all chunks that all blocks decode; one that several blocks need counts for each of them."""
    along = []
    for axis in range(3):
        size, block, kept = plan.shape[axis], plan.block[axis], plan.kept[axis]
        border, tile = plan.geometry.border[axis], plan.tile[axis]
        offset = image.first_section if axis == 0 else 0
        total = 0
        for start in range(0, size, block):
            tiles = math.ceil(min(block, size - start) / kept)
            indices = mirrored(start - border, start - border + (tiles - 1) * kept + tile, size) + offset
            chunk = image.chunk[axis]
            low = int(indices.min()) // chunk * chunk
            high = min((int(indices.max()) // chunk + 1) * chunk, image.shape[axis])
            total += high - low
        along.append(total)
    # A block's chunks are a box, so the sum over all blocks is the product of the sums along the axes.
    return int(np.prod(along, dtype=np.int64)) * image.itemsize
