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
    # Of others, whose names begin alike.
    others = [f"1.2.{0:032x}.partial", "1.partial", "1.x.partial"]
    for name in others:
        (tmp_path / name).touch()
    LocalFolder(tmp_path).write("1", b"whole")
    assert {path.name for path in tmp_path.iterdir()} == {"1", "10", *names[2:], *others}


def test_two_writers_of_one_object_never_leave_it_absent_or_cut(tmp_path: Path) -> None:
    path, shard, place = tmp_path / "0", os.urandom(1 << 20), LocalFolder(tmp_path)
    place.write("0", shard)
    writing = threading.Event()
    told: set[int | None] = set()

    def write() -> None:
        for _ in range(20):
            try:
                place.write("0", shard)
            except OSError as error:
                # The other one took its file for one that was left.
                told.add(error.errno)
        writing.set()

    with ThreadPoolExecutor(2) as pool:
        done = [pool.submit(write) for _ in range(2)]
        while not writing.is_set():
            assert path.read_bytes() == shard
        for each in done:
            each.result()
    assert [each.name for each in tmp_path.iterdir()] == ["0"]
    assert told <= {errno.EBUSY}


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


def test_a_file_that_goes_while_a_folder_is_listed_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = LocalFolder(tmp_path)
    for name in ("a", "b.partial", "c/1", "d"):
        place.write(name, b"x")
    listed = place.entries()
    found = [next(listed).name]
    # As a writer does that goes on while it is looked at.
    (tmp_path / "b.partial").rename(tmp_path / "b")
    place.below("c").clear()
    assert [*found, *(entry.name for entry in listed)] == ["a", "d"]


def test_a_link_to_nothing_is_no_file_that_goes(tmp_path: Path) -> None:
    LocalFolder(tmp_path).write("c/0", b"x")
    # As in a folder of which the content was not fetched.
    (tmp_path / "c" / "1").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError):
        list(LocalFolder(tmp_path).entries())


def test_a_folder_that_is_a_link_is_emptied_and_remains_one(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    (tmp_path / "kept").write_bytes(b"x")
    place = LocalFolder(tmp_path / "link")
    for name in ("a", "c/0/1"):
        place.write(name, b"x")
    (tmp_path / "disk" / "other").symlink_to(tmp_path / "kept")
    place.clear()
    assert (tmp_path / "link").is_symlink()
    assert list((tmp_path / "disk").iterdir()) == []
    assert (tmp_path / "kept").exists()


def test_what_may_not_be_written_is_told_before_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    assert LocalFolder(tmp_path).unwritable() is None
    assert LocalFolder(tmp_path / "new" / "folder").unwritable() is None
    for name in ("file", "file/below"):
        assert f"{tmp_path / 'file'} is a file" in str(LocalFolder(tmp_path / name).unwritable())
    # Who tests may be one who may write anywhere.
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    assert f"nothing may be written into {tmp_path}" in str(LocalFolder(tmp_path / "new" / "folder").unwritable())


def test_who_is_disturbed_by_another_run_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = os.fsync

    def disturbed(descriptor: int) -> None:
        original(descriptor)
        for left in tmp_path.glob("*.partial"):
            left.unlink()

    monkeypatch.setattr(os, "fsync", disturbed)
    with pytest.raises(OSError, match="two use the same folder") as caught:
        LocalFolder(tmp_path).write("0", b"x")
    assert caught.value.errno == errno.EBUSY


def test_a_folder_that_another_one_removes_too_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = LocalFolder(tmp_path / "a")
    for number in range(5):
        place.write(f"c/{number}/0", b"x")
    original = os.rmdir

    def late(path: Any, **how: Any) -> None:
        original(path, **how)
        original(path, **how)

    monkeypatch.setattr(os, "rmdir", late)
    place.clear()
    assert not (tmp_path / "a").exists()
