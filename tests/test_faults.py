"""Whatever fails, what is finished is kept, the rest goes on, and in the end there are the same bytes."""

import errno
import hashlib
import os
import random
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import predicting
import psutil
import pytest
from predicting import Run, finish, recorded, shards, start

from unetpipe import predict as module
from unetpipe.allocate import read_plan
from unetpipe.errors import UserError
from unetpipe.files import read_json
from unetpipe.progress import Record
from unetpipe.volume import mirrored

SHAPE = (20, 160, 180)
BLOCKS = 112
"""Some seconds, so that there is a middle in which things can happen."""

ENOUGH = 5


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return predicting.make_engine("openvino", tmp_path_factory.mktemp("engine"))


@pytest.fixture(scope="module")
def source(make_volume: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    volume = make_volume(predicting.noise(SHAPE), folder=tmp_path_factory.mktemp("source"))
    return predicting.in_small_chunks(volume, volume.parent / "copy.zarr")


@pytest.fixture(scope="module")
def unbroken(certificate: Path, source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of the store after a run in which nothing happens."""
    folder = tmp_path_factory.mktemp("unbroken")
    finish(certificate, start(certificate, source, folder))
    return shards(folder)


@pytest.fixture
def allocated(certificate: Path, source: Path, tmp_path: Path) -> Path:
    return start(certificate, source, tmp_path / "prediction")


@pytest.fixture(scope="module", autouse=True)
def at_hand() -> Iterator[None]:
    with predicting.at_hand():
        yield


def assert_same(allocated: Path, unbroken: dict[str, bytes]) -> None:
    """The same files with the same bytes, and no block computed again after it was recorded."""
    assert shards(allocated.parent) == unbroken
    names = Counter(recorded(allocated.parent))
    assert len(names) == BLOCKS
    assert set(names.values()) == {1}


def assert_sound(folder: Path) -> int:
    """All that is recorded is there, and nothing is half written; gives the number of recorded blocks."""
    entries = Record(folder / "progress").done()
    for name, entry in entries.items():
        shard = folder.joinpath("probability.zarr", "0", "c", "0", *name.split(".")).read_bytes()
        assert hashlib.blake2b(shard, digest_size=16).hexdigest() == entry["written"]
    assert not list(folder.rglob("*.partial"))
    assert not (folder / "job-0.json").exists()
    return len(entries)


def test_a_worker_that_dies_is_replaced(
    certificate: Path, allocated: Path, unbroken: dict[str, bytes], tmp_path: Path
) -> None:
    run = Run(certificate, allocated, tmp_path / "run")
    run.until(ENOUGH)
    random.choice(run.workers()).kill()
    assert run.end() == 0, run.log()
    assert "a worker process died" in run.log()
    assert_same(allocated, unbroken)


@pytest.mark.long
def test_a_worker_that_hangs_is_replaced(
    certificate: Path, allocated: Path, unbroken: dict[str, bytes], tmp_path: Path
) -> None:
    run = Run(certificate, allocated, tmp_path / "run", patience_seconds=4.0)
    run.until(ENOUGH)
    random.choice(run.workers()).suspend()
    assert run.end() == 0, run.log()
    assert "a worker process has not finished a piece in 4 s" in run.log()
    assert_same(allocated, unbroken)


def test_when_the_driver_is_killed_its_workers_end_and_a_rerun_goes_on(
    certificate: Path, allocated: Path, unbroken: dict[str, bytes], tmp_path: Path
) -> None:
    run = Run(certificate, allocated, tmp_path / "run")
    run.until(ENOUGH)
    workers = run.workers()
    assert len(workers) == 2
    run.process.kill()
    run.process.wait()
    _, alive = psutil.wait_procs(workers, timeout=120)
    assert not alive
    before = set(recorded(allocated.parent))
    assert len(before) < BLOCKS
    assert finish(certificate, allocated)["resumed"] == len(before)
    assert_same(allocated, unbroken)


def test_killed_at_any_moment_it_ends_in_the_same_bytes(
    certificate: Path, allocated: Path, unbroken: dict[str, bytes], tmp_path: Path
) -> None:
    for _ in range(2):
        run = Run(certificate, allocated, tmp_path / "run")
        run.until(ENOUGH)
        time.sleep(random.random() * 0.05)
        os.killpg(run.process.pid, signal.SIGKILL)
        run.end()
    assert finish(certificate, allocated)["computed"] > 0
    assert_same(allocated, unbroken)


@pytest.mark.parametrize(
    ("number", "status", "everyone"),
    [
        pytest.param(signal.SIGTERM, 143, False, id="SIGTERM to the driver"),
        pytest.param(signal.SIGINT, 130, True, id="Ctrl-C to all"),
    ],
)
def test_a_signal_ends_it_in_order(
    number: signal.Signals,
    status: int,
    everyone: bool,
    certificate: Path,
    allocated: Path,
    unbroken: dict[str, bytes],
    tmp_path: Path,
) -> None:
    run = Run(certificate, allocated, tmp_path / "run")
    run.until(ENOUGH)
    (os.killpg if everyone else os.kill)(run.process.pid, number)
    assert run.end() == status
    done = assert_sound(allocated.parent)
    # What was in hand is finished within the grace: nothing that was computed is lost.
    assert f"v: ended by {number.name} with {done} of {BLOCKS} blocks done; a rerun computes the others" in run.log()
    assert "Traceback" not in run.log()
    assert finish(certificate, allocated)["resumed"] == done
    assert_same(allocated, unbroken)


def test_a_chunk_that_cannot_be_read_fails_the_blocks_that_need_it_alone(
    certificate: Path, allocated: Path, source: Path, unbroken: dict[str, bytes]
) -> None:
    chunk = source.parent / "copy.zarr" / "c" / "2" / "4" / "2"
    voxels = [range(10, 15), range(96, 120), range(96, 144)]
    plan = read_plan(read_json(allocated))
    needing = {
        block.name
        for block in plan.blocks()
        if all(
            set(mirrored(a, b, n)) & set(wanted)
            for a, b, n, wanted in zip(block.read.start, block.read.stop, SHAPE, voxels, strict=True)
        )
    }
    assert 1 < len(needing) <= 20
    content = chunk.read_bytes()
    chunk.write_bytes(b"damaged")
    try:
        with pytest.raises(UserError, match=rf"{len(needing)} of {BLOCKS} blocks could not be computed") as caught:
            finish(certificate, allocated)
    finally:
        chunk.write_bytes(content)
    assert set(re.findall(r"\n    (\S+): ReadError: .*copy\.zarr cannot be read", caught.value.found)) == needing
    assert assert_sound(allocated.parent) == BLOCKS - len(needing)
    assert finish(certificate, allocated)["computed"] == len(needing)
    assert_same(allocated, unbroken)


def test_where_everything_fails_it_gives_up(
    certificate: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MOST_IN_A_ROW", 5)
    allocated = start(certificate, source, tmp_path)
    chunks = {path: path.read_bytes() for path in (source.parent / "copy.zarr" / "c").rglob("*") if path.is_file()}
    for path in chunks:
        path.write_bytes(b"damaged")
    try:
        with pytest.raises(UserError, match=rf"(?s)5 of {BLOCKS} blocks could not.*no other was tried then"):
            finish(certificate, allocated)
    finally:
        for path, content in chunks.items():
            path.write_bytes(content)
    assert assert_sound(tmp_path) == 0


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Callable[[str], Any]]:
    """A disk of ``size`` at ``folder``, and a function that mounts it again with other options."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs"]
    try:
        subprocess.run([*mount, "-o", f"size={size}", "tmpfs", folder], check=True, capture_output=True)
    except (subprocess.CalledProcessError, FileNotFoundError):
        pytest.skip("a small disk can be mounted by root alone")
    try:
        yield lambda options: subprocess.run([*mount, "-o", f"remount,{options}", "tmpfs", folder], check=True)
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_full_disk_ends_it_and_with_more_room_it_goes_on(
    certificate: Path, source: Path, unbroken: dict[str, bytes], tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", "1m") as remount:
        allocated = start(certificate, source, tmp_path / "disk" / "prediction")
        with pytest.raises(OSError, match="No space left on device") as caught:
            finish(certificate, allocated)
        # Of which the job of a rule makes one message and the status 1.
        assert caught.value.errno == errno.ENOSPC
        done = assert_sound(allocated.parent)
        assert 0 < done < BLOCKS
        remount("size=100m")
        assert finish(certificate, allocated)["resumed"] == done
        assert_same(allocated, unbroken)


def test_a_disk_that_becomes_read_only_ends_it_with_one_message(
    certificate: Path, source: Path, unbroken: dict[str, bytes], tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", "100m") as remount:
        allocated = start(certificate, source, tmp_path / "disk" / "prediction")
        remount("ro")
        with pytest.raises(UserError, match=r"(?s)probability\.zarr.*Read-only file system.*let this user"):
            finish(certificate, allocated)
        assert assert_sound(allocated.parent) == 0
        remount("rw")
        finish(certificate, allocated)
        assert_same(allocated, unbroken)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_store_that_may_not_be_written_is_named(certificate: Path, allocated: Path) -> None:
    store = allocated.parent / "probability.zarr" / "0"
    store.chmod(0o500)
    try:
        with pytest.raises(UserError, match=r"(?s)probability\.zarr.*Permission denied.*let this user"):
            finish(certificate, allocated)
    finally:
        store.chmod(0o700)
    assert assert_sound(allocated.parent) == 0
