"""A prediction in a bucket is that on disk, whatever the server does meanwhile."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import buckets
import predicting
import pytest

from unetpipe import fsck
from unetpipe.errors import UserError
from unetpipe.files import read_json
from unetpipe.handover import read_allocated
from unetpipe.progress import record_beside
from unetpipe.repair import Repair
from unetpipe.status import Progress
from unetpipe.storage import folder_at

BUCKET = "predictions"


@pytest.fixture(scope="module")
def stumbles() -> Iterator[buckets.Stumbles]:
    """What the server does, on which this process and its workers are set; nothing at first."""
    stumbles = buckets.Stumbles()
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        endpoint = stack.enter_context(buckets.server())
        buckets.make_bucket(endpoint, BUCKET)
        front = stack.enter_context(buckets.stumbling(endpoint, stumbles))
        for name, value in buckets.environment(front).items():
            patch.setenv(name, value)
        buckets.forget()
        yield stumbles


@pytest.fixture(scope="module")
def at_hand(stumbles: buckets.Stumbles) -> Iterator[None]:
    """Workers that know the server."""
    with predicting.at_hand():
        yield


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return predicting.make_engine("openvino", tmp_path_factory.mktemp("engine"))


@pytest.fixture(scope="module")
def volume(make_volume: Callable[..., Path]) -> Path:
    return make_volume(predicting.noise())


@pytest.fixture(scope="module")
def on_disk(at_hand: None, engine: Path, volume: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What the store holds."""
    folder = tmp_path_factory.mktemp("disk")
    predicting.finish(engine, predicting.start(engine, volume, folder), workers=2, cores=2)
    return predicting.shards(folder)


@pytest.mark.parametrize(
    "plan",
    [
        pytest.param((), id="sound"),
        pytest.param(("503 SlowDown", "drop", "lost", "cut", "slow"), id="stumbling", marks=pytest.mark.long),
    ],
)
def test_it_is_the_same_in_a_bucket(
    plan: tuple[str, ...],
    on_disk: dict[str, bytes],
    stumbles: buckets.Stumbles,
    engine: Path,
    volume: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = f"s3://{BUCKET}/{'-'.join(['it', *plan])}"
    allocated = predicting.start(engine, volume, tmp_path, store=store)
    stumbles.plan = plan
    try:
        job = predicting.finish(engine, allocated, workers=2, cores=2)
        assert predicting.shards(tmp_path) == on_disk
    finally:
        stumbles.plan = ()
    assert all(stumbles.did[kind] for kind in plan)
    names = [name.removeprefix("0/c/0/").replace("/", ".") for name in on_disk if name.startswith("0/c/0/")]
    assert sorted(predicting.recorded(tmp_path)) == sorted(names)
    assert (job["computed"], job["resumed"]) == (48, 0)
    # Again, there is nothing to do.
    assert predicting.finish(engine, allocated)["resumed"] == 48
    written = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    kept = [folder_at(store).read(entry.name) for entry in folder_at(store).entries()]
    for text in (*written, caplog.text, *(data.decode("latin-1") for data in kept)):
        assert buckets.SECRET not in text
        assert buckets.KEY_ID not in text


def test_what_is_damaged_there_is_found_and_computed_again(
    on_disk: dict[str, bytes], engine: Path, volume: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "results" / "run" / "predictions" / "v"
    allocated = predicting.start(engine, volume, folder, store=f"s3://{BUCKET}/damaged")
    certificate = tmp_path / "results" / "run" / "engine" / "openvino-fp32"
    certificate.parent.mkdir(parents=True)
    certificate.symlink_to(engine.parent)
    predicting.finish(engine, allocated)
    place = folder_at(f"s3://{BUCKET}/damaged/probability.zarr")
    place.write("0/c/0/0/0/0", place.read("0/c/0/0/0/0")[:-1])
    place.write("0/c/0/1/1/1", bytes(len(place.read("0/c/0/1/1/1"))))
    place.remove("0/c/0/2/2/1")
    place.write("0/c/0/9/9/9", b"what is this")
    store = fsck.Store(folder)
    found = fsck.check(store)
    assert {fault.name: fault.state for fault in found.faults} == {
        "0.0.0": "torn", "1.1.1": "altered", "2.2.1": "missing", "0/c/0/9/9/9": "orphaned",
    }  # fmt: skip
    (left,) = Repair(store, 1).mend(found).faults
    assert left.place == f"s3://{BUCKET}/damaged/probability.zarr/0/c/0/9/9/9"
    place.remove("0/c/0/9/9/9")
    assert predicting.shards(folder) == on_disk


def test_how_far_it_is_is_told(engine: Path, volume: Path, tmp_path: Path) -> None:
    allocated = predicting.start(engine, volume, tmp_path, store=f"s3://{BUCKET}/on-its-way")
    description = read_allocated(allocated)
    record_beside(description["probability"]).append("w", {"name": "0.0.0", "bytes": 1, "finished": 1.0})
    progress = Progress.of_prediction(description["probability"], description)
    assert (progress.done, progress.of) == (1, 48)


def test_a_server_that_is_gone_ends_it_in_words(engine: Path, volume: Path, tmp_path: Path) -> None:
    allocated = predicting.start(engine, volume, tmp_path, store=f"s3://{BUCKET}/gone")
    description = json.loads(allocated.read_text())
    description["probability"] = "s3://no-such-bucket/gone/probability.zarr"
    allocated.write_text(json.dumps(description))
    with pytest.raises(UserError, match="there is no bucket no-such-bucket"):
        predicting.finish(engine, allocated)
    assert not (tmp_path / "job-0.json").exists()
    assert read_json(allocated)["volume"] == "v"
