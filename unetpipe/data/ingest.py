"""From the files that a user has to a volume that the pipeline can read at any place, with all that is known of it.

Sections are read in slabs as deep as a shard and written as whole shards. Memory is bounded, however many sections
there are and however large: by bands of a slab, 8 x 1024 rows, or as many as 128 MB hold; where a format decodes
sections only whole, also by one section, or as many as 512 MB hold. Arrays that can be read in parts (Zarr, N5,
precomputed volumes) are used in place: of them, only samples are read for statistics.
"""

import logging
import math
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import unetpipe
from unetpipe import config
from unetpipe.arrays import use_threads
from unetpipe.config import Annotation
from unetpipe.data.annotation import Annotated
from unetpipe.data.classes import Classes, UndeclaredError
from unetpipe.data.fit import Facts, misfits
from unetpipe.data.instances import Instances
from unetpipe.data.slabs import Entry, Grey, Part, copy, open_record, sample
from unetpipe.data.sources import Source, file_of, open_labels, open_source
from unetpipe.data.sources.contract import VoxelSize, some
from unetpipe.data.sources.in_place import InPlaceSource
from unetpipe.errors import UserError
from unetpipe.files import digest_of, replacing
from unetpipe.storage import is_remote
from unetpipe.volume import IGNORE, LEVEL, VolumeFile, layout

log = logging.getLogger(__name__)


def ingest(
    image: str,
    labels: str | None,
    volume: Path,
    name: str,
    sections: Sequence[int] | None,
    voxel_size_nm: Sequence[float] | None,
    range: Sequence[float] | None,  # noqa: A002 – the name of the setting
    label_values: Mapping[str, Sequence[int]],
    ignore: Sequence[int],
    cores: int,
    annotated: Sequence[Annotation] | None = None,
    instances: config.Instances | None = None,
) -> None:
    """Make ``volume.json`` of an image and its labels; beside it ``image.zarr``, ``labels.zarr``, ``instances.zarr``.

    Parameters
    ----------
    image, labels:
        Addresses as in the settings. A Zarr image is used in place and not copied; labels become class indices. Where
        they are the numbers of objects, these are kept as well, to score objects by.
    volume:
        ``volume.json``, written last: there is none while ingest has not ended.
    name:
        Of the volume.
    sections:
        [first, end) of those to use; None for all.
    voxel_size_nm:
        (z, y, x); None for what the image tells.
    range:
        [low, high], the grey values that mean black and white; None for unsigned integers as they are.
    label_values, ignore:
        The label values of each class, in the order of the channels, and those that belong to none.
    cores:
        Threads that decode and encode.
    annotated:
        The parts that were labelled, from the first section used on; None for all.
    instances:
        The rule for labels that are object numbers; None for label values.

    Raises
    ------
    UserError
        If a file cannot be read, image and labels do not go together, a label value was not declared, or there are
        labels and not one voxel is labelled.
    """
    everything = [volume.parent / f"{kind}.zarr" for kind in ("image", "labels", "instances")]
    image_store, labels_store, objects_store = everything
    volume.unlink(missing_ok=True)
    _refuse_own_stores([image, *([labels] if labels else [])], everything)
    with ExitStack() as stack:
        use_threads(cores)
        grey = stack.enter_context(open_source(image, cores))
        truth = stack.enter_context(open_labels(labels, image, grey.shape[0], cores)) if labels else None
        _refuse_misfits(name, grey, truth, sections, range, annotated)
        image_sections = grey.shape[0]
        first, end = sections or (0, image_sections)
        known_nm = _voxel_size(name, grey, voxel_size_nm)
        size_nm = known_nm or (1.0, 1.0, 1.0)
        origin_nm = (grey.origin_nm[0] + first * size_nm[0], *grey.origin_nm[1:])
        part = Part(first, (end - first, *grey.shape[1:]), size_nm, origin_nm)
        in_place = isinstance(grey, InPlaceSource)
        labelled = None if annotated is None else Annotated(annotated, part.shape)
        rule = Classes(label_values, ignore) if instances is None else Instances(list(label_values), instances)

        stores = {} if in_place else {image_store: str(grey.dtype)}
        stores |= {} if truth is None else {labels_store: "uint8"}
        if truth is not None and isinstance(rule, Instances):
            stores[objects_store] = str(truth.dtype)
        for store in set(everything) - stores.keys():
            # It was made with other settings, and volume.json will not speak of it.
            shutil.rmtree(store, ignore_errors=True)
        listing = grey.listing()
        key = {
            "image": [image, listing],
            "labels": [labels, truth.listing(), rule.description, annotated] if truth else None,
            "sections": [first, end],
            "voxel_size_nm": part.voxel_size_nm,
            "range": range,
            "origin_nm": part.origin_nm,
            "layout": layout(part.shape),
            "version": unetpipe.__version__,
        }
        record = open_record(volume.parent / "progress", key, stores, part)

        if isinstance(grey, InPlaceSource):
            address, image_digest = grey.array_address, listing
            extent = _write_extent(grey, volume.parent / "stored.npy")
            entries = sample(grey, part, record, range, cores)
        else:
            address, extent = str(image_store / LEVEL), None
            entries = copy(grey, part, image_store, record, partial(Grey, part.shape[1:], range))
            image_digest = _digest(part, grey.dtype, entries)
        labels_digest, counts = None, None
        if truth is not None:
            encode = _Encoder(truth, rule, labelled, first)
            encoded = copy(truth, part, labels_store, record, _Labelled, encode)
            labels_digest = _digest(part, np.dtype(np.uint8), encoded)
            counts = [count for entry in encoded for count in entry["labelled"]]
            if isinstance(rule, Instances):
                numbered = copy(truth, part, objects_store, record, _Nothing, _Numbers(truth, rule, labelled, first))
                # Objects that are one in another way can have the same classes.
                labels_digest = digest_of([labels_digest, _digest(part, truth.dtype, numbered)])

    mean = tuple(value for entry in entries for value in entry["mean"])
    std = tuple(value for entry in entries for value in entry["std"])
    absent = tuple(z for z, value in enumerate(std) if value == 0)
    if absent:
        log.warning(
            "volume %s: taken for missing, since without contrast: sections %s", name, some(map(str, absent), 20)
        )
    if truth is not None and counts is not None:
        _refuse_unlabelled(name, truth.address, counts, annotated, rule)
    VolumeFile(
        name=name,
        image=address,
        labels=str(labels_store / LEVEL) if labels else None,
        instances=str(objects_store / LEVEL) if objects_store in stores else None,
        shape=part.shape,
        first_section=first if in_place else 0,
        dtype=str(grey.dtype),
        voxel_size_nm=part.voxel_size_nm,
        origin_nm=part.origin_nm,
        range=(float(range[0]), float(range[1])) if range else None,
        mean=mean,
        std=std,
        missing_sections=absent,
        image_digest=image_digest,
        labels_digest=labels_digest,
        extent=extent,
        source={
            "image": image,
            "labels": labels,
            "sections": [first, end],
            "image_sections": image_sections,
            "in_place": in_place,
            "voxel_size_known": known_nm is not None,
            "labelled": counts,
        },
        version=unetpipe.__version__,
    ).write(volume)


def _write_extent(grey: InPlaceSource, path: Path) -> dict[str, Any] | None:
    """What of an image is stored, for ``volume.json``; None for all of it."""
    stored = grey.stored()
    if stored is not None and stored.count == 0:
        raise UserError(
            f"the volume {grey.address} was to be used in place",
            "not one of its chunks is stored: there are no voxels but those that fill it",
            "see whether it was copied as a whole, and whether its metadata are its own",
        )
    if stored is None or stored.count == math.prod(stored.grid):
        path.unlink(missing_ok=True)
        return None
    with replacing(path) as temporary:
        np.save(temporary, stored.bits)
    return {"shape": stored.shape, "unit": stored.unit, "file": str(path)}


def _refuse_own_stores(addresses: Sequence[str], stores: Sequence[Path]) -> None:
    """UserError if an input lies in a store that would be wiped for the output."""
    for address in addresses:
        if is_remote(address):
            continue
        path = file_of(address).resolve()
        for store in stores:
            if path.is_relative_to(store.resolve()):
                raise UserError(
                    f"the volume {address} was to be read",
                    f"it lies in {store}, which this step writes anew",
                    "move or copy the input out of the results folder, or give the run another name",
                )


def _refuse_misfits(
    name: str,
    grey: Source,
    truth: Source | None,
    sections: Sequence[int] | None,
    grey_range: Sequence[float] | None,
    annotated: Sequence[Annotation] | None,
) -> None:
    found = misfits(Facts.of(grey), Facts.of(truth) if truth else None, sections, grey_range, annotated)
    if found:
        raise UserError(
            f"the volume {name} was to be made of {grey.address}" + (f" and {truth.address}" if truth else ""),
            "; ".join(f"{setting} {problem}" for setting, problem in found),
            f"mend the settings volumes.{name}",
        )


def _voxel_size(name: str, grey: Source, voxel_size_nm: Sequence[float] | None) -> VoxelSize | None:
    """That of the settings, else that of the file; None, with a warning, where neither tells."""
    if voxel_size_nm is not None:
        z, y, x = map(float, voxel_size_nm)
        return z, y, x
    if grey.voxel_size_nm is None:
        log.warning(
            "volume %s: neither the settings nor %s tell its voxel size; results will have voxels of 1 nm. "
            "Set volumes.%s.voxel_size_nm to [z, y, x]",
            name,
            grey.address,
            name,
        )
    return grey.voxel_size_nm


class _Encoder:
    """Class indices of the labels ``truth``, of which the section ``first`` is the volume's 0."""

    def __init__(self, truth: Source, rule: Classes | Instances, annotated: Annotated | None, first: int) -> None:
        self.reach = rule.reach
        self._truth, self._rule, self._known = truth, rule, _Known(truth, annotated, first)

    def __call__(self, z: int, low: int, rows: NDArray[Any]) -> NDArray[Any]:
        """Those of the ``rows`` from ``low`` on of a section, given with its number in the labels."""
        try:
            return self._rule.encode(rows, self._known(z, low, rows))
        except UndeclaredError as error:
            values = some(f"{value} ({count} voxels)" for value, count in error.counts.items())
            raise UserError(
                f"the labels {self._truth.address} were to be read, with the values {self._rule.description}",
                f"section {z} has label values that belong to no class: {values}",
                "add them to a class in `classes` or in the volume's `label_values`, or to `ignore`",
            ) from None


class _Numbers:
    """Numbers of the objects in the labels ``truth``; 0 where nothing is known, too."""

    reach = 0

    def __init__(self, truth: Source, rule: Instances, annotated: Annotated | None, first: int) -> None:
        self._rule, self._known = rule, _Known(truth, annotated, first)

    def __call__(self, z: int, low: int, rows: NDArray[Any]) -> NDArray[Any]:
        """Those of the ``rows`` from ``low`` on of a section, given with its number in the labels."""
        return self._rule.objects(rows, self._known(z, low, rows))


class _Known:
    """The voxels that were labelled: (y, x) of rows of a section; None for all."""

    def __init__(self, truth: Source, annotated: Annotated | None, first: int) -> None:
        self._truth, self._annotated, self._first = truth, annotated, first

    def __call__(self, z: int, low: int, rows: NDArray[Any]) -> NDArray[np.bool_] | None:
        if not self._truth.labelled(z):
            return np.zeros(rows.shape, bool)
        return None if self._annotated is None else self._annotated.known(z - self._first, low, low + len(rows))


class _Nothing:
    """Nothing to record of a slab but its digest."""

    def add(self, low: int, voxels: NDArray[Any]) -> None:
        """Nothing to see."""

    def entry(self) -> Entry:
        """Nothing."""
        return {}


class _Labelled:
    """How many voxels of each section of class indices have a class."""

    def __init__(self) -> None:
        self._counts: Any = 0

    def add(self, low: int, voxels: NDArray[Any]) -> None:  # noqa: ARG002 – of all gauges
        """Count those of a band, (z, y, x)."""
        self._counts = self._counts + np.count_nonzero(voxels != IGNORE, axis=(1, 2))

    def entry(self) -> Entry:
        """``labelled``: one number for each section."""
        return {"labelled": self._counts.tolist()}


def _refuse_unlabelled(
    name: str,
    address: str,
    labelled: Sequence[int],
    annotated: Sequence[Annotation] | None,
    rule: Classes | Instances,
) -> None:
    """UserError unless a voxel has a class."""
    if any(labelled):
        return
    where = "" if annotated is None else " in the parts that are annotated"
    raise UserError(
        f"the labels {address} of the volume {name} were to be read, with the values {rule.description}",
        f"not one voxel is labelled: all label values{where} are to be ignored",
        f"compare volumes.{name}.sections and .annotated with the sections that were labelled, and the values to "
        "ignore with those in the file; a volume that is only to be predicted needs no labels",
    )


def _digest(part: Part, dtype: np.dtype[Any], entries: Sequence[Entry]) -> str:
    """SHA-256 over the voxels, whatever file they came from: those of the slabs, whose depth follows from the shape."""
    return digest_of({"shape": part.shape, "dtype": str(dtype), "slabs": [entry["digest"] for entry in entries]})
