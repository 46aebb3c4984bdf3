"""Plan the prediction of one volume and make room for it, once."""

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np

import unetpipe
from unetpipe import config, measure, ome
from unetpipe.arrays import open_array, open_volume
from unetpipe.errors import UserError
from unetpipe.files import write_json
from unetpipe.forecast import Stored, forecast, told
from unetpipe.gpus import visible
from unetpipe.grid import Geometry, Plan, Region, triple
from unetpipe.handover import read_certificate
from unetpipe.layout import Call, Layout, Limits
from unetpipe.levels import LABEL_MAP, Level, levels_of
from unetpipe.plan import choose, one_writer_per_shard
from unetpipe.progress import Record, record_beside
from unetpipe.selection import Selection, frame_of
from unetpipe.storage import Folder, folder_at
from unetpipe.volume import LEVEL, VolumeFile, create

log = logging.getLogger(__name__)

_DEFAULTS = config.Predict()

_NOT_IN_EVERY_KEY = {"mirror", "absent"}
"""Names of a key that is compared before there is a plan, which it has only where they are set."""


def allocate(
    volume: Path,
    certificate: Path,
    allocated: Path,
    *,
    classes: list[str],
    tile: list[int] | None,
    batch: int | None,
    on_change: Literal["refuse", "restart"],
    region: list[list[int]] | None = None,
    mask: str | None = None,
    mirror: Sequence[str] = (),
    labels: bool = _DEFAULTS.labels,
    store: str | None = _DEFAULTS.store,
    absent: Literal["skip", "compute"] = _DEFAULTS.absent,
    most_batch: int = config.Engine().max_batch,
    workers: int | None = _DEFAULTS.workers,
    spread: int = 1,
    memory_mb: int = _DEFAULTS.memory_mb,
    block_seconds: float = _DEFAULTS.block_seconds,
    cores: int = 1,
) -> None:
    """Back the rule ``allocate``: plan, record's key, and an empty store with all its metadata.

    A store whose key fits is kept with all that is in it, and so is its plan, whatever would be chosen now.

    Parameters
    ----------
    volume, certificate:
        ``volume.json`` and ``certificate.json``.
    allocated:
        Where the result is described.
    classes:
        The channels in their order.
    tile:
        Input of the network (z, y, x) in voxels; None to choose.
    batch:
        Tiles per call; None to choose, ``most_batch`` at most.
    on_change:
        What to do with a prediction that was made with other inputs or settings.
    region, mask:
        Which blocks are wanted (:mod:`unetpipe.selection`): ``[[z0, z1], [y0, y1], [x0, x1]]``, and the address of a
        mask.
    mirror:
        Axes along which each tile is mirrored as well, z before y before x: a probability is the mean of the answers to
        all mirror images (:mod:`unetpipe.engines.mirrored`).
    labels:
        Whether there is to be a label map, which no voxel of the prediction depends on.
    store:
        The address of the folder for the store and its record of progress; that of ``allocated`` where None.
    absent:
        What to do where the image has no chunk, as in the settings ``predict``.
    workers, memory_mb, block_seconds:
        As in the settings ``predict``.
    spread:
        Machines that predict at the same time, with ``workers`` each.
    cores:
        CPU cores for all workers of a machine together.

    Raises
    ------
    UserError
        If there is a prediction with another key, and ``on_change`` is ``refuse``; if the engine cannot run here; if no
        layout keeps within the limits.
    """
    source = VolumeFile.read(volume)
    proof = read_certificate(certificate)
    geometry = Geometry.of(proof["geometry"])
    if proof["profile"] is not None:
        # The engine takes tiles of one shape alone.
        tile = proof["profile"]["tile"]
        most_batch = min(most_batch, proof["profile"]["batch"][2])
    place = folder_at(store or allocated.parent)
    what = f"the prediction of {source.name} in {place}"
    probability = place.below("probability.zarr")
    record = record_beside(probability.address)
    others = {
        "input": source.identity(),
        "engine": proof["engine_digest"],
        "backend": proof["backend"],
        "precision": proof["precision"],
        "versions": proof["versions"],
        "device_class": proof["device_class"],
        "classes": classes,
        "version": unetpipe.__version__,
    }
    if mirror:
        others["mirror"] = list(mirror)
    extent = source.read_extent() if absent == "skip" else None
    if extent is not None:
        others["absent"] = absent
    fixed = {name: value for name, value in (("tile", tile), ("batch", batch)) if value is not None}
    cards = visible() if "gpu" in proof["device_class"] else ()
    count, threads = measure.split_cores(workers, cores, cards)
    limits = Limits(count * spread, memory_mb, block_seconds, len(classes))
    kept = _kept_plan(record, others, fixed, on_change, what)
    with measure.measuring(certificate.parent, proof["device_class"], count, threads, mirror) as rate_of:
        if kept is None:
            layout = choose(
                source.shape, geometry, tile=tile, batch=batch, most_batch=most_batch, limits=limits, measure=rate_of
            )
        else:
            layout = Layout(kept, rate_of(Call(kept.tile, kept.batch)), limits)
    if layout.memory_mb > memory_mb:
        log.warning(
            "%s goes on with its plan, for which a worker needs %.0f MB; predict.memory_mb allows %d: if that is too "
            "much, delete %s to plan anew", what, layout.memory_mb, memory_mb, place,
        )  # fmt: skip
    plan = layout.plan
    asked = None if region is None else Region.between(region)
    selection = Selection.of(plan, asked, mask, None if mask is None else frame_of(source), extent)
    key = {**others, "plan": asdict(plan), **selection.key}
    record = Record.open(record.place.address, key, on_change, what)
    done = bool(record.done())
    # What a prediction of other blocks left would never be overwritten.
    left_over = selection.count < selection.total and not done
    if done:
        _refuse_shared_shards(probability, plan)
    levels = levels_of(plan.shape, source.voxel_size_nm, plan.chunk, plan.block)
    if left_over or not is_allocated(probability, levels, len(classes)):
        if done and not any(probability.entries()):
            log.warning("the store %s is gone: its blocks are computed again", probability)
            record.forget()
            record = Record.open(record.place.address, key, on_change, source.name)
            done = False
        elif done:
            log.warning(
                "the metadata of %s are gone, damaged or those of other levels: they are written anew, its shards are "
                "kept",
                probability,
            )
        # Which shards are there, and whether they are those that are recorded, predict and fsck see by themselves.
        create(
            probability,
            shape=(len(classes), *plan.shape),
            dtype="uint8",
            chunk=(1, *plan.chunk),
            shard=(len(classes), *plan.block),
            voxel_size_nm=source.voxel_size_nm,
            channels=classes,
            origin_nm=source.origin_nm,
            coarser=levels[1:],
            keep_shards=done,
        )
    if not labels:
        ome.remove_label_map(probability)
    elif not is_label_map(probability, levels):
        ome.create_label_map(
            probability,
            levels=levels,
            voxel_size_nm=source.voxel_size_nm,
            origin_nm=source.origin_nm,
            classes=classes,
        )
    array = open_volume(str(source.image))
    image = Stored(triple(array.shape), triple(array.chunk), array.dtype.itemsize, source.first_section)
    predicted = forecast(layout, image, selection.count)
    write_json(
        allocated,
        {
            "volume": source.name,
            "volume_file": str(volume),
            "probability": probability.address,
            "array": LEVEL,
            "levels": [asdict(level) for level in levels],
            "labels": labels,
            "classes": classes,
            "key": json.loads(json.dumps(key)),
            "plan": {**asdict(plan), "kept_fraction": plan.kept_fraction, "blocks": math.prod(plan.block_counts)},
            "selection": selection.as_json(),
            "predicted": predicted,
        },
    )
    for name, text in told(plan, predicted).items():
        log.info("%s: %s: %s", source.name, name, text)


def _kept_plan(
    record: Record,
    others: Mapping[str, Any],
    fixed: Mapping[str, Any],
    on_change: Literal["refuse", "restart"],
    what: str,
) -> Plan | None:
    """The plan of an earlier run, if the rest of its key is ``others`` and it has what is ``fixed``; None to make one.

    So neither noise nor another number of cores changes the plan of what has begun. UserError if the earlier run was
    another one and ``on_change`` is ``refuse``: before anything is measured.
    """
    old = record.key()
    if old is None:
        return None
    wanted = json.loads(json.dumps({**others, "plan": {**old["plan"], **fixed}}))
    # Which blocks are wanted depends on the plan: that is compared later.
    parts = {name: value for name, value in old.items() if name in wanted or name in _NOT_IN_EVERY_KEY}
    if parts == wanted:
        return read_plan(old)
    if on_change == "refuse":
        rest = {name: value for name, value in old.items() if name not in _NOT_IN_EVERY_KEY}
        Record.open(record.place.address, {**rest, **wanted}, on_change, what)
    return None


def read_plan(allocated: dict[str, Any]) -> Plan:
    """The plan in ``allocated.json``."""
    plan = allocated["plan"]
    geometry = Geometry.of(plan["geometry"])
    shapes = {name: triple(plan[name]) for name in ("shape", "tile", "block", "chunk")}
    return Plan(**shapes, batch=plan["batch"], geometry=geometry)


def read_levels(allocated: dict[str, Any]) -> list[Level]:
    """The levels in ``allocated.json``, the finest first."""
    if "levels" not in allocated:
        # An earlier version made one.
        plan = read_plan(allocated)
        return [Level(0, plan.shape, (1, 1, 1), (1, 1, 1), plan.chunk, plan.block)]
    names = ("shape", "factors", "scale", "chunk", "shard")
    return [Level(level["number"], *(triple(level[name]) for name in names)) for level in allocated["levels"]]


def read_mirror(allocated: Mapping[str, Any]) -> tuple[str, ...]:
    """The axes, in ``allocated.json``, along which each tile is mirrored as well."""
    return tuple(allocated["key"].get("mirror", ()))


def _refuse_shared_shards(store: Folder, plan: Plan) -> None:
    try:
        array = open_array(store.below(LEVEL).address)
    except UserError:
        return
    one_writer_per_shard(plan.block, array.shard[1:])


def is_allocated(store: Folder, levels: Sequence[Level], channels: int) -> bool:
    """Whether the metadata of ``store`` are those of an empty prediction with ``levels``."""
    return _is_image(store, levels, (channels,), 0)


def is_label_map(store: Folder, levels: Sequence[Level]) -> bool:
    """Whether ``store`` has the metadata of a label map with ``levels``."""
    return LABEL_MAP in ome.labels_of(store) and _is_image(store.below(LABEL_MAP), levels, (), ome.NOTHING)


def _is_image(place: Folder, levels: Sequence[Level], channels: tuple[int, ...], fill: int) -> bool:
    try:
        (image,) = ome.read(place)["multiscales"]
        paths = [dataset["path"] for dataset in image["datasets"]]
        arrays = [open_array(place.below(level.path).address) for level in levels]
    except (UserError, KeyError, TypeError, ValueError):
        return False
    return paths == [level.path for level in levels] and all(
        array.dtype == np.uint8
        and array.fill_value == fill
        and array.shape == (*channels, *level.shape)
        and array.shard == (*channels, *level.shard)
        for array, level in zip(arrays, levels, strict=True)
    )
