"""The levels of a prediction and its label map: right, whole, and the same however they were made."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import levelled
import numpy as np
import psutil
import pytest
import zarr
from levelled import CLASSES, fill, levels, made, make, objects, plan, recorded, wanted
from masks import as_npy

from unetpipe import fsck
from unetpipe import levels as levels_module
from unetpipe import pyramid as module
from unetpipe.errors import UserError
from unetpipe.files import read_json, write_json
from unetpipe.storage import LocalFolder

MakeVolume = Callable[..., Path]


@pytest.fixture(scope="module", autouse=True)
def in_this_process() -> Iterator[None]:
    """Processes take longer to start than such volumes take."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_FEW", 999)
        yield


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several shards, of levels of a small volume too."""
    monkeypatch.setattr(levels_module, "_SHARD", 1 << 15)


@pytest.fixture
def with_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """However few shards there are, processes make them."""
    monkeypatch.setattr(module, "_FEW", 0)
    monkeypatch.setattr(module, "_ENOUGH", 1)


@pytest.fixture(scope="module")
def finished(in_this_process: None, make_volume: MakeVolume, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all levels and a label map, of many shards."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(levels_module, "_SHARD", 1 << 15)
        allocated = plan(folder, make_volume, labels=True)
    fill(allocated)
    make(allocated)
    return folder


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """The allocated.json of a copy of it."""
    folder = tmp_path / "copy"
    shutil.copytree(finished, folder)
    for name in ("allocated.json", "progress/key.json", "volumes/v/volume.json"):
        (folder / name).write_text((folder / name).read_text().replace(str(finished), str(folder)))
    return folder / "allocated.json"


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


@pytest.mark.parametrize("name", ["zarr.json", "classes/zarr.json", "classes/1/zarr.json"])
@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_text("[]")], ids=["gone", "damaged"])
def test_metadata_of_a_label_map_that_are_lost_are_written_again(
    damage: Callable[[Path], None], name: str, make_volume: MakeVolume, tmp_path: Path
) -> None:
    allocated = plan(tmp_path, make_volume, labels=True)
    fill(allocated)
    make(allocated)
    before = objects(allocated)
    damage(tmp_path / "probability.zarr" / "labels" / name)
    plan(tmp_path, make_volume, labels=True)
    assert objects(allocated) == before


def test_metadata_are_written_by_allocate_alone(make_volume: MakeVolume, tmp_path: Path) -> None:
    allocated = plan(tmp_path, make_volume, labels=True)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("zarr.json")}
    assert len(before) == 9 + 2  # of the image and the labels, and their volume
    fill(allocated)
    make(allocated)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("zarr.json")} == before


def test_a_second_run_makes_nothing(copy: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in copy.parent.rglob("*") if path.is_file()}
    first = read_json(copy.with_name("pyramid.json"))
    found = make(copy)
    assert (found["computed"], found["resumed"], found["bytes_written"]) == (0, first["shards"], 0)
    assert found["digest"] == first["digest"]
    changed = {path.name for path, time in before.items() if path.stat().st_mtime_ns != time}
    assert changed == {"pyramid.json"}


def lose(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("spoil", [lose, cut])
@pytest.mark.parametrize("name", ["1/c/0/0/1/0", "labels/classes/0/c/1/0/2", "labels/classes/2/c/0/0/0"])
def test_a_shard_that_is_gone_or_cut_is_made_again(spoil: Callable[[Path], None], name: str, copy: Path) -> None:
    before = objects(copy)
    spoil(copy.parent / "probability.zarr" / name)
    assert make(copy)["computed"] == 1
    assert objects(copy) == before


def test_what_was_made_of_another_prediction_is_made_anew(copy: Path, make_volume: MakeVolume, tmp_path: Path) -> None:
    fill(copy, seed=5)
    # Whatever the old one had that the new one has not.
    left = copy.parent / "probability.zarr" / "1" / "c" / "0" / "0" / "99" / "0"
    left.parent.mkdir()
    left.touch()
    found = make(copy)
    assert found["computed"] == found["shards"]
    assert not left.exists()
    fresh = tmp_path / "fresh"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(levels_module, "_SHARD", 1 << 15)
        fill(plan(fresh, make_volume, labels=True), seed=5)
    make(fresh / "allocated.json")
    assert objects(copy) == objects(fresh / "allocated.json")


def test_a_label_map_is_added_and_taken_away_and_nothing_else_is_touched(
    make_volume: MakeVolume, tmp_path: Path
) -> None:
    allocated = plan(tmp_path, make_volume)
    fill(allocated)
    without = make(allocated)
    before = objects(allocated)
    assert without["labels"] is None
    assert not any(name.startswith("labels") for name in before)
    assert read_json(plan(tmp_path, make_volume, labels=True))["key"] == read_json(allocated)["key"]
    added = make(allocated)
    of_labels = {name for name in objects(allocated) if name.startswith("labels/")}
    assert (added["resumed"], added["computed"]) == (without["shards"], added["shards"] - without["shards"])
    assert {name: data for name, data in objects(allocated).items() if name not in of_labels} == before
    plan(tmp_path, make_volume)
    assert objects(allocated) == before
    assert make(allocated)["digest"] == without["digest"]
    plan(tmp_path, make_volume, labels=True)
    assert make(allocated)["digest"] == added["digest"]


def test_label_images_of_others_stay(copy: Path, make_volume: MakeVolume) -> None:
    group = copy.parent / "probability.zarr" / "labels"
    zarr.create_group(group / "mine")
    for labels, named in ((False, ["mine"]), (True, ["mine", "classes"])):
        metadata = read_json(group / "zarr.json")
        metadata["attributes"]["ome"]["labels"] = sorted({*metadata["attributes"]["ome"]["labels"], "mine"})
        write_json(group / "zarr.json", metadata)
        plan(copy.parent, make_volume, labels=labels)
        assert read_json(group / "zarr.json")["attributes"]["ome"]["labels"] == named
        assert (group / "mine" / "zarr.json").exists()
        assert (group / "classes").exists() == labels


def test_another_voxel_size_has_other_levels_and_leaves_none_of_the_old(
    make_volume: MakeVolume, tmp_path: Path
) -> None:
    allocated = plan(tmp_path, make_volume, labels=True)
    fill(allocated)
    make(allocated)
    finest = {name: data for name, data in objects(allocated).items() if name.startswith("0/c")}
    volume = tmp_path / "volumes" / "v" / "volume.json"
    write_json(volume, read_json(volume) | {"voxel_size_nm": [1.0, 4.0, 4.0]})
    plan(tmp_path, make_volume, labels=True)
    assert [level["factors"] for level in read_json(allocated)["levels"]] == [
        [1, 1, 1],
        [2, 1, 1],
        [2, 1, 1],
        [2, 2, 2],
        [2, 2, 2],
    ]
    found = make(allocated)
    assert found["computed"] == found["shards"]
    fresh = tmp_path / "fresh"
    shutil.copytree(tmp_path / "volumes", fresh / "volumes")
    fill(plan(fresh, make_volume, labels=True))
    make(fresh / "allocated.json")
    assert objects(allocated) == objects(fresh / "allocated.json")
    assert finest.items() <= objects(allocated).items()
    write_json(volume, read_json(volume) | {"voxel_size_nm": [40.0, 4.0, 4.0]})
    plan(tmp_path, make_volume, labels=True)
    make(allocated)
    assert not [name for name in objects(allocated) if name.startswith(("3/", "4/", "labels/classes/3/"))]


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


def test_a_prediction_without_a_shard_is_refused(copy: Path) -> None:
    fill(copy, seed=2)
    next((copy.parent / "probability.zarr" / "0" / "c").rglob("[0-9]*/[0-9]*/[0-9]*/0")).unlink()
    copy.with_name("pyramid.json").unlink()
    with pytest.raises(UserError, match=r"1 of its shards are gone, among them that of the block 0.*\n.*job-0\.json"):
        make(copy)
    assert not copy.with_name("pyramid.json").exists()


@pytest.mark.parametrize("processes", [False, True])
def test_a_prediction_that_cannot_be_read_is_told(
    processes: bool, copy: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    if processes:
        request.getfixturevalue("with_processes")
        monkeypatch.setattr("unetpipe.cluster._PAUSE_SECONDS", 0.02)
    fill(copy, seed=2)
    path = copy.parent / "probability.zarr" / "0" / "c" / "0" / "0" / "0" / "0"
    data = path.read_bytes()
    path.write_bytes(bytes(len(data)))
    with pytest.raises(UserError, match=r"(?s)the levels of v were to be made.*0/c/0/0/0/0.*unetpipe fsck"):
        make(copy)
    path.write_bytes(data)
    assert make(copy)["shards"] == len(set(recorded(copy)))


def test_a_full_disk_is_no_defect(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(copy, seed=2)

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(LocalFolder, "append", refuse)
    # The rule says what to do about it.
    with pytest.raises(OSError, match="No space left"):
        make(copy)


def test_what_a_worker_recorded_before_it_died_is_not_made_again(copy: Path) -> None:
    module._open.cache_clear()
    before = recorded(copy)
    task = module.Task(copy, 1, labels=False, index=(0, 1, 0), threads=1)
    size = (copy.parent / "probability.zarr" / "1/c/0/0/1/0").stat().st_size
    assert module.make_shard(task.retry()) == size
    assert recorded(copy) == before
    (copy.parent / "probability.zarr" / "1/c/0/0/1/0").unlink()
    assert module.make_shard(task.retry()) == size
    assert len(recorded(copy)) == len(before) + 1


class Killed:
    """``pyramid`` on its way, in a group of processes of its own."""

    def __init__(self, allocated: Path, seconds: float) -> None:
        script = Path(__file__).parent / "support" / "pyramid_slowly.py"
        self._allocated = allocated
        with (allocated.parent / "log").open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, script, allocated, str(seconds)], start_new_session=True, stdout=out, stderr=out
            )

    def until(self, entries: int) -> None:
        while len(recorded(self._allocated)) < entries:
            assert self.process.poll() is None, (self._allocated.parent / "log").read_text()
            time.sleep(0.005)

    def kill(self, who: str) -> None:
        if who == "everyone":
            os.killpg(self.process.pid, signal.SIGKILL)
        elif who == "driver":
            self.process.kill()
        else:
            children = psutil.Process(self.process.pid).children(recursive=True)
            random.choice([child for child in children if "spawn_main" in " ".join(child.cmdline())]).kill()

    def gone(self) -> int:
        """The exit status, when all of the group is gone."""
        status = self.process.wait(timeout=120)
        for _ in range(6000):
            group = []
            for each in psutil.process_iter():
                try:
                    if os.getpgid(each.pid) == self.process.pid and each.status() != psutil.STATUS_ZOMBIE:
                        group.append(each)
                except (ProcessLookupError, psutil.NoSuchProcess):
                    continue
            if not group:
                return status
            time.sleep(0.01)
        raise AssertionError(f"left behind: {group}")


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("who", ["everyone", "driver", "worker"])
def test_killed_amid_its_work_it_is_resumed_and_ends_in_the_same_bytes(
    who: str, finished: Path, make_volume: MakeVolume, tmp_path: Path
) -> None:
    allocated = plan(tmp_path, make_volume, labels=True)
    fill(allocated)
    run = Killed(allocated, seconds=0.02)
    try:
        run.until(random.randrange(1, 12))
        time.sleep(random.uniform(0, 0.1))
        run.kill(who)
        status = run.gone()
    finally:
        if run.process.poll() is None:
            os.killpg(run.process.pid, signal.SIGKILL)
    done = len(recorded(allocated))
    if who == "worker":
        assert status == 0, (tmp_path / "log").read_text()
    else:
        assert not (tmp_path / "pyramid.json").exists()
        found = make(allocated)
        assert 0 < found["resumed"] == done < found["shards"]
    assert objects(allocated) == objects(finished / "allocated.json")
    assert set(Counter(recorded(allocated)).values()) == {1}
    assert read_json(tmp_path / "pyramid.json")["digest"] == read_json(finished / "pyramid.json")["digest"]


def test_fsck_knows_what_belongs_to_levels_and_label_map(copy: Path) -> None:
    report = fsck.check(fsck.Store(copy))
    assert report.faults == []
    store = copy.parent / "probability.zarr"
    strays = {
        "1/c/0/0/77/0": "orphaned",
        "labels/classes/1/c/0/0/77": "orphaned",
        "2/c/0/0/0/0.0123456789abcdef0123456789abcdef.partial": "orphaned",
        "1/new": "orphaned",
    }
    for name in strays:
        (store / name).parent.mkdir(parents=True, exist_ok=True)
        (store / name).touch()
    assert {fault.name: fault.state for fault in fsck.check(fsck.Store(copy)).faults} == strays


def test_levels_without_a_label_map_have_orphaned_labels(copy: Path) -> None:
    write_json(copy, read_json(copy) | {"labels": False})
    faults = fsck.check(fsck.Store(copy)).faults
    assert {fault.name for fault in faults} == {name for name in made(copy) if name.startswith("labels/")}


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
