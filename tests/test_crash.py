"""A few runs of the campaign, and proof that it would notice what must not happen."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import buckets
import pytest
from crash import Outcome, campaign, compare, prepare
from killing import Offence, Processes, Unbroken

from unetpipe.files import read_json, write_json
from unetpipe.progress import Record

FAST = 0.03
"""Seconds for a sync: four kills in a few seconds."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the runs lie that nobody has killed."""
    return tmp_path_factory.mktemp("unbroken")


@pytest.fixture(scope="module")
def unbroken(folder: Path) -> Unbroken:
    return prepare(folder, FAST)


@pytest.mark.long
def test_killed_at_random_moments_and_resumed_it_ends_as_if_nothing_had_happened(
    unbroken: Unbroken, tmp_path: Path
) -> None:
    # The first run is killed several times.
    summary = campaign(unbroken, tmp_path, random.SystemRandom().randrange(10**6), runs=2)
    assert not summary.offenders, f"{summary}\n{summary.offenders}"
    assert summary.kills.total() >= 2
    assert not list(tmp_path.iterdir())


@pytest.mark.long
def test_the_same_in_a_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with buckets.server_on_disk(tmp_path / "s3", "predictions") as endpoint:
        for name, value in buckets.environment(endpoint).items():
            monkeypatch.setenv(name, value)
        buckets.forget()
        unbroken = prepare(tmp_path / "unbroken", FAST, "predictions")
        summary = campaign(unbroken, tmp_path / "runs", random.SystemRandom().randrange(10**6), runs=3)
    assert not summary.offenders, f"{summary}\n{summary.offenders}"
    assert summary.kills.total() >= 3


def flip(prediction: Path) -> None:
    shard = prediction / "probability.zarr/0/c/0/1/2/0"
    data = bytearray(shard.read_bytes())
    data[7] ^= 1
    shard.write_bytes(data)


def record_twice(prediction: Path) -> None:
    record = Record(prediction / "progress")
    record.append("another", record.done()["1.2.0"])


def forget(prediction: Path) -> None:
    log = next((prediction / "progress").glob("*.jsonl"))
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[2:]))


def belie(prediction: Path) -> None:
    # In its record alone: what the bytes are is not asked of who wrote them.
    for log in (prediction / "progress").glob("*.jsonl"):
        log.write_text(log.read_text().replace('"bytes":', '"bytes":1'))


def half_write(prediction: Path) -> None:
    (prediction / f"probability.zarr/0/c/0/1/2/0.{'0' * 32}.partial").touch()


def half_replace(prediction: Path) -> None:
    (prediction / ".job-0.json.abc.json").touch()


def leave_in_tmp(prediction: Path) -> None:
    (prediction.parent / "tmp" / "worker").touch()


def tell_another_digest(prediction: Path) -> None:
    job = prediction / "job-0.json"
    write_json(job, read_json(job) | {"digest": "0"})


def copied(run: Path, place: Path) -> Path:
    """A run in another place."""
    shutil.copytree(run, place)
    allocated = place / "prediction" / "allocated.json"
    allocated.write_text(allocated.read_text().replace(str(run), str(place)))
    return place


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(flip, r"other bytes: \['0/c/0/1/2/0'\]", id="a bit of a shard"),
        pytest.param(half_write, r"too many .*partial", id="a temporary file in the store"),
        pytest.param(record_twice, r"computed again .*'1\.2\.0'", id="a block recorded twice"),
        pytest.param(forget, r"the record has 59 entries for 60 blocks", id="an entry lost"),
        pytest.param(belie, r"fsck finds 60 blocks: 0 sound, 60 torn", id="record and store disagree"),
        pytest.param(half_replace, r"other files .*\.job-0\.json\.abc", id="a temporary file beside the store"),
        pytest.param(leave_in_tmp, r"other files .*tmp/worker", id="something in the folder for temporary files"),
        pytest.param(tell_another_digest, r"job-0\.json has the digest 0", id="another digest"),
    ],
)
def test_it_notices(
    change: Callable[[Path], None], message: str, unbroken: Unbroken, folder: Path, tmp_path: Path
) -> None:
    run = copied(folder / "unbroken-0", tmp_path / "run")
    compare(unbroken, run, Outcome(0))
    change(run / "prediction")
    with pytest.raises(Offence, match=message):
        compare(unbroken, run, Outcome(0))


def test_it_notices_a_driver_that_fails(unbroken: Unbroken, folder: Path, tmp_path: Path) -> None:
    run = copied(folder / "unbroken-0", tmp_path / "run")
    (run / "prediction" / "progress" / "key.json").unlink()
    processes = Processes(unbroken, run)
    try:
        with pytest.raises(Offence, match="it ended with status 1"):
            processes.end()
    finally:
        processes.destroy()
