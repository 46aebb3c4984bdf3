"""Whatever happened to a shard or to its record, it is found; and nothing else is."""

import errno
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prediction import PLAN, blocks, cut, damage, extend, files, fill, flip, forget, plan_run, rewrite, shard

from unetpipe import fsck
from unetpipe.errors import UserError
from unetpipe.files import read_json, write_json
from unetpipe.fsck import Finding, Store, check
from unetpipe.grid import Region
from unetpipe.ledger import Ledger
from unetpipe.progress import Record
from unetpipe.selection import Selection
from unetpipe.storage import LocalFolder

BLOCKS = 75


@pytest.fixture(scope="session")
def whole(make_volume: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound prediction."""
    prediction = plan_run(tmp_path_factory.mktemp("whole"), make_volume, b"an engine", {})
    fill(prediction)
    return prediction


@pytest.fixture
def prediction(whole: Path, tmp_path: Path) -> Path:
    """A copy of it, to be damaged."""
    return Path(shutil.copytree(whole, tmp_path / "v"))


def states(prediction: Path) -> dict[str, str]:
    """The faults by name."""
    report = check(Store(prediction))
    names = [fault.name for fault in report.faults]
    assert len(set(names)) == len(names), "each fault is named once"
    return {fault.name: fault.state for fault in report.faults}


@pytest.mark.parametrize("part", ["", "probability.zarr", "allocated.json"], ids=["folder", "store", "plan"])
def test_a_sound_prediction_has_no_faults(part: str, whole: Path) -> None:
    report = check(Store(whole / part))
    assert report.faults == []
    assert report.counts == Counter(sound=BLOCKS, skipped=0)
    assert str(report) == "75 blocks: 75 sound"


@pytest.mark.parametrize("seed", range(3))
def test_every_one_of_more_than_fifty_faults_is_found_and_no_other(seed: int, prediction: Path) -> None:
    expected = damage(prediction, seed)
    assert len(expected) > 50
    before = files(prediction)
    assert states(prediction) == expected
    assert files(prediction) == before, "a check changes nothing"


@settings(max_examples=60)
@given(seed=st.integers(), spoil=st.sampled_from([flip, cut, extend]))
def test_a_shard_spoilt_anywhere_is_found(
    seed: int, spoil: Callable[[Path, random.Random], None], whole: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    store = Store(whole)
    block = blocks()["1.2.3"]
    original = shard(whole, block.name)
    # In a store of its own, of which nothing else is looked at.
    place = tmp_path_factory.mktemp("one")
    store.array = LocalFolder(place)
    copy = place / block.shard
    copy.parent.mkdir(parents=True)
    shutil.copy(original, copy)
    entry = Ledger.of(store.record, store.plan).get(block.name)
    assert store.look(block, entry).state == "sound"
    spoil(copy, random.Random(seed))
    assert store.look(block, entry).state == ("altered" if spoil is flip else "torn")


def test_a_fault_is_told_with_block_voxels_path_and_what_was_found(prediction: Path) -> None:
    path = shard(prediction, "2.4.0")
    size = path.stat().st_size
    path.write_bytes(b"12")
    (fault,) = check(Store(prediction)).faults
    assert str(fault).splitlines() == [
        f"torn      2.4.0 (z 16–20, y 96–115, x 0–24): 2 bytes where {size} were written",
        f"          {path}",
    ]


def test_a_shard_that_cannot_be_read_is_altered(prediction: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(prediction)

    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(LocalFolder, "read", refuse)
    faults = check(store).faults
    assert {fault.state for fault in faults} == {"altered"}
    assert len(faults) == BLOCKS
    assert "cannot be read: Input/output error" in faults[0].why


def test_a_record_that_is_gone_leaves_orphans_alone(prediction: Path) -> None:
    for log in (prediction / "progress").glob("*.jsonl"):
        log.unlink()
    assert states(prediction) == dict.fromkeys(blocks(), "orphaned")


def test_blocks_that_are_not_predicted_yet_are_no_fault(prediction: Path) -> None:
    names = list(blocks())[10:30]
    forget(prediction, *names)
    for name in names:
        shard(prediction, name).unlink()
    report = check(Store(prediction))
    assert report.faults == []
    assert report.counts == Counter(sound=BLOCKS - 20, unfinished=20, skipped=0)


def test_blocks_that_nobody_wants_are_skipped_and_have_neither_shard_nor_entry(prediction: Path) -> None:
    path = prediction / "allocated.json"
    description = read_json(path)
    wanted = Selection.of(PLAN, Region((0, 0, 0), (8, 24, 72)))
    write_json(path, description | {"selection": wanted.as_json()})
    unwanted = set(blocks()) - {"0.0.0", "0.0.1", "0.0.2"}
    assert states(prediction) == {
        **dict.fromkeys(unwanted, "missing"),
        **{f"0/c/0/{name.replace('.', '/')}": "orphaned" for name in unwanted},
    }
    forget(prediction, *unwanted, "0.0.1")
    for name in (*unwanted, "0.0.1"):
        shard(prediction, name).unlink()
    report = check(Store(prediction))
    assert str(report) == "75 blocks: 2 sound, 1 unfinished, 72 skipped"
    assert report.faults == []


def test_what_was_taken_back_is_not_recorded(prediction: Path) -> None:
    record = Record(prediction / "progress")
    for name in ("0.1.1", "0.1.2", "9.9.9"):
        record.append("another", {"name": name, "void": True, "round": 1})
    shard(prediction, "0.1.2").unlink()
    assert states(prediction) == {"0.1.1": "orphaned"}


def test_what_is_recorded_during_the_check_is_sound(prediction: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = Record(prediction / "progress").done()
    late = ["0.0.0", "1.1.1"]
    forget(prediction, *late)
    strays = Store.strays

    def while_others_write(self: Store) -> Iterator[Finding]:
        for name in late:
            self.record.append("another", entries[name])
        yield from strays(self)

    monkeypatch.setattr(Store, "strays", while_others_write)
    assert states(prediction) == {}


@pytest.mark.parametrize(
    "stray",
    [
        "0/c/0/0/0/9",
        "0/c/0/0/0/00",
        "0/c/0/0/0/-1",
        "0/c/1/0/0/0",
        "0/c/0/0/0/0.0123456789abcdef0123456789abcdef.partial",
        "0/zarr.0123456789abcdef0123456789abcdef.partial",
        "zarr.0123456789abcdef0123456789abcdef.partial",
        "0/note",
    ],
)
def test_a_file_that_is_no_shard_of_the_plan_is_orphaned(stray: str, prediction: Path) -> None:
    path = prediction / "probability.zarr" / stray
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    report = check(Store(prediction))
    assert [(fault.state, fault.name) for fault in report.faults] == [("orphaned", stray)]
    assert str(report) == "75 blocks: 75 sound; besides, 1 files or entries that belong to no block"
    assert ("a repair deletes it" if stray.endswith("partial") else "delete it by hand") in report.faults[0].why


@pytest.mark.parametrize("name", ["3.0.0", "0.0", "0.0.0.0", "00.0.0", "a.b.c", "", "٣.0.0", "-1.0.0"])
def test_an_entry_that_names_no_block_is_missing(name: str, prediction: Path) -> None:
    Record(prediction / "progress").append("bent", {"name": name})
    assert states(prediction) == {name: "missing"}


@pytest.mark.parametrize("wrong", [{}, {"bytes": None, "written": None}, {"bytes": "12"}], ids=str)
def test_an_entry_that_promises_nothing_is_a_fault(wrong: dict[str, Any], prediction: Path) -> None:
    rewrite(prediction, lambda entry: {"name": "0.1.1"} | wrong if entry["name"] == "0.1.1" else entry)
    assert states(prediction) == {"0.1.1": "torn"}


def test_only_a_few_blocks_are_taken_ahead(whole: Path) -> None:
    taken = 0

    def count() -> Iterator[int]:
        nonlocal taken
        for number in range(10_000):
            taken += 1
            yield number

    results = fsck._in_threads(lambda number: number * 2, count())
    for number in range(5_000):
        assert next(results) == number * 2
        assert taken <= number + 4 * fsck._READERS
    assert list(results) == [2 * number for number in range(5_000, 10_000)]


def test_what_is_no_prediction_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"(?s)there is no .*allocated\.json.*give the folder of a predicted volume"):
        Store(tmp_path)


def test_a_record_of_something_else_is_refused(prediction: Path) -> None:
    write_json(prediction / "progress" / "key.json", {})
    with pytest.raises(UserError, match="do not belong together"):
        Store(prediction)


@pytest.mark.parametrize("part", ["geometry", "shape"])
def test_a_plan_of_another_version_is_refused(part: str, prediction: Path) -> None:
    description = read_json(prediction / "allocated.json")
    del description["plan"][part]
    write_json(prediction / "allocated.json", description)
    with pytest.raises(UserError, match=rf"(?s)that of another version; .*\(plan\.{part}: field required\).*delete it"):
        Store(prediction)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(Path.unlink, "is gone", id="gone"),
        pytest.param(lambda path: path.write_bytes(path.read_bytes()[:99]), "cannot be read", id="cut"),
        pytest.param(
            lambda path: path.write_text(path.read_text().replace("115", "116", 1)),
            r"an array of \(3, 20, 116, 110\)",
            id="another shape",
        ),
        pytest.param(
            lambda path: path.write_text(path.read_text().replace("24", "48", 1)),
            r"in shards of \(3, 8, 48, 24\)",
            id="other shards",
        ),
        pytest.param(
            lambda path: path.write_text(path.read_text().replace('"uint8"', '"int8"', 1)), "int8", id="another type"
        ),
        pytest.param(lambda path: (path.parents[1] / "zarr.json").unlink(), "the group above it", id="no group"),
    ],
)
def test_of_metadata_that_are_lost_it_is_said_what_is_there_and_what_to_do(
    damage: Callable[[Path], object], message: str, prediction: Path
) -> None:
    metadata = prediction / "probability.zarr" / "0" / "zarr.json"
    damage(metadata)
    before = files(prediction)
    with pytest.raises(UserError, match=rf"0/zarr\.json, (.|\n)*{message}(.|\n)*; 75 shards are there") as caught:
        Store(prediction)
    assert "(3, 20, 115, 110) voxels in shards of (3, 8, 24, 24)" in caught.value.repair
    assert f"delete {prediction / 'allocated.json'} and run snakemake again" in caught.value.repair
    assert files(prediction) == before
