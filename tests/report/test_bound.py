"""The page has a bounded size, whatever the size and the number of the volumes."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from unetpipe.files import read_json
from unetpipe.report import render, sections
from unetpipe.report.render import MOST_LISTED, report

MakeRun = Callable[..., dict[str, Any]]

CLASSES = [f"class-{number:02}" for number in range(16)]
COPIES = 260
LARGE = 2000
"""Sections that the copies claim to have, each as many more."""


def noise(shape: Sequence[int], seed: int, classes: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """What no picture can be compressed to less than."""
    random = np.random.default_rng(seed)
    return random.integers(0, 256, tuple(shape), np.uint8), random.integers(0, classes, tuple(shape), np.uint8)


def longer(found: dict[str, Any], times: int) -> dict[str, Any]:
    """A score or a result of quality control with so many times the sections."""
    by_section = found["per_section"]
    if isinstance(by_section, list):
        return found | {"per_section": by_section * times}
    return found | {"per_section": {key: values * times for key, values in by_section.items()}}


def copies(run: dict[str, Any], original: str, role: str) -> None:
    """Add volumes that are ``original`` under other names; pictures are read from its stores."""
    for number in range(COPIES):
        name = f"{original}-{number}"
        run["settings"]["volumes"][name] = run["settings"]["volumes"][original] | {"role": role}
        for kind in ("volumes", "scores", "quality", "allocated", "predictions", "pyramids"):
            path = next((p for p in run[kind] if original in (p.stem, p.parent.name)), None)
            if path is None:
                continue
            found = read_json(path)
            if kind in ("scores", "quality") and number < sections.MOST_VOLUMES + 2:
                found = longer(found, LARGE // 2)
            key = "name" if kind == "volumes" else "volume"
            copy = Path(str(path).replace(f"/{original}", f"/{name}"))
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(json.dumps(found | {key: name}))
            run[kind].append(copy)


@pytest.mark.long
@pytest.mark.parametrize("role", ["test", "predict"])
def test_many_large_volumes_of_noise_make_a_page_of_bounded_size(make_run: MakeRun, role: str) -> None:
    unlabelled = [] if role == "test" else ["v"]
    run = make_run({"v": role}, classes=CLASSES, shape=(2, 530, 530), data=noise, trained=False, unlabelled=unlabelled)
    copies(run, "v", role)
    report(**run)
    size = run["report"].stat().st_size
    assert 5_000_000 < size < 20_000_000
    page = run["report"].read_text(encoding="utf-8")
    assert f"{COPIES + 1 - MOST_LISTED} more volumes stand in <code>report.json</code> alone." in page
    assert len(read_json(run["facts"])["inputs"]) == COPIES + 1


@pytest.mark.usefixtures("without_curves")
def test_volumes_beyond_what_is_listed_are_in_the_file_for_programs(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(render, "MOST_LISTED", 2)
    run = make_run({"a": "test", "b": "predict", "c": "validate"}, unlabelled=["b"], trained=False)
    report(**run)
    page = run["report"].read_text(encoding="utf-8")
    assert "1 more volumes stand in <code>report.json</code> alone." in page
    assert ">b<" not in page
    assert set(read_json(run["facts"])["inputs"]) == {"a", "b", "c"}
