"""Time side by side: what is measured is a ratio, since shared machines drift."""

import statistics
import time
from collections.abc import Callable

ROUNDS = 5

Range = tuple[float, float, float]
"""Least, median and most."""


def ratios(ours: Callable[[], object], theirs: Callable[[], object]) -> Range:
    """Ratio of their time over ours, in pairs, after one round to warm up."""
    return spread([theirs / ours for ours, theirs in _seconds(ours, theirs)])


def rates(work: Callable[[], object], amount: float) -> Range:
    """``amount`` over the seconds of a call, after one call to warm up."""
    return spread([amount / seconds for (seconds,) in _seconds(work)])


def spread(values: list[float]) -> Range:
    """Least, median and most of them."""
    return min(values), statistics.median(values), max(values)


def _seconds(*works: Callable[[], object]) -> list[list[float]]:
    """Of each work, for each round; the works take turns."""
    rounds = []
    for _ in range(ROUNDS + 1):
        seconds = []
        for work in works:
            start = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - start)
        rounds.append(seconds)
    return rounds[1:]
