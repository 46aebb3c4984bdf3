"""What a run will predict, told before it does: layouts, bytes, files, memory and time.

Before anything is trained, the same network with random weights stands in: what a call costs does not depend on them.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unetpipe import measure
from unetpipe.allocate import read_mirror, read_plan
from unetpipe.config import PHANTOM, Engine, Settings
from unetpipe.data.sources import open_source
from unetpipe.data.sources.in_place import InPlaceSource
from unetpipe.engines import device_class, onnx_file
from unetpipe.engines.select import ENGINE, Networks, backend, ladder, read_build
from unetpipe.errors import UserError
from unetpipe.files import digest, write_json
from unetpipe.forecast import Stored, amount, duration, forecast, told
from unetpipe.gpus import visible
from unetpipe.grid import Geometry, Plan, Region, Shape, triple
from unetpipe.handover import read_allocated, read_certificate, store_of
from unetpipe.layout import Limits
from unetpipe.plan import choose
from unetpipe.progress import record_beside
from unetpipe.selection import Frame, Selection
from unetpipe.volume import layout

RESULTS = Path("results")
"""Where the runs lie, seen from where snakemake runs."""


@dataclass(frozen=True)
class Prospect:
    """What one volume will take: its plan, what is predicted of it, and how many blocks are done."""

    plan: Plan
    predicted: dict[str, Any]
    done: int = 0


@dataclass(frozen=True)
class _Engine:
    """``folder`` holds it; ``facts`` are those of its certificate, or of its build. ``why``: what it stands for."""

    folder: Path
    facts: dict[str, Any]
    why: str


def outlook(settings: Settings, cores: int) -> Iterator[str]:
    """Lines that tell what will be predicted, volume by volume, as they become known.

    Parameters
    ----------
    settings:
        Checked, of the run.
    cores:
        CPU cores, as snakemake will be given.

    Raises
    ------
    UserError
        If an engine cannot be built or run here, or if no layout keeps within the limits.
    """
    names = settings.named("validate", "test", "predict")
    seconds = size = 0.0
    with _engine(settings) as engine:
        yield f"run {settings.run}: {engine.why}"
        for name in names:
            prospect = _prospect(settings, name, engine, cores)
            yield f"\n{name} ({settings.volumes[name].role})"
            lines = told(prospect.plan, prospect.predicted)
            if prospect.done:
                lines["done"] = f"{prospect.done:,} blocks of an earlier run, whose plan is kept"
            width = max(map(len, lines))
            yield from (f"  {what:{width}}  {text}" for what, text in lines.items())
            left = 1 - prospect.done / prospect.predicted["blocks"]
            seconds += left * prospect.predicted["seconds"]
            size += prospect.predicted["bytes_written"]
    yield f"\nall {len(names)}, one after another: {duration(seconds)}, {amount(size)} before compression"


def _prospect(settings: Settings, name: str, engine: _Engine, cores: int) -> Prospect:
    known = _planned_before(settings, name, engine)
    if known is not None:
        return known
    geometry, profile = Geometry.of(engine.facts["geometry"]), engine.facts["profile"]
    tile = None if settings.predict.tile is None else settings.network.tile(settings.predict.tile)
    most_batch = settings.engine.max_batch
    if profile is not None:
        tile, most_batch = profile["tile"], min(most_batch, profile["batch"][2])
    spread = settings.predict.spread
    cards = visible() if "gpu" in engine.facts["device_class"] else ()
    workers, threads = measure.split_cores(spread.workers, spread.cores or cores, cards)
    image = _image(settings, name)
    first, end = settings.volumes[name].sections or (0, image.shape[0])
    shape = (end - first, *image.shape[1:])
    if image.chunk is None:
        stored = Stored(shape, layout(shape)[0], image.itemsize)
    else:
        stored = Stored(image.shape, image.chunk, image.itemsize, first)
    mirror = settings.predict.mirror_axes
    with measure.measuring(engine.folder, engine.facts["device_class"], workers, threads, mirror) as rate_of:
        found = choose(
            shape,
            geometry,
            tile=tile,
            batch=settings.predict.batch,
            most_batch=most_batch,
            limits=Limits(
                workers * spread.machines,
                settings.predict.memory_mb,
                settings.predict.block_seconds,
                len(settings.classes),
            ),
            measure=rate_of,
        )
    wanted = _wanted(settings, name, found.plan, Frame(first, image.shape[0]))
    return Prospect(found.plan, forecast(found, stored, wanted))


def _planned_before(settings: Settings, name: str, engine: _Engine) -> Prospect | None:
    """The prediction that ``allocate`` has planned with this engine, if that is there."""
    folder = RESULTS / settings.run / "predictions" / name
    try:
        description = read_allocated(allocated := folder / "allocated.json")
    except FileNotFoundError:
        return None
    if description["key"]["engine"] != engine.facts["engine_digest"] or "predicted" not in description:
        return None
    if list(read_mirror(description)) != settings.predict.mirror_axes:
        return None
    done = len(record_beside(store_of(allocated, description)).latest(lambda _: None))
    return Prospect(read_plan(description), description["predicted"], done)


@dataclass(frozen=True)
class _Image:
    """An image: its shape (z, y, x), bytes of a voxel, and chunks where it is used in place."""

    shape: Shape
    itemsize: int
    chunk: Shape | None


def _image(settings: Settings, name: str) -> _Image:
    address = settings.volumes[name].image
    if address == PHANTOM and settings.phantom is not None:
        return _Image(settings.phantom.shape, 1, None)
    with open_source(address) as source:
        chunk = triple(source.array.chunk) if isinstance(source, InPlaceSource) else None
        return _Image(source.shape, source.dtype.itemsize, chunk)


def _wanted(settings: Settings, name: str, plan: Plan, frame: Frame) -> int:
    """Blocks that region and mask leave."""
    volume = settings.volumes[name]
    region = None if volume.region is None else Region.between(volume.region)
    return Selection.of(plan, region, volume.mask, frame).count


@contextmanager
def _engine(settings: Settings) -> Iterator[_Engine]:
    """The engine of the run; one with random weights where there is none yet."""
    folder = RESULTS / settings.run / "engine" / settings.engine.folder
    try:
        proof = read_certificate(folder / "certificate.json")
    except FileNotFoundError:
        proof = None
    # One that is of another network will be made anew.
    if proof is not None and Geometry.of(proof["geometry"]) == settings.network.geometry:
        what = f"{proof['backend']} in {proof['precision']} on {proof['device']}"
        yield _Engine(folder, proof, f"its engine is there, {what}")
        return
    _refuse_what_cannot_run(settings.engine)
    with tempfile.TemporaryDirectory(prefix="unetpipe-plan-") as place:
        yield _stand_in(settings, Path(place))


def _refuse_what_cannot_run(asked: Engine) -> None:
    """UserError if the library that is asked for can build here and not run: before anything is built."""
    if asked.backend == "auto":
        # It takes what can run.
        return
    library = backend(asked.backend, asked.compute_capabilities)
    built = next((precision for precision in ladder(asked) if library.unavailable("build", precision) is None), None)
    if built is not None and (reason := library.unavailable("run", built)):
        raise UserError(
            "an engine was to be measured, to plan predictions", reason, "plan on the machine that will predict"
        )


def _stand_in(settings: Settings, folder: Path) -> _Engine:
    """The first engine that the settings allow here, of a network with random weights."""
    # Not at the top: PyTorch takes its time.
    import torch

    from unetpipe.deploy.build_engine import build_ladder
    from unetpipe.deploy.calibrate import calibrate
    from unetpipe.deploy.candidate import profile_for
    from unetpipe.deploy.export import export
    from unetpipe.deploy.quantize import writable, write_forms
    from unetpipe.nets.build import build
    from unetpipe.nets.checkpoint import save_checkpoint

    torch.manual_seed(settings.seed)
    network, classes = settings.network, list(settings.classes)
    checkpoint, onnx = folder / "checkpoint.safetensors", folder / "model.onnx"
    save_checkpoint(checkpoint, build(network, len(classes)), {"classes": classes})
    export(checkpoint, onnx, folder / "model.json")
    model, _ = onnx_file.read(onnx)
    noise = np.random.default_rng(settings.seed).standard_normal(network.geometry.tile_for((1, 1, 1)))
    able, refused = writable(model, settings.engine.precisions)
    ranges = calibrate(model, [noise.astype(np.float32)], cores=1) if "int8" in able else {}
    forms = {path.stem: {"digest": digest(path)} for path in write_forms(model, able, ranges, folder / "quantized")}
    write_json(folder / "quantized.json", {"refused": refused, "forms": forms})
    tile = None if settings.predict.tile is None else list(network.tile(settings.predict.tile))
    profile = profile_for(network.geometry, tile, settings.predict.batch or 1, settings.engine.max_batch)
    ((built,), _) = build_ladder(
        Networks(onnx, folder / "quantized"), folder / "engine", settings.engine, profile, most=1
    )
    place = folder / built["folder"]
    facts = read_build(place)
    facts |= {"engine_digest": digest(place / ENGINE), "device_class": device_class(facts["backend"])}
    why = f"no engine yet; {facts['backend']} in {facts['precision']} with random weights stands in"
    return _Engine(place, facts, why)
