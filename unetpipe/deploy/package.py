"""The network of a run as a package that other programs load: a model of bioimage.io, in the format 0.5.

https://bioimage-io.github.io/spec-bioimage-io/bioimageio/spec/model/v0_5.html. The package holds the ONNX file, whose
input is normalised grey values; that normalisation stands beside it as a step that is known there. It holds no pickles:
the weights for PyTorch are attached as safetensors.
"""

import hashlib
import io
import logging
import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ValidationError

import unetpipe
from unetpipe.arrays import open_array
from unetpipe.colours import colours
from unetpipe.engines.onnx_file import IMAGE, PROBABILITY, read
from unetpipe.errors import UserError, faults
from unetpipe.files import read_json, replacing
from unetpipe.grid import AXES, Geometry, Region, triple
from unetpipe.storage import is_remote
from unetpipe.volume import VolumeFile, read_mirrored

log = logging.getLogger(__name__)

RESULTS = Path("results")
"""Where the runs lie, seen from where snakemake runs."""

_FORMAT = "0.5.4"

_EPS = 1e-6
"""Added to the standard deviation, there and here."""

_TEST = (8, 64, 64)
"""Voxels (z, y, x) that the test of the package gives, at least; one section of a 2D network."""

_RELATIVE, _ABSOLUTE = 1e-3, 1e-4
"""How far other libraries and processors may be off in the test."""

_NAME, _LICENSE = re.compile(r"[A-Za-z0-9_+\- ()]{5,128}"), re.compile(r"[A-Za-z0-9.+-]+")
"""What a model may be called, and the form of what SPDX calls licences."""

_ROLES = ("test", "validate", "predict", "train")
"""Of the volume that the test is cut out of: the first that there is."""

_CITED = {
    "text": "Ronneberger, Fischer, Brox: U-Net: Convolutional Networks for Biomedical Image Segmentation (2015)",
    "doi": "10.1007/978-3-319-24574-4_28",
}


@dataclass(frozen=True)
class Network:
    """A network with what its package says of it. ``model``: the content of ``model.json``."""

    onnx: Path
    geometry: Geometry
    model: Mapping[str, Any]

    @property
    def is_stack(self) -> bool:
        """Whether z is an axis of space for it; else the sections that it reads are channels."""
        return self.geometry.dimensions == 3


class _Model(BaseModel):
    """What is told of ``model.json``."""

    classes: list[str]
    opset: int
    network: dict[str, Any]
    checkpoint_digest: str
    parameters: int


class _OfClass(BaseModel):
    iou: float | None


class _Score(BaseModel):
    """What is told of the scores of a volume."""

    volume: str
    role: Literal["test", "validate", "predict", "train"]
    mean_iou: float | None
    classes: dict[str, _OfClass]


def package(run: Path, out: Path, *, authors: Sequence[str], license: str, name: str | None) -> None:  # noqa: A002
    """Write the package of the network of a run.

    Parameters
    ----------
    run:
        A folder such as ``results/demo``, or the name of one in ``results``.
    out:
        The package, .zip.
    authors:
        Their names: no file of a run tells them.
    license:
        Of the package, as SPDX names it, such as CC-BY-4.0.
    name:
        Of the model; made of that of the run where None.

    Raises
    ------
    UserError
        If the run has no trained network, or no volume to cut a test out of, or bioimage.io does not take a name.
    """
    folder = run if run.is_dir() else RESULTS / run
    asked = f"the network of {run} was to be put into {out}"
    if out.suffix != ".zip":
        raise UserError(asked, f"{out.name} does not end in .zip", "give the name of a .zip")
    # The collection asks for five letters, which the name of a run need not have.
    title = f"{folder.name} (unetpipe)" if name is None else name
    _check_words(asked, title, authors, license)
    onnx, description = folder / "model" / "model.onnx", folder / "model" / "model.json"
    if not onnx.exists() or not description.exists():
        raise UserError(asked, f"there is no network in {onnx.parent}", "let snakemake train and export one")
    network = Network(onnx, read(onnx)[1].geometry, _checked(_Model, description))
    scores = {path.stem: _checked(_Score, path) for path in sorted(folder.glob("scores/*.json"))}
    volume = _volume(asked, folder, scores)
    image = _cut_out(volume, folder, network.geometry)
    probability = _answer(network, normalised(image, volume.range))
    checkpoint = folder / "model" / "checkpoint.safetensors"
    files = {
        "model.onnx": onnx.read_bytes(),
        "test_input.npy": _npy(image),
        "test_output.npy": _npy(probability),
        "cover.png": _cover(image, probability),
        "README.md": _readme(folder, network, volume, scores.values()).encode(),
        **({checkpoint.name: checkpoint.read_bytes()} if checkpoint.exists() else {}),
    }
    digests = {file: hashlib.sha256(data).hexdigest() for file, data in files.items()}
    text = {
        "type": "model",
        "format_version": _FORMAT,
        **_title(title, network, authors, license),
        "documentation": _source("README.md", digests),
        "covers": [_source("cover.png", digests)],
        "attachments": [_source(file, digests) for file in digests if file == checkpoint.name],
        **_tensors(network, volume, image.dtype, digests),
        "weights": {"onnx": {**_source("model.onnx", digests), "opset_version": network.model["opset"]}},
    }
    with replacing(out) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("rdf.yaml", yaml.safe_dump(text, sort_keys=False, allow_unicode=True))
        for file, data in files.items():
            archive.writestr(file, data)
    log.info("%s: %.1f MB", out, out.stat().st_size / 1e6)


def _check_words(asked: str, title: str, authors: Sequence[str], license: str) -> None:  # noqa: A002
    """See that the format takes what the user has written."""
    if not _NAME.fullmatch(title):
        raise UserError(
            asked,
            f"bioimage.io does not take the name {title!r}",
            "give another: --name NAME, of 5 to 128 letters from A to Z, digits, spaces and _ + - ( )",
        )
    for author in authors:
        if not author.strip() or {"/", "\\"} & set(author):
            raise UserError(asked, f"bioimage.io does not take the author {author!r}", "give a name without slashes")
    if not _LICENSE.fullmatch(license):
        raise UserError(
            asked, f"{license!r} is no licence of SPDX", "give one as https://spdx.org/licenses names it: CC-BY-4.0"
        )


def normalised(image: NDArray[Any], grey_range: Sequence[float] | None) -> NDArray[np.float32]:
    """Grey values (1, z, y, x) as the steps of the package make them: clipped, then each section by itself.

    The run takes mean and standard deviation of the whole section. So do the steps, where they are given all of it.
    """
    grey = image.astype(np.float32)
    if grey_range is not None:
        low, high = grey_range
        grey = np.clip(grey, np.float32(low), np.float32(high))
    mean, std = (measure(axis=(2, 3), keepdims=True) for measure in (grey.mean, grey.std))
    found: NDArray[np.float32] = ((grey - mean) / (std + np.float32(_EPS))).astype(np.float32)
    return found


def _checked(model: type[BaseModel], path: Path) -> dict[str, Any]:
    """A file of the run, if it has what is told of it here."""
    data: dict[str, Any] = read_json(path)
    try:
        model.model_validate(data)
    except ValidationError as error:
        raise UserError(
            f"{path} was to be read",
            f"it is damaged or that of another version; this is unetpipe {unetpipe.__version__} ({faults(error)})",
            "delete it and run snakemake again",
        ) from None
    return data


def _volume(asked: str, folder: Path, scores: Mapping[str, Mapping[str, Any]]) -> VolumeFile:
    """The one that the test is cut out of."""
    found = {path.parent.name: VolumeFile.read(path) for path in sorted(folder.glob("volumes/*/volume.json"))}
    if not found:
        raise UserError(
            asked, f"no volume in {folder / 'volumes'}", "let snakemake read one: the test is cut out of it"
        )
    roles = {name: score["role"] for name, score in scores.items()}
    return min(found.values(), key=lambda volume: _ROLES.index(roles.get(volume.name, "train")))


def _cut_out(volume: VolumeFile, folder: Path, geometry: Geometry) -> NDArray[Any]:
    """Grey values (1, z, y, x) from the middle of ``volume``, mirrored where it is too small; no missing section."""
    tile = geometry.tile_for(_TEST)
    there = np.setdiff1d(np.arange(volume.shape[0]), np.asarray(volume.missing_sections, np.intp))
    z = int(there[len(there) // 2]) if len(there) else 0
    start = triple([z - tile[0] // 2, *((n - t) // 2 for n, t in zip(volume.shape[1:], tile[1:], strict=True))])
    address = volume.image if is_remote(volume.image) else str(folder.absolute().parent.parent / volume.image)
    found = read_mirrored(open_array(address), Region.of(start, tile), volume.shape, volume.first_section)
    return found[None]


def _answer(network: Network, image: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the network gives, (1, classes, z', y', x'), by ONNX Runtime on the processor, as most programs run it."""
    # Not at the top: it takes its time.
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(network.onnx, options, providers=["CPUExecutionProvider"])
    (found,) = session.run([PROBABILITY], {IMAGE: image})
    return np.asarray(found, np.float32)


def _title(name: str, network: Network, authors: Sequence[str], license: str) -> dict[str, Any]:  # noqa: A002
    model = network.model
    classes = ", ".join(model["classes"])
    return {
        "name": name,
        "description": f"Probabilities of {classes} in sections of electron microscopy.",
        "authors": [{"name": author} for author in authors],
        "cite": [_CITED],
        "license": license,
        "tags": ["electron-microscopy", "segmentation", "unet", "3d" if network.is_stack else "2d"],
        "timestamp": datetime.now(UTC).isoformat(timespec="seconds"),
        "config": {
            "bioimageio": {
                "reproducibility_tolerance": [{"relative_tolerance": _RELATIVE, "absolute_tolerance": _ABSOLUTE}]
            },
            "unetpipe": {
                "version": unetpipe.__version__,
                "network": model["network"],
                "checkpoint_digest": model["checkpoint_digest"],
                "border": network.geometry.border,
                "pooling": network.geometry.pooling,
            },
        },
    }


def _tensors(network: Network, volume: VolumeFile, dtype: np.dtype[Any], digests: Mapping[str, str]) -> dict[str, Any]:
    """Inputs and outputs: their axes, sizes, and what comes before."""
    geometry = network.geometry
    smallest = geometry.tile_for((1, 1, 1))
    size = dict(zip(AXES, volume.voxel_size_nm, strict=True))
    known = volume.source.get("voxel_size_known", True)

    def space(axis: str, length: Any) -> dict[str, Any]:
        # bioimage.io knows these lengths by name.
        measured = {"unit": "nanometer", "scale": float(size[axis])} if known else {}
        return {"type": "space", "id": axis, "size": length, **measured}

    def read_along(axis: str) -> dict[str, Any]:
        number = AXES.index(axis)
        return space(axis, {"min": smallest[number], "step": geometry.pooling[number]})

    def given_along(axis: str) -> dict[str, Any]:
        # Without padding: nothing at the edge is worse than elsewhere, and so there is no halo to cut off.
        lost = 2 * geometry.border[AXES.index(axis)]
        return space(axis, {"tensor_id": IMAGE, "axis_id": axis, "offset": -lost})

    if network.is_stack:
        read_first, given_first = [read_along("z")], [given_along("z")]
    else:
        around = range(-geometry.border[0], geometry.border[0] + 1)
        names = [f"section {n:+d}" if n else "section" for n in around]
        read_first, given_first = [{"type": "channel", "channel_names": names}], [space("z", 1)]
    clip = (
        [] if volume.range is None else [{"id": "clip", "kwargs": dict(zip(("min", "max"), volume.range, strict=True))}]
    )
    return {
        "inputs": [
            {
                "id": IMAGE,
                "description": "grey values of whole sections",
                "axes": [{"type": "batch"}, *read_first, read_along("y"), read_along("x")],
                "test_tensor": _source("test_input.npy", digests),
                "data": {"type": str(dtype)},
                "preprocessing": [
                    {"id": "ensure_dtype", "kwargs": {"dtype": "float32"}},
                    *clip,
                    # Each section by itself.
                    {"id": "zero_mean_unit_variance", "kwargs": {"axes": ["y", "x"], "eps": _EPS}},
                    {"id": "ensure_dtype", "kwargs": {"dtype": "float32"}},
                ],
            }
        ],
        "outputs": [
            {
                "id": PROBABILITY,
                "description": "probability of each class; they sum to 1",
                "axes": [
                    {"type": "batch"},
                    {"type": "channel", "channel_names": list(network.model["classes"])},
                    *given_first,
                    given_along("y"),
                    given_along("x"),
                ],
                "test_tensor": _source("test_output.npy", digests),
                "data": {"type": "float32", "range": [0.0, 1.0]},
            }
        ],
    }


def _source(name: str, digests: Mapping[str, str]) -> dict[str, str]:
    return {"source": name, "sha256": digests[name]}


def _npy(array: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def _cover(image: NDArray[Any], probability: NDArray[np.float32]) -> bytes:
    """The middle section of the test: grey values, and beside them the most likely classes of what comes out."""
    grey = image[0, image.shape[1] // 2].astype(np.float32)
    low, high = float(grey.min()), float(grey.max())
    grey = (grey - low) * (255 / (high - low or 1))
    classes = probability[0, :, probability.shape[2] // 2].argmax(0)
    palette = np.array(colours(probability.shape[1]), np.uint8)
    given = np.full((*grey.shape, 3), 255, np.uint8)
    top, left = ((whole - part) // 2 for whole, part in zip(grey.shape, classes.shape, strict=True))
    given[top : top + classes.shape[0], left : left + classes.shape[1]] = palette[classes]
    both = np.concatenate([np.repeat(grey.astype(np.uint8)[..., None], 3, -1), given], 1)
    file = io.BytesIO()
    # As the collection asks for: twice as wide as high.
    Image.fromarray(both).resize((512, 256), Image.Resampling.NEAREST).save(file, "PNG")
    return file.getvalue()


def _readme(folder: Path, network: Network, volume: VolumeFile, scores: Iterable[Mapping[str, Any]]) -> str:
    geometry, model = network.geometry, network.model
    axes = AXES if network.is_stack else AXES[1:]
    numbers = [AXES.index(axis) for axis in axes]
    smallest = geometry.tile_for((1, 1, 1))
    sizes = "; ".join(f"{AXES[n]}: {smallest[n]}, {smallest[n] + geometry.pooling[n]}, …" for n in numbers)
    lost = ", ".join(f"{AXES[n]}: {geometry.border[n]}" for n in numbers)
    aligned = ", ".join(f"{AXES[n]}: {geometry.pooling[n]}" for n in numbers)
    size = " x ".join(f"{length:g}" for length in volume.voxel_size_nm)
    made = (
        f"Made by unetpipe {unetpipe.__version__}, in the run {folder.name}: {model['parameters']} parameters, for "
        f"voxels of about {size} nm (z, y, x)."
    )
    rules = (
        "Each section is to have mean 0 and standard deviation 1, over all of it: where a program cuts an image into "
        "tiles, it must take both of the whole section. Convolutions are not padded: what comes out is smaller on each "
        f"side by the border ({lost}), and a legal input has one of the sizes {sizes}. Pooling is not shift-invariant: "
        f"tiles give the same as the whole where they begin at multiples of ({aligned}), and what of an image lies "
        "nearer to its edge than the border is seen with the image mirrored there."
    )
    title = f"# {', '.join(model['classes'])} in electron microscopy"
    return "\n\n".join([title, made, "## Input and output", rules, "## Validation", "\n".join(_scores(scores)), ""])


def _scores(scores: Iterable[Mapping[str, Any]]) -> list[str]:
    """Of the volumes that nothing was learnt from."""
    lines = [
        f"- {score['volume']} ({score['role']}): mean IoU {score['mean_iou']:.3f} ("
        + ", ".join(
            f"{name} {values['iou']:.3f}" for name, values in score["classes"].items() if values["iou"] is not None
        )
        + ")"
        for score in scores
        if score["mean_iou"] is not None
    ]
    return lines or ["No volume of the run has labels to compare with."]
