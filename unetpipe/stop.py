"""How a long job answers when it is asked to end: not at once, but in order, and in time."""

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Stop:
    """Whether this process was asked to end: by ``signal``, None if not, and by when (``deadline``, monotonic)."""

    def __init__(self, grace_seconds: float) -> None:
        self.signal: signal.Signals | None = None
        self.deadline = math.inf
        self._grace_seconds = grace_seconds

    @property
    def status(self) -> int:
        """The exit status that a shell gives to a process which that signal has ended."""
        return 128 + (self.signal or 0)

    def ask(self, number: int, _frame: object = None) -> None:
        """What handles the signal. One that interrupts a second time will not wait."""
        if self.signal is None:
            self.signal = signal.Signals(number)
            self.deadline = time.monotonic() + self._grace_seconds
        elif number == signal.SIGINT:
            self.deadline = time.monotonic()


@contextmanager
def stoppable(grace_seconds: float) -> Iterator[Stop]:
    """Answer SIGTERM and SIGINT by remembering them, until the block ends."""
    stop = Stop(grace_seconds)
    if threading.current_thread() is not threading.main_thread():
        # Only there can signals be handled.
        yield stop
        return
    before = {number: signal.signal(number, stop.ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
