"""Progress of long work, as lines: several jobs share a terminal, and a log file keeps what it shows."""

import logging
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")

_SECONDS_BETWEEN_LINES = 5.0

log = logging.getLogger(__name__)


def track(items: Iterable[T], what: str, total: int, unit: str, *, done: int = 0) -> Iterator[T]:
    """Pass on ``items`` and log a bar, a rate and the time left, every few seconds and at the end.

    Parameters
    ----------
    what:
        What is being done, in a word or two.
    total:
        The number of items, those of earlier runs included.
    unit:
        What an item is called.
    done:
        Items that an earlier run has finished; they do not count for the rate.
    """
    start = shown = time.monotonic()
    count = done
    for item in items:
        yield item
        count += 1
        now = time.monotonic()
        if now - shown >= _SECONDS_BETWEEN_LINES and count < total:
            _show(what, count, total, now - start, unit, done)
            shown = now
    _show(what, count, total, time.monotonic() - start, unit, done)


def _show(what: str, count: int, total: int, elapsed: float, unit: str, initial: int) -> None:
    log.info(
        "%s",
        tqdm.format_meter(count, total, elapsed, ncols=100, prefix=what, unit=f" {unit}", initial=initial),
    )
