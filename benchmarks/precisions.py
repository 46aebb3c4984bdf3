"""`python -m benchmarks.precisions results/RUN`: IoU of a finished run's network in every engine and precision.

To be called where snakemake was. All tiles of the volumes to validate are compared, as `certify` compares some of them.
Engines that only a GPU can run are built where that needs none, twice.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray

from unetpipe import config
from unetpipe.config import Precision
from unetpipe.data.tiles import LabelledTile, labelled_tiles
from unetpipe.deploy.candidate import compile_engine, profile_for
from unetpipe.deploy.certify import pytorch
from unetpipe.deploy.compare import Run, compare
from unetpipe.deploy.export import export
from unetpipe.deploy.quantize import quantize
from unetpipe.engines import load_engine, onnx_file
from unetpipe.engines.select import BUILD, ENGINE, Choice, Networks, backend
from unetpipe.files import read_json
from unetpipe.grid import Shape
from unetpipe.metrics.confusion import mean_iou
from unetpipe.nets.checkpoint import load_checkpoint
from unetpipe.volume import VolumeFile

BACKENDS = ("openvino", "onnxruntime", "tensorrt_rtx", "tensorrt")
KEPT = (1, 512, 512)
THREADS = 2
HEAD = (
    "engine", "precision", "MB", "mean IoU", "IoU of each class", "largest fall", "labels changed, %", "largest error",
    "times OpenVINO fp32",
)  # fmt: skip


def main(run: Path) -> None:
    """Print the table."""
    torch.set_num_threads(THREADS)
    network, described = load_checkpoint(run / "model" / "checkpoint.safetensors")
    volumes = {
        role: [path for path in sorted(run.glob("volumes/*/volume.json")) if path.parent.name == role]
        for role in ("train", "validate")
    }
    tile = network.geometry.tile_for(KEPT)
    sources = [VolumeFile.read(path) for path in volumes["validate"]]
    tiles = list(labelled_tiles(sources, network.geometry, tile, sys.maxsize))
    ours = _remembered(pytorch(network))
    print(f"{len(tiles)} tiles of {tile} (z, y, x), {', '.join(source.name for source in sources)}\n")
    print(f"| {' | '.join(HEAD)} |\n|{'---|' * len(HEAD)}")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        export(run / "model" / "checkpoint.safetensors", folder / "model.onnx", folder / "model.json")
        quantize(
            folder / "model.onnx", volumes["train"], folder / "quantized", folder / "quantized.json", role="train",
            precisions=list(get_args(Precision)), tile=None, settings=config.Quantize(), cores=THREADS,
        )  # fmt: skip
        networks = Networks(folder / "model.onnx", folder / "quantized")
        reference = 0.0
        for name in BACKENDS:
            for precision in get_args(Precision):
                row, seconds = _row(folder, networks, name, precision, tile, tiles, ours, described["classes"])
                reference = reference or seconds
                speed = f"{reference / seconds:.2f}" if seconds else ""
                print(f"| {name} | {precision} | {' | '.join(row)} | {speed} |", flush=True)


def _row(
    folder: Path,
    networks: Networks,
    name: str,
    precision: Precision,
    tile: Shape,
    tiles: list[LabelledTile],
    ours: Run,
    classes: list[str],
) -> tuple[list[str], float]:
    """The cells, and the seconds of a call; 0 where it cannot run here."""
    settings = config.Engine.model_validate({"backend": name, "precision": precision})
    library = backend(name, settings.compute_capabilities)
    if reason := library.unavailable("build", precision):
        return ["", f"not built: {reason}", *[""] * 4], 0.0
    place = folder / f"{name}-{precision}"
    profile = profile_for(onnx_file.read(networks.onnx)[1].geometry, list(tile), 1, settings.max_batch)
    digests = set()
    for _ in range(2):
        compile_engine(
            networks.of(library, precision), place / ENGINE, place / BUILD,
            choice=Choice(library, "to compare"), asked=name, profile=profile,
        )  # fmt: skip
        digests.add(read_json(place / BUILD)["engine_digest"])
    build = read_json(place / BUILD)
    size = f"{build['bytes'] / 1e6:.2f}"
    if reason := library.unavailable("run", precision):
        twice = "twice with equal bytes" if len(digests) == 1 else "twice, with other bytes"
        return [size, f"built {twice} in {build['seconds']} s; not run: {reason}", *[""] * 4], 0.0
    with closing(load_engine(place, tile=tile, batch=1, threads=THREADS)) as engine:
        found = compare(tiles, ours, engine.run, len(classes), 1, f"{name} in {precision}")
        image = np.stack([tiles[0].image])
        seconds = min(_seconds(lambda: engine.run(image)) for _ in range(5))
    _, theirs = found.ious()
    falls = [fall for fall in found.falls() if fall is not None]
    return [
        size,
        f"{mean_iou(found.engine):.4f}",
        ", ".join(f"{label} {value:.4f}" for label, value in zip(classes, theirs, strict=True) if value is not None),
        f"{max(falls):+.5f}",
        f"{100 * found.changed:.3f}",
        f"{found.absolute:.2g}",
    ], seconds


def _remembered(run: Run) -> Run:
    """PyTorch is slow, and the tiles are the same for all."""
    known: dict[bytes, NDArray[np.float32]] = {}

    def remembered(images: NDArray[np.float32]) -> NDArray[np.float32]:
        key = images.tobytes()
        if key not in known:
            known[key] = run(images)
        return known[key]

    return remembered


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main(Path(sys.argv[1]))
