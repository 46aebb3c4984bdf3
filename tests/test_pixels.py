"""Volumes that show tissue at another size than the network learns it are named, each with the way out."""

from typing import Any

import pytest

from unetpipe.config import Settings
from unetpipe.pixels import PixelSize, alike, pixel_problems


def settings(**changes: Any) -> Settings:
    volume = {"image": "i.tif", "labels": "l.tif"}
    roles = {"a": "train", "b": "train", "v": "validate", "p": "predict"}
    return Settings.model_validate(
        {
            "run": "x",
            "classes": {"membrane": [0], "inside": [1]},
            "volumes": {name: volume | {"role": role} for name, role in roles.items()},
            **changes,
        }
    )


def problems(sizes: dict[str, PixelSize | None], learnt: PixelSize | None = None, **changes: Any) -> dict[str, str]:
    same: dict[str, PixelSize | None] = dict.fromkeys("abvp", (4.0, 4.0))
    return dict(pixel_problems(settings(**changes), same | sizes, learnt))


RESAMPLED = {"augment": {"voxel_size_nm": (4.0, 4.0)}}


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        pytest.param((4.0, 4.0), (4.4, 4.0), True, id="10-percent"),
        pytest.param((4.0, 4.0), (4.41, 4.0), False, id="y"),
        pytest.param((4.0, 4.0), (4.0, 3.6), False, id="x-smaller"),
        pytest.param((4.0, 8.0), (8.0, 4.0), False, id="turned"),
    ],
)
def test_10_percent_are_alike_either_way(one: PixelSize, other: PixelSize, expected: bool) -> None:
    assert alike(one, other) == alike(other, one) == expected


@pytest.mark.parametrize(
    ("sizes", "changes"),
    [
        pytest.param({}, {}, id="the same"),
        pytest.param({"b": (4.3, 3.7), "p": (4.4, 4.4)}, {}, id="alike"),
        pytest.param({"b": None, "v": None, "p": None}, {}, id="unknown"),
        pytest.param({"a": None, "b": None, "p": (9.0, 9.0)}, {}, id="learnt-size-unknown"),
        pytest.param({"a": (2.0, 2.0), "b": (8.0, 8.0)}, RESAMPLED, id="resampled"),
        pytest.param({"p": (9.0, 9.0)}, {"model": "m"}, id="model-of-unknown-size"),
    ],
)
def test_nothing_is_said_of_sizes_that_go_together(sizes: dict[str, PixelSize | None], changes: dict[str, Any]) -> None:
    assert problems(sizes, **changes) == {}


def test_all_volumes_of_another_size_are_named() -> None:
    found = problems({"b": (6.0, 6.0), "v": (4.0, 2.0), "p": (8.0, 8.0)})
    assert found == {
        "volumes.b.voxel_size_nm": "voxels of 6 x 6 nm (y, x), and the voxels of a, from which is learnt, have 4 x 4: "
        "more than 10 % apart: set augment.voxel_size_nm, to which samples are resampled, or leave the volume out",
        "volumes.v.voxel_size_nm": "voxels of 4 x 2 nm (y, x), and the voxels of a, from which is learnt, have 4 x 4: "
        "more than 10 % apart: resample the volume, or train at its size with augment.voxel_size_nm",
        "volumes.p.voxel_size_nm": "voxels of 8 x 8 nm (y, x), and the voxels of a, from which is learnt, have 4 x 4: "
        "more than 10 % apart: resample the volume, or train at its size with augment.voxel_size_nm",
    }


def test_resampling_needs_known_sizes_and_volumes_of_the_target() -> None:
    found = problems({"a": None, "b": (8.0, 8.0), "v": (8.0, 8.0), "p": None}, **RESAMPLED)
    assert found.keys() == {"volumes.a.voxel_size_nm", "volumes.v.voxel_size_nm"}
    assert "is required" in found["volumes.a.voxel_size_nm"]
    assert "augment.voxel_size_nm has 4 x 4" in found["volumes.v.voxel_size_nm"]


def test_a_model_is_for_the_size_at_which_it_learnt() -> None:
    found = problems({"a": (8.0, 8.0), "p": (6.0, 6.0)}, (4.0, 4.0), model="m.safetensors", **RESAMPLED)
    assert found.keys() == {"volumes.p.voxel_size_nm"}
    assert "the voxels from which m.safetensors has learnt have 4 x 4" in found["volumes.p.voxel_size_nm"]
