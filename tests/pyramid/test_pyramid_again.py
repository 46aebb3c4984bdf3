"""Levels and label map made again: what was done stays, what is gone or of another prediction is made anew."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import zarr
from levelled import fill, made, make, objects, plan, recorded

from unetpipe import fsck
from unetpipe import levels as levels_module
from unetpipe import pyramid as module
from unetpipe.errors import UserError
from unetpipe.files import read_json, write_json
from unetpipe.storage import LocalFolder

MakeVolume = Callable[..., Path]


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


def test_a_prediction_without_a_shard_is_refused(copy: Path) -> None:
    fill(copy, seed=2)
    next((copy.parent / "probability.zarr" / "0" / "c").rglob("[0-9]*/[0-9]*/[0-9]*/0")).unlink()
    copy.with_name("pyramid.json").unlink()
    with pytest.raises(UserError, match=r"1 of its shards are gone, among them that of the block 0.*\n.*job-\*\.json"):
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
        script = Path(__file__).parents[1] / "support" / "pyramid_slowly.py"
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
        elif who == "everyone, in order":
            os.killpg(self.process.pid, signal.SIGTERM)
        elif who == "driver, in order":
            self.process.terminate()
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
@pytest.mark.parametrize("who", ["everyone", "driver", "worker", "everyone, in order", "driver, in order"])
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
    if who.endswith("in order"):
        assert status == 143, (tmp_path / "log").read_text()
        assert "asked to end (SIGTERM)" in (tmp_path / "log").read_text()
        assert "Traceback" not in (tmp_path / "log").read_text()
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
