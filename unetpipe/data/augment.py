"""Draw the training samples: cut out, deformed, turned and re-lit, with a weight per voxel.

What a sample is follows from the seed and its number alone, so any number of workers gives the same bytes. Samples are
written shard by shard; a run that was killed goes on with the shards that are not recorded yet.
"""

import functools
import logging
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import scipy
from numpy.typing import NDArray

import unetpipe
from unetpipe.arrays import Array, open_array
from unetpipe.cluster import for_each
from unetpipe.config import Augment, Network
from unetpipe.data.deform import Deformation, cubic, enclosing, nearest
from unetpipe.data.grey import Grey
from unetpipe.data.positions import Census, Patch, take_census
from unetpipe.data.resample import pixel_size, read_smoothed, stride
from unetpipe.data.samples import SHARD, SamplesFile, create, encode, made_for, write_shard, write_validation
from unetpipe.data.tiles import labelled_tiles
from unetpipe.data.weights import BorderTerm, class_weights, weight_map
from unetpipe.errors import UserError
from unetpipe.files import digest_of
from unetpipe.grid import Geometry, Shape
from unetpipe.processes import connect
from unetpipe.progress import Record
from unetpipe.progress_bar import track
from unetpipe.volume import IGNORE, Image, VolumeFile, read_truth

log = logging.getLogger(__name__)

_VALIDATION_TILES = 48
"""At most: each validation runs the network on all of them, and there are millions of voxels in them."""

_VALIDATE = "validate"

_ATTEMPTS = 100
"""At a sample, until a labelled voxel is in it."""

_PLACE, _LOOK = 0, 1
"""Streams of random numbers that the seed of a sample gives."""


@dataclass(frozen=True)
class Recipe:
    """What all samples have in common: ``tile`` is what the network reads; ``classes`` their weights, in order."""

    settings: Augment
    geometry: Geometry
    tile: Shape
    classes: tuple[float, ...]
    term: BorderTerm | None
    seed: int

    def seed_of(self, number: int) -> int:
        """The seed of a sample: all that is random in it follows from this."""
        return int(np.random.SeedSequence([self.seed, number]).generate_state(1, np.uint64)[0] >> np.uint64(1))


@dataclass(frozen=True)
class Task:
    """A shard of samples from the number ``start`` on, each with the voxel at its centre; small, since it travels."""

    recipe: Recipe
    volumes: tuple[Path, ...]
    store: Path
    start: int
    centres: tuple[tuple[Patch, int], ...]


def augment(
    train: list[Path],
    validate: list[Path],
    samples: Path,
    *,
    store: Path,
    settings: Augment,
    network: Network,
    classes: list[str],
    seed: int,
    cores: int,
) -> None:
    """Back the rule ``augment``: draw the samples that are not recorded yet.

    Parameters
    ----------
    train, validate:
        ``volume.json`` of the volumes to draw from, and of those that give tiles as they are.
    samples:
        ``samples.json``, written at the end (:class:`unetpipe.data.samples.SamplesFile`).
    store:
        ``samples.zarr`` (:mod:`unetpipe.data.samples`). The record of progress lies beside it.
    network:
        What is to learn from them: how deep a sample is, and how much smaller than the image the labels are.
    classes:
        Names of the classes in the order of their indices.
    seed, cores:
        The one seed of the run; worker processes, on which the result does not depend.

    Raises
    ------
    UserError
        If a volume has no labels, those of the training volumes hold fewer than two classes, a weight is too large, or
        samples are to be resampled whose voxel size is not known.
    """
    geometry, tile = network.geometry, network.tile(settings.tile)
    volumes = [VolumeFile.read(path) for path in [*train, *validate]]
    roles = ["train"] * len(train) + ["validate"] * len(validate)
    for volume, role in zip(volumes, roles, strict=True):
        if volume.labels is None:
            raise UserError(
                f"the volume {volume.name} was to {role}",
                "it has no labels",
                f"give volumes.{volume.name}.labels, or the role predict",
            )
    key = {
        "volumes": [
            {"role": role, "labels": volume.labels_digest, **volume.identity()}
            for role, volume in zip(roles, volumes, strict=True)
        ],
        "settings": settings.model_dump(mode="json"),
        "geometry": asdict(geometry),
        "classes": classes,
        "seed": seed,
        "strides": [stride(volume, settings.voxel_size_nm) for volume in volumes[: len(train)]],
        "version": unetpipe.__version__,
        # Random numbers and interpolation are theirs.
        "libraries": {"numpy": np.__version__, "scipy": scipy.__version__, "opencv": cv2.__version__},
    }
    with connect(max(1, min(cores, -(-settings.samples // SHARD)))) as client:
        census = take_census(client, train, classes)
        recipe = _recipe(settings, geometry, tile, classes, census, seed)
        record = _begin(store, key, settings.samples, geometry, tile)
        done = record.done()
        tasks = _tasks(recipe, train, store, census, done)
        finished = sum(entry["samples"] for name, entry in done.items() if name != _VALIDATE)
        if finished:
            log.info("%d of %d samples are there already", finished, settings.samples)
        written = (number for count in for_each(client, draw_shard, tasks) for number in range(count))
        for _ in track(written, "samples", settings.samples, "samples", done=finished):
            pass
    if _VALIDATE not in done:
        _draw_validation(record, store, volumes, roles, geometry, tile)
    done = record.done()
    total = sum(census.voxels)
    SamplesFile(
        store=str(store),
        train=settings.samples,
        validate=done[_VALIDATE]["samples"],
        digest=digest_of({name: entry["digest"] for name, entry in done.items()}),
        classes=tuple(classes),
        voxels=dict(zip(classes, census.voxels, strict=True)),
        frequency={name: count / total for name, count in zip(classes, census.voxels, strict=True)},
        weight=dict(zip(classes, recipe.classes, strict=True)),
        volumes=tuple(
            {"name": v.name, "role": role, "image_digest": v.image_digest, "labels_digest": v.labels_digest}
            for v, role in zip(volumes, roles, strict=True)
        ),
        tile=tile,
        border=geometry.border,
        seed=seed,
        settings=settings.model_dump(mode="json"),
        version=unetpipe.__version__,
        voxel_size_nm=settings.voxel_size_nm or next(filter(None, map(pixel_size, volumes[: len(train)])), None),
    ).write(samples)


def draw_shard(task: Task) -> int:
    """Draw, write and record a shard of samples; runs in a worker. Gives their number."""
    # Every worker has a core; OpenCV would have all of them work for each.
    cv2.setNumThreads(1)
    volumes = {patch.volume: VolumeFile.read(task.volumes[patch.volume]) for patch, _ in task.centres}
    images = {number: Image(volume) for number, volume in volumes.items()}
    labels = {number: open_array(str(volume.labels)) for number, volume in volumes.items()}
    drawn, sources = [], []
    for number, (patch, rank) in enumerate(task.centres, start=task.start):
        volume = patch.volume
        centre = patch.find(rank, labels[volume], volumes[volume].shape)
        seed = task.recipe.seed_of(number)
        drawn.append(_draw_labelled(images[volume], labels[volume], centre, seed, task.recipe))
        sources.append((volume, *centre, seed))
    arrays: dict[str, NDArray[Any]] = {
        name: np.stack([sample[place] for sample in drawn]) for place, name in enumerate(("image", "label", "weight"))
    }
    arrays["source"] = np.array(sources, np.int64)
    digest = write_shard(task.store, "train", task.start, arrays)
    entry = {"name": str(task.start), "samples": len(drawn), "digest": digest}
    Record(_progress(task.store)).append(_writer(), entry)
    return len(drawn)


def _draw_labelled(
    image: Image, labels: Array, centre: Shape, seed: int, recipe: Recipe
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.float16]]:
    """As :func:`draw_sample`, again until a labelled voxel is left: where few are, a deformation can move all away."""
    for attempt in range(_ATTEMPTS):
        sample = draw_sample(image, labels, centre, seed, recipe, attempt)
        if (sample[1] != IGNORE).any():
            return sample
    raise UserError(
        f"a sample was to be drawn about the labelled voxel {list(centre)} (z, y, x) of the volume {image.volume.name}",
        f"{_ATTEMPTS} deformations left no labelled voxel in it",
        "label more around it, lower augment.shift or augment.elastic_sigma, or make augment.tile larger",
    )


def draw_sample(
    image: Image, labels: Array, centre: Shape, seed: int, recipe: Recipe, attempt: int = 0
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.float16]]:
    """One sample: encoded grey values (z, y, x), and class indices and weights (z', y', x') of what the network gives.

    Image and labels are read at the same places, the image by cubic interpolation, the labels at the nearest voxel;
    beyond the volume both are mirrored. The voxels of the sample are those of the volume, unless it is resampled. Every
    section is deformed and re-lit alike.

    Parameters
    ----------
    labels:
        Class indices of the volume of ``image``.
    centre:
        The (z, y, x) of the voxel at the centre, before it is shifted.
    attempt:
        Another one gives another deformation and another look.
    """
    settings = recipe.settings
    depth, y, x = recipe.tile
    border = recipe.geometry.border[1:]
    # Cells beyond what the network gives count for the border term, those beyond what it sees do not.
    reach = 0 if recipe.term is None else recipe.term.reach
    margin = (min(border[0], reach), min(border[1], reach))
    rng = np.random.default_rng([seed, _LOOK, *([attempt] if attempt else [])])
    places = Deformation.draw(settings, rng).coordinates((y, x))  # (2, y, x)
    step = stride(image.volume, settings.voxel_size_nm)
    if step != (1.0, 1.0):
        places *= np.array(step, np.float32)[:, None, None]
    region, places = enclosing(places, centre, depth, out=places)
    grey = cubic(read_smoothed(image, region, step), places)
    grey = Grey.draw(settings, rng).apply(grey, rng)
    rows, columns = (slice(b - m, m - b or None) for b, m in zip(border, margin, strict=True))
    # Now they are relative to the region of the image.
    corner = (centre[0], *region.start[1:])
    region, places = enclosing(places[:, rows, columns], corner, recipe.geometry.output(recipe.tile)[0])
    label = nearest(read_truth(labels, region, image.volume), places)
    weight = weight_map(label, margin, recipe.classes, recipe.term)
    rows, columns = (slice(m, -m or None) for m in margin)
    return encode(grey), label[:, rows, columns], weight


def _recipe(
    settings: Augment, geometry: Geometry, tile: Shape, classes: Sequence[str], census: Census, seed: int
) -> Recipe:
    term = None
    if settings.border_class is not None:
        term = BorderTerm(classes.index(settings.border_class), settings.border_weight, settings.border_sigma)
    factors = [(settings.class_weights or {}).get(name, 1.0) for name in classes]
    weights = class_weights(census.voxels, settings.class_balance, factors)
    for name, voxels, weight in zip(classes, census.voxels, weights, strict=True):
        if voxels == 0:
            log.warning("the class %s does not occur in the training volumes: it will not be learnt", name)
        if weight + (term.weight if term else 0) > np.finfo(np.float16).max:
            raise UserError(
                f"voxels of the class {name} were to weigh {weight + (term.weight if term else 0):g}",
                f"weights end at {np.finfo(np.float16).max:g}; the class has {voxels} voxels of {sum(census.voxels)}",
                "lower augment.class_balance, augment.class_weights or augment.border_weight",
            )
    return Recipe(settings, geometry, tile, tuple(weights.tolist()), term, seed)


def _begin(store: Path, key: dict[str, Any], count: int, geometry: Geometry, tile: Shape) -> Record:
    """The record of what is in the store; both are made anew unless they are whole and were made for ``key``."""
    mark = digest_of(key)
    if made_for(store) != mark:
        # The record goes first: it never speaks of shards that are not there.
        Record(_progress(store)).forget()
        create(store, count, tile, geometry.output(tile), mark)
    return Record.open(_progress(store), key, "restart", f"the samples in {store}")


def _progress(store: Path) -> Path:
    return store.with_suffix(".progress")


def _tasks(
    recipe: Recipe, volumes: Sequence[Path], store: Path, census: Census, done: dict[str, dict[str, Any]]
) -> Iterator[Task]:
    count = recipe.settings.samples
    for start in range(0, count, SHARD):
        if str(start) in done:
            continue
        seeds = (recipe.seed_of(number) for number in range(start, min(start + SHARD, count)))
        centres = tuple(census.draw(np.random.default_rng([seed, _PLACE])) for seed in seeds)
        yield Task(recipe, tuple(volumes), store, start, centres)


def _draw_validation(
    record: Record,
    store: Path,
    volumes: Sequence[VolumeFile],
    roles: Sequence[str],
    geometry: Geometry,
    tile: Shape,
) -> None:
    first = roles.count("train")
    output = geometry.output(tile)
    images, labels, sources = [], [], []
    for image, label, (volume, *rest) in labelled_tiles(volumes[first:], geometry, tile, _VALIDATION_TILES):
        images.append(encode(image))
        labels.append(label)
        sources.append((first + volume, *rest))
    arrays: dict[str, NDArray[Any]] = {
        "image": np.array(images, np.uint8).reshape(-1, *tile),
        "label": np.array(labels, np.uint8).reshape(-1, *output),
        "source": np.array(sources, np.int64).reshape(-1, 5),
    }
    digest = write_validation(store, tile, output, arrays)
    record.append(_writer(), {"name": _VALIDATE, "samples": len(sources), "digest": digest})


@functools.cache
def _writer() -> str:
    """A name for this process's log that no other process has had."""
    return uuid.uuid4().hex
