"""What metadata show is found before any job starts, all of it at once."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tifffile
import zarr
from checking import Data, checkpoint, good_settings, problems_of, with_voxel_size

from unetpipe.check import check


@pytest.fixture
def good(tmp_path: Path) -> Data:
    """Settings that can be used: one volume to train on, one to test."""
    return good_settings(tmp_path)


def test_good_settings_pass(good: Data) -> None:
    settings = check(good, "config.yaml")
    assert settings.volumes["train"].image == f"{good['data_dir']}/train.tif"


def test_what_shows_a_training_must_be_installed(good: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    good["train"] = {"tensorboard": True}
    check(good, "config.yaml")
    monkeypatch.setattr("unetpipe.check.find_spec", lambda _: None)
    assert "pip install 'unetpipe[watch]'" in problems_of(good)["train.tensorboard"]
    good["train"] = {}
    check(good, "config.yaml")


def test_what_starts_worker_jobs_must_be_installed(good: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    good["predict"] = {"cluster": "slurm"}
    monkeypatch.setattr("unetpipe.check.find_spec", lambda _: None)
    assert "pip install 'unetpipe[slurm]'" in problems_of(good)["predict.cluster"]
    good["predict"] = {"cluster": "tcp://somewhere:8786"}
    check(good, "config.yaml")


def test_a_place_for_predictions_must_be_one(good: Data, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for store, found in {
        str(tmp_path / "file"): " is a file; give a folder",
        "ftp://host/x": "no address that is known; give a path, or s3://BUCKET/PREFIX",
    }.items():
        good["predict"] = {"store": store}
        assert found in problems_of(good)["predict.store"]
    for store in (tmp_path, tmp_path / "new"):
        good["predict"] = {"store": str(store)}
        check(good, "config.yaml")


def test_every_address_form_passes(good: Data, tmp_path: Path) -> None:
    voxels = np.zeros((6, 70, 80), np.uint8)
    np.save(tmp_path / "a.npy", voxels)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["raw"] = voxels
    zarr.create_array(tmp_path / "a.zarr", shape=voxels.shape, dtype="uint8")
    (tmp_path / "folder").mkdir()
    for z in range(6):
        tifffile.imwrite(tmp_path / "folder" / f"{z}.tif", voxels[z])
    for i, address in enumerate(("a.npy", "a.h5:/raw", "a.zarr", "folder")):
        good["volumes"][f"v{i}"] = {"role": "predict", "image": f"{{data_dir}}/{address}"}
    check(good, "config.yaml")


def test_mistakes_of_settings_and_of_files_are_reported_together(good: Data, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "test.tif", np.zeros((6, 70, 80), np.int16))
    good["volumes"]["train"] |= {"image": "{data_dir}/trian.tif", "labels": "{data_dir}/none.tif"}
    good["volumes"]["test"]["sections"] = [2, 9]
    good["volumes"]["other"] = {"role": "predict", "image": str(tmp_path / "a.czi")}
    good["train"] = {"init": str(tmp_path / "no.safetensors"), "momentum": 1.5}
    good["augment"] = {"border_class": "glia"}
    problems = problems_of(good)
    assert set(problems) == {
        "train.momentum",
        "train.init",
        "augment.border_class",
        "volumes.train.image",
        "volumes.train.labels",
        "volumes.test.sections",
        "volumes.test.range",
        "volumes.other.image",
    }
    assert "train.tif: is one of these meant?" in problems["volumes.train.image"]
    assert "reaches beyond the image, which has 6 sections" in problems["volumes.test.sections"]


def test_a_volume_without_labels_needs_none(good: Data) -> None:
    good["volumes"]["more"] = {"role": "predict", "image": "{data_dir}/test.tif"}
    check(good, "config.yaml")


def test_a_mistake_that_the_settings_show_is_not_reported_twice(good: Data) -> None:
    good["volumes"]["test"]["sections"] = [5, 5]
    assert problems_of(good) == {"volumes.test.sections": "[5, 5) holds no section"}


@pytest.mark.parametrize(
    ("shape", "depth", "axes"),
    [
        pytest.param((1, 32, 32), 4, "", id="just-enough"),
        pytest.param((1, 31, 32), 4, "y", id="low"),
        pytest.param((1, 32, 31), 4, "x", id="narrow"),
        pytest.param((6, 4, 4), 1, "", id="shallow-network"),
        pytest.param((6, 4, 3), 1, "x", id="shallow-network-narrow"),
    ],
)
def test_an_image_must_have_two_voxels_of_the_lowest_level(
    good: Data, tmp_path: Path, shape: tuple[int, int, int], depth: int, axes: str
) -> None:
    tifffile.imwrite(tmp_path / "small.tif", np.zeros(shape, np.uint8), photometric="minisblack")
    good["volumes"]["small"] = {"role": "predict", "image": str(tmp_path / "small.tif")}
    good["network"] = {"depth": depth}
    good["augment"] = {"tile": [316, 316] if depth == 4 else [100, 100]}
    if not axes:
        check(good, "config.yaml")
        return
    size = shape["zyx".index(axes)]
    found = f"has {size} voxels along {axes}, and the network pools {2**depth} of them into one"
    assert problems_of(good)["volumes.small.image"].startswith(f"{found}: at least {2 ** (depth + 1)} are needed")


def test_annotated_parts_beyond_the_sections_used_are_named(good: Data) -> None:
    parts: list[Any] = [2, 3, [[0, 3], [0, 70], [0, 80]], [[2, 4], [0, 70], [1, 81]], [[1, 1], [0, 99], [0, 1]]]
    good["volumes"]["train"] |= {"sections": [2, 5], "annotated": parts}
    assert problems_of(good) == {
        "volumes.train.annotated.1": "there is no section 3: 3 are used, from 0 on",
        # One of the two axes: a mapping keeps the last.
        "volumes.train.annotated.3": "[1, 81) along x reaches beyond the volume, which has 80 voxels there",
        "volumes.train.annotated.4": "[1, 1) along z holds no voxel",
    }
    good["volumes"]["train"]["annotated"] = [2, [[0, 3], [0, 70], [0, 80]]]
    check(good, "config.yaml")


def test_voxel_sizes_of_settings_and_files_are_compared(good: Data, tmp_path: Path) -> None:
    with_voxel_size(tmp_path / "train.tif", 4.0)
    with_voxel_size(tmp_path / "test.tif", 8.0)
    assert "voxels of 8 x 8 nm" in problems_of(good)["volumes.test.voxel_size_nm"]
    good["volumes"]["test"]["voxel_size_nm"] = [40.0, 4.3, 4.0]
    check(good, "config.yaml")
    good["volumes"]["phantom"] = {"role": "predict", "image": "phantom"}
    good["phantom"] = {"voxel_size_nm": [40.0, 6.0, 6.0]}
    assert "voxels of 6 x 6 nm" in problems_of(good)["volumes.phantom.voxel_size_nm"]
    good["augment"] = {"voxel_size_nm": [6.0, 6.0]}
    assert problems_of(good).keys() == {"volumes.test.voxel_size_nm"}
    del good["volumes"]["test"]["voxel_size_nm"]
    with_voxel_size(tmp_path / "test.tif", 5.9)
    check(good, "config.yaml")


def test_nothing_is_said_of_the_voxel_size_of_an_image_that_cannot_be_read(good: Data) -> None:
    good["augment"] = {"voxel_size_nm": [4.0, 4.0]}
    assert problems_of(good).keys() == {"volumes.train.voxel_size_nm"}
    good["volumes"]["train"]["image"] = "none.tif"
    assert problems_of(good).keys() == {"volumes.train.image"}


def test_the_phantom_is_measured_by_its_settings(good: Data) -> None:
    good["phantom"] = {"shape": [5, 64, 20]}
    good["volumes"]["p"] = {"role": "test", "image": "phantom", "labels": "phantom", "sections": [2, 6]}
    good["volumes"]["q"] = {"role": "test", "image": "{data_dir}/test.tif", "labels": "phantom"}
    problems = problems_of(good)
    assert "[2, 6) reaches beyond the image, which has 5 sections" in problems["volumes.p.sections"]
    assert "has 20 voxels along x" in problems["volumes.p.image"]
    assert "(5, 64, 20) (z, y, x), the image has (6, 70, 80)" in problems["volumes.q.labels"]
    assert len(problems) == 3


def test_readers_are_loaded_only_where_they_are_needed(good: Data, tmp_path: Path) -> None:
    good["model"] = checkpoint(tmp_path / "c.safetensors")
    code = (
        f"import json, sys; from unetpipe.check import check; check(json.loads({json.dumps(good)!r}), 'c'); "
        "print(sorted({'tifffile', 'zarr', 'h5py', 'PIL', 'torch', 'dask', 'scipy'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "['tifffile']\n"


@pytest.mark.parametrize(
    ("change", "problems"),
    [
        pytest.param({"region": [[0, 6], [3, 70], [79, 80]], "mask": "{data_dir}/m.npy"}, {}, id="good"),
        pytest.param({"region": [[0, 2], [0, 9], [0, 9]], "sections": [4, 6]}, {}, id="good-of-the-sections-used"),
        pytest.param(
            {"region": [[0, 3], [0, 9], [0, 9]], "sections": [4, 6]},
            {"region": "[0, 3) along z reaches beyond the volume, which has 2 voxels there"},
            id="beyond-the-sections-used",
        ),
        pytest.param(
            {"region": [[0, 6], [0, 70], [70, 81]]},
            {"region": "[70, 81) along x reaches beyond the volume, which has 80 voxels there"},
            id="beyond",
        ),
        pytest.param(
            {"region": [[0, 6], [70, 70], [90, 91]]}, {"region": "[70, 70) along y holds no voxel"}, id="empty"
        ),
        pytest.param(
            {"region": [[0, 9], [0, 9], [0, 9]], "sections": [4, 7]},
            {"sections": "[4, 7) reaches beyond the image, which has 6 sections"},
            id="what-follows-from-another-mistake",
        ),
        pytest.param({"mask": "{data_dir}/n.npy"}, {"mask": "m.npy: is one of these meant?"}, id="no-mask"),
        pytest.param({"mask": "{data_dir}/4d.npy"}, {"mask": "4 axes"}, id="mask-of-four-axes"),
        pytest.param({"mask": "{data_dir}/<m>.npy"}, {"mask": "which Snakemake takes for a pattern"}, id="pattern"),
    ],
)
def test_region_and_mask_must_fit_the_volume(good: Data, tmp_path: Path, change: Data, problems: Data) -> None:
    # Of any resolution, also a finer one along an axis.
    np.save(tmp_path / "m.npy", np.ones((2, 700, 3), np.float32))
    np.save(tmp_path / "<m>.npy", np.ones((2, 2), np.uint8))
    np.save(tmp_path / "4d.npy", np.ones((2, 2, 2, 2), np.uint8))
    good["volumes"]["test"] |= change
    if not problems:
        assert check(good, "config.yaml").volumes["test"].region is not None
        return
    found = problems_of(good)
    assert set(found) == {f"volumes.test.{key}" for key in problems}
    for key, text in problems.items():
        assert text in found[f"volumes.test.{key}"]


def test_what_is_not_predicted_has_neither_region_nor_mask(good: Data) -> None:
    good["volumes"]["train"] |= {"region": [[0, 1], [0, 1], [0, 1]], "mask": "{data_dir}/test.tif"}
    text = "has no meaning for a volume to train on, which is not predicted"
    assert problems_of(good) == {"volumes.train.region": text, "volumes.train.mask": text}
