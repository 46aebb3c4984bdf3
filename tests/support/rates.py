"""Rates that were made up: plans can be tested without an engine."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from unetpipe import measure
from unetpipe.allocate import allocate as allocate_as_measured
from unetpipe.layout import Call, Measure, Rate


def made_up(
    call: Call,
    seconds: Callable[[Call], float] = lambda call: call.voxels / 1e6,
    memory_mb: Callable[[Call], float] = lambda call: 150 + call.voxels / 1e4,
    workers: int = 1,
    **facts: Any,
) -> Rate:
    """An engine that takes a second for a million voxels, unless told otherwise."""
    return Rate(
        **{
            "call": call,
            "workers": workers,
            "threads": 1,
            "seconds_per_call": seconds(call),
            "seconds_per_voxel": 0.0,
            "start_seconds": 2.0,
            "memory_mb": memory_mb(call),
            "overlaps": False,
            "library": "some library 1.0",
            "host": "some-node",
            "measured": "2026-01-02 03:04:05+0000",
        }
        | facts
    )


@contextmanager
def measuring(engine: Path, device_class: Any, workers: int, threads: int, mirror: Sequence[str]) -> Iterator[Measure]:
    """In place of what measures an engine, for plans whose rate does not matter."""
    yield lambda call: made_up(
        call,
        lambda call: 2 ** len(mirror) * call.voxels / 1e6,
        workers=workers,
        threads=threads,
        mirror=tuple(mirror),
    )


def allocate(
    *paths: Path, measuring: Callable[..., AbstractContextManager[Measure]] = measuring, **settings: Any
) -> None:
    """As the rule does, but for the rates."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "measuring", measuring)
        allocate_as_measured(*paths, **settings)
