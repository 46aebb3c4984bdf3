"""A signal is remembered, and how long there is to end in order."""

import math
import os
import signal
import threading
import time

import pytest

from unetpipe.stop import Stop, stoppable


def test_a_second_interrupt_does_not_wait_but_a_second_sigterm_is_the_same() -> None:
    before = signal.getsignal(signal.SIGINT)
    with stoppable(1000.0) as stop:
        assert stop.signal is None
        os.kill(os.getpid(), signal.SIGINT)
        assert (stop.signal, stop.status) == (signal.SIGINT, 130)
        os.kill(os.getpid(), signal.SIGTERM)
        assert time.monotonic() + 900 < stop.deadline < math.inf
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.deadline <= time.monotonic()
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_status_is_that_of_a_shell(number: signal.Signals, status: int) -> None:
    stop = Stop(1.0)
    stop.ask(number)
    assert stop.status == status


def test_in_another_thread_signals_stay_as_they_are() -> None:
    before, found = signal.getsignal(signal.SIGTERM), []

    def run() -> None:
        with stoppable(1.0) as stop:
            found.append((stop.signal, signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [(None, before)]
