"""Every item comes out once, as a result or as a failure, whatever becomes of the processes."""

import errno
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dask
import psutil
import pytest
from distributed import Client
from hypothesis import given
from hypothesis import strategies as st

from unetpipe import cluster, processes
from unetpipe.cluster import ATTEMPTS, Failed, for_each, try_each
from unetpipe.errors import UserError
from unetpipe.processes import connect
from unetpipe.stop import Stop


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """Of two processes with two threads each."""
    with connect(2, 2) as connected:
        yield connected


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_PAUSE_SECONDS", 0.02)


def pids(client: Client) -> set[int]:
    return set(client.run(os.getpid).values())


def split(results: Any) -> tuple[list[Any], list[Failed[Any]]]:
    results = list(results)
    failed = [result for result in results if isinstance(result, Failed)]
    return [result for result in results if not isinstance(result, Failed)], failed


# Functions within functions are handed to the workers by value: these have no module that a worker could import.
def note(folder: Path) -> Callable[[int], None]:
    """A function that notes each attempt at an item."""

    def noting(item: int) -> None:
        with (folder / "attempts").open("a") as file:
            file.write(f"{item}\n")

    return noting


def attempts(folder: Path) -> Counter[int]:
    return Counter(map(int, (folder / "attempts").read_text().split()))


def test_each_item_comes_out_once_and_few_are_known_at_a_time(client: Client) -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for item in range(60):
            taken += 1
            yield item

    found = []
    for count, result in enumerate(for_each(client, lambda item: item**2, items())):
        # Two processes, each with two items in hand and one to come; and as many ahead, to know when the end is near.
        assert taken - count <= 12
        found.append(result)
    assert sorted(found) == [item**2 for item in range(60)]


def test_at_the_end_no_item_waits_in_the_hands_of_a_worker(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    count, submit = 40, client.submit
    holders: dict[int, str] = {}
    held: list[tuple[int, int]] = []
    done: set[int] = set()

    def submitting(function: Callable[[int], int], item: int, **to: Any) -> Any:
        holders[item] = to["workers"][0]
        hand = sum(worker == holders[item] and other not in done for other, worker in holders.items())
        held.append((count - len(done), hand))
        return submit(function, item, **to)

    monkeypatch.setattr(client, "submit", submitting)
    for result in for_each(client, abs, range(count)):
        done.add(result)
    assert done == set(range(count))
    # In the middle, there is one more than a process works on, so that it need not wait for the next.
    assert max(hand for left, hand in held if left > 12) == 3
    assert max(hand for left, hand in held if left <= 8) == 2


@given(left=st.integers(0, 200), workers=st.integers(1, 20), threads=st.integers(1, 5))
def test_what_a_worker_takes_is_bounded_and_shrinks_with_what_is_left(left: int, workers: int, threads: int) -> None:
    worker: cluster._Worker[int] = cluster._Worker("w", threads)
    share = worker.share(left, workers)
    assert 1 <= share <= threads + 1
    assert share <= worker.share(left + 1, workers)
    if left >= 2 * workers * (threads + 1):
        assert share == threads + 1
    if left <= 2 * workers:
        # Enough to read or write one while another is computed, and not more than it can begin.
        assert share == min(2, threads)


def test_nothing_to_do(client: Client) -> None:
    assert list(for_each(client, abs, [])) == []


@pytest.mark.parametrize(
    "error", [OSError(errno.EIO, "Input/output error"), TimeoutError("slow"), MemoryError("no room")], ids=repr
)
def test_what_may_pass_is_tried_again(error: Exception, client: Client, tmp_path: Path) -> None:
    noting = note(tmp_path)

    def work(item: tuple[int, bool]) -> tuple[int, bool]:
        noting(item[0])
        if item[0] % 3 == 0 and (tmp_path / "attempts").read_text().split().count(str(item[0])) < ATTEMPTS:
            raise error
        return item

    results, failed = split(
        try_each(client, work, ((item, False) for item in range(9)), again=lambda item: (item[0], True))
    )
    assert not failed
    assert sorted(results) == [(item, item % 3 == 0) for item in range(9)]
    assert attempts(tmp_path) == {item: ATTEMPTS if item % 3 == 0 else 1 for item in range(9)}


def test_what_does_not_pass_fails_and_the_others_go_on(client: Client, tmp_path: Path) -> None:
    noting = note(tmp_path)

    def work(item: int) -> int:
        noting(item)
        if item in (2, 5):
            raise OSError(errno.EIO, "Input/output error", f"file-{item}")
        return item

    results, failed = split(try_each(client, work, range(8)))
    assert sorted(results) == [0, 1, 3, 4, 6, 7]
    assert {each.item: each.reason for each in failed} == {
        item: f"OSError: [Errno 5] Input/output error: 'file-{item}'" for item in (2, 5)
    }
    assert attempts(tmp_path)[2] == ATTEMPTS
    with pytest.raises(OSError, match=r"Input/output error: 'file-"):
        list(for_each(client, work, range(8)))


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(OSError(errno.ENOSPC, "No space left on device"), id="full disk"),
        pytest.param(OSError(errno.EDQUOT, "Disk quota exceeded"), id="quota"),
        pytest.param(OSError(errno.EROFS, "Read-only file system"), id="read-only"),
        pytest.param(OSError(errno.EACCES, "Permission denied"), id="no permission"),
        pytest.param(UserError("asked", "found", "repair"), id="user's mistake"),
        pytest.param(RuntimeError("a defect"), id="defect"),
    ],
)
def test_what_every_item_would_meet_ends_it_at_once(error: Exception, client: Client, tmp_path: Path) -> None:
    noting = note(tmp_path)

    def work(item: int) -> int:
        noting(item)
        if item == 3:
            raise error
        return item

    with pytest.raises(type(error)) as caught:
        list(try_each(client, work, range(10_000)))
    assert caught.value.args == error.args
    assert attempts(tmp_path)[3] == 1
    assert len(attempts(tmp_path)) < 100


def test_an_item_that_kills_its_process_takes_no_other_with_it(client: Client, tmp_path: Path) -> None:
    noting, before = note(tmp_path), pids(client)

    def work(item: int) -> int:
        noting(item)
        if item == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.02)
        return item

    results, failed = split(try_each(client, work, range(40)))
    assert sorted(results) == [item for item in range(40) if item != 3]
    assert [each.item for each in failed] == [3]
    assert "the process that had it died" in failed[0].reason
    assert attempts(tmp_path)[3] == ATTEMPTS
    # The processes are replaced.
    assert len(pids(client) | before) > 2


@pytest.mark.parametrize("always", [False, True], ids=["once", "always"])
def test_a_process_that_hangs_is_replaced(
    always: bool, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "_FIRST_SECONDS", 3.0)
    noting = note(tmp_path)

    def work(item: int) -> int:
        noting(item)
        if item == 3 and (always or (tmp_path / "attempts").read_text().split().count("3") == 1):
            os.kill(os.getpid(), signal.SIGSTOP)
        return item

    results, failed = split(try_each(client, work, range(20), patience_seconds=1.0))
    assert sorted(results) == [item for item in range(20) if item != 3 or not always]
    assert [each.item for each in failed] == ([3] if always else [])
    assert all("took longer than" in each.reason for each in failed)
    assert attempts(tmp_path)[3] == (ATTEMPTS if always else 2)


def test_patience_follows_what_items_take() -> None:
    work: Any = cluster._Work(SimpleNamespace(), abs, [], abs, None, Stop(0))
    proven = SimpleNamespace(proven=True)
    assert work._patience(proven) == cluster._UNKNOWN_SECONDS
    work._seconds.extend([0.1, 0.2, 500.0])
    assert work._patience(proven) == 60
    work._seconds.extend([10.0, 10.0])
    assert work._patience(proven) == 200
    assert work._patience(SimpleNamespace(proven=False)) == 200 + cluster._FIRST_SECONDS


def test_workers_are_not_missed_while_dask_asks_after_them_too() -> None:
    with dask.config.set({"distributed.client.scheduler-info-interval": "1ms"}), connect(2) as asked:
        assert {len(cluster.workers_of(asked)) for _ in range(500)} == {2}


def test_without_any_process_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_NO_WORKER_SECONDS", 0.3)
    monkeypatch.setattr(cluster, "workers_of", lambda client: {})
    deserted: Any = SimpleNamespace(status="closed")
    with pytest.raises(UserError, match="none has come back"):
        list(try_each(deserted, abs, [1]))


@pytest.mark.parametrize(
    ("grace_seconds", "waits"), [pytest.param(100.0, True, id="long"), pytest.param(0.0, False, id="none")]
)
def test_when_stopped_it_begins_nothing_and_waits_for_what_fits(
    grace_seconds: float, waits: bool, client: Client, tmp_path: Path
) -> None:
    noting, stop = note(tmp_path), Stop(grace_seconds)

    def work(item: int) -> int:
        noting(item)
        time.sleep(0.2)
        return item

    found = []
    for result in try_each(client, work, range(1000), stop=stop):
        assert not isinstance(result, Failed)
        found.append(result)
        if len(found) == 8:
            stop.ask(signal.SIGTERM)
    begun = attempts(tmp_path)
    if waits:
        assert set(found) == set(begun)
    else:
        assert len(found) == 8
    # Two processes, each with two items in hand and one to come.
    assert 8 <= len(begun) <= 8 + 6
    assert stop.status == 143


def test_workers_leave_signals_to_the_one_that_leads(client: Client) -> None:
    before = pids(client)
    for number in (signal.SIGTERM, signal.SIGINT):
        for pid in before:
            os.kill(pid, number)
    assert sorted(for_each(client, abs, range(20))) == list(range(20))
    assert pids(client) == before


def test_an_error_ends_processes_in_the_middle_of_their_work() -> None:
    started: set[int] = set()

    def forever(item: int) -> None:
        time.sleep(1e6)

    def fail() -> None:
        with connect(1) as client:
            started.update(pids(client))
            client.submit(forever, 1)
            raise ValueError("enough")

    with pytest.raises(ValueError, match="enough"):
        fail()
    assert len(started) == 1
    assert not any(psutil.pid_exists(pid) for pid in started)


def test_workers_whose_parent_was_killed_end_by_themselves(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        "import os, time\n"
        "from unetpipe.processes import connect\n"
        "if __name__ == '__main__':\n"
        "    with connect(2, 3) as client:\n"
        "        client.submit(time.sleep, 1e6)\n"
        "        print(*client.run(os.getpid).values(), flush=True)\n"
        "        time.sleep(1e6)\n"
    )
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    workers = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]
    assert len(workers) == 2
    parent.kill()
    parent.wait()
    parent.stdout.close()
    _, alive = psutil.wait_procs(workers, timeout=120)
    assert not alive


@pytest.mark.parametrize("failures", [2, 3])
def test_processes_that_die_at_their_start_are_started_again(failures: int, monkeypatch: pytest.MonkeyPatch) -> None:
    real, tried = processes.LocalCluster, []

    def stumbling(**arguments: Any) -> Any:
        tried.append(arguments)
        if len(tried) <= failures:
            raise RuntimeError("Nanny failed to start.")
        return real(**arguments)

    monkeypatch.setattr(processes, "LocalCluster", stumbling)
    if failures == processes._ATTEMPTS:
        with pytest.raises(UserError, match=r"in 3 attempts, one of them died at once \(Nanny failed to start.\)"):
            processes.connect(1).__enter__()
        return
    with processes.connect(1) as client:
        assert list(cluster.for_each(client, abs, [-1, -2])) == [1, 2]
