"""Which blocks of a prediction are wanted: those that meet a region of interest, a mask, and what is stored.

A wanted block is computed whole, from its real neighbours: nothing is mirrored at the edge of the region, so each of
its voxels is that of the unrestricted prediction (law 1). Blocks that are not wanted are not stored.

A mask has any resolution. It covers the whole image, also sections that are not used, and an axis of N voxels of the
image and M of the mask maps the voxel a of the image to a * M / N, in integers. A block is wanted if any voxel of the
mask that overlaps its write region is not 0: rounding never loses a voxel.
"""

import base64
import hashlib
import itertools
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetpipe.combinations import region_problems
from unetpipe.data.sources import Source, open_source
from unetpipe.data.sources.in_place import InPlaceSource
from unetpipe.errors import UserError
from unetpipe.extent import Extent, any_of
from unetpipe.files import digest_of
from unetpipe.grid import Block, Plan, Region, Shape, triple
from unetpipe.progress_bar import track
from unetpipe.volume import VolumeFile

_BYTES_AT_ONCE = 1 << 26
"""Of a mask, that are read at once, unless a single section (of a Zarr: a chunk) has more."""


@dataclass(frozen=True)
class Mask:
    """The mask as it was when it was read.

    ``digest`` is a SHA-256 over the voxels that were read, 0 or not; ``listing`` over the metadata of its files.
    """

    address: str
    digest: str
    listing: str


@dataclass(frozen=True)
class Frame:
    """Where the volume lies in the image along z: its first section, and the sections of the image."""

    first: int
    sections: int


@dataclass(frozen=True, eq=False)
class Selection:
    """Wanted blocks of a plan; at most a bit for each.

    Attributes
    ----------
    shape, block:
        Of the plan, voxels (z, y, x).
    region:
        Of interest, as it was asked for; None for all of the volume.
    mask:
        None for none.
    box:
        The blocks that meet the region, in blocks.
    bits:
        Those of them that meet the mask: (z, y, ceil(x / 8)) uint8, packed along x; None without a mask.
    """

    shape: Shape
    block: Shape
    region: Region | None
    mask: Mask | None
    box: Region
    bits: NDArray[np.uint8] | None

    @classmethod
    def of(
        cls,
        plan: Plan,
        region: Region | None = None,
        mask: str | None = None,
        frame: Frame | None = None,
        extent: Extent | None = None,
    ) -> "Selection":
        """Find the wanted blocks; the mask is read slab by slab.

        Parameters
        ----------
        region:
            In voxels of the volume, half open.
        mask:
            Its address.
        frame:
            Of the volume in its image, which the mask covers; None where the image has no other sections.
        extent:
            What of the image is stored; None for all of it.

        Raises
        ------
        UserError
            If the region is empty or reaches beyond the volume, if the mask cannot be read, or if no block is wanted.
        """
        if region is not None:
            refuse_region(region, plan.shape)
        inside = region or Region((0, 0, 0), plan.shape)
        box = Region(
            triple([a // n for a, n in zip(inside.start, plan.block, strict=True)]),
            triple([math.ceil(b / n) for b, n in zip(inside.stop, plan.block, strict=True)]),
        )
        stored = None if extent is None else extent.blocks(plan, box)
        if stored is not None and not stored.any():
            where = "" if region is None else f" in the region {region}"
            raise UserError(
                f"a volume of {plan.shape} voxels (z, y, x) was to be predicted",
                f"not one chunk of its image is stored{where}: nothing would be predicted",
                "see whether the image was written or copied whole",
            )
        if mask is None:
            return cls(plan.shape, plan.block, region, None, box, stored)
        frame = frame or Frame(0, plan.shape[0])
        with open_source(mask) as source:
            bits, digest = _read_mask(source, plan, box, frame)
            found = Mask(mask, digest, source.listing())
        if stored is not None:
            bits &= stored
        if not bits.any():
            where = "" if region is None else f" that meets the region {region}"
            raise UserError(
                f"a part of a volume of {plan.shape} voxels (z, y, x) was to be predicted, by the mask {mask}",
                f"all its voxels are 0 in every block{where}: nothing would be predicted",
                "mend the mask, or leave it out: what is not 0 is predicted",
            )
        return cls(plan.shape, plan.block, region, found, box, bits)

    @classmethod
    def read(cls, allocated: Mapping[str, Any]) -> "Selection":
        """That of a prediction, from the content of its ``allocated.json``."""
        shape, block = (triple(allocated["plan"][name]) for name in ("shape", "block"))
        counts = triple([math.ceil(n / b) for n, b in zip(shape, block, strict=True)])
        data = allocated.get("selection")
        if data is None:
            # An earlier version predicted all blocks, always.
            return cls(shape, block, None, None, Region((0, 0, 0), counts), None)
        box = Region(triple(data["box"][0]), triple(data["box"][1]))
        bits = None
        if data["bits"] is not None:
            packed = np.frombuffer(zlib.decompress(base64.b64decode(data["bits"])), np.uint8)
            bits = packed.reshape(*box.shape[:2], -1)
        region = None if data["region"] is None else Region.between(data["region"])
        mask = None if data["mask"] is None else Mask(**data["mask"])
        return cls(shape, block, region, mask, box, bits)

    def as_json(self) -> dict[str, Any]:
        """For ``allocated.json``."""
        bits = None
        if self.bits is not None:
            bits = base64.b64encode(zlib.compress(self.bits.tobytes(), 9)).decode()
        return {
            "blocks": self.count,
            "of": self.total,
            "region": None if self.region is None else self.region.spans,
            "mask": None if self.mask is None else asdict(self.mask),
            "digest": digest_of(self.key),
            "box": [list(self.box.start), list(self.box.stop)],
            "bits": bits,
        }

    @property
    def key(self) -> dict[str, Any]:
        """What decides which blocks are wanted, for the record's key; empty where all are."""
        if not self.is_part:
            return {}
        region = None if self.region is None else self.region.spans
        return {"selection": {"region": region, "mask": None if self.mask is None else self.mask.digest}}

    @property
    def is_part(self) -> bool:
        """Whether a region or a mask was given."""
        return self.region is not None or self.mask is not None

    @property
    def count(self) -> int:
        """Wanted blocks."""
        return self.box.voxels if self.bits is None else int(np.bitwise_count(self.bits).sum())

    @property
    def total(self) -> int:
        """All blocks of the plan."""
        return math.prod(math.ceil(n / b) for n, b in zip(self.shape, self.block, strict=True))

    def wants(self, block: Block) -> bool:
        """Whether a block of the plan is wanted."""
        z, y, x = (i - a for i, a in zip(block.index, self.box.start, strict=True))
        if not all(0 <= i < n for i, n in zip((z, y, x), self.box.shape, strict=True)):
            return False
        return self.bits is None or bool(self.bits[z, y, x // 8] >> (7 - x % 8) & 1)

    def wanted(self, plan: Plan) -> NDArray[np.bool_]:
        """For each block of the plan, x fastest, whether it is wanted."""
        found = np.zeros(plan.block_counts, np.bool_)
        found[self.box.slices] = True if self.bits is None else self._row(self.bits)
        return found.ravel()

    def blocks(self, plan: Plan) -> Iterator[Block]:
        """The wanted blocks of the plan, x fastest; lazily."""
        for z, y in itertools.product(*(range(n) for n in self.box.shape[:2])):
            row = np.ones(self.box.shape[2], np.bool_) if self.bits is None else self._row(self.bits[z, y])
            for x in np.flatnonzero(row):
                yield Block(plan, triple([a + i for a, i in zip(self.box.start, (z, y, int(x)), strict=True)]))

    def voxels(self, region: Region) -> NDArray[np.bool_]:
        """For each voxel of ``region`` (z, y, x), which lies in the volume, whether its block is wanted."""
        wanted = np.zeros(region.shape, np.bool_)
        # Indices of blocks within the box, for the voxels of the region that lie in it.
        lows = [max(a, i * n) for a, i, n in zip(region.start, self.box.start, self.block, strict=True)]
        highs = [min(b, i * n) for b, i, n in zip(region.stop, self.box.stop, self.block, strict=True)]
        if any(a >= b for a, b in zip(lows, highs, strict=True)):
            return wanted
        here = Region(triple(lows), triple(highs)).relative_to(region.start).slices
        if self.bits is None:
            wanted[here] = True
            return wanted
        z, y, x = (np.arange(a, b) // n - i for a, b, n, i in zip(lows, highs, self.block, self.box.start, strict=True))
        rows = self._row(self.bits[z[0] : z[-1] + 1, y[0] : y[-1] + 1])
        wanted[here] = rows[np.ix_(z - z[0], y - y[0], x)]
        return wanted

    def _row(self, packed: NDArray[np.uint8]) -> NDArray[np.bool_]:
        return np.unpackbits(packed, axis=-1, count=self.box.shape[2]).astype(np.bool_)


def frame_of(volume: VolumeFile) -> Frame:
    """Where a volume lies in its image; UserError if ``volume.json`` does not tell."""
    if "image_sections" not in volume.source:
        raise UserError(
            f"a part of the volume {volume.name} was to be predicted, by a mask of its image",
            "its volume.json does not tell how many sections the image has: another version wrote it",
            "delete the volume.json to measure the volume again",
        )
    return Frame(volume.source["sections"][0], volume.source["image_sections"])


def read_extent(allocated: Mapping[str, Any], volume: VolumeFile) -> Extent | None:
    """What of a volume is stored, if nothing else is to be predicted; None for all of it."""
    return volume.read_extent() if allocated["key"].get("absent") == "skip" else None


def refuse_changed_mask(allocated: Mapping[str, Any]) -> None:
    """UserError if the mask of a prediction is not what it was when its blocks were chosen.

    Snakemake does not see a change within a Zarr.
    """
    mask = Selection.read(allocated).mask
    if mask is None:
        return
    with open_source(mask.address) as source:
        if source.listing() != mask.listing:
            raise UserError(
                f"{allocated['volume']} was to be predicted where the mask {mask.address} is not 0",
                "its files are others than when the blocks were chosen",
                "delete the allocated.json of the prediction to read the mask again, or put the old files back",
            )


def refuse_region(region: Region, shape: Shape) -> None:
    """UserError if a volume of ``shape`` has no such region."""
    if problems := region_problems(region, shape):
        raise UserError(
            f"the region {region} (z, y, x) was to be predicted",
            "; ".join(problems),
            f"give a region within {Region((0, 0, 0), shape)}",
        )


def _read_mask(source: Source, plan: Plan, box: Region, frame: Frame) -> tuple[NDArray[np.uint8], str]:
    """The blocks of ``box`` that meet the mask, as :attr:`Selection.bits`, and the digest of what was read."""
    reach = [
        _overlapping(plan, axis, box, source.shape[axis], frame if axis == 0 else Frame(0, plan.shape[axis]))
        for axis in range(3)
    ]
    read = Region(triple([int(low[0]) for low, _ in reach]), triple([int(high[-1]) for _, high in reach]))
    bits = np.zeros((*box.shape[:2], math.ceil(box.shape[2] / 8)), np.uint8)
    digest = hashlib.sha256(f"{source.shape} {frame} {read}\n".encode())
    pieces = _pieces(source, read)
    for piece in track(pieces, f"read the mask {source.address}", len(pieces), "pieces"):
        wanted = _piece(source, piece) != 0
        digest.update(f"{piece}\n".encode() + np.packbits(wanted).tobytes())
        if wanted.any():
            _mark(bits, box.shape[2], wanted, piece, reach)
    return bits, digest.hexdigest()


def _overlapping(
    plan: Plan, axis: int, box: Region, mask: int, frame: Frame
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each block of ``box`` along ``axis``, the voxels [low, high) of the mask that overlap what it writes."""
    starts = np.arange(box.start[axis], box.stop[axis], dtype=np.int64) * plan.block[axis]
    stops = np.minimum(starts + plan.block[axis], plan.shape[axis])
    low = (starts + frame.first) * mask // frame.sections
    return low, -(-(stops + frame.first) * mask // frame.sections)


def _pieces(source: Source, read: Region) -> list[Region]:
    """What is read at once: whole sections; of a Zarr whole chunks, whose sections may be larger than memory."""
    most = max(1, _BYTES_AT_ONCE // source.dtype.itemsize)
    unit = (1, *source.shape[1:])
    if isinstance(source, InPlaceSource):
        unit = triple(source.array.chunk)
    steps = list(unit)
    for axis in (2, 1, 0):
        fitting = most // math.prod(steps)
        steps[axis] *= max(1, min(fitting, math.ceil(read.stop[axis] / unit[axis])))
    # Pieces end where chunks end, so that no chunk is read twice.
    cuts = [
        [a, *range((a // step + 1) * step, b, step), b] for a, b, step in zip(read.start, read.stop, steps, strict=True)
    ]
    pairs = (list(itertools.pairwise(cut)) for cut in cuts)
    return [Region.between(spans) for spans in itertools.product(*pairs)]


def _piece(source: Source, piece: Region) -> NDArray[Any]:
    z, y, x = piece.slices
    if isinstance(source, InPlaceSource):
        return source.read_box((z, y, x))
    return source.read(z.start, z.stop)[:, y, x]


def _mark(
    bits: NDArray[np.uint8],
    width: int,
    wanted: NDArray[np.bool_],
    piece: Region,
    reach: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]],
) -> None:
    """Set the bits of the blocks, ``width`` of them along x, that a wanted voxel of this piece of the mask overlaps."""
    here, ranges = [], []
    for axis, (low, high) in enumerate(reach):
        touched = np.flatnonzero((low < piece.stop[axis]) & (high > piece.start[axis]))
        here.append(slice(int(touched[0]), int(touched[-1]) + 1))
        bounds = np.stack([low[touched], high[touched]], 1).clip(piece.start[axis], piece.stop[axis])
        ranges.append(bounds - piece.start[axis])
    for z, (low_z, high_z) in zip(range(here[0].start, here[0].stop), ranges[0], strict=True):
        layer: NDArray[np.bool_] = np.logical_or.reduce(wanted[low_z:high_z], axis=0)
        if not layer.any():
            continue
        found = any_of(any_of(layer, ranges[1], 0), ranges[2], 1)
        rows = np.unpackbits(bits[z, here[1]], axis=1, count=width).astype(np.bool_)
        rows[:, here[2]] |= found
        bits[z, here[1]] = np.packbits(rows, axis=1)
