"""The command line: what is printed where, and the exit status."""

import errno
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from prediction import PREDICTION, fill, forget, plan_run, shard

from unetpipe.cli import main
from unetpipe.progress import Record


@pytest.fixture(scope="session")
def whole(make_volume: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound prediction, by no engine."""
    folder = tmp_path_factory.mktemp("whole")
    fill(plan_run(folder, make_volume, b"an engine", {"processor": "none"}))
    return folder


@pytest.fixture
def prediction(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy in the working directory."""
    shutil.copytree(whole / "results", tmp_path / "results")
    monkeypatch.chdir(tmp_path)
    return PREDICTION


def test_fsck_of_a_sound_store(prediction: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fsck", str(prediction)]) == 0
    assert capsys.readouterr().out == f"{prediction.resolve()}: 75 blocks: 75 sound\n"


def test_fsck_tells_each_fault_and_one_line_of_all(prediction: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shard(prediction, "0.0.1").unlink()
    forget(prediction, "0.0.2")
    assert main(["fsck", str(prediction / "probability.zarr")]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" (")[0] for line in lines[::2]] == [
        "missing   0.0.1",
        "orphaned  0.0.2",
        f"{prediction.resolve()}: 75 blocks: 73 sound, 1 missing, 1 orphaned",
    ]
    assert lines[1].strip() == str(shard(prediction, "0.0.1").resolve())


def test_a_repair_is_refused_before_anything_is_checked(prediction: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shard(prediction, "0.0.1").unlink()
    assert main(["fsck", str(prediction), "--repair"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "made on another class of device" in printed.err
    assert "Traceback" not in printed.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(["fsck"], "required: store", id="no store"),
        pytest.param(["fsck", "x", "--cores", "0"], "'0' is no number of 1 or more", id="no cores"),
        pytest.param(["fsck", "x", "--mend"], "unrecognized arguments: --mend", id="unknown"),
    ],
)
def test_wrong_usage_gives_2(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert said in capsys.readouterr().err


def test_fsck_of_no_prediction_gives_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fsck", str(tmp_path)]) == 2
    assert "allocated.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        pytest.param(KeyboardInterrupt(), 130, "interrupted; what is finished is kept", id="interrupted"),
        pytest.param(
            OSError(errno.ENOSPC, "No space left on device"),
            2,
            "the operating system refused: [Errno 28] No space left on device; what is finished is kept",
            id="disk full",
        ),
    ],
)
def test_what_ends_it_early_is_told_in_a_line(
    error: BaseException,
    code: int,
    said: str,
    prediction: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(_: Record) -> None:
        raise error

    monkeypatch.setattr(Record, "key", fail)
    assert main(["fsck", str(prediction)]) == code
    assert capsys.readouterr().err == f"{said}\n"


def test_status_of_a_run_by_its_name(prediction: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "run"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("run run in results/run\n")
    assert " ".join(out.splitlines()[3].split()) == "v predict 75 75 – 100.0 % – finished"


def test_status_of_no_run_gives_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(tmp_path)]) == 1
    assert "neither volumes nor scores" in capsys.readouterr().err
