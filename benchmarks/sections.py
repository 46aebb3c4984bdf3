"""Kept pixels a second on large sections, on all cores, against those of peers."""

from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.peers import Peer, peers
from benchmarks.rows import Row, Rows, Skipped
from benchmarks.running import Ran, run
from benchmarks.setting import CORES, Setting
from benchmarks.timing import once, seconds, spread
from unetpipe.allocate import read_plan
from unetpipe.config import Precision
from unetpipe.engines import load_engine
from unetpipe.errors import UserError
from unetpipe.files import read_json
from unetpipe.grid import Plan
from unetpipe.layout import tiles_of
from unetpipe.volume import Image, VolumeFile

EDGE = 2048

EXPECTED = {
    # Of the engine in a first trial. int8 was 10.3 there, before its graph was tuned.
    "MONAI": {"fp32": 2.8, "bf16": 5.6, "int8": 12.0},
    # The same, times the calls of the network that both make: 4 x 49 over 25.
    "nnU-Net": {"fp32": 22.0, "bf16": 44.0, "int8": 94.0},
}
_OF_ZARR = 0.95
"""What reading, writing and recording should leave of the engine's rate."""

_SECTIONS = {"fp32": 1, "bf16": 3, "int8": 8}
"""Of the volume that is predicted: the faster, the more, so that each takes about as long."""


@dataclass(frozen=True)
class Ours:
    """An engine in one precision, and a volume for it that was ``allocated`` once for each turn."""

    precision: Precision
    certificate: Path
    allocated: tuple[Path, ...]

    @cached_property
    def plan(self) -> Plan:
        """Of the volume."""
        return read_plan(read_json(self.allocated[0]))

    @property
    def calls(self) -> float:
        """Of the engine, for a section."""
        return tiles_of((1, *self.plan.shape[1:]), self.plan.kept) / self.plan.batch

    @property
    def change(self) -> str:
        """What differs from PyTorch in fp32, by the certificate."""
        proof = read_json(self.certificate)
        fall = max(0.0, *(found["fall"] for found in proof["iou"].values()))
        return f"{100 * proof['changed_labels']:.2g} % of labels changed, IoU of no class lower by more than {fall:.1g}"

    def batch(self) -> NDArray[np.float32]:
        """What the engine sees of the volume in one call."""
        block = next(self.plan.blocks())
        volume = Image(VolumeFile.read(Path(read_json(self.allocated[0])["volume_file"])))
        tile = volume.read(block.read_of(block.tiles()[0]))
        return np.repeat(tile[None], self.plan.batch, axis=0)


def against_peers(
    setting: Setting,
    backend: str,
    precisions: tuple[Precision, ...],
    *,
    edge: int = EDGE,
    rounds: int = 4,
    turns: int = 2,
) -> Rows:
    """Rows for each precision and each peer: of the bare engine, and of `predict` from Zarr to Zarr."""
    torch.set_num_threads(CORES)
    others, missing = peers(setting.network, edge)
    rows: Rows = [Skipped(f"kept pixels a second against {name}", why) for name, why in missing.items()]
    title = f"kept pixels a second, {setting.name}, section of {edge} x {edge}"
    every = []
    for precision in precisions:
        try:
            every.append(_ours(setting, backend, precision, edge, turns))
        except UserError as error:
            # Not every network is built in every precision.
            rows.append(Skipped(f"{title}: engine in {precision}", error.found))
    rows += _engines(every, others, title, rounds)
    for ours in every:
        rows += _predictions(ours, others, title)
    return rows


def _ours(setting: Setting, backend: str, precision: Precision, edge: int, turns: int) -> Ours:
    certificate = setting.engine(backend, precision)
    volume = setting.volume((_SECTIONS[precision], edge, edge))
    # Large ones keep most of what is computed; for a larger volume `allocate` would find such a tile by itself.
    tile = setting.network.geometry.tile_for((1, edge // 2, edge))
    allocated = [
        setting.allocate(volume, certificate, f"{edge}-{precision}-{turn}", tile=tile) for turn in range(turns)
    ]
    return Ours(precision, certificate, tuple(allocated))


def _engines(every: list[Ours], others: list[Peer], title: str, rounds: int) -> Rows:
    with ExitStack() as stack:
        works = []
        for ours in every:
            plan = ours.plan
            engine = load_engine(ours.certificate.parent, tile=plan.tile, batch=plan.batch, threads=CORES)
            stack.enter_context(closing(engine))
            works.append(partial(engine.run, ours.batch()))
        taken = seconds(*works, *(peer.part for peer in others), rounds=rounds)
    return [
        Row(
            f"{title}: engine in {ours.precision}",
            peer.name,
            spread([turn[len(every) + j] * peer.times / (turn[i] * ours.calls) for turn in taken]),
            EXPECTED[peer.name][ours.precision],
            f"{ours.change}; {peer.beside}",
            f"times {peer.name}, engine in {ours.precision}:" if ours is every[-1] else "",
        )
        for i, ours in enumerate(every)
        for j, peer in enumerate(others)
    ]


def _predictions(ours: Ours, others: list[Peer], title: str) -> Rows:
    """The peers are timed before and after each prediction."""
    ran: list[Ran] = []
    around = [[once(peer.part) for peer in others]]
    for allocated in ours.allocated:
        ran.append(run(allocated, ours.certificate, workers=None, cores=CORES))
        around.append([once(peer.part) for peer in others])
    sections = ours.plan.shape[0]
    rows: Rows = []
    for number, peer in enumerate(others):
        theirs = [(a[number] + b[number]) / 2 * peer.times for a, b in pairwise(around)]
        expected = _OF_ZARR * EXPECTED[peer.name][ours.precision]
        rows.append(
            Row(
                f"{title}: predict from Zarr to Zarr in {ours.precision}",
                peer.name,
                spread([a * sections / b.running for a, b in zip(theirs, ran, strict=True)]),
                expected,
                f"{sections} sections; with the start of its processes "
                f"{min(a * sections / b.seconds for a, b in zip(theirs, ran, strict=True)):.3g}",
            )
        )
    return rows
