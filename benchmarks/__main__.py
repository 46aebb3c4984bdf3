"""`make bench`: every benchmark, and a table of its ratios. Shared machines drift: read the ratios, not the times."""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks.setting import Setting, prepare
from unetpipe.config import Augment
from unetpipe.data.deform import Deformation, enclosing, linear, nearest
from unetpipe.engines import load_engine
from unetpipe.predict import predict

ROUNDS = 5


def ratios(ours: Callable[[], object], theirs: Callable[[], object]) -> tuple[float, float, float]:
    """Least, median and largest ratio of their time over ours, in pairs, after one round to warm up."""
    found = []
    for turn in range(ROUNDS + 1):
        seconds = []
        for work in (ours, theirs):
            start = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - start)
        if turn > 0:
            found.append(seconds[1] / seconds[0])
    return min(found), statistics.median(found), max(found)


def engine_against_pytorch(setting: Setting, backend: str) -> tuple[float, float, float]:
    """Calls of the engine and of PyTorch fp32 in channels-last, with the same weights, tile and two threads."""
    tile = setting.tile
    batch = np.random.default_rng(0).standard_normal((1, 1, *tile)).astype(np.float32)
    engine = load_engine(setting.engine(backend), tile=tile, batch=1, threads=2)
    torch.set_num_threads(2)
    network = setting.network.to(memory_format=torch.channels_last)
    image = torch.from_numpy(batch).to(memory_format=torch.channels_last)

    def pytorch() -> None:
        with torch.inference_mode():
            network(image).softmax(1)

    found = ratios(lambda: engine.run(batch), pytorch)
    engine.close()
    return found


def zarr_to_zarr_against_engine(setting: Setting, backend: str) -> tuple[float, float, float]:
    """`predict` with one worker, from Zarr to Zarr, against the bare engine on as many tiles; both with two threads.

    The seconds of `predict` include the start of its worker process and the compilation of the engine there.
    """
    found = []
    engine = load_engine(setting.engine(backend), tile=setting.tile, batch=1, threads=2)
    batch = np.random.default_rng(0).standard_normal((1, 1, *setting.tile)).astype(np.float32)
    engine.run(batch)
    for turn in range(2):
        allocated = setting.allocate(backend, f"turn-{turn}")
        start = time.perf_counter()
        predict(
            allocated, setting.engine(backend) / "certificate.json", allocated.parent / "job-0.json",
            job="job-0", workers=1, cores=2,
        )  # fmt: skip
        whole = time.perf_counter() - start
        start = time.perf_counter()
        for _ in range(setting.sections):
            engine.run(batch)
        found.append((time.perf_counter() - start) / whole)
    engine.close()
    return min(found), statistics.median(found), max(found)


def deformation_against_grid_sample() -> tuple[float, float, float]:
    """Drawing an elastic deformation and sampling image and labels, against torch's grid_sample of both; one thread."""
    torch.set_num_threads(1)
    tile = (572, 572)
    rng = np.random.default_rng(0)
    image = rng.standard_normal((900, 900)).astype(np.float32)
    labels = rng.integers(0, 2, (900, 900), np.uint8)
    inputs = torch.from_numpy(image)[None, None], torch.from_numpy(labels)[None, None].float()
    grid = torch.rand(1, *tile, 2) * 1.2 - 0.6

    def ours() -> None:
        coordinates = Deformation.draw(Augment(tile=tile), rng).coordinates(tile)
        region, places = enclosing(coordinates, (0, 450, 450))
        # The region is a box around the tile; its offset into the array does not change the work.
        size = region.shape
        linear(image[: size[1], : size[2]], places)
        nearest(labels[: size[1], : size[2]], places)

    def theirs() -> None:
        torch.nn.functional.grid_sample(inputs[0], grid, mode="bilinear", align_corners=True)
        torch.nn.functional.grid_sample(inputs[1], grid, mode="nearest", align_corners=True)

    return ratios(ours, theirs)


def main() -> None:
    """Run all and print the table."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        setting = prepare(Path(folder))
        tile = " x ".join(map(str, setting.tile))
        what = f"width {setting.network.settings.width}, depth {setting.network.settings.depth}, tile {tile}"
        rows += [
            (f"{backend} fp32 against PyTorch fp32 ({what})", engine_against_pytorch(setting, backend))
            for backend in ("openvino", "onnxruntime")
        ]
        rows.append(
            (f"Zarr to Zarr against the bare engine ({what})", zarr_to_zarr_against_engine(setting, "openvino"))
        )
    rows.append(("elastic deformation 572 x 572 against grid_sample", deformation_against_grid_sample()))
    print("\n| what | least | median | most |\n|---|---|---|---|")
    for name, values in rows:
        print(f"| {name} | " + " | ".join(f"{value:.2f}" for value in values) + " |")


if __name__ == "__main__":
    main()
