"""Time side by side: what is measured is a ratio, since shared machines drift."""

import statistics
import time
from collections.abc import Callable, Sequence

ROUNDS = 5

Range = tuple[float, float, float]
"""Least, median and most."""


def ratios(ours: Callable[[], object], theirs: Callable[[], object], rounds: int = ROUNDS) -> Range:
    """Ratio of their time over ours, in pairs, after one round to warm up."""
    return spread([theirs / ours for ours, theirs in seconds(ours, theirs, rounds=rounds)])


def rates(work: Callable[[], object], amount: float) -> Range:
    """``amount`` over the seconds of a call, after one call to warm up."""
    return spread([amount / taken for (taken,) in seconds(work)])


def spread(values: Sequence[float]) -> Range:
    """Least, median and most of them."""
    return min(values), statistics.median(values), max(values)


def seconds(*works: Callable[[], object], rounds: int = ROUNDS) -> list[list[float]]:
    """Of each work, for each round, after one round to warm up; the works take turns."""
    return [[once(work) for work in works] for _ in range(rounds + 1)][1:]


def once(work: Callable[[], object]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
