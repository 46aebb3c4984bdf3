"""`make crash`: predictions that are killed at random moments and resumed, and must end as if nothing had happened.

Each run is the prediction of the same small volume. A worker process, the process that leads, or all of them are
killed, in turn, at a moment that is drawn from the whole duration, start-up and end included; every tenth run three
times in a row. Then it is resumed until it is finished, and compared with a run that nobody has killed.
"""

import argparse
import logging
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import buckets
import predicting
import tifffile
from killing import Offence, Processes, Unbroken

from unetpipe import fsck
from unetpipe.data.ingest import ingest
from unetpipe.files import read_json
from unetpipe.progress import Record, record_beside
from unetpipe.progress_bar import track
from unetpipe.storage import folder_at

SHAPE = (20, 120, 140)
BLOCKS = 60

SYNC_SECONDS = 0.15
"""Blocks take about as long as start-up and end together, so that half of all kills find some of them done."""

WHO = ("worker", "driver", "everyone")
PHASES = ("start-up", "blocks", "end")

AT_ONCE = 2
"""Runs, of four busy processes each."""

_SEVERAL = 3
_BUCKET = "predictions"
log = logging.getLogger("crash")


@dataclass
class Outcome:
    """Of one run.

    ``kills``: by who and phase. ``half_written`` and ``unrecorded``: shards as the killed left them. ``again``: entries
    of blocks that were recorded before.
    """

    number: int
    kills: Counter[tuple[str, str]] = field(default_factory=Counter)
    half_written: int = 0
    unrecorded: int = 0
    again: int = 0
    offence: str | None = None


@dataclass
class Summary:
    """Of the campaign."""

    seed: int
    seconds: float
    outcomes: list[Outcome]

    @property
    def offenders(self) -> list[Outcome]:
        """The runs that differ, the first one first."""
        return [outcome for outcome in self.outcomes if outcome.offence is not None]

    @property
    def kills(self) -> Counter[tuple[str, str]]:
        """By who and phase."""
        return sum((outcome.kills for outcome in self.outcomes), Counter())

    def __str__(self) -> str:
        who: Counter[str] = Counter()
        phases: Counter[str] = Counter()
        for (victim, phase), count in self.kills.items():
            who[victim] += count
            phases[phase] += count
        return (
            f"{len(self.outcomes)} runs, {who.total()} kills ({_listed(who, WHO)}; {_listed(phases, PHASES)}), "
            f"left by them {self._sum('half_written')} half-written and {self._sum('unrecorded')} unrecorded shards, "
            f"blocks computed again {self._sum('again')}, "
            f"{'digests equal' if not self.offenders else f'{len(self.offenders)} runs differ'}; "
            f"{self.seconds:.0f} s, seed {self.seed}"
        )

    def _sum(self, name: str) -> int:
        return sum(getattr(outcome, name) for outcome in self.outcomes)


def _listed(counts: Counter[str], names: tuple[str, ...]) -> str:
    return ", ".join(f"{name} {counts[name]}" for name in names)


def _allocate(certificate: Path, volume: Path, folder: Path, bucket: str | None) -> None:
    if folder.exists():
        shutil.rmtree(folder)
    (folder / "tmp").mkdir(parents=True)
    store = None if bucket is None else f"s3://{bucket}/{folder.name}"
    if store is not None:
        folder_at(store).clear()
    predicting.start(certificate, volume, folder / "prediction", store=store)


def _record(folder: Path) -> Record:
    return record_beside(predicting.store(folder / "prediction"))


def _others(folder: Path) -> frozenset[str]:
    """Files that are left beside the store and the record's logs."""
    left_out = {
        folder / "prediction" / "probability.zarr",
        # Dask removes what its killed processes have left when it starts again, and a rerun may have nothing to start.
        folder / "tmp" / "dask-scratch-space",
    }
    logs = folder / "prediction" / "progress"
    return frozenset(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file()
        and left_out.isdisjoint(path.parents)
        and not (path.parent == logs and path.suffix == ".jsonl")
    )


def prepare(folder: Path, sync_seconds: float, bucket: str | None = None) -> Unbroken:
    """Engine, volume and what comes of as many runs as there will be at once, which nobody kills.

    ``bucket``: where the predictions go, instead of folders on disk.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(folder / "image.tif", predicting.noise(SHAPE))
    volume = folder / "volumes" / "v" / "volume.json"
    ingest(
        image=str(folder / "image.tif"), labels=None, volume=volume, name="v", sections=None,
        voxel_size_nm=[40, 4, 4], range=None, label_values={}, ignore=[], cores=1,
    )  # fmt: skip
    (folder / "engine").mkdir()
    certificate = predicting.make_engine("openvino", folder / "engine")
    unknown = Unbroken(certificate, volume, bucket, sync_seconds, 0.0, "", {}, frozenset())

    def run(number: int) -> Unbroken:
        place = folder / f"unbroken-{number}"
        _allocate(certificate, volume, place, bucket)
        processes = Processes(unknown, place)
        try:
            processes.end()
            seconds = time.monotonic() - processes.start
        finally:
            processes.destroy()
        prediction = place / "prediction"
        return Unbroken(
            certificate, volume, bucket, sync_seconds, seconds,
            read_json(prediction / "job-0.json")["digest"], predicting.shards(prediction), _others(place),
        )  # fmt: skip

    with ThreadPoolExecutor(AT_ONCE) as pool:
        first, *others = pool.map(run, range(AT_ONCE))
    if any((first.digest, first.files, first.others) != (other.digest, other.files, other.others) for other in others):
        raise Offence("two runs that nobody has killed differ")
    return first


def kill_and_resume(unbroken: Unbroken, folder: Path, seed: int, number: int) -> Outcome:
    """One run, which lies in ``folder`` if it differs and is deleted if not."""
    chance = random.Random(f"{seed} {number}")
    outcome = Outcome(number)
    processes: list[Processes] = []
    try:
        while not outcome.kills:
            # Over before its moment had come: then it begins anew.
            _allocate(unbroken.certificate, unbroken.volume, folder, unbroken.bucket)
            _kill_and_finish(unbroken, folder, chance, outcome, processes)
        compare(unbroken, folder, outcome)
        shutil.rmtree(folder)
    except Offence as offence:
        outcome.offence = str(offence)
    finally:
        for each in processes:
            each.destroy()
    return outcome


def _kill_and_finish(
    unbroken: Unbroken, folder: Path, chance: random.Random, outcome: Outcome, processes: list[Processes]
) -> None:
    """``processes``: gets all that were started."""
    record = _record(folder)
    running: Processes | None = None
    before = 0
    for turn in range(_SEVERAL if outcome.number % 10 == 0 else 1):
        if running is None:
            before = len(record.done())
            running = Processes(unbroken, folder)
            processes.append(running)
        who = WHO[(outcome.number + turn) % len(WHO)]
        left = running.start + unbroken.seconds - time.monotonic()
        if running.over(chance.uniform(0, max(left, 0))) or not running.kill(who, chance):
            break
        done = len(record.done())
        phase = PHASES[0] if done == before else PHASES[2] if done == BLOCKS else PHASES[1]
        outcome.kills[who, phase] += 1
        if who != "worker":
            running.gone()
            running = None
            _look_at_what_is_left(folder, outcome)
    if running is None:
        running = Processes(unbroken, folder)
        processes.append(running)
    running.end()


def _look_at_what_is_left(folder: Path, outcome: Outcome) -> None:
    """Count shards that are half written or not recorded. Offence if what is recorded is not there."""
    report = fsck.check(fsck.Store(folder / "prediction"))
    for fault in report.faults:
        if fault.state != "orphaned":
            raise Offence(f"after a kill, fsck finds {fault}")
        outcome.half_written += fault.block is None
        outcome.unrecorded += fault.block is not None


def compare(unbroken: Unbroken, folder: Path, outcome: Outcome) -> None:
    """Offence if the finished run is not like that which nobody has killed."""
    prediction = folder / "prediction"
    entries = Counter((entry["name"], entry.get("round", 0)) for entry in _record(folder).entries())
    outcome.again = entries.total() - len(entries)
    if twice := sorted(name for (name, _), count in entries.items() if count > 1):
        raise Offence(f"computed again after they were recorded: the blocks {twice}")
    if len(entries) != BLOCKS:
        raise Offence(f"the record has {len(entries)} entries for {BLOCKS} blocks")
    files = predicting.shards(prediction)
    if differing := sorted(name for name in {*files, *unbroken.files} if files.get(name) != unbroken.files.get(name)):
        raise Offence(f"files of the store are missing, are too many or have other bytes: {differing}")
    job: dict[str, Any] = read_json(prediction / "job-0.json")
    if job["digest"] != unbroken.digest:
        raise Offence(f"job-0.json has the digest {job['digest']}, without a kill it is {unbroken.digest}")
    report = fsck.check(fsck.Store(prediction))
    if report.faults or report.counts != {"sound": BLOCKS, "skipped": 0}:
        raise Offence(f"fsck finds {report}: {[str(fault) for fault in report.faults]}")
    others = _others(folder)
    if others != unbroken.others:
        raise Offence(f"other files are left than without a kill: {sorted(others ^ unbroken.others)}")


def campaign(unbroken: Unbroken, folder: Path, seed: int, runs: int, first: int = 0) -> Summary:
    """Kill and resume ``runs`` runs, from the one with the number ``first`` on. What differs is left in ``folder``."""
    start = time.monotonic()
    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        outcomes = []
        numbers = range(first, first + runs)
        results = pool.map(lambda n: kill_and_resume(unbroken, folder / f"run-{n}", seed, n), numbers)
        for outcome in track(results, "crash", runs, "runs"):
            outcomes.append(outcome)
            if outcome.offence is not None:
                log.error("run %d: %s", outcome.number, outcome.offence)
        return Summary(seed, time.monotonic() - start, outcomes)
    finally:
        pool.shutdown(cancel_futures=True)


def main() -> int:
    """The exit status: 1 if a run differs."""
    parser = argparse.ArgumentParser(description="Kill predictions at random moments, resume them, compare.")
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6), help="of the moments")
    parser.add_argument(
        "--s3", action="store_true", help="the predictions go into a bucket of a server that is started"
    )
    parser.add_argument("--first", type=int, default=0, help="the number of the first run, to repeat one")
    asked = parser.parse_args()
    handler = logging.StreamHandler()
    # The checks of single runs show their progress too, in threads of their own.
    handler.addFilter(lambda record: record.threadName == "MainThread")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", handlers=[handler])
    folder = Path(tempfile.mkdtemp(prefix="unetpipe-crash-"))
    with ExitStack() as stack:
        if asked.s3:
            os.environ |= buckets.environment(stack.enter_context(buckets.server_on_disk(folder / "s3", _BUCKET)))
        unbroken = prepare(folder / "unbroken", SYNC_SECONDS, _BUCKET if asked.s3 else None)
        log.info("%d runs of %.1f s with the seed %d", asked.runs, unbroken.seconds, asked.seed)
        summary = campaign(unbroken, folder, asked.seed, asked.runs, asked.first)
    log.info("%s", summary)
    if summary.offenders:
        worst = summary.offenders[0]
        log.error(
            "run %d of the seed %d differs: %s\nits files are in %s; to repeat it: make %s SEED=%d FIRST=%d RUNS=1",
            worst.number, asked.seed, worst.offence, folder / f"run-{worst.number}",
            "crash-s3" if asked.s3 else "crash", asked.seed, worst.number,
        )  # fmt: skip
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
