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


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A U-Net of width 4 and depth 2 with batch normalisation and dropout."""
    result = Exported(tmp_path_factory.mktemp("exported"))
    torch.manual_seed(0)
    network = UNet(Network(width=4, depth=2, dropout=0.5), len(CLASSES)).eval()
    # Batch normalisations that have something to do.
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
    save_checkpoint(result.checkpoint, network, {"classes": CLASSES, "normalisation": "per section"})
    export(result.checkpoint, result.onnx, result.description)
    return result
