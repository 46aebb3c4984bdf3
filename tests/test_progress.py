"""The record of progress: what it says is done is done, whatever was killed when."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unetpipe.errors import UserError
from unetpipe.progress import Record
from unetpipe.storage import LocalFolder


def test_what_was_recorded_is_read_again(tmp_path: Path) -> None:
    record = Record.open(tmp_path / "progress", {"a": 1}, "refuse", "it")
    record.append("one", {"name": "0.0.0", "written": "x"})
    record.append("two", {"name": "0.0.1", "written": "y"})
    again = Record.open(tmp_path / "progress", {"a": 1}, "refuse", "it")
    assert again.done() == {
        "0.0.0": {"name": "0.0.0", "written": "x"},
        "0.0.1": {"name": "0.0.1", "written": "y"},
    }


@given(st.lists(st.text(min_size=1, max_size=4), min_size=1, max_size=5, unique=True), st.data())
def test_a_log_cut_anywhere_loses_only_what_was_cut(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], data: st.DataObject
) -> None:
    record = Record.open(tmp_path_factory.mktemp("r") / "progress", {}, "refuse", "it")
    ends = []
    log = Path(record.place.address) / "one.jsonl"
    for name in names:
        record.append("one", {"name": name})
        ends.append(log.stat().st_size)
    cut = data.draw(st.integers(0, ends[-1]))
    log.write_bytes(log.read_bytes()[:cut])
    # The newline at the end of an entry may be missing without harm.
    whole = {name for name, end in zip(names, ends, strict=True) if end - 1 <= cut}
    assert record.done().keys() == whole
    record.append("one", {"name": "next"})
    assert record.done().keys() == whole | {"next"}


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 2), st.booleans(), st.sampled_from("xyz")), max_size=12)
)
def test_the_highest_round_counts_whoever_wrote_it_when(
    tmp_path_factory: pytest.TempPathFactory, written: list[tuple[str, int, bool, str]]
) -> None:
    record = Record.open(tmp_path_factory.mktemp("r") / "progress", {}, "refuse", "it")
    for name, number, void, writer in written:
        entry = {"name": name, "void": True} if void else {"name": name}
        # Absent, it is 0.
        record.append(writer, entry | ({"round": number} if number else {}))
    # In its round, what is void comes before what is not.
    best = {name: max((r, v) for n, r, v, _ in written if n == name) for name, *_ in written}
    there = {name: number for name, (number, void) in best.items() if not void}
    assert record.latest(lambda entry: entry.get("round", 0)) == there
    assert record.done().keys() == there.keys()


def test_of_each_piece_only_what_is_asked_for_is_kept(tmp_path: Path) -> None:
    record = Record.open(tmp_path / "progress", {}, "refuse", "it")
    record.append("one", {"name": "a", "bytes": 1, "round": 1})
    record.append("two", {"name": "a", "bytes": 2})
    record.append("two", {"name": "b", "bytes": 3})
    assert record.latest(lambda entry: entry["bytes"]) == {"a": 1, "b": 3}


@pytest.mark.parametrize("line", [b'{"name":"b"', b"12", b"[]", b'{"name":1}', b"{}", b'{"name":"\xff"}', b"\0\0\0"])
def test_a_line_that_is_no_entry_is_left_out(line: bytes, tmp_path: Path) -> None:
    record = Record.open(tmp_path / "progress", {}, "refuse", "it")
    record.append("one", {"name": "a"})
    with (Path(record.place.address) / "one.jsonl").open("ab") as log:
        log.write(line)
    record.append("one", {"name": "c"})
    assert [entry["name"] for entry in record.entries()] == ["a", "c"]


def test_the_logs_grow_with_each_entry(tmp_path: Path) -> None:
    record = Record.open(tmp_path / "progress", {}, "refuse", "it")
    assert record.logs() == {}
    sizes = []
    for name in "abc":
        record.append("one", {"name": name})
        sizes.append(record.logs()["one.jsonl"].size)
    assert sizes == sorted(set(sizes))


def test_another_key_is_refused_with_what_differs_and_nothing_is_touched(tmp_path: Path) -> None:
    folder = tmp_path / "progress"
    record = Record.open(folder, {"engine": "a", "plan": {"tile": [1, 2], "batch": 1}}, "refuse", "it")
    record.append("one", {"name": "x"})
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(
        UserError, match=r"(?s)engine: was \"a\", is \"b\".*plan\.tile: was \[1, 2\], is \[1, 3\]"
    ) as caught:
        Record.open(folder, {"engine": "b", "plan": {"tile": [1, 3], "batch": 1}}, "refuse", "it")
    assert "batch" not in str(caught.value)
    assert "restart" in caught.value.repair
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_restart_forgets(tmp_path: Path) -> None:
    folder = tmp_path / "progress"
    Record.open(folder, {"a": 1}, "refuse", "it").append("one", {"name": "x"})
    record = Record.open(folder, {"a": 2}, "restart", "it")
    assert record.done() == {}
    assert record.key() == {"a": 2}


def test_the_same_key_is_kept_under_restart(tmp_path: Path) -> None:
    folder = tmp_path / "progress"
    Record.open(folder, {"a": (1, 2)}, "refuse", "it").append("one", {"name": "x"})
    assert Record.open(folder, {"a": [1, 2]}, "restart", "it").done().keys() == {"x"}


def test_no_record_has_no_key(tmp_path: Path) -> None:
    assert Record(tmp_path / "nothing").key() is None


def test_key_is_json(tmp_path: Path) -> None:
    Record.open(tmp_path / "p", {"b": 1, "a": [1.5, None]}, "refuse", "it")
    assert json.loads((tmp_path / "p" / "key.json").read_text()) == {"b": 1, "a": [1.5, None]}


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "1"])
def test_a_damaged_key_is_told(content: str, tmp_path: Path) -> None:
    (tmp_path / "key.json").write_text(content)
    with pytest.raises(UserError, match=r"(?s)key\.json was to be read\n.* is no .*put a copy of it back; .*delete "):
        Record(tmp_path).key()


def test_logs_without_a_key_count_for_nothing(tmp_path: Path) -> None:
    record = Record.open(tmp_path / "progress", {"a": 1}, "refuse", "it")
    record.append("w", {"name": "0.0.0"})
    (tmp_path / "progress" / "key.json").unlink()
    assert Record.open(tmp_path / "progress", {"a": 2}, "refuse", "it").done() == {}


def test_a_record_is_forgotten_with_its_key_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "progress"
    record = Record.open(folder, {"a": 1}, "refuse", "it")
    for writer in "vw":
        record.append(writer, {"name": writer})
    removed = []

    def killed(self: LocalFolder, name: str) -> None:
        removed.append(name)
        if len(removed) == 2:
            raise KeyboardInterrupt
        (folder / name).unlink()

    with monkeypatch.context() as patch:
        patch.setattr(LocalFolder, "remove", killed)
        with pytest.raises(KeyboardInterrupt):
            Record.open(folder, {"a": 2}, "restart", "it")
    # What is left is of the old key, and is told so.
    assert Record(folder).key() == {"a": 1}
    assert len(Record(folder).done()) == 1
    assert Record.open(folder, {"a": 2}, "restart", "it").done() == {}
    Record(folder).forget()
    assert list(tmp_path.iterdir()) == []
