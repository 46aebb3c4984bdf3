"""One trained-looking network, exported once."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

from unetpipe.config import Network
from unetpipe.deploy.export import export
from unetpipe.nets.checkpoint import save_checkpoint
from unetpipe.nets.unet import UNet

CLASSES = ["membrane", "inside", "outside"]


@dataclass(frozen=True)
class Exported:
    """What the rules train and export leave."""

    folder: Path

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.safetensors"

    @property
    def onnx(self) -> Path:
        return self.folder / "model.onnx"

    @property
    def description(self) -> Path:
        return self.folder / "model.json"


NETWORKS = {
    "2D": Network(width=4, depth=2, dropout=0.5),
    "2.5D": Network(width=4, depth=1, sections=3),
    # The smallest tile is as long along z as along y and x: they must not be taken for one size.
    "3D": Network(width=4, depth=1, dropout=0.5, kernel=(3, 3, 3), pooling=(2, 2, 2)),
    "thick sections": Network(
        width=4, depth=2, kernel=[(1, 3, 3), (1, 3, 3), (3, 3, 3)], pooling=[(1, 2, 2), (1, 2, 2)]
    ),
}


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A 2D U-Net of width 4 and depth 2 with batch normalisation and dropout."""
    return _export(tmp_path_factory, "2D")


@pytest.fixture(scope="session", params=[name for name in NETWORKS if name != "2D"])
def exported_further(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Likewise, of the other dimensions."""
    return _export(tmp_path_factory, request.param)


def _export(tmp_path_factory: pytest.TempPathFactory, name: str) -> Exported:
    result = Exported(tmp_path_factory.mktemp("exported"))
    torch.manual_seed(0)
    network = UNet(NETWORKS[name], len(CLASSES)).eval()
    # Batch normalisations that have something to do.
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
    save_checkpoint(result.checkpoint, network, {"classes": CLASSES, "normalisation": "per section"})
    export(result.checkpoint, result.onnx, result.description)
    return result
