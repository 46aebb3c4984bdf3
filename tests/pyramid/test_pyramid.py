"""The levels of a prediction and its label map: right, whole, and the same however they were made."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import levelled
import numpy as np
import pytest
import zarr
from levelled import CLASSES, fill, levels, made, make, objects, plan, wanted
from masks import as_npy

from unetpipe import levels as levels_module
from unetpipe.files import read_json, write_json

MakeVolume = Callable[..., Path]


def part(folder: Path, shape: tuple[int, ...]) -> dict[str, Any]:
    """Settings for a part of a volume: its mask has two voxels of few blocks, and the region leaves some out."""
    mask = np.zeros(shape, np.uint8)
    mask[0, 0, 0] = mask[-1, -1, -1] = mask[2, 150, 60] = 1
    return {"mask": as_npy(folder, mask), "region": [[0, shape[0]], [0, 300], [10, 214]]}


@pytest.mark.parametrize(
    ("shape", "steps", "of_a_part"),
    [
        pytest.param(levelled.SHAPE, [(1, 2, 2), (1, 2, 2)], False, id="sections"),
        pytest.param(levelled.SHAPE, [(1, 2, 2), (1, 2, 2)], True, id="a part"),
        pytest.param((3, 131, 520), [(1, 2, 2), (1, 2, 2), (1, 2, 2)], False, id="wide"),
    ],
)
def test_levels_are_means_and_the_label_map_the_most_frequent_class(
    shape: tuple[int, int, int], steps: list[Any], of_a_part: bool, make_volume: MakeVolume, tmp_path: Path
) -> None:
    allocated = plan(tmp_path, make_volume, shape, labels=True, **(part(tmp_path, shape) if of_a_part else {}))
    fill(allocated)
    found = make(allocated)
    factors = [level["factors"] for level in read_json(allocated)["levels"]]
    assert factors == [[1, 1, 1], *map(list, steps)]
    there = wanted(allocated)
    assert there.all() != of_a_part
    finest, *coarser = levels(allocated)
    for ours, expected in zip(coarser, levelled.expected_means(finest, there, factors)[1:], strict=True):
        np.testing.assert_array_equal(ours, expected)
    labels = np.where(there, finest.argmax(axis=0), 255)
    ours_of_all = levels(allocated, "labels/classes")
    for ours, expected in zip(ours_of_all, levelled.expected_modes(labels, factors), strict=True):
        np.testing.assert_array_equal(ours, expected)
    # Where there is nothing of one, there is nothing of the other.
    for mean, mode in zip(levels(allocated), ours_of_all, strict=True):
        np.testing.assert_array_equal(mean.any(axis=0), mode != 255)
    assert found["labels"] == "labels/classes"
    assert [level["shape"] for level in found["levels"]] == [list(mode.shape) for mode in ours_of_all]


def test_voxels_that_the_image_does_not_store_count_nowhere(make_volume: MakeVolume, tmp_path: Path) -> None:
    allocated = plan(tmp_path, make_volume, labels=True)
    description = read_json(allocated)
    # As of an image that is used in place and has no chunk there.
    write_json(allocated, description | {"key": description["key"] | {"absent": "skip"}})
    stored = np.random.default_rng(1).random(levelled.SHAPE) < 0.3
    stored[:, :100] = False
    fill(allocated, stored=stored)
    make(allocated)
    finest, *coarser = levels(allocated)
    factors = [level["factors"] for level in description["levels"]]
    for ours, expected in zip(coarser, levelled.expected_means(finest, stored, factors)[1:], strict=True):
        np.testing.assert_array_equal(ours, expected)
    labels = np.where(stored, finest.argmax(axis=0), 255)
    for ours, expected in zip(
        levels(allocated, "labels/classes"), levelled.expected_modes(labels, factors), strict=True
    ):
        np.testing.assert_array_equal(ours, expected)


def test_another_library_reads_the_same(finished: Path) -> None:
    allocated = finished / "allocated.json"
    for group in ("", "labels/classes"):
        image = zarr.open_group(f"{read_json(allocated)['probability']}/{group}", mode="r")
        (multiscale,) = image.attrs["ome"]["multiscales"]  # type: ignore[index,call-overload,misc]
        for dataset, voxels in zip(multiscale["datasets"], levels(allocated, group), strict=True):  # type: ignore[call-overload,index,arg-type]
            np.testing.assert_array_equal(np.asarray(image[dataset["path"]]), voxels)  # type: ignore[index,call-overload]


def test_levels_lie_where_they_belong(finished: Path) -> None:
    # A voxel of the second level covers 4 x 4 voxels of 4 nm: its middle lies 6 nm after that of the first of them.
    for group, channel in (("", [0]), ("labels/classes", [])):
        image = zarr.open_group(finished / "probability.zarr" / group, mode="r")
        (multiscale,) = image.attrs["ome"]["multiscales"]  # type: ignore[index,call-overload,misc]
        found = [dataset["coordinateTransformations"] for dataset in multiscale["datasets"]]  # type: ignore[call-overload,index,union-attr]
        one = [1] * len(channel)
        assert [next(each["scale"] for each in pair if "scale" in each) for pair in found] == [  # type: ignore[union-attr,index,call-overload]
            [*one, 40, 4, 4],
            [*one, 40, 8, 8],
            [*one, 40, 16, 16],
        ]
        assert [pair[1]["translation"] for pair in found] == [  # type: ignore[union-attr,index,call-overload]
            [*channel, 0, 0, 0],
            [*channel, 0, 2, 2],
            [*channel, 0, 6, 6],
        ]


@pytest.mark.parametrize("shard", [1 << 13, 1 << 17, 1 << 23], ids=["small", "middle", "large"])
def test_no_voxel_depends_on_the_shards(
    shard: int, finished: Path, make_volume: MakeVolume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(levels_module, "_SHARD", shard)
    allocated = plan(tmp_path, make_volume, labels=True)
    fill(allocated)
    make(allocated)
    for group in ("", "labels/classes"):
        for ours, theirs in zip(levels(allocated, group), levels(finished / "allocated.json", group), strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.usefixtures("small_shards", "with_processes")
@pytest.mark.parametrize("workers", [1, 2])
def test_no_byte_depends_on_who_makes_it(workers: int, finished: Path, make_volume: MakeVolume, tmp_path: Path) -> None:
    allocated = plan(tmp_path, make_volume, labels=True)
    fill(allocated)
    found = make(allocated, workers=workers, cores=2)
    assert found["processes"] == workers
    assert objects(allocated) == objects(finished / "allocated.json")
    assert found["digest"] == read_json(finished / "pyramid.json")["digest"]


def test_of_what_was_not_predicted_nothing_is_written(
    make_volume: MakeVolume, tmp_path: Path, small_shards: None
) -> None:
    allocated = plan(tmp_path, make_volume, labels=True, **part(tmp_path, levelled.SHAPE))
    fill(allocated)
    make(allocated)
    there, expected = wanted(allocated), set()
    for level in read_json(allocated)["levels"]:
        covered = [a * b for a, b in zip(level["shard"], level["scale"], strict=True)]
        for index in np.ndindex(*(-(-n // c) for n, c in zip(there.shape, covered, strict=True))):
            if there[tuple(slice(i * n, (i + 1) * n) for i, n in zip(index, covered, strict=True))].any():
                place = "/".join(map(str, index))
                expected.add(f"labels/classes/{level['number']}/c/{place}")
                if level["number"]:
                    expected.add(f"{level['number']}/c/0/{place}")
    assert set(made(allocated)) == expected
    whole = tmp_path / "whole"
    fill(plan(whole, make_volume, labels=True))
    make(whole / "allocated.json")
    assert len(expected) < len(made(whole / "allocated.json"))


def test_metadata_are_written_by_allocate_alone(make_volume: MakeVolume, tmp_path: Path) -> None:
    allocated = plan(tmp_path, make_volume, labels=True)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("zarr.json")}
    assert len(before) == 9 + 2  # of the image and the labels, and their volume
    fill(allocated)
    make(allocated)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("zarr.json")} == before


def test_a_small_volume_has_one_level_and_no_work(make_volume: MakeVolume, tmp_path: Path) -> None:
    allocated = plan(tmp_path, make_volume, (5, 90, 110))
    fill(allocated)
    before = objects(allocated)
    found = make(allocated)
    assert (found["shards"], found["computed"], len(found["levels"])) == (0, 0, 1)
    assert objects(allocated) == before


def test_a_prediction_of_an_earlier_version_has_one_level(make_volume: MakeVolume, tmp_path: Path) -> None:
    allocated = plan(tmp_path, make_volume)
    fill(allocated)
    description = read_json(allocated)
    del description["levels"], description["labels"]
    write_json(allocated, description)
    assert [level["shape"] for level in make(allocated)["levels"]] == [list(levelled.SHAPE)]


ONE_LEVEL = (5, 90, 110)


@pytest.mark.parametrize("labels", [False, True], ids=["no labels", "labels"])
@pytest.mark.parametrize("shape", [ONE_LEVEL, levelled.SHAPE], ids=["one level", "several levels"])
def test_an_independent_validator_accepts_it(
    shape: tuple[int, int, int], labels: bool, make_volume: MakeVolume, tmp_path: Path
) -> None:
    allocated = plan(tmp_path, make_volume, shape, labels=labels)
    fill(allocated)
    make(allocated)
    image = validated(tmp_path / "probability.zarr")
    assert [dataset.path for dataset in image.attributes.ome.multiscales[0].datasets] == (
        ["0"] if shape == ONE_LEVEL else ["0", "1", "2"]
    )
    if labels:
        # Only of itself does a label image show that it is one.
        from ome_zarr_models.v05.image_label import ImageLabel

        group = zarr.open_group(tmp_path / "probability.zarr" / "labels" / "classes", mode="r")
        label = ImageLabel.from_zarr(group).attributes.ome.image_label
        assert label is not None
        assert [each.label_value for each in label.colors or ()] == [0, 1, 2, 255]
        names = json.loads((tmp_path / "probability.zarr/labels/classes/zarr.json").read_text())["attributes"]["ome"]
        assert [each["class"] for each in names["image-label"]["properties"]] == [*CLASSES, "not predicted"]


def validated(path: Path) -> Any:
    """What ome-zarr-models makes of a group."""
    models = pytest.importorskip("ome_zarr_models", reason="ome-zarr-models is not installed")
    return models.open_ome_zarr(zarr.open_group(path, mode="r"), version="0.5")


def without_a_scale(ome: Any) -> None:
    ome["multiscales"][0]["datasets"][1]["coordinateTransformations"].pop(0)


def with_a_level_that_is_not_there(ome: Any) -> None:
    ome["multiscales"][0]["datasets"][1]["path"] = "9"


def with_levels_in_reverse(ome: Any) -> None:
    ome["multiscales"][0]["datasets"].reverse()


def with_an_axis_less(ome: Any) -> None:
    ome["multiscales"][0]["axes"].pop()


def of_a_colour_out_of_range(ome: Any) -> None:
    ome["image-label"]["colors"][0]["rgba"][0] = 256


def of_labels_that_are_not_there(ome: Any) -> None:
    ome["labels"] = ["other"]


@pytest.mark.parametrize(
    ("group", "fault"),
    [
        ("", without_a_scale),
        ("", with_a_level_that_is_not_there),
        ("", with_levels_in_reverse),
        ("", with_an_axis_less),
        ("labels/classes", without_a_scale),
        ("labels/classes", of_a_colour_out_of_range),
        ("labels", of_labels_that_are_not_there),
    ],
    ids=lambda value: getattr(value, "__name__", value or "image"),
)
def test_and_it_refuses_planted_faults(group: str, fault: Callable[[Any], None], copy: Path) -> None:
    store = copy.parent / "probability.zarr"
    validated(store)
    path = store / group / "zarr.json"
    metadata = read_json(path)
    fault(metadata["attributes"]["ome"])
    write_json(path, metadata)
    with pytest.raises((RuntimeError, ValueError)):
        validated(store)
