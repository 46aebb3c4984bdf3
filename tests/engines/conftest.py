"""Small networks for all engines."""

from collections.abc import Callable
from pathlib import Path

import pytest
from onnx_unet import unet

MakeNetwork = Callable[..., Path]


@pytest.fixture(scope="session")
def make_network(tmp_path_factory: pytest.TempPathFactory) -> MakeNetwork:
    """A function that writes a U-Net with so many channels per level, and gives the ONNX file."""

    def make(*channels: int, seed: int = 0) -> Path:
        path = tmp_path_factory.mktemp("network") / "model.onnx"
        path.write_bytes(unet(channels, seed).SerializeToString(deterministic=True))
        return path

    return make


@pytest.fixture(scope="session")
def small(make_network: MakeNetwork) -> Path:
    """Two poolings, few channels."""
    return make_network(6, 8, 12)
