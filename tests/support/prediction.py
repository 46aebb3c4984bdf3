"""A small prediction on the disk, laid out as a run lays it out, and damage done to it."""

import hashlib
import json
import random
from collections.abc import Callable
from contextlib import chdir
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from certificates import write_certificate
from stores import make_store, open_writable, shard_path

import unetpipe
from unetpipe.config import Network
from unetpipe.files import read_json, write_json
from unetpipe.grid import Block, Plan
from unetpipe.progress import Record
from unetpipe.selection import Selection
from unetpipe.volume import VolumeFile

SHAPE = (20, 115, 110)
PLAN = Plan(SHAPE, (1, 40, 40), (8, 24, 24), (8, 24, 24), 4, Network(depth=1).geometry)
PREDICTION = Path("results/run/predictions/v")
ENGINE = Path("results/run/engine/openvino-fp32")
CLASSES = ["membrane", "inside", "outside"]


def plan_run(folder: Path, make_volume: Callable[..., Path], engine: bytes, device_class: dict[str, Any]) -> Path:
    """Volume, certificate and an empty store of 75 blocks, addressed from ``folder`` as snakemake would."""
    image = np.random.default_rng(2).integers(0, 256, SHAPE, np.uint8)
    with chdir(folder):
        volume = make_volume(image, folder=Path("results/run"))
        ENGINE.mkdir(parents=True, exist_ok=True)
        (ENGINE / "engine").write_bytes(engine)
        certificate = write_certificate(ENGINE, PLAN.geometry, device_class=device_class, backend="openvino")
        key = {
            "input": VolumeFile.read(volume).identity(),
            "engine": read_json(certificate)["engine_digest"],
            "backend": "openvino",
            "device_class": device_class,
            "plan": asdict(PLAN),
            "version": unetpipe.__version__,
        }
        store = PREDICTION / "probability.zarr"
        Record.open(PREDICTION / "progress", key, "refuse", "it")
        make_store(
            store,
            shape=(len(CLASSES), *SHAPE), dtype="uint8", chunk=(1, *PLAN.chunk), shard=(len(CLASSES), *PLAN.block),
            voxel_size_nm=(40, 4, 4), channels=CLASSES,
        )  # fmt: skip
        write_json(
            PREDICTION / "allocated.json",
            {
                "volume": "v",
                "volume_file": str(volume),
                "probability": str(store),
                "array": "0",
                "classes": CLASSES,
                "key": key,
                "plan": {**asdict(PLAN), "blocks": len(list(PLAN.blocks()))},
                "selection": Selection.of(PLAN).as_json(),
            },
        )
    return folder / PREDICTION


def blocks() -> dict[str, Block]:
    """All blocks by name."""
    return {block.name: block for block in PLAN.blocks()}


def shard(prediction: Path, name: str) -> Path:
    """The file of a block."""
    return prediction.joinpath("probability.zarr", "0", "c", "0", *name.split("."))


def fill(prediction: Path, writers: int = 3) -> None:
    """Noise in every block, recorded as ``predict`` does."""
    rng = np.random.default_rng(3)
    array = open_writable(str(prediction / "probability.zarr" / "0"))
    record = Record(prediction / "progress")
    for number, block in enumerate(blocks().values()):
        write = block.write
        array[(slice(None), *write.slices)] = rng.integers(0, 256, (len(CLASSES), *write.shape), np.uint8)
        path = shard_path(array, (0, *write.start))
        assert path == shard(prediction, block.name)
        data = path.read_bytes()
        written = hashlib.blake2b(data, digest_size=16).hexdigest()
        record.append(f"writer{number % writers}", {"name": block.name, "written": written, "bytes": len(data)})


def files(prediction: Path) -> dict[str, bytes]:
    """The content of every file of the store."""
    store = prediction / "probability.zarr"
    return {str(path.relative_to(store)): path.read_bytes() for path in store.rglob("*") if path.is_file()}


def rewrite(prediction: Path, change: Callable[[dict[str, Any]], dict[str, Any] | None]) -> None:
    """Replace every entry of the record; None deletes it."""
    for log in (prediction / "progress").glob("*.jsonl"):
        entries = [change(json.loads(line)) for line in log.read_text().splitlines() if line]
        log.write_text("".join(f"{json.dumps(entry)}\n" for entry in entries if entry is not None))


def forget(prediction: Path, *names: str) -> None:
    """Delete entries of the record."""
    rewrite(prediction, lambda entry: None if entry["name"] in names else entry)


def flip(path: Path, chance: random.Random) -> None:
    """One bit, anywhere."""
    data = bytearray(path.read_bytes())
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(data)


def cut(path: Path, chance: random.Random) -> None:
    """Some bytes less at the end."""
    data = path.read_bytes()
    path.write_bytes(data[: chance.randrange(1, len(data))])


def extend(path: Path, chance: random.Random) -> None:
    """Some bytes more."""
    path.write_bytes(path.read_bytes() + chance.randbytes(chance.randrange(1, 999)))


def damage(prediction: Path, seed: int, each: int = 7) -> dict[str, str]:
    """Plant about eight times ``each`` faults at random places; gives the state of each block, file or entry."""
    chance = random.Random(seed)
    names = list(blocks())
    chance.shuffle(names)
    expected: dict[str, str] = {}

    def some() -> list[str]:
        return [names.pop() for _ in range(each)]

    for state, spoil in (
        ("altered", flip),
        ("torn", cut),
        ("torn", extend),
        ("torn", lambda path, _: path.write_bytes(b"")),
        ("missing", lambda path, _: path.unlink()),
    ):
        for name in some():
            spoil(shard(prediction, name), chance)
            expected[name] = state
    for _ in range(each // 2):
        pair = names.pop(), names.pop()
        one, other = (shard(prediction, name) for name in pair)
        first, second = one.read_bytes(), other.read_bytes()
        one.write_bytes(second)
        other.write_bytes(first)
        expected |= dict.fromkeys(pair, "altered" if len(first) == len(second) else "torn")
    lost = some()
    forget(prediction, *lost)
    expected |= dict.fromkeys(lost, "orphaned")
    for number in range(each):
        stray = shard(prediction, names[number]).with_suffix(f".{chance.randbytes(16).hex()}.partial")
        stray.write_bytes(chance.randbytes(number))
        expected[str(stray.relative_to(prediction / "probability.zarr"))] = "orphaned"
    Record(prediction / "progress").append("bent", {"name": "0.0.99", "written": "", "bytes": 1})
    return expected | {"0.0.99": "missing"}
