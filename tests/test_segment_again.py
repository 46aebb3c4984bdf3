"""Objects are numbered on: by other workers, after a kill, after a loss, and anew where something else is asked for."""

import errno
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from segmenting import (
    blobs,
    finished,
    flooded_in_memory,
    in_memory,
    in_this_process,
    numbered,
    stored,
)

from unetpipe import segment as module
from unetpipe.errors import UserError
from unetpipe.files import write_json
from unetpipe.progress import Record
from unetpipe.segmentation import pieces

SHAPE = (9, 31, 26)


@pytest.mark.long
def test_workers_and_their_number_do_not_matter(tmp_path: Path) -> None:
    probability = blobs(SHAPE)
    files = []
    for cores in (1, 2):
        folder = tmp_path / str(cores)
        found = numbered(*finished(probability, folder, (4, 16, 16)), cores=cores)
        assert found["workers"] == cores
        files.append(_files(folder / "segments" / "segments.zarr"))
    assert files[0] == files[1]
    assert not (folder / "segments" / "fragments").exists(), "what is needed no longer is gone"
    np.testing.assert_array_equal(stored(found), in_memory(probability > 127))


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class Killed(BaseException):
    """As if the process ended here."""


@pytest.mark.parametrize(
    ("step", "method"),
    [
        pytest.param("find", "components", id="finding"),
        pytest.param("touch", "components", id="joining"),
        pytest.param("settle", "watershed", id="following ascents"),
        pytest.param("write", "watershed", id="writing"),
    ],
)
@pytest.mark.parametrize("after", [0, 4])
def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(
    step: str, method: str, after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    probability = blobs(SHAPE)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    with in_this_process():
        numbered(*finished(probability, whole, (4, 16, 16)), method=method, seeds=0.7)
        paths = finished(probability, cut, (4, 16, 16))
        done: list[str] = []
        real = getattr(module, step)

        def dying(task: pieces.Task) -> Any:
            if len(done) == after:
                raise Killed
            done.append(task.name)
            return real(task)

        with monkeypatch.context() as patch:
            patch.setattr(module, step, dying)
            with pytest.raises(Killed):
                numbered(*paths, method=method, seeds=0.7)
        assert not (cut / "segments" / "segments.json").exists()
        again: list[str] = []
        with monkeypatch.context() as patch:
            patch.setattr(module, step, lambda task: (again.append(task.name), real(task))[1])
            numbered(*paths, method=method, seeds=0.7)
    assert len(done) == after
    if step in ("find", "write"):
        assert not set(done) & set(again), "what was done is not done again"
    assert _files(cut / "segments" / "segments.zarr") == _files(whole / "segments" / "segments.zarr")
    assert (cut / "segments" / "segments.npy").read_bytes() == (whole / "segments" / "segments.npy").read_bytes()


_CODE = """
import sys
from pathlib import Path
if __name__ == "__main__":
    sys.path.insert(0, sys.argv[2])
    from segmenting import numbered
    folder = Path(sys.argv[1])
    numbered(folder / "volume.json", folder / "allocated.json", cores=2)
"""


@pytest.mark.long
@pytest.mark.parametrize("kind", ["fragments", "segments"])
def test_a_run_whose_processes_are_killed_goes_on(kind: str, tmp_path: Path) -> None:
    probability = blobs((12, 40, 40))
    paths = finished(probability, tmp_path, (2, 8, 8))
    (tmp_path / "run.py").write_text(_CODE)
    support = str(Path(__file__).parent / "support")
    process = subprocess.Popen(
        [sys.executable, tmp_path / "run.py", tmp_path, support], start_new_session=True, stderr=subprocess.DEVNULL
    )
    record = Record(tmp_path / "segments" / "progress")
    while sum(entry["name"].startswith(kind) for entry in record.entries()) < 10:
        assert process.poll() is None, "it ended too soon"
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    # Until the last of its workers is gone, too.
    with suppress(ProcessLookupError):
        while True:
            os.killpg(process.pid, 0)
            time.sleep(0.01)
    before = {entry["name"] for entry in record.entries()}
    assert not (tmp_path / "segments" / "segments.json").exists()
    with in_this_process():
        found = numbered(*paths)
    names = [entry["name"] for entry in record.entries()]
    assert len(names) == len(set(names)) == 2 * 150, "what was recorded was not done again"
    assert before < set(names)
    np.testing.assert_array_equal(stored(found), in_memory(probability > 127))


@pytest.mark.parametrize("lost", ["labels.zarr/0/c/1/0/1", "tables/1/0/1.npz", "sides/1/0/1.npz"])
def test_what_was_lost_between_two_runs_is_made_again(
    lost: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    probability = blobs(SHAPE)
    paths = finished(probability, tmp_path, (4, 16, 16))
    with in_this_process():
        with monkeypatch.context() as patch:
            patch.setattr(module, "touch", _dies)
            with pytest.raises(Killed):
                numbered(*paths)
        (tmp_path / "segments" / "fragments" / lost).unlink()
        found = numbered(*paths)
    np.testing.assert_array_equal(stored(found), in_memory(probability > 127))


def _dies(task: pieces.Task) -> Any:
    raise Killed


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"threshold": 0.62}, id="threshold"),
        pytest.param({"min_voxels": 30}, id="smallest object"),
        pytest.param({"method": "components_2d"}, id="method"),
        pytest.param({"method": "watershed", "seeds": 0.6}, id="watershed"),
    ],
)
def test_other_settings_begin_anew(changes: dict[str, Any], tmp_path: Path) -> None:
    probability = blobs(SHAPE)
    paths = finished(probability, tmp_path, (4, 16, 16))
    with in_this_process():
        before = stored(numbered(*paths))
        found = numbered(*paths, **changes)
    mask = probability > 255 * changes.get("threshold", 0.5)
    if "seeds" in changes:
        expected = flooded_in_memory(probability, 127, 153)
    else:
        expected = in_memory(mask, changes.get("method", "components"), changes.get("min_voxels", 1))
    np.testing.assert_array_equal(stored(found), expected)
    assert (before != expected).any()


def test_another_prediction_begins_anew(tmp_path: Path) -> None:
    with in_this_process():
        numbered(*finished(blobs(SHAPE), tmp_path, (4, 16, 16)))
        paths = finished(blobs(SHAPE, seed=1), tmp_path, (4, 16, 16))
        write_json(tmp_path / "job-0.json", {"digest": "another"})
        found = numbered(*paths)
    np.testing.assert_array_equal(stored(found), in_memory(blobs(SHAPE, seed=1) > 127))


@pytest.mark.parametrize(
    ("error", "seen"),
    [
        pytest.param(OSError(errno.EIO, "Input/output error"), UserError, id="failing storage"),
        pytest.param(OSError(errno.EACCES, "Permission denied"), UserError, id="folder of another user"),
        pytest.param(MemoryError("none left"), UserError, id="no memory"),
        # The rule says what to do about it.
        pytest.param(OSError(errno.ENOSPC, "No space left on device"), OSError, id="full disk"),
    ],
)
def test_what_a_piece_met_is_told_and_what_was_done_is_kept(
    error: Exception, seen: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    probability = blobs(SHAPE)
    paths = finished(probability, tmp_path, (4, 16, 16))
    real, done = module.write, []

    def failing(task: pieces.Task) -> int:
        if len(done) == 3:
            raise error
        done.append(task.name)
        return real(task)

    with in_this_process():
        with monkeypatch.context() as patch:
            patch.setattr(module, "write", failing)
            with pytest.raises(seen, match=str(error.args[-1])) as caught:
                numbered(*paths)
        if seen is UserError:
            assert "the objects of v were to be numbered" in str(caught.value)
        with monkeypatch.context() as patch:
            patch.setattr(module, "write", lambda task: (done.append(task.name), real(task))[1])
            found = numbered(*paths)
    assert len(done) == len(set(done))
    np.testing.assert_array_equal(stored(found), in_memory(probability > 127))
