"""A folder of a file system: what killed writers, full disks and others at the same time leave of an object."""

import errno
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from unetpipe.storage import LocalFolder


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_write_that_fails_leaves_nothing(step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, place = tmp_path / "c" / "0" / "1", LocalFolder(tmp_path)
    place.write("c/0/1", b"old")

    def fail(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os if step == "fsync" else Path, step, fail)
    with pytest.raises(OSError, match="No space left"):
        place.write("c/0/1", b"new")
    assert path.read_bytes() == b"old"
    assert [each.name for each in path.parent.iterdir()] == ["1"]


def test_what_a_killed_process_left_of_an_object_is_removed_and_nothing_else(tmp_path: Path) -> None:
    names = [f"{shard}.{number:032x}.partial" for shard in (1, 10) for number in range(2)]
    for name in names:
        (tmp_path / name).write_bytes(b"part")
    (tmp_path / "10").write_bytes(b"another")
    LocalFolder(tmp_path).write("1", b"whole")
    assert {path.name for path in tmp_path.iterdir()} == {"1", "10", *names[2:]}


def test_two_writers_of_one_object_never_leave_it_absent_or_cut(tmp_path: Path) -> None:
    path, shard, place = tmp_path / "0", os.urandom(1 << 20), LocalFolder(tmp_path)
    place.write("0", shard)
    writing = threading.Event()

    def write() -> None:
        for _ in range(20):
            try:
                place.write("0", shard)
            except FileNotFoundError:
                # The other one took its file for one that was left.
                continue
        writing.set()

    with ThreadPoolExecutor(2) as pool:
        done = [pool.submit(write) for _ in range(2)]
        while not writing.is_set():
            assert path.read_bytes() == shard
        for each in done:
            each.result()
    assert [each.name for each in tmp_path.iterdir()] == ["0"]


def test_a_new_name_is_made_durable_with_the_folders_above_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    original = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_ino)
        original(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    LocalFolder(tmp_path).write("c/0/1", b"x")
    places = (tmp_path, tmp_path / "c", tmp_path / "c" / "0", tmp_path / "c" / "0" / "1")
    assert set(synced) == {path.stat().st_ino for path in places}


def test_a_line_is_torn_by_a_full_disk_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = LocalFolder(tmp_path)
    place.append("one", b"first")
    original = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda descriptor, data: original(descriptor, data[:3]))
        with pytest.raises(OSError, match="No space left"):
            place.append("one", b"second")
    place.append("one", b"third")
    assert [line.strip() for line in place.lines() if line.strip()] == [b"first", b"se", b"third"]
