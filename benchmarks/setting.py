"""What the benchmarks share: a network with random weights, its engines, and a textured volume."""

from dataclasses import dataclass
from pathlib import Path

import torch

from unetpipe import config
from unetpipe.allocate import allocate
from unetpipe.data.ingest import ingest
from unetpipe.data.phantom import phantom
from unetpipe.deploy.build_engine import build_engine
from unetpipe.deploy.certify import certify
from unetpipe.deploy.export import export
from unetpipe.grid import Shape
from unetpipe.nets.checkpoint import save_checkpoint
from unetpipe.nets.unet import UNet

CLASSES = ["membrane", "inside"]
SHAPE = (16, 512, 512)


@dataclass(frozen=True)
class Setting:
    """``sections`` of the volume hold one tile each."""

    folder: Path
    network: UNet
    tile: Shape
    sections: int

    def engine(self, backend: str) -> Path:
        """The folder of a certified engine."""
        place = self.folder / "engine" / backend
        if not (place / "certificate.json").exists():
            build_engine(
                self.folder / "model.onnx", place / "engine", place / "build.json",
                settings=config.Engine(backend=backend), tile=None, batch=1,
            )  # fmt: skip
            certify(
                self.folder / "checkpoint.safetensors", place / "engine", place / "build.json",
                [self.folder / "volume" / "volume.json"], place / "certificate.json",
                role="predict", tile=list(self.tile), batch=1, settings=config.Certify(tiles=2), cores=2,
            )  # fmt: skip
        return place

    def allocate(self, backend: str, name: str) -> Path:
        """A new prediction of the volume."""
        allocated = self.folder / "predictions" / name / "allocated.json"
        allocate(
            self.folder / "volume" / "volume.json", self.engine(backend) / "certificate.json", allocated,
            classes=CLASSES, tile=list(self.tile), batch=1, on_change="refuse",
        )  # fmt: skip
        return allocated


def prepare(folder: Path) -> Setting:
    """Make volume, checkpoint and ONNX file in ``folder``."""
    torch.manual_seed(0)
    network = UNet(config.Network(width=32, depth=4), len(CLASSES)).eval()
    save_checkpoint(folder / "checkpoint.safetensors", network, {"classes": CLASSES, "normalisation": "per section"})
    export(folder / "checkpoint.safetensors", folder / "model.onnx", folder / "model.json")
    phantom(folder / "image.tif", folder / "labels.tif", SHAPE, (40.0, 4.0, 4.0), 1)
    ingest(
        image=str(folder / "image.tif"), labels=None, volume=folder / "volume" / "volume.json", name="volume",
        sections=None, voxel_size_nm=None, range=None, label_values={"membrane": [0], "inside": [255]},
        ignore=[], cores=2,
    )  # fmt: skip
    tile = network.geometry.tile_for((1, *SHAPE[1:]))
    return Setting(folder, network, tile, SHAPE[0])
