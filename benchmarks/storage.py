"""What reading, writing and recording leave of the engine's rate."""

import statistics
import time
from contextlib import closing
from functools import partial

import numpy as np

from benchmarks.rows import Row, Rows
from benchmarks.running import run
from benchmarks.setting import CORES, Setting
from benchmarks.timing import once, spread
from unetpipe.allocate import read_plan
from unetpipe.config import Precision
from unetpipe.engines import load_engine
from unetpipe.files import read_json
from unetpipe.grid import Shape
from unetpipe.layout import tiles_of
from unetpipe.volume import Image, VolumeFile

SHAPE = (64, 512, 512)
"""Of the volume: so many blocks that reading the first and writing the last count little."""

_SHORT = 2
"""Sections of a volume whose prediction is little more than the start of processes."""


def against_engine(
    setting: Setting, backend: str, precision: Precision, *, shape: Shape = SHAPE, turns: int = 2
) -> Rows:
    """`predict` with one worker, from Zarr to Zarr, against the bare engine on as many tiles; both with all cores.

    "While running" is from the end of a block to that of the next, against as many calls.
    """
    certificate = setting.engine(backend, precision)
    tile = setting.network.geometry.tile_for((1, *shape[1:]))
    volumes = {size: setting.volume(size) for size in ((_SHORT, *shape[1:]), shape)}
    image = Image(VolumeFile.read(volumes[shape]))
    running, whole, spent = [], [], []
    for turn in range(turns):
        short, full = (
            setting.allocate(volume, certificate, f"storage-{size[0]}-{turn}", workers=1, tile=tile)
            for size, volume in volumes.items()
        )
        plan = read_plan(read_json(full))
        with closing(load_engine(certificate.parent, tile=tile, batch=plan.batch, threads=CORES)) as engine:
            block = next(plan.blocks())
            batch = np.repeat(image.read(block.read_of(block.tiles()[0]))[None], plan.batch, axis=0)
            engine.run(batch)
            started = run(short, certificate, workers=1, cores=CORES)
            predicted = run(full, certificate, workers=1, cores=CORES)
            calls = tiles_of(shape, plan.kept) // plan.batch
            start_cpu = time.process_time()
            each = [once(partial(engine.run, batch)) for _ in range(calls)]
            bare, bare_cpu = sum(each), time.process_time() - start_cpu
        # Medians of both, since other work on the machine slows some calls and some blocks.
        running.append(statistics.median(each) * len(block.tiles()) / plan.batch / predicted.between)
        whole.append(bare / predicted.seconds)
        spent.append(bare_cpu * (1 - _SHORT / shape[0]) / (predicted.cpu - started.cpu))
    what = f"predict from Zarr to Zarr, {setting.name}, {precision}, {calls} tiles of {tile[1]} x {tile[2]}"
    peer = "the bare engine on as many tiles"
    return [
        Row(f"{what}: while running", peer, spread(running), 0.95, brief="Zarr to Zarr over bare engine"),
        Row(f"{what}: with the start of its processes", peer, spread(whole), 0.75),
        Row(f"{what}: seconds of the processor, without the start", peer, spread(spent), 0.95),
    ]
