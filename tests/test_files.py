"""Small files: whole or not at all."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from unetpipe.files import digest, digest_of, read_json, replacing, write_bytes, write_json


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})

    def fail() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert read_json(path) == {"old": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]


_KILLED = """
import os, signal, sys
from pathlib import Path
from unetpipe.files import replacing
with replacing(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_has_left_is_removed_and_nothing_of_one_that_lives(tmp_path: Path) -> None:
    path, other = tmp_path / "a.json", tmp_path / "a.json.json"
    for each in (path, other):
        status = subprocess.run([sys.executable, "-c", _KILLED, each], check=False).returncode
        assert status == -signal.SIGKILL
    (left,) = tmp_path.glob(".a.json.json.*")
    with replacing(path) as temporary:
        write_json(path, {"in": "between"})
        assert {*tmp_path.iterdir()} == {path, temporary, left}
        temporary.write_text("{}")
    assert read_json(path) == {}
    assert {*tmp_path.iterdir()} == {path, left}


def test_a_new_file_may_be_read_by_the_group(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a", b"x")
    (tmp_path / "plain").write_bytes(b"x")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_folders_are_made(tmp_path: Path) -> None:
    write_bytes(tmp_path / "b" / "c" / "d", b"x")
    assert (tmp_path / "b" / "c" / "d").read_bytes() == b"x"


def test_json_has_no_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"a": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_digests(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a", b"abc")
    # FIPS 180-2, appendix B.1
    assert digest(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert digest_of({"a": 1, "b": [2]}) == digest_of({"b": [2], "a": 1})
    assert digest_of({"a": 1}) != digest_of({"a": 2})
