"""A checkpoint that the settings name must fit them, and brings its own network."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from checking import Data, checkpoint, good_settings, problems_of, with_voxel_size
from safetensors.numpy import save_file

from unetpipe.check import check
from unetpipe.config import Network


@pytest.fixture
def good(tmp_path: Path) -> Data:
    """Settings that can be used: one volume to train on, one to test."""
    return good_settings(tmp_path)


@pytest.mark.parametrize(
    ("learnt", "refused"),
    [
        pytest.param({"voxel_size_nm": [4.0, 4.0]}, True, id="another"),
        pytest.param({"voxel_size_nm": [8.0, 8.5]}, False, id="alike"),
        pytest.param({"voxel_size_nm": None}, False, id="unknown"),
        pytest.param({}, False, id="older-version"),
    ],
)
def test_a_model_tells_for_which_voxel_size_it_is(good: Data, tmp_path: Path, learnt: Data, refused: bool) -> None:
    good["model"] = checkpoint(tmp_path / "c.safetensors", **learnt)
    with_voxel_size(tmp_path / "test.tif", 8.0)
    if refused:
        assert "c.safetensors has learnt have 4 x 4" in problems_of(good)["volumes.test.voxel_size_nm"]
    else:
        check(good, "config.yaml")


@pytest.mark.parametrize("key", ["model", "train.init"])
def test_a_checkpoint_of_the_same_classes_passes(good: Data, tmp_path: Path, key: str) -> None:
    address = checkpoint(tmp_path / "c.safetensors")
    good |= {"model": address} if key == "model" else {"train": {"init": address}}
    check(good, "config.yaml")


@pytest.mark.parametrize("key", ["model", "train.init"])
@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(lambda path: None, "there is no such file; mend the path", id="missing"),
        pytest.param(lambda path: path.mkdir(), "it is a folder; give the checkpoint.safetensors in it", id="folder"),
        pytest.param(lambda path: path.write_bytes(b"foreign"), "no whole safetensors file", id="foreign"),
        pytest.param(
            lambda path: save_file({"w": np.zeros(3)}, path), "without unetpipe's description", id="undescribed"
        ),
        pytest.param(
            lambda path: checkpoint(path, classes=["inside", "membrane"]),
            "knows the classes inside, membrane, the settings have membrane, inside: they must be the same, in",
            id="other-classes",
        ),
        pytest.param(
            lambda path: checkpoint(path, network={"name": "vnet"}), "not one that this version knows", id="network"
        ),
        pytest.param(
            lambda path: save_file({"w": np.zeros(3)}, path, metadata={"unetpipe": "{}"}),
            "not one that this version knows",
            id="no-classes",
        ),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(
    good: Data, tmp_path: Path, key: str, make: Any, message: str
) -> None:
    path = tmp_path / "c.safetensors"
    make(path)
    good |= {"model": str(path)} if key == "model" else {"train": {"init": str(path)}}
    problems = problems_of(good)
    assert set(problems) == {key}
    assert str(path) in problems[key]
    assert message in problems[key]


def test_fine_tuning_needs_the_same_network(good: Data, tmp_path: Path) -> None:
    network = Network(width=32, depth=3, dropout=0.5).model_dump(mode="json")
    address = checkpoint(tmp_path / "c.safetensors", network=network)
    good["train"] = {"init": address}
    text = "has another network than the settings: width 32 instead of 16, depth 3 instead of 4"
    assert problems_of(good)["train.init"].endswith(text)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(
            {"kernel": (3, 3, 3)}, "kernels ((3, 3, 3), (3, 3, 3), (3, 3, 3)) instead of ((1, 3, 3), ", id="kernel"
        ),
        pytest.param({"pooling": [(1, 2, 2), (1, 3, 3)]}, "poolings ((1, 2, 2), (1, 3, 3)) instead of", id="pooling"),
        pytest.param({"sections": 3}, "sections 3 instead of 1", id="sections"),
        pytest.param({"skips": "add"}, "skips add instead of concatenate", id="skips"),
        pytest.param({"upsampling": "nearest"}, "upsampling nearest instead of transposed", id="upsampling"),
        pytest.param({"kernel": [(1, 3, 3)] * 3, "pooling": [(1, 2, 2)] * 2}, "", id="the same, said for each level"),
    ],
)
def test_fine_tuning_needs_the_same_levels(good: Data, tmp_path: Path, change: Data, message: str) -> None:
    network = Network(depth=2, **change).model_dump(mode="json")
    good["train"] = {"init": checkpoint(tmp_path / "c.safetensors", network=network)}
    good["network"] = {"depth": 2}
    if message:
        assert f"has another network than the settings: {message}" in problems_of(good)["train.init"]
    else:
        check(good, "config.yaml")


def test_a_model_decides_what_a_tile_is(good: Data, tmp_path: Path) -> None:
    network = Network(depth=1, kernel=(3, 3, 3))
    good["model"] = checkpoint(tmp_path / "c.safetensors", network=network.model_dump(mode="json"))
    good["predict"] = {"tile": [13, 44, 44]}
    assert check(good, "config.yaml").network == network
    good["predict"] = {"tile": [44, 44]}
    assert "this network takes tiles (z, y, x)" in problems_of(good)["predict.tile"]
    good["predict"] = {"tile": [13, 44, 45]}
    assert "near sizes that it can take are [13, 44, 44] and [13, 44, 46]" in problems_of(good)["predict.tile"]


def test_a_model_decides_along_which_axes_it_is_mirrored(good: Data, tmp_path: Path) -> None:
    good["predict"] = {"mirror": ["z", "x"]}
    assert "z is for 3D networks" in problems_of(good)["predict.mirror"]
    good["model"] = checkpoint(tmp_path / "c.safetensors", network=Network(depth=1).model_dump(mode="json"))
    assert "z is for 3D networks" in problems_of(good)["predict.mirror"]
    network = Network(depth=1, kernel=(3, 3, 3))
    good["model"] = checkpoint(tmp_path / "c.safetensors", network=network.model_dump(mode="json"))
    assert check(good, "config.yaml").predict.mirror_axes == ["z", "x"]


@pytest.mark.parametrize("kernel", [[], [(1, 3, 3)] * 2], ids=["none", "too few"])
def test_kernels_that_make_no_network_are_named(good: Data, tmp_path: Path, kernel: list[Any]) -> None:
    good["network"] = {"kernel": kernel}
    found = f"is a list of {len(kernel)}; a network of depth 4 needs 5"
    assert problems_of(good) == {"network.kernel": found}
    del good["network"]
    network = Network().model_dump(mode="json") | {"kernel": kernel}
    good["model"] = checkpoint(tmp_path / "c.safetensors", network=network)
    assert f"its network.kernel {found}" in problems_of(good)["model"]


def test_a_model_that_cannot_be_read_says_nothing_of_tiles(good: Data, tmp_path: Path) -> None:
    good["model"] = str(tmp_path / "none.safetensors")
    good["predict"] = {"tile": [1, 1]}
    assert set(problems_of(good)) == {"model"}


def test_a_model_brings_its_own_network(good: Data, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "small.tif", np.zeros((6, 20, 20), np.uint8))
    good["volumes"] = {"small": {"role": "predict", "image": str(tmp_path / "small.tif")}}
    good["model"] = checkpoint(tmp_path / "c.safetensors", network=Network(depth=3).model_dump(mode="json"))
    check(good, "config.yaml")
    good["model"] = checkpoint(tmp_path / "c.safetensors", network=Network(depth=4).model_dump(mode="json"))
    assert "the network pools 16 of them into one" in problems_of(good)["volumes.small.image"]


@pytest.mark.parametrize(
    "network", [Network(width=2), Network(width=2, depth=1, kernel=[(1, 3, 3), (3, 3, 3)])], ids=["2D", "3D"]
)
def test_checkpoints_of_this_package_are_read(good: Data, tmp_path: Path, network: Network) -> None:
    from unetpipe.nets.checkpoint import save_checkpoint
    from unetpipe.nets.unet import UNet

    save_checkpoint(tmp_path / "c.safetensors", UNet(network, 2), {"classes": ["membrane", "inside"]})
    good["model"] = str(tmp_path / "c.safetensors")
    assert check(good, "config.yaml").network == network


def test_a_checkpoint_that_knows_no_kernels_is_a_2d_network(good: Data, tmp_path: Path) -> None:
    old = {"name": "unet", "width": 16, "depth": 4, "normalisation": "batch", "dropout": 0.0}
    for key in ("model", "train"):
        address = checkpoint(tmp_path / f"{key}.safetensors", network=old)
        settings = good | {key: address if key == "model" else {"init": address}}
        assert check(settings, "config.yaml").network == Network()
