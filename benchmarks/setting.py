"""What the benchmarks share: a network that was trained for a moment, its engines, and textured volumes."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from unetpipe import config
from unetpipe.allocate import allocate
from unetpipe.config import Precision
from unetpipe.data.ingest import ingest
from unetpipe.data.phantom import make_phantom
from unetpipe.data.tissue import LABEL_VALUES
from unetpipe.deploy.build_engine import build_engine
from unetpipe.deploy.certify import certify
from unetpipe.deploy.export import export
from unetpipe.deploy.quantize import quantize
from unetpipe.engines.select import backend as library
from unetpipe.grid import Shape
from unetpipe.nets.checkpoint import save_checkpoint
from unetpipe.nets.unet import UNet
from unetpipe.train import NORMALISATION

CLASSES = ["membrane", "inside"]
LABELS = {
    "membrane": [LABEL_VALUES["membrane"]],
    "inside": [LABEL_VALUES["mitochondrion"], LABEL_VALUES["inside"]],
}
VOXEL_SIZE_NM = (40.0, 4.0, 4.0)
CORES = 2

_BLOCK_SECONDS = 600
"""A wide network in fp32 takes minutes for a large tile."""

_SECTIONS = 3
"""Without damage, of the phantom: all but the last are learnt from."""


@dataclass(frozen=True)
class Setting:
    """A network, and a ``folder`` with what is made of it. ``edge``: of the phantom's sections, in voxels."""

    folder: Path
    network: UNet
    edge: int = 512

    @property
    def name(self) -> str:
        """Of the network."""
        return f"width {self.network.settings.width}"

    @cached_property
    def phantom(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Image and labels (z, y, x)."""
        return undamaged(self.edge)

    def volume(self, shape: Shape, *, seen: bool = False) -> Path:
        """The ``volume.json`` of a textured volume with labels, whose sections all differ.

        A section that the network has not ``seen`` in training is repeated, mirrored at its edges; noise makes each one
        another. So no tile is like another, and none constant: those are computed once, and would be no measure.
        """
        place = self.folder / "volumes" / ("x".join(map(str, shape)) + ("-seen" if seen else ""))
        if not (place / "volume.json").exists():
            place.mkdir(parents=True)
            image, labels = (
                np.pad(voxels[0 if seen else -1], [(0, max(0, n - self.edge)) for n in shape[1:]], "symmetric")[
                    : shape[1], : shape[2]
                ]
                for voxels in self.phantom
            )
            noise = np.random.default_rng(0).integers(0, 8, shape, np.uint8)
            np.save(place / "image.npy", np.minimum(image, 247) + noise)
            np.save(place / "labels.npy", np.broadcast_to(labels, shape))
            ingest(
                image=str(place / "image.npy"), labels=str(place / "labels.npy"), volume=place / "volume.json",
                name=place.name, sections=None, voxel_size_nm=VOXEL_SIZE_NM, range=None, label_values=LABELS,
                ignore=[], cores=CORES,
            )  # fmt: skip
        return place / "volume.json"

    def engine(self, backend: str, precision: Precision = "fp32") -> Path:
        """The certificate of an engine, which lies beside it."""
        place = self.folder / "engine" / f"{backend}-{precision}"
        certificate = place / "certificate.json"
        if not certificate.exists():
            build_engine(
                self.folder / "model.onnx", place / "candidates.json",
                settings=config.Engine.model_validate({"backend": backend, "precision": precision}), tile=None, batch=1,
                quantized=None if precision == "fp32" else self._quantized,
            )  # fmt: skip
            certify(
                self.folder / "checkpoint.safetensors", place / "candidates.json", [self.volume((2, *self._section))],
                place / "engine", place / "build.json", certificate,
                role="validate", tile=None, batch=1, settings=_CERTIFY, cores=CORES,
            )  # fmt: skip
        return certificate

    @cached_property
    def _section(self) -> tuple[int, int]:
        return self.edge, self.edge

    @cached_property
    def _quantized(self) -> Path:
        """The network in lower precisions, calibrated on sections that it has learnt from."""
        description = self.folder / "quantized.json"
        quantize(
            self.folder / "model.onnx", [self.volume((2, *self._section), seen=True)], description.with_suffix(""),
            description, role="train", precisions=["bf16", "int8"], tile=None, settings=config.Quantize(tiles=8),
            cores=CORES,
        )  # fmt: skip
        return description

    def allocate(
        self, volume: Path, certificate: Path, name: str, *, workers: int | None = None, tile: Shape | None = None
    ) -> Path:
        """A new prediction of ``volume``."""
        allocated = self.folder / "predictions" / name / "allocated.json"
        allocate(
            volume, certificate, allocated, classes=CLASSES, tile=None if tile is None else list(tile), batch=None,
            on_change="refuse", workers=workers, cores=CORES, block_seconds=_BLOCK_SECONDS,
        )  # fmt: skip
        return allocated


# An engine that changes more is measured all the same, and the table tells what it changes.
_CERTIFY = config.Certify(tiles=2, iou_bound=1.0)


def precisions(backend: str) -> tuple[Precision, ...]:
    """Those that a library computes in on this machine, the slowest first."""
    return tuple(each for each in _PRECISIONS if library(backend).unavailable("run", each) is None)


_PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "int8")


def prepare(folder: Path, width: int, *, edge: int = 512, steps: int = 40) -> Setting:
    """Make a checkpoint and its ONNX file in ``folder``.

    The network learns for ``steps``: enough to be as sure of what it sees as one that is used. The speed does not
    depend on it, but what lower precision changes does.
    """
    network = UNet(config.Network(width=width, depth=4), len(CLASSES))
    setting = Setting(folder, network, edge)
    _train(network, *setting.phantom, steps)
    save_checkpoint(folder / "checkpoint.safetensors", network, {"classes": CLASSES, "normalisation": NORMALISATION})
    export(folder / "checkpoint.safetensors", folder / "model.onnx", folder / "model.json")
    return setting


def undamaged(edge: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Image and labels (z, y, x) of a phantom with square sections, without the missing one and the folded one."""
    made = make_phantom((_SECTIONS + 2, edge, edge), VOXEL_SIZE_NM, 1, missing=0, fold=_SECTIONS + 1)
    return made.image[1:-1], made.labels[1:-1]


def _train(network: UNet, image: NDArray[np.uint8], labels: NDArray[np.uint8], steps: int) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(CORES)
    rng = np.random.default_rng(0)
    kept = min(256, image.shape[1] - 200)
    tile = network.geometry.tile_for((1, kept, kept))[1:]
    border = network.geometry.border[1:]
    network.lay_channels_last()
    network.train()
    optimiser = torch.optim.AdamW(network.parameters(), 2e-3)
    grey = (image - image.mean((1, 2), keepdims=True)) / image.std((1, 2), keepdims=True)
    for _ in range(steps):
        z = rng.integers(len(image) - 1)
        y, x = (rng.integers(n - size + 1) for n, size in zip(image.shape[1:], tile, strict=True))
        seen = torch.from_numpy(grey[z, y : y + tile[0], x : x + tile[1]].astype(np.float32))
        truth = labels[z, y : y + tile[0], x : x + tile[1]][border[0] : -border[0], border[1] : -border[1]]
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(seen[None, None])
        target = torch.from_numpy(np.isin(truth, LABELS["inside"])).long()
        loss = functional.cross_entropy(logits[:, :, 0].float(), target[None])
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    network.eval()
