"""A checkpoint brings its network along, whatever its dimension and whoever wrote it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from unetpipe.config import Network
from unetpipe.errors import UserError
from unetpipe.nets.build import build
from unetpipe.nets.checkpoint import load_checkpoint, read_metadata, save_checkpoint
from unetpipe.nets.layers import SegmentationNetwork
from unetpipe.nets.unet import UNet

CLASSES = ["membrane", "inside"]
NETWORKS = [
    pytest.param(Network(width=2, depth=2, dropout=0.5), id="2D"),
    pytest.param(Network(width=2, depth=1, sections=3), id="2.5D"),
    pytest.param(Network(width=2, depth=1, kernel=(3, 3, 3), pooling=(2, 2, 2)), id="3D"),
    pytest.param(
        Network(width=2, depth=2, kernel=[(1, 3, 3), (3, 3, 3), (3, 3, 1)], pooling=[(1, 2, 2), (2, 2, 1)]),
        id="each level its own",
    ),
    pytest.param(Network(width=2, depth=1, skips="multiply", upsampling="max_unpooling"), id="other ways up"),
    pytest.param(Network(name="full_resolution", width=2, depth=1), id="full resolution"),
    pytest.param(Network(name="patch_classifier", width=2, depth=2), id="patches"),
]


def saved(path: Path, settings: Network, **metadata: Any) -> SegmentationNetwork:
    torch.manual_seed(1)
    network = build(settings, len(CLASSES)).eval()
    save_checkpoint(path, network, {"classes": CLASSES, **metadata})
    return network


@pytest.mark.parametrize("settings", NETWORKS)
def test_what_was_saved_is_loaded(tmp_path: Path, settings: Network) -> None:
    path = tmp_path / "checkpoint.safetensors"
    network = saved(path, settings, version="9")
    loaded, metadata = load_checkpoint(path)
    assert loaded.settings == settings
    assert not loaded.training
    assert (metadata["classes"], metadata["version"]) == (CLASSES, "9")
    image = torch.randn(1, *network.geometry.tile_for((2, 5, 5)))
    with torch.inference_mode():
        assert torch.equal(loaded(image), network(image))


def test_the_same_network_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        saved(tmp_path / name, Network(width=2, depth=1), version="9")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_checkpoint_that_knows_no_kernels_is_a_2d_network(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    # What it says of its geometry is not read: the network itself tells.
    network = saved(path, Network(width=2, depth=1), geometry={"border": [0, 8, 8]})
    metadata = read_metadata(path)
    for name in ("kernel", "pooling", "sections", "skips", "upsampling"):
        del metadata["network"][name]
    save_file(load_file(path), path, metadata={"unetpipe": json.dumps(metadata)})
    loaded, _ = load_checkpoint(path)
    assert loaded.settings == network.settings
    assert loaded.geometry == network.geometry
    image = torch.randn(1, *network.geometry.tile_for((1, 5, 5)))
    with torch.inference_mode():
        assert torch.equal(loaded(image), network(image))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(lambda path: None, "there is no such file", id="missing"),
        pytest.param(lambda path: path.write_bytes(b"foreign"), "no whole safetensors file", id="foreign"),
        pytest.param(lambda path: save_file({"w": np.zeros(3)}, path), "without unetpipe's description", id="unnamed"),
        pytest.param(
            lambda path: save_file({"w": np.zeros(3)}, path, metadata={"unetpipe": '{"network": {"name": "vnet"}}'}),
            "not one that this version knows",
            id="other network",
        ),
    ],
)
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, make: Any, message: str) -> None:
    path = tmp_path / "checkpoint.safetensors"
    make(path)
    with pytest.raises(UserError, match=message) as caught:
        load_checkpoint(path)
    assert str(path) in caught.value.asked


def test_as_many_channels_as_classes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="2 channels for the classes"):
        save_checkpoint(tmp_path / "c", UNet(Network(width=2, depth=1), 2), {"classes": ["a", "b", "c"]})
