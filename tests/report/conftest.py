"""A run on disk, as the rules before the report leave it."""

import csv
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pytest
import zarr
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rates import allocate
from scipy.ndimage import gaussian_filter, zoom

import unetpipe
from unetpipe.allocate import read_plan
from unetpipe.arrays import open_array
from unetpipe.config import Evaluate, Network, Quality, Settings
from unetpipe.data.samples import SamplesFile, create, encode, write_shard, write_validation
from unetpipe.files import read_json, write_json
from unetpipe.grid import Region
from unetpipe.metrics.streaming import Cut, Task, Totals, count
from unetpipe.metrics.summary import summary
from unetpipe.pyramid import pyramid
from unetpipe.quality.measure import quality
from unetpipe.volume import IGNORE, Image, VolumeFile, read_labels

MakeRun = Callable[..., dict[str, Any]]

DEPTH = 2
DEVICE = {"library": "ONNX Runtime 1.30", "processor": "Some Processor", "features": ["avx2", "fma"]}


def tissue(shape: Sequence[int], seed: int, classes: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Image and labels of blobs, every class in each section."""
    random = np.random.default_rng(seed)
    coarse = random.normal(size=[max(2, n // 8) for n in shape[1:]])
    field = zoom(coarse, [n / m for n, m in zip(shape[1:], coarse.shape, strict=True)], order=1)
    cuts = np.quantile(field, np.linspace(0, 1, classes + 1)[1:-1])
    labels = np.stack([np.digitize(np.roll(field, z, axis=0), cuts) for z in range(shape[0])]).astype(np.uint8)
    image = 40 + 160 * labels / (classes - 1) + random.normal(scale=12, size=labels.shape)
    return np.clip(image, 0, 255).astype(np.uint8), labels


def make(
    place: Path,
    make_volume: Callable[..., Path],
    volumes: Mapping[str, str],
    *,
    name: str = "demo",
    classes: Sequence[str] = ("membrane", "inside"),
    shape: tuple[int, int, int] = (5, 72, 80),
    unlabelled: Sequence[str] = (),
    missing: Mapping[str, Sequence[int]] | None = None,
    trained: bool = True,
    data: Callable[..., tuple[NDArray[np.uint8], NDArray[np.uint8]]] = tissue,
    whole: bool = True,
    **settings: Any,
) -> dict[str, Any]:
    """Leave a run in ``place``; gives the arguments of ``report``. ``whole``: sections are scored in one piece."""
    folder = place / "results" / name
    entries: dict[str, Any] = {}
    given: dict[str, Any] = {kind: [] for kind in ("volumes", "allocated", "predictions", "pyramids", "quality")}
    given |= engine(folder, "validate" in volumes.values(), trained, classes)
    to_score: dict[str, tuple[Path, Path]] = {}
    for seed, (volume, role) in enumerate(volumes.items()):
        image, labels = data(shape, seed, len(classes))
        for section in (missing or {}).get(volume, ()):
            image[section] = 0
        path = make_volume(image, None if volume in unlabelled else labels, volume, folder)
        given["volumes"].append(path)
        entries[volume] = {"role": role, "image": f"data/{volume}.tif"}
        if volume not in unlabelled:
            entries[volume]["labels"] = f"data/{volume}-labels.tif"
        if role != "train":
            given["allocated"].append(predicted(path, labels, given["certificate"], classes, seed))
            given["predictions"].append(given["allocated"][-1].with_name("job-0.json"))
            given["pyramids"].append(given["allocated"][-1].with_name("pyramid.json"))
            pyramid(given["allocated"][-1], given["predictions"][-1:], given["pyramids"][-1], workers=1, cores=1)
            given["quality"].append(folder / "quality" / f"{volume}.json")
            quality(
                path,
                given["allocated"][-1],
                given["predictions"][-1:],
                given["quality"][-1],
                settings=Quality(),
                cores=1,
            )
            if volume not in unlabelled:
                to_score[volume] = path, given["allocated"][-1]
    given["scores"] = [folder / "scores" / f"{volume}.json" for volume in to_score]
    validated = [folder / "scores" / f"{volume}.json" for volume in to_score if volumes[volume] == "validate"]
    # The threshold of all others is chosen on them.
    for volume in sorted(to_score, key=lambda name: volumes[name] != "validate"):
        role = volumes[volume]
        chosen_on = [] if role == "validate" else validated
        result = scored(*to_score[volume], role, classes, chosen_on, whole)
        write_json(folder / "scores" / f"{volume}.json", result)
    given["samples"] = given["history"] = None
    if trained:
        given["samples"] = samples(folder, given["volumes"], volumes, classes)
        given["history"] = history(folder, classes, validated="validate" in volumes.values())
    # The names that a test may want in the page are not those that the settings allow.
    plain = Settings.model_construct().model_dump(mode="json", warnings=False)
    plain |= {"run": name, "classes": {c: [i] for i, c in enumerate(classes)}, "volumes": entries, **settings}
    configuration = place / f"{name}.yaml"
    configuration.write_text(f"run: {name}\n", encoding="utf-8")
    return {
        "report": folder / "report.html",
        "facts": folder / "report.json",
        "figures": folder / "figures",
        "configuration": [str(configuration)],
        "benchmarks": folder / "benchmarks",
        "run": name,
        "settings": plain,
        "command": "snakemake --cores all --configfile config/config.yaml",
        **given,
    }


@pytest.fixture
def without_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave figures empty, for tests of what a page says: nothing of it takes longer than to draw them."""

    def save(_: Figure, file: TextIO, **how: Any) -> None:
        file.write('<svg xmlns="http://www.w3.org/2000/svg"><defs></defs></svg>')

    monkeypatch.setattr(Figure, "savefig", save)


@pytest.fixture
def make_run(tmp_path: Path, make_volume: Callable[..., Path]) -> MakeRun:
    """A function that gives the arguments of ``report`` for a run with the given volumes."""
    return functools.partial(make, tmp_path, make_volume)


@pytest.fixture(scope="module")
def make_shared_run(tmp_path_factory: pytest.TempPathFactory, make_volume: Callable[..., Path]) -> MakeRun:
    """The same, for runs that several tests look at and none changes."""
    return functools.partial(make, tmp_path_factory.mktemp("shared"), make_volume)


def predicted(volume: Path, labels: NDArray[np.uint8], certificate: Path, classes: Sequence[str], seed: int) -> Path:
    """Allocate a volume and fill it with a prediction that is right but near edges; gives allocated.json."""
    name = VolumeFile.read(volume).name
    path = volume.parents[2] / "predictions" / name / "allocated.json"
    allocate(volume, certificate, path, classes=list(classes), tile=None, batch=1, on_change="refuse")
    description = read_json(path)
    store = zarr.open_array(f"{description['probability']}/{description['array']}", mode="r+")
    noise = np.random.default_rng(seed).normal(scale=0.6, size=labels.shape)
    for channel in range(len(classes)):
        smooth = gaussian_filter((labels == channel) + noise * (-1) ** channel, (0, 1.5, 1.5))
        store[channel] = np.rint(np.clip(smooth, 0, 1) * 255).astype(np.uint8)
    plan = description["plan"]
    job = {
        "volume": name,
        "job": "job-0",
        "blocks": plan["blocks"],
        "computed": plan["blocks"],
        "resumed": 0,
        "voxels": labels.size,
        "bytes_written": labels.size,
        "seconds": 4.25,
        "workers": 2,
        "threads_per_worker": 1,
        "device": DEVICE,
        "engine_digest": description["key"]["engine"],
        "digest": "d" * 64,
        "version": unetpipe.__version__,
    }
    write_json(path.with_name("job-0.json"), job)
    return path


def scored(
    volume: Path, allocated: Path, role: str, classes: Sequence[str], validation: Sequence[Path], whole: bool
) -> dict[str, Any]:
    """Scores as evaluate gives them, without its worker processes."""
    source, description = VolumeFile.read(volume), read_json(allocated)
    settings = Evaluate() if whole else Evaluate(largest_section=0)
    objects = classes[-1]
    cut = Cut.of(read_plan(description), settings.largest_section, 1)
    if not whole:
        # So small a section lies in one block, and would be scored as a whole in any case.
        cut = replace(cut, slab=(1, source.shape[1] // 2, source.shape[2]), at_once=1, slabs=1)
    probability = f"{description['probability']}/{description['array']}"
    place = volume, probability, classes.index(objects), settings.baseline_sigma
    totals = Totals.of((count(Task(*place, cut, region)) for region in cut.runs()), cut, len(classes))
    chosen_on = {score["volume"]: score for score in map(read_json, validation)}
    return {
        "volume": source.name,
        "role": role,
        "shape": list(source.shape),
        "sections": source.shape[0],
        **summary(source, totals, classes, objects, settings, chosen_on),
        "version": unetpipe.__version__,
        "digests": {"image": source.image_digest, "labels": source.labels_digest, "engine": "e" * 64},
    }


def samples(folder: Path, volumes: Sequence[Path], roles: Mapping[str, str], classes: Sequence[str]) -> Path:
    """Six training samples and two to validate, cut from the first volume."""
    net = Network(depth=DEPTH).geometry
    tile = net.tile_for((1, 24, 24))
    output = net.output(tile)
    source = VolumeFile.read(volumes[0])
    grey = Image(source).read(Region.of((0, 0, 0), tile))
    label = read_labels(open_array(source.labels or source.image), Region.of(net.border, output), source.shape)
    label = np.where(label < len(classes), label, IGNORE).astype(np.uint8)
    arrays = {
        "image": np.stack([encode(grey)] * 6),
        "label": np.stack([label] * 6),
        "weight": np.linspace(0, 11, 6 * label.size).reshape(6, *output).astype(np.float16),
        "source": np.tile(np.array([0, 0, 12, 12, 7], np.int64), (6, 1)),
    }
    store = folder / "samples.zarr"
    create(store, 6, tile, output, "key")
    write_shard(store, "train", 0, arrays)
    write_validation(store, tile, output, {name: arrays[name][:2] for name in ("image", "label", "source")})
    counts = np.bincount(label[label < len(classes)], minlength=len(classes))
    SamplesFile(
        store=str(store),
        train=6,
        validate=2,
        digest="5" * 64,
        classes=tuple(classes),
        voxels=dict(zip(classes, counts.tolist(), strict=True)),
        frequency=dict(zip(classes, (counts / counts.sum()).tolist(), strict=True)),
        weight=dict.fromkeys(classes, 1.0),
        volumes=tuple(
            {"name": name, "role": role, "image_digest": "0" * 64, "labels_digest": "1" * 64}
            for name, role in roles.items()
            if role in ("train", "validate")
        ),
        tile=tile,
        border=net.border,
        seed=1,
        settings={},
        version=unetpipe.__version__,
    ).write(folder / "samples.json")
    return folder / "samples.json"


def history(folder: Path, classes: Sequence[str], *, validated: bool) -> Path:
    """history.csv of 150 steps."""
    random = np.random.default_rng(3)
    path = folder / "model" / "history.csv"
    scores = ["validation_loss", "validation_mean_iou", *(f"iou_{name}" for name in classes)]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["step", "seconds", "loss", "learning_rate", *scores])
        writer.writeheader()
        for step in range(1, 151):
            row = {
                "step": step,
                "seconds": step * 0.7,
                "loss": 0.15 + np.exp(-step / 40) * random.uniform(0.8, 1.2),
                "learning_rate": 2e-3 * np.sin(np.pi * step / 151),
            }
            if validated and step % 15 == 0:
                row |= {key: 0.9 - 0.6 * np.exp(-step / 50) - 0.02 * n for n, key in enumerate(scores)}
            writer.writerow(row)
    return path


def engine(folder: Path, validated: bool, trained: bool, classes: Sequence[str]) -> dict[str, Path]:
    """certificate.json, build.json and model.json."""
    net = asdict(Network(depth=DEPTH).geometry)
    identity = {"onnx_digest": "c" * 64, "checkpoint_digest": "b" * 64}
    engine = {
        "backend": "onnxruntime",
        "precision": "fp32",
        "profile": None,
        "device_class": DEVICE,
        "classes": list(classes),
        "geometry": net,
        "engine_digest": "e" * 64,
        "versions": {"unetpipe": unetpipe.__version__, "onnx": "1.22.0", "ONNX Runtime": "1.30"},
        **identity,
    }
    files: dict[str, dict[str, Any]] = {
        "engine/auto-fp32/certificate.json": {
            "verdict": "passed",
            "bound": 0.002,
            "tiles_from": "validate" if validated else "train" if trained else "unlabelled",
            "tiles": {"count": 16, "shape": [1, 572, 572], "batch": 1, "volumes": ["validate"], "sources": []},
            "largest_absolute_error": 2.4e-6,
            "largest_relative_error": 3.1e-5,
            "changed_labels": 1.2e-6,
            "iou": {name: {"pytorch": 0.91, "engine": 0.909998, "fall": 2e-6} for name in classes},
            "device": "Some Processor (avx2, fma)",
            "tiles_digest": "7" * 64,
            "pytorch": "2.13.0",
            "refused": [],
            "skipped": [{"precision": "int8", "why": "the processor lacks it"}],
            **engine,
        },
        "engine/auto-fp32/build.json": {
            "asked": "auto",
            "why": "the fastest here, openvino 0.205 s, onnxruntime 0.171 s a call",
            "candidates": {"tensorrt": {"unavailable": "there is no GPU"}},
            "capabilities": None,
            "binding": {"library": "ONNX Runtime 1.30"},
            "bytes": 7_766_000,
            "seconds": 1.4,
            **engine,
        },
        "model/model.json": {
            "network": {"name": "unet", "width": 16, "depth": DEPTH, "normalisation": "batch", "dropout": 0.0},
            "classes": list(classes),
            "geometry": net,
            "precision": "fp32",
            "opset": 18,
            "bytes": 7_766_000,
            "parameters": 1_941_105,
            "training": {"steps": 150, "best_step": 135, "seed": 1, "samples_digest": "5" * 64, "validated": validated},
            **identity,
        },
    }
    for path, content in files.items():
        write_json(folder / path, content)
    return {Path(path).stem: folder / path for path in files}
