"""Workers on other machines: those of a scheduler that runs already, and what SLURM says of jobs that cannot run.

What SLURM itself has a part in is in tests/slurm.
"""

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from distributed import Client, LocalCluster

from unetpipe import elsewhere
from unetpipe.cluster import try_each
from unetpipe.elsewhere import connect_scheduler
from unetpipe.errors import UserError


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """A scheduler that somebody else has started, somewhere else, with one worker that runs on."""
    before = Path.cwd()
    os.chdir(tmp_path_factory.mktemp("elsewhere"))
    try:
        with LocalCluster(n_workers=1, threads_per_worker=2, dashboard_address="127.0.0.1:0") as cluster:
            yield cluster
    finally:
        os.chdir(before)


def test_its_workers_work_where_this_process_does_and_live_on(
    scheduler: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pids = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        with connect_scheduler(scheduler.scheduler_address) as client:
            assert set(client.run(os.getcwd).values()) == {str(tmp_path / name)}
            pids.append(client.run(os.getpid))
    assert pids[0] == pids[1]


def test_a_worker_that_hangs_is_replaced_by_whoever_watches_over_it(
    scheduler: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unetpipe.cluster._FIRST_SECONDS", 3.0)
    monkeypatch.setattr("unetpipe.cluster._PAUSE_SECONDS", 0.02)
    monkeypatch.chdir(tmp_path)

    def work(item: int) -> int:
        if item == 3 and not (tmp_path / "hung").exists():
            (tmp_path / "hung").touch()
            os.kill(os.getpid(), signal.SIGSTOP)
        return item

    with connect_scheduler(scheduler.scheduler_address) as client:
        assert sorted(try_each(client, work, range(8), patience_seconds=1.0)) == list(range(8))
        assert (tmp_path / "hung").exists()


def test_where_nobody_answers_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elsewhere, "_ANSWER_SECONDS", 0.5)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(UserError, match=r"workers of tcp://127.*\n.*no Dask scheduler answers there"):
        connect_scheduler(address).__enter__()


def test_without_a_worker_it_is_said(scheduler: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elsewhere, "_ANSWER_SECONDS", 0.5)
    monkeypatch.setattr(Client, "wait_for_workers", lambda self, n, timeout: (_ for _ in ()).throw(TimeoutError))
    with pytest.raises(UserError, match="it has no worker, and got none"):
        connect_scheduler(scheduler.scheduler_address).__enter__()


@pytest.mark.parametrize(
    ("sbatch", "found"),
    [
        (None, "there is no sbatch on this machine"),
        (
            "echo 'sbatch: error: a line' >&2; echo 'invalid partition: x' >&2; exit 1",
            "refuses them: invalid partition: x",
        ),
        ("exit 3", "refuses them: status 3"),
        ("grep -q '^#SBATCH -p x' && test $1 = --test-only", None),
    ],
    ids=["no SLURM", "refused", "refused without a word", "taken"],
)
def test_jobs_that_slurm_refuses(
    sbatch: str | None, found: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if sbatch is not None:
        (tmp_path / "sbatch").write_text(f"#!/bin/sh\n{sbatch}\n")
        (tmp_path / "sbatch").chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    else:
        monkeypatch.setenv("PATH", str(tmp_path))
    script = "#!/bin/sh\n#SBATCH -p x\ntrue\n"
    if found is None:
        elsewhere._refuse_what_slurm_refuses(script)
        return
    with pytest.raises(UserError, match=found):
        elsewhere._refuse_what_slurm_refuses(script)
