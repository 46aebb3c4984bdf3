"""What calls of an engine cost here: measured in processes like those of the workers, as many at once as will predict.

They share the machine as the workers will, so its cores, caches and memory are as scarce as in prediction. What was
found is kept beside the engine: in ``rates.json``, by engine and class of device.

Each process reads commands and writes answers, a line of JSON each. It is told what to load, and when all have loaded
that, to run.
"""

import json
import logging
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from unetpipe.arrays import Array, encode, open_array, read_metadata
from unetpipe.errors import UserError
from unetpipe.files import read_json, write_json
from unetpipe.gpus import Card, visible
from unetpipe.grid import Region, Shape, triple
from unetpipe.layout import Call, Measure, Rate
from unetpipe.memory import forget_peak_memory, peak_memory_mb
from unetpipe.progress import digest_of_block
from unetpipe.storage import Folder, folder_at
from unetpipe.volume import LEVEL, create, layout, read_mirrored, write_shards

log = logging.getLogger(__name__)

RATES = "rates.json"

_WINDOW_SECONDS = 0.6
"""How long calls of one shape are repeated, at least; two calls at least, unless they are slow."""

_SLOW_SECONDS = 2.5
"""A call that takes so long is not repeated: its first time is as good as any."""

_SECTIONS = 8
"""That are written at once to see what writing costs, as in a block."""

_AROUND = 1.5
"""Starting and ending all workers with their scheduler takes so many times as long as starting these processes."""

_AS_IN_A_WORKER = {
    # Dask starts its workers so.
    "MALLOC_TRIM_THRESHOLD_": "65536",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}


def split_cores(workers: int | None, cores: int, gpus: Sequence[Card] = ()) -> tuple[int, int]:
    """Workers and the threads of each, for so many cores, and for the GPUs that the engine uses.

    One worker a core, or one a GPU, where their number is not given; of GPUs, never more.
    """
    count = min(workers or len(gpus), len(gpus)) if gpus else workers or cores
    return count, max(1, cores // count)


@contextmanager
def measuring(
    engine: Path, device_class: Any, workers: int, threads: int, mirror: Sequence[str] = ()
) -> Iterator[Measure]:
    """A function that measures the engine in the folder ``engine``; processes start with the first call of it.

    It raises a UserError if the engine cannot take a call here, or if this machine is not of ``device_class``.

    Parameters
    ----------
    device_class:
        Of the machines that predict, as the certificate names it.
    workers, threads:
        Workers at once, and the threads of each.
    mirror:
        Axes along which they mirror each tile as well.
    """
    bench = _Bench(engine, device_class, workers, threads, mirror)
    try:
        yield bench.rate
    finally:
        bench.stop()


class Rates:
    """What was measured before with the engine in ``folder``, in its file ``rates.json``."""

    def __init__(self, folder: Path, engine_digest: str, device_class: Any) -> None:
        self._path = folder / RATES
        self._of = {"engine": engine_digest, "device_class": device_class}

    def find(self, call: Call, workers: int, threads: int, mirror: Sequence[str] = ()) -> Rate | None:
        """The rate for such calls; None if it is not known."""
        facts = {"workers": workers, "threads": threads, "mirror": list(mirror)}
        wanted = {**self._of, **facts, "call": _plain(call)}
        for entry in self._entries():
            if all(entry[name] == value for name, value in wanted.items()):
                known = {name: value for name, value in entry.items() if name not in self._of}
                known["call"] = Call(triple(entry["call"]["tile"]), entry["call"]["batch"])
                return Rate(**{**known, "mirror": tuple(mirror)})
        return None

    def add(self, rate: Rate) -> None:
        """Keep ``rate``; what belongs to another engine goes."""
        entries = [entry for entry in self._entries() if entry["engine"] == self._of["engine"]]
        write_json(self._path, [*entries, {**self._of, **asdict(rate), "call": _plain(rate.call)}])

    def _entries(self) -> list[dict[str, Any]]:
        try:
            entries: list[dict[str, Any]] = read_json(self._path)
        except FileNotFoundError:
            return []
        # An earlier version, which wrote no axes, did not mirror.
        return [{"mirror": [], **entry} for entry in entries]


def _plain(call: Call) -> dict[str, Any]:
    return {"tile": list(call.tile), "batch": call.batch}


class _Bench:
    """The processes, and what they have found."""

    def __init__(self, engine: Path, device_class: Any, workers: int, threads: int, mirror: Sequence[str]) -> None:
        self._engine = engine
        # Compared with what JSON holds.
        self._device_class = json.loads(json.dumps(device_class))
        self._workers = workers
        self._threads = threads
        self._mirror = tuple(mirror)
        self._processes: list[_Process] = []
        self._start_seconds = 0.0

    def rate(self, call: Call) -> Rate:
        """What ``call`` costs; from ``rates.json`` if it is known there."""
        from unetpipe.engines.select import read_build

        known = Rates(self._engine, read_build(self._engine)["engine_digest"], self._device_class)
        found = known.find(call, self._workers, self._threads, self._mirror)
        if found is None:
            found = self._measure(call)
            known.add(found)
            text = "%s: a call of %s takes %.3f s beside %d workers"
            log.info(text, found.library, call, found.seconds_per_call, self._workers)
        return found

    def stop(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.end()
        self._processes = []

    def _measure(self, call: Call) -> Rate:
        if not self._processes:
            self._start()
        loaded = self._ask({"load": {**_plain(call), "mirror": self._mirror}})
        ran = self._ask({"run": max(answer["first_seconds"] for answer in loaded)})
        per_call = float(np.mean([answer["seconds_per_call"] for answer in ran]))
        return Rate(
            call=call,
            workers=self._workers,
            threads=self._threads,
            seconds_per_call=per_call,
            seconds_per_voxel=float(np.mean([answer["seconds_per_voxel"] for answer in ran])),
            # The first call is one that a block needs, but for what it takes longer.
            start_seconds=max(0.0, self._start_seconds + max(answer["load_seconds"] for answer in loaded) - per_call),
            memory_mb=max(answer["memory_mb"] for answer in ran),
            overlaps="gpu" in self._device_class,
            library=loaded[0]["library"],
            host=platform.node(),
            measured=time.strftime("%Y-%m-%d %H:%M:%S%z"),
            mirror=self._mirror,
        )

    def _start(self) -> None:
        began = time.perf_counter()
        cards = visible() if "gpu" in self._device_class else ()
        words = [cards[number % len(cards)].word if cards else None for number in range(self._workers)]
        self._processes = [_Process(self._engine, self._threads, word) for word in words]
        # They import what a worker imports.
        answers = self._answers()
        self._start_seconds = _AROUND * (time.perf_counter() - began)
        here = answers[0]["device_class"]
        if here != self._device_class:
            self.stop()
            raise UserError(
                f"the engine {self._engine} was to be measured, to plan a prediction",
                f"it was certified on another class of device: {self._device_class}; this is {here}",
                "plan where the engine was certified, or delete the engine's folder to build and certify it here",
            )

    def _ask(self, question: Mapping[str, Any]) -> list[dict[str, Any]]:
        for process in self._processes:
            process.tell(question)
        return self._answers()

    def _answers(self) -> list[dict[str, Any]]:
        # All of them, whatever they are: the next question begins with none left.
        answers = [process.answer() for process in self._processes]
        if not all(process.lives() for process in self._processes):
            self.stop()
        for answer in answers:
            if "error" in answer:
                raise UserError(*answer["error"])
        return answers


class _Process:
    """One of the processes, seen from the one that asks."""

    def __init__(self, engine: Path, threads: int, gpu: str | None) -> None:
        self._what = f"the engine {engine} was to be measured, to plan a prediction"
        sees = {} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu}
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 – closed by end
        self._process = subprocess.Popen(  # noqa: S603 – this module, in this Python
            # -P: nothing in the working directory is a module.
            [sys.executable, "-P", "-m", "unetpipe.measure", str(engine), str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, **_AS_IN_A_WORKER, **sees, "PYTHONPATH": os.pathsep.join(sys.path)},
        )

    def tell(self, question: Mapping[str, Any]) -> None:
        # What it died of, its missing answer will show.
        with suppress(BrokenPipeError):
            self._write((json.dumps(question) + "\n").encode())

    def _write(self, line: bytes) -> None:
        if self._process.stdin is not None:
            self._process.stdin.write(line)
            self._process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        """Its next answer; one with ``error`` says what a UserError says, also if the process has died."""
        line = b"" if self._process.stdout is None else self._process.stdout.readline()
        if line:
            answer: dict[str, Any] = json.loads(line)
            return answer
        status = self._process.wait()
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip().splitlines()
        why = f": {said[-1]}" if said else ", as of one that the system ends for want of memory"
        return {
            "error": [
                self._what,
                f"a process that measures ended with status {status}{why}",
                "set predict.tile, predict.batch or predict.workers to less if it was memory",
            ]
        }

    def lives(self) -> bool:
        return self._process.poll() is None

    def end(self) -> None:
        # It holds nothing that could be lost.
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            # A question that was not taken.
            with suppress(BrokenPipeError):
                if stream is not None:
                    stream.close()


def _serve(engine_folder: Path, threads: int, questions: Iterable[str], answers: IO[str]) -> None:
    """Answer questions, in one of the processes."""
    # A worker imports it, which is part of its start.
    import unetpipe.processes  # noqa: F401
    from unetpipe.engines import Engine, device_class, load_engine, mirrored
    from unetpipe.engines.select import read_build

    def say(answer: Mapping[str, Any]) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    engine: Engine | None = None
    say({"device_class": device_class(read_build(engine_folder)["backend"])})
    for line in questions:
        question = json.loads(line)
        if "load" in question:
            if engine is not None:
                engine.close()
            engine = None
            forget_peak_memory()
            tile, count = triple(question["load"]["tile"]), question["load"]["batch"]
            batch = np.random.default_rng(0).standard_normal((count, *tile)).astype(np.float32)
            began = time.perf_counter()
            try:
                plain = load_engine(engine_folder, tile=tile, batch=count, threads=threads)
                engine = mirrored(plain, question["load"]["mirror"])
                loaded = time.perf_counter()
                result = engine.run(batch)
            except UserError as error:
                say({"error": [error.asked, error.found, error.repair]})
                continue
            now = time.perf_counter()
            say({"library": engine.library, "load_seconds": now - began, "first_seconds": now - loaded})
        elif engine is not None:
            # All processes take the same decision, by the slowest of them.
            slow = question["run"] > _SLOW_SECONDS
            per_call = question["run"] if slow else _seconds_per_call(engine, batch)
            memory = peak_memory_mb()
            voxel = _seconds_per_voxel(engine_folder, result[0], batch[0])
            say({"seconds_per_call": per_call, "seconds_per_voxel": voxel, "memory_mb": memory})


def _seconds_per_call(engine: Any, batch: NDArray[np.float32]) -> float:
    began = time.perf_counter()
    count = 0
    while count < 2 or time.perf_counter() - began < _WINDOW_SECONDS:
        engine.run(batch)
        count += 1
    return (time.perf_counter() - began) / count


def _seconds_per_voxel(folder: Path, result: NDArray[np.float32], image: NDArray[np.float32]) -> float:
    """To read what a voxel of the result needs, and to encode, write and sum up its classes, as a worker does.

    ``result`` is (classes, z, y, x), ``image`` what gave it, (z, y, x).
    """
    repeated = np.repeat(result, max(1, _SECTIONS // result.shape[1]), axis=1)
    shape = triple(repeated.shape[1:])
    read = triple([len(repeated[0]) + image.shape[0] - result.shape[1], *image.shape[1:]])
    with tempfile.TemporaryDirectory(dir=folder, prefix=".") as place:
        target, grey = _empty(folder_at(place), shape, len(repeated)), _grey(folder_at(place), read)
        began = time.perf_counter()
        voxels = read_mirrored(grey, Region.of((0, 0, 0), read), read, 0).astype(np.float32)
        voxels -= voxels.mean(axis=(1, 2), keepdims=True)
        digest_of_block(voxels.tobytes())
        shard = encode(read_metadata(target), np.rint(repeated * np.float32(255)).astype(np.uint8))
        target.write("c/0/0/0/0", shard)
        digest_of_block(shard)
        return (time.perf_counter() - began) / (shape[0] * shape[1] * shape[2])


def _empty(place: Folder, shape: Shape, classes: int) -> Folder:
    chunk, _ = layout(shape)
    shard = [-(-n // c) * c for n, c in zip(shape, chunk, strict=True)]
    store = place.below("probability.zarr")
    create(
        store, shape=(classes, *shape), dtype="uint8", chunk=(1, *chunk), shard=(classes, *shard),
        voxel_size_nm=(1, 1, 1), channels=[str(n) for n in range(classes)],
    )  # fmt: skip
    return store.below(LEVEL)


def _grey(place: Folder, shape: Shape) -> Array:
    chunk, shard = layout(shape)
    store = place.below("image.zarr")
    create(store, shape=shape, dtype="uint8", chunk=chunk, shard=shard, voxel_size_nm=(1, 1, 1))
    image = store.below(LEVEL)
    write_shards(image, (0, 0, 0), np.random.default_rng(0).integers(0, 256, shape, np.uint8))
    return open_array(image.address)


def _main(arguments: Sequence[str]) -> None:
    # Libraries print what they like: the answers go where nothing else does.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    _serve(Path(arguments[0]), int(arguments[1]), sys.stdin, answers)


if __name__ == "__main__":
    _main(sys.argv[1:])
