"""Folders on disk and in a bucket keep the same promises."""

import errno
import itertools
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import buckets
import numpy as np
import pytest
from obstore.exceptions import BaseError

from unetpipe.arrays import open_array
from unetpipe.errors import UserError
from unetpipe.progress import Record
from unetpipe.storage import Folder, LocalFolder, above, folder_at, is_remote, join, parent, s3
from unetpipe.storage.aws import RETRIES
from unetpipe.volume import create, write_shards


def test_what_is_written_is_there_whole(place: Folder) -> None:
    place.write("a/b/c", b"\x00one")
    assert place.read("a/b/c") == b"\x00one"
    assert place.size("a/b/c") == 4
    place.write("a/b/c", b"two!!")
    assert place.read("a/b/c") == b"two!!"
    assert place.below("a").below("b").read("c") == b"two!!"


def test_what_is_not_there_is_told(place: Folder) -> None:
    assert place.size("a") is None
    assert list(place.entries()) == []
    assert list(place.lines()) == []
    with pytest.raises(FileNotFoundError):
        place.read("a")
    place.remove("a")
    place.write("a/b", b"")
    assert place.size("a") is None or isinstance(place, LocalFolder)
    assert place.size("a/b/c") is None


def test_all_that_is_below_is_listed(place: Folder) -> None:
    for name, size in (("b", 1), ("a/1", 2), ("a/2/3", 3), ("a0", 4)):
        place.write(name, b"x" * size)
    found = {entry.name: entry.size for entry in place.entries()}
    assert found == {"b": 1, "a/1": 2, "a/2/3": 3, "a0": 4}
    assert {entry.name for entry in place.entries(deep=False)} == {"b", "a0"}
    assert {entry.name for entry in place.below("a").entries()} == {"1", "2/3"}
    assert {entry.name: entry.size for entry in place.entries(ordered=False)} == found


def test_the_mark_of_an_object_changes_with_it(place: Folder) -> None:
    place.write("a", b"1")
    before = {entry.name: entry.mark for entry in place.entries()}
    assert before == {entry.name: entry.mark for entry in place.entries()}
    place.write("a", b"2")
    assert before != {entry.name: entry.mark for entry in place.entries()}


def test_a_folder_is_cleared_and_no_other(place: Folder) -> None:
    for name in ("a/1", "a/2/3", "ab"):
        place.write(name, b"x")
    place.below("a").clear()
    assert [entry.name for entry in place.entries()] == ["ab"]
    place.below("a").clear()


def test_a_folder_of_many_is_cleared_a_part_at_a_time(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    place = folder_at(f"s3://{bucket}/many")
    names = {f"{number:03}" for number in range(25)}
    for name in names:
        place.write(name, b"x")
    monkeypatch.setattr(s3, "_AT_ONCE", 10)
    place.clear()
    assert list(place.entries()) == []


@pytest.mark.parametrize("address", ["s3:/bucket/x", "s3:bucket", "S3A:/bucket", "~/results", "~"])
def test_a_misspelt_address_is_no_folder(address: str) -> None:
    with pytest.raises(UserError, match=r"neither a bucket nor a folder\n.*s3://BUCKET/PREFIX, or the whole path"):
        folder_at(address)


def test_every_line_of_a_log_is_there_when_it_was_appended(place: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unetpipe.storage.s3._LINES", 10)
    place.write("key.json", b"{}")
    for number in range(25):
        place.append("one", f"line {number}".encode())
        if number in (0, 9, 10, 24):
            assert [line for line in place.lines() if line.strip()][-1] == f"line {number}\n".encode()
    place.append("two", b"other")
    assert {line.strip() for line in place.lines()} - {b""} == {
        b"other",
        *(f"line {number}".encode() for number in range(25)),
    }
    assert len(place.logs()) <= 4
    assert sum(entry.size for entry in place.logs().values()) >= 25 * len("line 0\n")


def test_a_line_that_may_have_arrived_is_not_taken_back(
    endpoint: str, bucket: str, aws: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unetpipe.storage.aws.RETRIES", {"max_retries": 0})
    stumbles = buckets.Stumbles()
    with buckets.stumbling(endpoint, stumbles) as front:
        aws(front)
        place = folder_at(f"s3://{bucket}/may-have-arrived")
        place.append("one", b"first")
        # Carried out, and never answered.
        stumbles.plan, stumbles.every = ("lost",), 1
        with pytest.raises(OSError, match="the storage did not do it"):
            place.append("one", b"second")
        stumbles.plan = ()
        assert {line.strip() for line in place.lines()} == {b"first", b"second"}
        place.append("one", b"third")
        assert {line.strip() for line in place.lines()} == {b"first", b"second", b"third"}


def test_who_does_not_know_the_lines_of_a_log_leaves_them(place: Folder) -> None:
    place.write("key.json", b"{}")
    place.append("one", b"first")
    # As another process would, that was given the same name.
    other = type(place)(place.path) if isinstance(place, LocalFolder) else s3.Bucket(place.address)
    other.append("one", b"second")
    place.append("one", b"third")
    assert {line.strip() for line in place.lines()} - {b""} == {b"first", b"second", b"third"}


def test_a_listing_goes_on_as_long_as_it_gets_on(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    place = folder_at(f"s3://{bucket}/listed")
    for number in range(9):
        place.write(f"{number}", b"x")
    listed = s3.Bucket._items

    def cut(self: s3.Bucket, last: str | None, *, deep: bool) -> Iterator[object]:
        yield from itertools.islice(listed(self, last, deep=deep), 1)
        if last is None or not last.endswith("8"):
            raise BaseError("the answer ended")

    monkeypatch.setattr(s3.Bucket, "_items", cut)
    assert [entry.name for entry in place.entries()] == [str(number) for number in range(9)]
    monkeypatch.setattr(s3.Bucket, "_items", lambda *_, **__: (_ for _ in ()).throw(BaseError("no answer")))
    with pytest.raises(OSError, match="the storage did not do it"):
        list(place.entries())


@pytest.mark.parametrize(
    ("variables", "region"),
    [
        ({"AWS_REGION": "eu-one-1", "AWS_DEFAULT_REGION": "eu-two-2"}, "eu-one-1"),
        ({"AWS_DEFAULT_REGION": "eu-two-2"}, "eu-two-2"),
        ({}, "us-east-1"),
    ],
)
def test_the_region_is_that_of_the_usual_variables(
    variables: dict[str, str], region: str, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    buckets.forget()
    assert folder_at(f"s3://{bucket}/region-{region}").kvstore()["aws_region"] == region


def test_two_that_write_the_same_leave_it_whole(place: Folder) -> None:
    data, told = bytes(200_000), set()
    place.write("a", data)

    def write() -> None:
        for _ in range(20):
            try:
                place.write("a", data)
            except OSError as error:
                # The other has removed what this one was writing.
                told.add(error.errno)

    threads = [threading.Thread(target=write) for _ in range(3)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert place.read("a") == data
    for thread in threads:
        thread.join()
    assert {entry.name for entry in place.entries()} == {"a"}
    assert told <= {errno.EBUSY}


def test_a_record_is_the_same_wherever_it_lies(place: Folder) -> None:
    record = Record.open(place.address, {"a": 1}, "refuse", "it")
    record.append("one", {"name": "0.0.0", "written": "x"})
    again = Record.open(place.address, {"a": 1}, "refuse", "it")
    assert again.done() == {"0.0.0": {"name": "0.0.0", "written": "x"}}
    with pytest.raises(UserError, match="was 1, is 2"):
        Record.open(place.address, {"a": 2}, "refuse", "it")
    assert Record.open(place.address, {"a": 2}, "restart", "it").done() == {}
    # In the same process, what was forgotten does not come back with the next line.
    record.append("one", {"name": "0.0.1"})
    assert set(Record(place.address).done()) == {"0.0.1"}


def test_what_lies_above() -> None:
    assert list(above("s3://b/p/q/r/", 2)) == [("s3://b/p/q", "r"), ("s3://b/p", "q/r")]
    assert list(above("s3://b/p", 3)) == [("s3://b", "p")]
    assert list(above("s3://b", 3)) == []
    assert list(above("/a/b/c", 2)) == [("/a/b", "c"), ("/a", "b/c")]


def test_addresses(tmp_path: Path) -> None:
    assert is_remote("s3://b/p")
    assert not is_remote(str(tmp_path))
    assert join("s3://b/p", "a", "b") == "s3://b/p/a/b"
    assert parent("s3://b/p/a") == "s3://b/p"
    assert parent(str(tmp_path / "a")) == str(tmp_path)


@pytest.mark.parametrize("address", ["ftp://host/x", "s3://", "s3:///x", "s3://b/x?versionId=1"])
def test_an_address_of_another_kind_is_refused(address: str, bucket: str) -> None:
    with pytest.raises(UserError, match="no address that is known"):
        folder_at(address)


@pytest.mark.parametrize("address", ["s3://b/../x", "s3://b/x//y", "s3://b/x/./y"])
def test_what_means_a_folder_on_disk_alone_is_refused(address: str, bucket: str) -> None:
    with pytest.raises(UserError, match=r"no meaning in a bucket\n.*without them"):
        folder_at(address)


@pytest.mark.parametrize("name", ["with space", "mücke", "~alice", "100%", "a%20b", "a[1]", "{x}", "a+b&c=d", "日本"])
def test_names_in_a_bucket_may_be_any(name: str, bucket: str, endpoint: str) -> None:
    place = folder_at(f"s3://{bucket}/{name}")
    voxels = np.arange(6 * 8 * 8, dtype=np.uint8).reshape(6, 8, 8)
    create(place, shape=voxels.shape, dtype="uint8", chunk=(3, 4, 4), shard=(3, 8, 8), voxel_size_nm=(1, 1, 1))
    # Written by one library and read by another, which must mean the same.
    write_shards(place.below("0"), (0, 0, 0), voxels)
    np.testing.assert_array_equal(open_array(place.below("0").address)[...], voxels)
    found = buckets.client(endpoint).list_objects_v2(Bucket=bucket)["Contents"]
    assert {each["Key"] for each in found} == {f"{name}/{entry.name}" for entry in place.entries()}
    place.clear()
    assert list(place.entries()) == []


def test_a_bucket_that_is_not_there_is_told(bucket: str) -> None:
    with pytest.raises(UserError, match="there is no bucket no-such-bucket"):
        folder_at("s3://no-such-bucket/x").write("a", b"1")


def test_missing_credentials_are_told(bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    buckets.forget()
    with pytest.raises(UserError, match="there are no credentials"):
        folder_at(f"s3://{bucket}/new")


@pytest.mark.parametrize("kind", ["503 SlowDown", "drop", "lost", "slow", "cut"])
def test_a_server_that_stumbles_is_asked_again(
    kind: str, endpoint: str, bucket: str, aws: Callable[[str], None]
) -> None:
    stumbles = buckets.Stumbles((kind,), every=3, seconds=0.1)
    with buckets.stumbling(endpoint, stumbles) as front:
        aws(front)
        place = folder_at(f"s3://{bucket}/stumbling-{kind}")
        for number in range(12):
            place.write(f"{number}", str(number).encode() * 1000)
        assert [place.read(f"{number}") for number in range(12)] == [str(n).encode() * 1000 for n in range(12)]
        assert {entry.name for entry in place.entries()} == {str(n) for n in range(12)}
    assert stumbles.did[kind] >= 5


def test_a_server_that_is_gone_is_told_without_secrets(endpoint: str, bucket: str, aws: Callable[[str], None]) -> None:
    with buckets.stumbling(endpoint, buckets.Stumbles(("503 SlowDown",), every=1)) as front:
        aws(front)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("unetpipe.storage.aws.RETRIES", {**RETRIES, "max_retries": 1})
            place = folder_at(f"s3://{bucket}/gone")
            with pytest.raises(OSError, match="the storage did not do it") as failure:
                place.write("a", b"1")
    text = f"{failure.value} {failure.value.__cause__!r}"
    assert buckets.SECRET not in text
    assert buckets.KEY_ID not in text
    assert "\n" not in str(failure.value)


def test_the_spec_for_voxels_holds_no_credentials(bucket: str) -> None:
    spec = json.dumps(folder_at(f"s3://{bucket}/x").kvstore())
    assert buckets.SECRET not in spec
    assert buckets.KEY_ID not in spec
