"""Every rule names exactly what its function takes, and mistakes end a job as they should."""

import errno
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from unetpipe import rule
from unetpipe.config import Train
from unetpipe.errors import StoppedError, UserError

ROOT = Path(__file__).parents[1]
SHARED = {"command", "common"}
RULES = sorted(path.stem for path in (ROOT / "workflow" / "rules").glob("*.smk") if path.stem not in SHARED)


class Names(dict[str, Any]):
    """Stands for Snakemake's named lists."""


def job(tmp_path: Path, **changes: Any) -> SimpleNamespace:
    parts = {
        "rule": "try",
        "input": Names(first="a"),
        "output": Names(second="b"),
        "params": Names(third=3, version="1"),
        "wildcards": ["test"],
        "threads": 2,
        "log": [str(tmp_path / "logs" / "try.log")],
    }
    return SimpleNamespace(**(parts | changes))


def given(*, first: Path, second: Path, third: int, cores: int) -> None:
    """Take what the job names."""


@pytest.mark.parametrize("name", RULES)
def test_rule_script_function_and_names_agree(name: str) -> None:
    text = (ROOT / "workflow" / "rules" / f"{name}.smk").read_text()
    assert f"rule {name}:" in text
    assert f'"../scripts/{name}.py"' in text
    script = (ROOT / "workflow" / "scripts" / f"{name}.py").read_text()
    found = re.match(rf"from (unetpipe[\w.]*) import {name}\n", script)
    assert found, "the script imports the function of the rule's name first"
    parameters = inspect.signature(getattr(importlib.import_module(found[1]), name)).parameters
    named = set()
    for section in ("input", "output", "params"):
        block = re.search(rf"\n    {section}:\n((?:        .*\n|\n)+)", text)
        named |= set(re.findall(r"^        (\w+)=", block[1], re.MULTILINE)) if block else set()
    assert named - rule.FOR_SNAKEMAKE_ALONE == parameters.keys() - {"cores"}


@pytest.mark.parametrize("name", RULES)
def test_every_rule_has_what_a_rule_has(name: str) -> None:
    text = (ROOT / "workflow" / "rules" / f"{name}.smk").read_text()
    for part in ('"""', "log:", "benchmark:", "threads:", "resources:", "conda:", "version=__version__"):
        assert part in text, f"{part} is missing"


def test_names_become_arguments_of_their_types(tmp_path: Path) -> None:
    assert rule.bind(job(tmp_path), given) == {"first": Path("a"), "second": Path("b"), "third": 3, "cores": 2}


def test_settings_lists_and_nothing(tmp_path: Path) -> None:
    def function(
        *, files: list[Path], one: list[Path], none: Path | None, settings: Train, tile: list[int] | None
    ) -> None:
        """Take some of each."""

    bound = rule.bind(
        job(
            tmp_path,
            input=Names(files=["a", "b"], one="c", none=[]),
            output=Names(),
            params=Names(settings=Train(steps=7).model_dump(mode="json"), tile=None),
        ),
        function,
    )
    assert bound == {
        "files": [Path("a"), Path("b")],
        "one": [Path("c")],
        "none": None,
        "settings": Train(steps=7),
        "tile": None,
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"params": Names(third=3, fourth=4)}, "names fourth, which given does not take", id="unknown"),
        pytest.param({"params": Names()}, "given needs third, which the rule try does not name", id="missing"),
        pytest.param({"params": Names(first=1, third=3)}, "names first twice", id="twice"),
    ],
)
def test_names_that_do_not_fit_are_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=message):
        rule.bind(job(tmp_path, **changes), given)


@pytest.mark.parametrize(
    ("error", "status", "traceback"),
    [
        pytest.param(UserError("asked", "found this", "do that"), 1, False, id="user's mistake"),
        pytest.param(KeyboardInterrupt(), 130, False, id="interrupted"),
        pytest.param(StoppedError("ended by SIGTERM", 143), 143, False, id="end of a walltime"),
        pytest.param(OSError(errno.ENOSPC, "No space left on device"), 1, False, id="full disk"),
        pytest.param(OSError(errno.EROFS, "Read-only file system"), 1, False, id="read-only folder"),
        pytest.param(OSError(errno.EACCES, "Permission denied"), 1, False, id="folder of another user"),
        pytest.param(OSError(errno.EBUSY, "two use the same folder"), 1, False, id="another run"),
        pytest.param(OSError(errno.EIO, "Input/output error"), 2, True, id="failing disk"),
        pytest.param(RuntimeError("defect"), 2, True, id="defect"),
    ],
)
def test_how_jobs_end(
    error: BaseException, status: int, traceback: bool, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def given(*, first: Path, second: Path, third: int) -> None:
        raise error

    with pytest.raises(SystemExit) as caught:
        rule.run(job(tmp_path), given)
    assert caught.value.code == status
    for text in (capfd.readouterr().err, (tmp_path / "logs" / "try.log").read_text()):
        assert ("Traceback" in text) == traceback
        assert str(error) in text


def test_sigterm_ends_a_function_once_and_in_order(tmp_path: Path) -> None:
    # In a process of its own: the one that runs tests must not die if this fails.
    script = Path(__file__).parent / "support" / "asked_to_end.py"
    done = subprocess.run([sys.executable, script, tmp_path], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 143, done.stderr
    assert done.stdout == "cleaned up\nthe handler is the one before\n"
    for text in (done.stderr, (tmp_path / "try.log").read_text()):
        assert "asked to end (SIGTERM)" in text
        assert "Traceback" not in text
