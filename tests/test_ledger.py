"""What the record says of each block, in arrays: the same as the record itself says."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unetpipe.config import Network
from unetpipe.grid import Plan
from unetpipe.ledger import Ledger, added
from unetpipe.progress import Record
from unetpipe.storage import LocalFolder

PLAN = Plan((3, 40, 60), (1, 40, 40), (1, 24, 24), (1, 24, 24), 1, Network(depth=1).geometry)
NAMES = [block.name for block in PLAN.blocks()]
DIGEST = "0123456789abcdef" * 2

ENTRIES = st.lists(
    st.fixed_dictionaries(
        {"name": st.sampled_from([*NAMES[:3], "9.9.9", "x"]), "writer": st.sampled_from("ab")},
        optional={"round": st.integers(0, 3), "void": st.booleans(), "bytes": st.integers(0, 9)},
    ),
    max_size=14,
)


@given(ENTRIES)
def test_the_ledger_says_what_the_record_says(
    tmp_path_factory: pytest.TempPathFactory, entries: list[dict[str, Any]]
) -> None:
    record = Record.open(tmp_path_factory.mktemp("r") / "progress", {}, "refuse", "it")
    for entry in entries:
        record.append(entry["writer"], {name: value for name, value in entry.items() if name != "writer"})
    ledger = Ledger.of(record, PLAN)
    latest = record.done()
    assert {*ledger.names(), *ledger.strangers} == set(latest)
    for name, entry in latest.items():
        found = ledger.get(name)
        assert found is not None
        assert found.round == entry.get("round", 0)
        if name in NAMES:
            assert found.size == entry.get("bytes")
    # An entry of the next round counts, whatever was there before.
    rounds = ledger.rounds
    for name in NAMES[:3]:
        number = ledger.number(name)
        assert number is not None
        record.append("z", {"name": name, "round": int(rounds[number]), "bytes": 77})
    assert {name: entry["bytes"] for name, entry in record.done().items() if name in NAMES[:3]} == dict.fromkeys(
        NAMES[:3], 77
    )


def test_blocks_are_numbered_as_the_plan_gives_them() -> None:
    ledger = Ledger(PLAN)
    for number, block in enumerate(PLAN.blocks()):
        assert ledger.number(block.name) == number
        assert ledger.index(number) == block.index
        assert ledger.name(number) == block.name


@pytest.mark.parametrize("name", ["", "0.0", "0.0.0.0", "3.0.0", "0.0.-1", "00.0.0", "\u0663.0.0", "a.b.c"])
def test_what_names_no_block_has_no_number(name: str) -> None:
    assert Ledger(PLAN).number(name) is None


@pytest.mark.parametrize(
    ("entry", "size", "written"),
    [
        pytest.param({"bytes": 12, "written": DIGEST}, 12, DIGEST, id="whole"),
        pytest.param({}, None, None, id="nothing"),
        pytest.param({"bytes": "12", "written": "short"}, None, None, id="senseless"),
        pytest.param({"bytes": -1, "written": 5}, None, None, id="of another kind"),
    ],
)
def test_an_entry_that_promises_nothing_is_recorded_all_the_same(
    entry: dict[str, Any], size: int | None, written: str | None, tmp_path: Path
) -> None:
    record = Record.open(tmp_path / "progress", {}, "refuse", "it")
    record.append("w", {"name": "0.0.0", **entry})
    ledger = Ledger.of(record, PLAN)
    found = ledger.get("0.0.0")
    assert found is not None
    assert (found.size, found.written) == (size, written)
    assert ledger.recorded.tolist() == [True] + [False] * (len(NAMES) - 1)


def test_the_shards_that_are_there_are_listed(tmp_path: Path) -> None:
    place = LocalFolder(tmp_path)
    for name in ("c/0/0/0/0", "c/0/2/1/2", "c/0/9/0/0", "c/1/0/0/0", "zarr.json", "c/0/0/0/0.x.partial"):
        place.write(name, b"123")
    stored = Ledger(PLAN).stored(place)
    assert [NAMES[number] for number in np.flatnonzero(stored == 3)] == ["0.0.0", "2.1.2"]
    assert (stored[stored != 3] < 0).all()


@given(st.lists(st.integers(0, 4), min_size=6, max_size=6), st.data())
def test_the_digest_of_a_whole_is_that_of_its_parts_however_it_is_cut(parts: list[int], data: st.DataObject) -> None:
    ledger = Ledger(PLAN)
    blocks = len(ledger.size)
    for number in range(blocks):
        ledger.written[number] = np.frombuffer(data.draw(st.binary(min_size=16, max_size=16)), np.uint8)
    of = np.resize(parts, blocks)
    whole = ledger.digest(np.ones(blocks, bool))
    assert added(ledger.digest(of == part) for part in range(5)) == whole
    assert len(whole) == 64
    # Which block it is counts too.
    ledger.written[[0, 1]] = ledger.written[[1, 0]]
    assert (ledger.digest(np.ones(blocks, bool)) == whole) == bool((ledger.written[0] == ledger.written[1]).all())
