"""Small networks for all engines."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx_unet import unet

from unetpipe.deploy.calibrate import calibrate
from unetpipe.deploy.forms import write_form
from unetpipe.engines import onnx_file
from unetpipe.grid import Shape

MakeNetwork = Callable[..., Path]


InForm = Callable[[Path, str], Path]


@dataclass(frozen=True)
class Case:
    """A network and a tile (z, y, x) that it takes."""

    network: Path
    tile: Shape


@pytest.fixture(scope="session")
def make_network(tmp_path_factory: pytest.TempPathFactory) -> MakeNetwork:
    """A function that writes a U-Net with so many channels per level, and gives the ONNX file."""

    def make(*channels: int, seed: int = 0, **settings: Any) -> Path:
        path = tmp_path_factory.mktemp("network") / "model.onnx"
        path.write_bytes(unet(channels, seed, **settings).SerializeToString(deterministic=True))
        return path

    return make


@pytest.fixture(scope="session")
def in_form(tmp_path_factory: pytest.TempPathFactory) -> InForm:
    """A function that writes a network in another form, calibrated on noise, and gives the ONNX file."""

    @functools.cache
    def write(network: Path, form: str) -> Path:
        if form == "fp32":
            return network
        model, described = onnx_file.read(network)
        geometry = described.geometry
        tile = geometry.tile_for([2 * n for n in geometry.pooling] if geometry.dimensions == 3 else (1, 24, 24))
        tiles = np.random.default_rng(1).standard_normal((2, *tile)).astype(np.float32)
        path = tmp_path_factory.mktemp("form") / f"{form}.onnx"
        path.write_bytes(write_form(model, form, calibrate(model, tiles, 1)).SerializeToString(deterministic=True))
        return path

    return write


@pytest.fixture(scope="session")
def small(make_network: MakeNetwork) -> Path:
    """Two poolings, few channels."""
    return make_network(6, 8, 12)


@pytest.fixture(scope="session")
def thick(make_network: MakeNetwork) -> Path:
    """In 3D, for sections that are thick beside a pixel: z is convolved and pooled later than y and x."""
    return make_network(6, 8, 12, kernel=[(1, 3, 3), (3, 3, 3), (3, 3, 3)], pooling=[(1, 2, 2), (2, 2, 2)])


@pytest.fixture(scope="session", params=["2D", "2.5D", "3D"])
def case(request: pytest.FixtureRequest, make_network: MakeNetwork, small: Path, thick: Path) -> Case:
    """The same in 2D, with neighbouring sections as channels, and in 3D."""
    if request.param == "3D":
        return Case(thick, (20, 44, 52))
    return Case(small, (1, 60, 52)) if request.param == "2D" else Case(make_network(6, 8, 12, sections=3), (3, 60, 52))
