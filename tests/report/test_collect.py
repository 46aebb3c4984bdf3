"""What the page is made of is what the files say."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unetpipe.report.collect import collect, read_history, throughput


def job(**changes: Any) -> dict[str, Any]:
    facts = {"computed": 4, "resumed": 0, "voxels": 6_000_000, "seconds": 3.0, "workers": 2, "threads_per_worker": 1}
    return facts | {"bytes_written": 100} | changes


def test_volumes_that_matter_most_come_first(make_run: Callable[..., dict[str, Any]]) -> None:
    run = make_run({"a": "train", "b": "predict", "c": "validate", "d": "test", "e": "test"}, unlabelled=["b"])
    for unused in ("report", "facts", "figures", "configuration", "benchmarks", "command"):
        del run[unused]
    found = collect(name=run.pop("run"), **run)
    assert list(found.volumes) == ["d", "e", "c", "b", "a"]
    assert list(found.scores) == ["d", "e", "c"]
    assert list(found.allocated) == list(found.jobs) == ["d", "e", "c", "b"]
    assert found.with_role("test") == ["d", "e"]


def test_history_without_numbers(tmp_path: Path) -> None:
    path = tmp_path / "history.csv"
    path.write_text("step,loss,validation_loss\n1,0.5,\n2,nan,0.25\n3,inf,1e-3\n")
    assert read_history(path) == [
        {"step": 1, "loss": 0.5, "validation_loss": None},
        {"step": 2, "loss": None, "validation_loss": 0.25},
        {"step": 3, "loss": None, "validation_loss": 0.001},
    ]


@pytest.mark.parametrize(
    ("jobs", "rate", "workers"),
    [
        pytest.param([job()], 2.0, "2 × 1", id="one job"),
        pytest.param([job(), job(seconds=4.0, workers=1, threads_per_worker=8)], 3.0, "2 × 1 + 1 × 8", id="two jobs"),
        pytest.param([job(computed=0, resumed=4, voxels=0, seconds=0.0)], None, "2 × 1", id="all there"),
    ],
)
def test_throughput(jobs: list[dict[str, Any]], rate: float | None, workers: str) -> None:
    found = throughput(jobs)
    assert found.megavoxels_per_second == rate
    assert found.workers == workers
