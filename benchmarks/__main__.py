"""`make bench`: every benchmark, and tables of ratios and rates. Shared machines drift: read the ratios first."""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks import scores
from benchmarks.planning import predicted_over_actual
from benchmarks.setting import Setting, prepare
from benchmarks.timing import Range, ratios, spread
from unetpipe.config import Augment
from unetpipe.data.deform import Deformation, enclosing, linear, nearest
from unetpipe.engines import load_engine
from unetpipe.predict import predict


def engine_against_pytorch(setting: Setting, backend: str) -> Range:
    """Calls of the engine and of PyTorch fp32 in channels-last, with the same weights, tile and two threads."""
    tile = setting.tile
    batch = np.random.default_rng(0).standard_normal((1, *tile)).astype(np.float32)
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


def zarr_to_zarr_against_engine(setting: Setting, backend: str) -> Range:
    """`predict` with one worker, from Zarr to Zarr, against the bare engine on as many tiles; both with two threads.

    The seconds of `predict` include the start of its worker process and the compilation of the engine there.
    """
    found = []
    engine = load_engine(setting.engine(backend), tile=setting.tile, batch=1, threads=2)
    batch = np.random.default_rng(0).standard_normal((1, *setting.tile)).astype(np.float32)
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
    return spread(found)


def deformation_against_grid_sample() -> Range:
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
        region, places = enclosing(coordinates, (0, 450, 450), 1)
        # The region is a box around the tile; its offset into the array does not change the work.
        size = region.shape
        linear(image[None, : size[1], : size[2]], places)
        nearest(labels[None, : size[1], : size[2]], places)

    def theirs() -> None:
        torch.nn.functional.grid_sample(inputs[0], grid, mode="bilinear", align_corners=True)
        torch.nn.functional.grid_sample(inputs[1], grid, mode="nearest", align_corners=True)

    return ratios(ours, theirs)


def show(title: str, rows: Sequence[tuple[str, Range]], digits: int) -> None:
    """Print a table."""
    print(f"\n| {title} | least | median | most |\n|---|---|---|---|")
    for name, values in rows:
        print(f"| {name} | " + " | ".join(f"{value:.{digits}f}" for value in values) + " |")


def main() -> None:
    """Run all and print the tables."""
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
        planned = predicted_over_actual(setting, "openvino")
    rows.append(("elastic deformation 572 x 572 against grid_sample", deformation_against_grid_sample()))
    against, speed = scores.counting()
    show("ratio: how many times as fast", rows + against, 2)
    show("million voxels a second, one core", speed, 0)
    for what, number in (("seconds", 1), ("memory of a worker", 2)):
        show(
            f"{what}, predicted over actual, two workers", [(f"volume of {row[0]}", row[number]) for row in planned], 2
        )


if __name__ == "__main__":
    main()
