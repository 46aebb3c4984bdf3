"""Work on many pieces, by processes of which some may fail.

Every piece is given to one worker by name, and only so many that it can begin them at once. So it is known which piece
was in whose hands when a process died, and how long a piece has taken. Towards the end a worker is given fewer at a
time, so that no piece waits in the hands of one while another has nothing to do.
"""

import errno
import logging
import math
import queue
import statistics
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from distributed import Client, Future, KilledWorker
from distributed.client import FutureCancelledError

from unetpipe.errors import UserError
from unetpipe.processes import end_worker
from unetpipe.stop import Stop

T = TypeVar("T")
R = TypeVar("R")

ATTEMPTS = 3
"""How often a piece is tried."""

REFUSED = (errno.EROFS, errno.EACCES, errno.EPERM)
"""Nobody may write there."""

FATAL = (errno.ENOSPC, errno.EDQUOT, *REFUSED)
"""Errors of the system that every other piece would meet too."""

_PAUSE_SECONDS = 1.0
"""Before the second attempt; four times as long before the third. A file server that stumbles needs a moment."""

_MOST_WAITING = 100
"""Items that wait to be tried again, at most: where everything fails, no more are begun meanwhile."""

_ENOUGH = 2
"""Items in a worker's hands that keep it busy: while one is computed, another is read or written."""

_TICK_SECONDS = 0.25
"""How often workers are looked after while no result comes."""

_LEAST_PATIENCE_SECONDS = 60.0
_MEDIANS_OF_PATIENCE = 20
_UNKNOWN_SECONDS = 3600.0
"""Patience while nothing is finished, so nothing is known of what a piece takes."""

_FIRST_SECONDS = 300.0
"""More patience with a process that has finished nothing yet: it loads libraries, and may compile an engine."""

_NO_WORKER_SECONDS = 300.0
"""How long to wait for a process when all are gone: each is replaced within seconds where that can be done."""

_ANSWER_SECONDS = 2.0
"""For a process to hand over a result; one that hangs will not, and patience with it will end."""

log = logging.getLogger(__name__)


class _NoAnswerError(Exception):
    """A process does not hand over a result."""


@dataclass(frozen=True)
class Failed(Generic[T]):
    """An item that could not be done, after all attempts. ``error``: of the last one; ``reason``: it in words."""

    item: T
    reason: str
    error: Exception


def workers_of(client: Client) -> dict[str, Any]:
    """What the scheduler knows of its workers, by their addresses."""
    # client.scheduler_info() can return the answer to a question of its own, which leaves out all workers.
    scheduler: Any = client.scheduler
    known: dict[str, Any] = client.sync(scheduler.identity, n_workers=-1)["workers"]
    return known


def for_each(client: Client, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Results of ``function`` for each item, in the order in which they are finished.

    Only some items per worker are known to the scheduler at any time, so that its memory does not grow with their
    number. The function and its results should be small: hand over addresses, not arrays.

    Raises whatever ``function`` raises, for the first item that fails for good; see :func:`try_each`.
    """
    for result in try_each(client, function, items, patience_seconds=math.inf):
        if isinstance(result, Failed):
            raise result.error
        yield result


@contextmanager
def telling(asked: str, repair: str) -> Iterator[None]:
    """What a piece met that could not be done, as a UserError; a full disk is told by the rule."""
    try:
        yield
    except (OSError, MemoryError) as error:
        if isinstance(error, OSError) and error.errno in FATAL and error.errno not in REFUSED:
            raise
        raise UserError(asked, f"{type(error).__name__}: {error}", repair) from error


def try_each(
    client: Client,
    function: Callable[[T], R],
    items: Iterable[T],
    *,
    again: Callable[[T], T] = lambda item: item,
    patience_seconds: float | None = None,
    stop: Stop | None = None,
    without_seconds: float | None = None,
) -> Generator[R | Failed[T], None, None]:
    """As :func:`for_each`, but an item that fails does not end the work of others.

    An item is tried :data:`ATTEMPTS` times, elsewhere if there is another worker: if it meets an error of the system
    or has no memory, if the process that had it died, or if it took longer than ``patience_seconds``; then its process
    is killed. After that it is given back as :class:`Failed`.

    Parameters
    ----------
    again:
        Makes of an item what is handed over when it is tried again.
    patience_seconds:
        Where None, 20 times the median of what an item has taken so far, but 60 at least.
    stop:
        When it is asked for, no new item is begun, and only those are waited for that can be expected to be done by
        the deadline; the results end then.
    without_seconds:
        How long to wait for a process while there is none; ``_NO_WORKER_SECONDS`` where None.

    Raises
    ------
    UserError
        If all worker processes are gone, and none comes back.
    OSError
        At once, if its number is one of :data:`FATAL`. Whatever else ``function`` raises is raised at once too.
    """
    return _Work(client, function, items, again, patience_seconds, stop or Stop(0), without_seconds).results()


@dataclass(eq=False)
class _Try(Generic[T]):
    """An item and what became of it so far.

    ``alone``: it had a part in the end of a process, and may be the cause. ``when``: it was given to its worker, or may
    be given to one (monotonic seconds).
    """

    item: T
    spent: int = 0
    alone: bool = False
    worker: str = ""
    when: float = 0.0


@dataclass
class _Worker(Generic[T]):
    """A process: its nanny's name, how many items it works on at a time, and those that it has."""

    name: Any
    threads: int
    hand: dict[Future[Any], _Try[T]] = field(default_factory=dict)
    proven: bool = False

    @property
    def room(self) -> int:
        """Items that it takes: one more than it works on, so that it need not wait for the next."""
        return self.threads + 1

    def share(self, left: int, workers: int) -> int:
        """Items that it takes while ``left`` of them, those in all hands too, are not done.

        Half of what would be an equal share: the other half is for those that turn out to be faster.
        """
        return min(self.room, max(min(_ENOUGH, self.threads), math.ceil(left / (2 * workers))))


class _Work(Generic[T, R]):
    """One call of :func:`try_each`."""

    def __init__(
        self,
        client: Client,
        function: Callable[[T], R],
        items: Iterable[T],
        again: Callable[[T], T],
        patience_seconds: float | None,
        stop: Stop,
        without_seconds: float | None = None,
    ) -> None:
        self._client = client
        self._function = function
        self._new = (_Try(item) for item in items)
        self._ahead: deque[_Try[T]] = deque()
        self._again = again
        self._patience_seconds = patience_seconds
        self._stop = stop
        self._without_seconds = _NO_WORKER_SECONDS if without_seconds is None else without_seconds
        self._exhausted = False
        self._waiting: list[_Try[T]] = []
        self._workers: dict[str, _Worker[T]] = {}
        self._killed: set[str] = set()
        self._finished: queue.SimpleQueue[Future[Any]] = queue.SimpleQueue()
        self._seconds: deque[float] = deque(maxlen=999)
        self._looked = -math.inf
        self._seen_worker = time.monotonic()

    def results(self) -> Generator[R | Failed[T], None, None]:
        """All results, and the items that failed."""
        try:
            while True:
                yield from self._look_after_workers()
                if self._stop.signal is None:
                    self._give()
                elif not self._worth_waiting():
                    return
                if self._exhausted and not self._left():
                    return
                with suppress(queue.Empty):
                    yield from self._take(self._finished.get(timeout=_TICK_SECONDS))
        finally:
            if self._client.status == "running":
                self._client.cancel([future for worker in self._workers.values() for future in worker.hand], force=True)

    def _give(self) -> None:
        given = True
        while given:
            given = False
            # In turn: a few items are shared by all workers.
            for address, worker in sorted(self._workers.items(), key=lambda known: len(known[1].hand)):
                share = worker.share(self._left(), len(self._workers))
                if len(worker.hand) < share and (tried := self._next(address, worker)) is not None:
                    tried.worker, tried.when = address, time.monotonic()
                    future = self._client.submit(self._function, tried.item, workers=[address], pure=False)
                    worker.hand[future] = tried
                    future.add_done_callback(self._finished.put)
                    given = True

    def _next(self, address: str, worker: _Worker[T]) -> _Try[T] | None:
        """What to give to a worker."""
        if any(tried.alone for tried in worker.hand.values()):
            return None
        now = time.monotonic()
        for tried in self._waiting:
            if tried.when > now or (tried.worker == address and len(self._workers) > 1):
                continue
            if tried.alone and worker.hand:
                # It waits until the worker has finished all others, which would die with it.
                return None
            self._waiting.remove(tried)
            return tried
        if len(self._waiting) >= _MOST_WAITING:
            return None
        return self._ahead.popleft() if self._ahead else None

    def _left(self) -> int:
        """Items that are not done; where they are more than decide what is given to whom, fewer."""
        # So many that nobody's share is less than its room.
        wanted = 2 * len(self._workers) * max((worker.room for worker in self._workers.values()), default=0)
        left = len(self._waiting) + sum(len(worker.hand) for worker in self._workers.values()) + len(self._ahead)
        while left < wanted and not self._exhausted:
            new = next(self._new, None)
            if new is None:
                self._exhausted = True
            else:
                self._ahead.append(new)
                left += 1
        return left

    def _take(self, future: Future[Any]) -> Iterator[R | Failed[T]]:
        """What came of a future; nothing if its worker was given up before."""
        worker = next((worker for worker in self._workers.values() if future in worker.hand), None)
        if worker is None:
            return
        tried = worker.hand[future]
        try:
            result: R = self._gather(future)
        except (KilledWorker, FutureCancelledError):
            yield from self._bury(tried.worker)
            return
        except _NoAnswerError:
            self._finished.put(future)
            return
        except (OSError, MemoryError) as error:
            if isinstance(error, OSError) and error.errno in FATAL:
                raise
            del worker.hand[future]
            tried.alone |= isinstance(error, MemoryError)
            yield from self._try_again(tried, f"{type(error).__name__}: {error}", error)
            return
        del worker.hand[future]
        worker.proven = True
        self._seconds.append(time.monotonic() - tried.when)
        yield result

    def _gather(self, future: Future[Any]) -> R:
        # Errors have come with the news of them: a TimeoutError among them is the function's own.
        failed = future.status == "error"
        try:
            result: R = future.result(timeout=_ANSWER_SECONDS)
        except TimeoutError:
            if failed:
                raise
            raise _NoAnswerError from None
        return result

    def _try_again(self, tried: _Try[T], reason: str, error: Exception) -> Iterator[Failed[T]]:
        tried.spent += 1
        if tried.spent == ATTEMPTS:
            yield Failed(tried.item, reason, error)
            return
        tried.item = self._again(tried.item)
        tried.when = time.monotonic() + _PAUSE_SECONDS * 4 ** (tried.spent - 1)
        self._waiting.append(tried)

    def _look_after_workers(self) -> Iterator[Failed[T]]:
        """Meet new ones, bury those that are gone, kill those that hang."""
        now = time.monotonic()
        if now - self._looked < _TICK_SECONDS:
            return
        self._looked = now
        there = workers_of(self._client)
        self._killed &= there.keys()
        for address in [address for address in self._workers if address not in there]:
            yield from self._bury(address)
        for address, facts in there.items():
            if address not in self._killed and address not in self._workers:
                self._workers[address] = _Worker(facts["name"], facts["nthreads"])
        for address, worker in list(self._workers.items()):
            patience = self._patience(worker)
            if any(now - tried.when > patience for tried in worker.hand.values()):
                yield from self._end(address, patience)
        if self._workers:
            self._seen_worker = now
        elif now - self._seen_worker > self._without_seconds:
            raise UserError(
                "work was spread over processes",
                f"none of them is left, and none has come back within {self._without_seconds:.0f} s",
                "see whether their machine is out of memory or processes, and run again; what is finished is kept",
            )

    def _bury(self, address: str) -> Iterator[Failed[T]]:
        """A process died, and one of the items in its hands may be the cause."""
        hand = self._workers.pop(address).hand
        if hand:
            log.warning("a worker process died with %d pieces in its hands; they are tried again", len(hand))
        reason = "the process that had it died; where it was killed, its machine may be out of memory"
        error = UserError(
            "work was spread over processes",
            f"processes died again and again, {ATTEMPTS} times with the same piece",
            "see whether their machine is out of memory; if so, use fewer workers or smaller tiles",
        )
        for tried in hand.values():
            tried.alone = True
            yield from self._try_again(tried, reason, error)

    def _end(self, address: str, patience: float) -> Iterator[Failed[T]]:
        """A process takes too long: kill it, and let it be replaced."""
        worker = self._workers.pop(address)
        self._killed.add(address)
        log.warning("a worker process has not finished a piece in %.0f s; it is replaced", patience)
        end_worker(self._client, address, worker.name)
        now = time.monotonic()
        for tried in worker.hand.values():
            if now - tried.when > patience:
                # They may all hang because of one.
                tried.alone = True
                reason = f"took longer than {patience:.0f} s"
                yield from self._try_again(tried, reason, TimeoutError(reason))
            else:
                tried.item = self._again(tried.item)
                self._waiting.append(tried)

    def _patience(self, worker: _Worker[T]) -> float:
        """Seconds that an item in the worker's hands may take."""
        more = 0.0 if worker.proven else _FIRST_SECONDS
        if self._patience_seconds is not None:
            return self._patience_seconds + more
        if not self._seconds:
            return _UNKNOWN_SECONDS
        return max(_LEAST_PATIENCE_SECONDS, _MEDIANS_OF_PATIENCE * statistics.median(self._seconds)) + more

    def _worth_waiting(self) -> bool:
        """Whether an item can be expected to be done by the deadline."""
        if time.monotonic() > self._stop.deadline:
            return False
        usual = statistics.median(self._seconds) if self._seconds else math.inf
        tries = [tried for worker in self._workers.values() for tried in worker.hand.values()]
        return any(tried.when + usual <= self._stop.deadline for tried in tries)
