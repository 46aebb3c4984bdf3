"""The same run on a cluster gives the same bytes, whoever dies, and leaves no job behind."""

import gc
import shutil
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import slurm
from running import call, write
from slurm import said, until
from submitting import Submitted, until_empty, workers

from unetpipe.config import Slurm
from unetpipe.elsewhere import connect_slurm
from unetpipe.errors import UserError
from unetpipe.files import read_json

pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures("cluster"), pytest.mark.timeout(600)]

VOLUME = "test"
BLOCKS = 27
PREDICTION = Path("results/small/predictions") / VOLUME

SCATTERED: dict[str, Any] = {"jobs": 2}
WORKERS: dict[str, Any] = {"cluster": "slurm", "slurm": {"workers": 2, "cores": 1, "interface": "lo"}}
SLOWLY = 0.25


def voxels(folder: Path) -> dict[str, bytes]:
    """Every object of the store of the full resolution."""
    store = folder / PREDICTION / "probability.zarr" / "0"
    return {str(path.relative_to(store)): path.read_bytes() for path in store.rglob("*") if path.is_file()}


def files(folder: Path) -> set[str]:
    """All that lies in the results, but for logs and what depends on the number of jobs."""
    found = (str(path.relative_to(folder)) for path in (folder / "results").rglob("*") if path.is_file())
    return {name for name in found if not any(part in name for part in ("logs/", "job-", "progress/"))}


def changed(base: dict[str, Any], **predict: Any) -> dict[str, Any]:
    """The settings of the run, with another way to predict."""
    settings = deepcopy(base)
    settings["predict"] |= predict
    for key in ("workers",) if "cluster" in predict else ():
        del settings["predict"][key]
    return settings


def targets(settings: dict[str, Any]) -> list[str]:
    """What the jobs of the prediction write; nothing else is run."""
    jobs = range(settings["predict"].get("jobs", 1))
    return ["--allowed-rules", "predict", "--", *(str(PREDICTION / f"job-{number}.json") for number in jobs)]


@pytest.fixture
def folder(planned: Path, tmp_path: Path) -> Path:
    """A folder in which everything is done but to predict."""
    shutil.copytree(planned, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture(scope="module", autouse=True)
def slow(
    planned: Path, base: dict[str, Any], tmp_path_factory: pytest.TempPathFactory, cluster: None
) -> Iterator[Submitted]:
    """A prediction whose walltime will end in the middle, which takes a minute at least: it runs beside other tests."""
    place = tmp_path_factory.mktemp("slow") / "run"
    shutil.copytree(planned, place)
    settings = changed(base)
    submitted = Submitted(place, settings, *targets(settings), sync_seconds=4.0)

    def shorten() -> None:
        submitted.until_recorded(VOLUME, 2)
        said("scontrol", "update", f"jobid={submitted.jobs()[0]}", "timelimit=1")

    with ThreadPoolExecutor(1) as pool:
        shortened = pool.submit(shorten)
        yield submitted
        submitted.give_up()
    shortened.result()


@pytest.fixture
def submit() -> Iterator[Callable[..., Submitted]]:
    """Starts a snakemake on the cluster; none goes on after the test."""
    begun: list[Submitted] = []

    def start(*arguments: Any, **how: Any) -> Submitted:
        begun.append(Submitted(*arguments, **how))
        return begun[-1]

    yield start
    for each in begun:
        each.give_up()


def test_the_whole_workflow_with_the_profile(
    base: dict[str, Any],
    unbroken: Path,
    tmp_path: Path,
    slow: Submitted,
    submit: Callable[..., Submitted],
    told: list[str],
) -> None:
    settings = changed(base, **SCATTERED) | {"gpus": 1}
    submitted = submit(tmp_path, settings)
    assert submitted.end() == 0, submitted.said()
    assert voxels(tmp_path) == voxels(unbroken)
    jobs = [read_json(tmp_path / PREDICTION / f"job-{number}.json") for number in range(2)]
    assert [job["computed"] for job in jobs] == [14, 13]
    there, here = (read_json(place / PREDICTION / "pyramid.json") for place in (tmp_path, unbroken))
    assert there["digest"] == here["digest"]
    assert there["prediction"] == here["prediction"]
    assert files(tmp_path) == files(unbroken)
    told.append(f"{len(files(unbroken))} files of a run, here and by {len(submitted.jobs())} jobs")
    told.append(f"digest of the prediction here {here['prediction'][:12]}, by jobs {there['prediction'][:12]}")
    until_empty(slow)
    assert not list((tmp_path / "results" / "slurm-logs").rglob("*.log"))
    # On this machine or on the cluster: it is the same run.
    again = call(tmp_path, "--configfile", write(tmp_path, settings))
    assert "Nothing to be done" in again.stdout, again.stdout
    # With another number of jobs, no block is computed again; and then it is the same run.
    configuration = write(tmp_path, settings | {"predict": settings["predict"] | {"jobs": 3}})
    said = [call(tmp_path, "--configfile", configuration, *targets({"predict": {"jobs": 3}})).stdout for _ in range(2)]
    assert "3 of 3 steps" in said[0], said[0]
    assert "Nothing to be done" in said[1], said[1]
    assert [read_json(tmp_path / PREDICTION / f"job-{number}.json")["computed"] for number in range(3)] == [0, 0, 0]
    assert voxels(tmp_path) == voxels(unbroken)


def kill(number: str) -> None:
    """End all processes of a job at once, without notice."""
    said("scancel", "--signal=KILL", "--full", number)


def cancel(number: str) -> None:
    """As its user would: with some seconds to end in order."""
    said("scancel", number)


def drain_its_node(number: str) -> None:
    """Let the node finish what it has, and take nothing new for a while."""
    node = said("squeue", "--noheader", "--format=%N", f"--jobs={number}").strip()
    said("scontrol", "update", f"nodename={node}", "state=drain", "reason=test")
    until(lambda: "drng" in said("sinfo", "--noheader", "--format=%t"), "the node to be drained")
    said("scontrol", "update", f"nodename={node}", "state=resume")


def fail_its_node(number: str) -> None:
    """Take the node down, with all that runs there, and bring it back: SLURM begins its jobs once more by itself."""
    node = said("squeue", "--noheader", "--format=%N", f"--jobs={number}").strip()
    said("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
    said("scontrol", "update", f"nodename={node}", "state=resume")


@pytest.mark.parametrize(
    ("way", "worker", "what"),
    [
        pytest.param(SCATTERED, False, kill, id="one of two jobs is killed"),
        pytest.param(WORKERS, True, cancel, id="a worker job is cancelled"),
        pytest.param(WORKERS, False, kill, id="the job that drives the workers is killed"),
        pytest.param(WORKERS, True, drain_its_node, id="the node of the workers is drained"),
    ],
)
def test_whoever_dies_the_run_ends_in_the_same_bytes(
    way: dict[str, Any],
    worker: bool,
    what: Callable[[str], None],
    base: dict[str, Any],
    folder: Path,
    unbroken: Path,
    slow: Submitted,
    submit: Callable[..., Submitted],
) -> None:
    settings = changed(base, **way)
    submitted = submit(folder, settings, *targets(settings), sync_seconds=SLOWLY)
    submitted.until_recorded(VOLUME, 4)
    what(workers()[0] if worker else submitted.jobs()[0])
    assert submitted.end() == 0, submitted.said()
    assert voxels(folder) == voxels(unbroken)
    until_empty(slow)


def test_ctrl_c_leaves_no_job_and_a_rerun_goes_on(
    base: dict[str, Any],
    folder: Path,
    unbroken: Path,
    slow: Submitted,
    submit: Callable[..., Submitted],
) -> None:
    settings = changed(base, **WORKERS)
    submitted = submit(folder, settings, *targets(settings), sync_seconds=SLOWLY)
    submitted.until_recorded(VOLUME, 4)
    submitted.interrupt()
    assert submitted.end() != 0
    until_empty(slow)
    done = submitted.recorded(VOLUME)
    assert 4 <= done < BLOCKS
    # The rest on this machine: where a prediction was begun does not matter.
    result = call(folder, "--configfile", write(folder, changed(base)), *targets(changed(base)))
    assert result.returncode == 0, result.stdout
    assert read_json(folder / PREDICTION / "job-0.json")["resumed"] == done
    assert voxels(folder) == voxels(unbroken)


def test_jobs_that_cannot_run_are_refused_and_a_failure_leaves_none(tmp_path: Path, slow: Submitted) -> None:
    nowhere = Slurm(cores=1, interface="lo", partition="nowhere")
    with pytest.raises(UserError, match=r"SLURM refuses them: .*Invalid partition name"):
        connect_slurm(nowhere, 2, 3, memory_mb=300, gpu=False, folder=tmp_path).__enter__()
    # One more than there are GPUs: it waits in the queue, and must not stay there.
    some = Slurm(workers=3, cores=1, interface="lo")

    def fail() -> None:
        with connect_slurm(some, 3, 3, memory_mb=300, gpu=True, folder=tmp_path) as client:
            client.wait_for_workers(2, timeout=120)
            assert len(set(slurm.queue()) - set(slow.jobs())) == 3
            raise ValueError("enough")

    with pytest.raises(ValueError, match="enough"):
        fail()
    until_empty(slow)


def test_each_worker_job_has_a_gpu_of_its_own(tmp_path: Path) -> None:
    def visible() -> str | None:
        import os

        return os.environ.get("CUDA_VISIBLE_DEVICES")

    def of_workers() -> tuple[list[str | None], set[int], str]:
        settings = Slurm(workers=2, cores=1, interface="lo", options=["--comment=mine"])
        with connect_slurm(settings, 2, 3, memory_mb=300, gpu=True, folder=tmp_path) as client:
            client.wait_for_workers(2, timeout=60)
            comment = said("squeue", "--noheader", "--format=%k", f"--jobs={workers()[0]}")
            return sorted(client.run(visible).values()), set(client.nthreads().values()), comment

    with warnings.catch_warnings():
        # dask-jobqueue leaves the files of its certificates to be closed by the garbage collector.
        warnings.simplefilter("ignore", ResourceWarning)
        gpus, threads, comment = of_workers()
        gc.collect()
    assert gpus == ["0", "1"]
    assert threads == {3}
    assert "mine" in comment


def test_a_walltime_that_ends_in_the_middle(slow: Submitted, unbroken: Path) -> None:
    assert slow.end() == 0, slow.said()
    assert "TIMEOUT" in slow.said()
    job = read_json(slow.folder / PREDICTION / "job-0.json")
    assert 0 < job["resumed"] < BLOCKS
    assert voxels(slow.folder) == voxels(unbroken)
    until_empty()


def test_a_node_that_fails_begins_its_jobs_once_more(
    base: dict[str, Any], folder: Path, unbroken: Path, submit: Callable[..., Submitted]
) -> None:
    settings = changed(base)
    submitted = submit(folder, settings, *targets(settings), sync_seconds=SLOWLY)
    submitted.until_recorded(VOLUME, 4)
    fail_its_node(submitted.jobs()[0])
    assert submitted.end() == 0, submitted.said()
    assert len(submitted.jobs()) == 1
    assert voxels(folder) == voxels(unbroken)
    until_empty()
