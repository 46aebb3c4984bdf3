"""Calls of engines against PyTorch."""

from contextlib import closing

import numpy as np
import torch

from benchmarks.rows import Row, Rows
from benchmarks.setting import CORES, Setting
from benchmarks.timing import ratios
from unetpipe.config import Precision
from unetpipe.engines import load_engine

EXPECTED = {
    "openvino": {"fp32": 1.4, "bf16": 2.8, "int8": 5.0},
    "onnxruntime": {"fp32": 1.2, "int8": 2.5},
}


def against_pytorch(setting: Setting, backend: str, precision: Precision, *, edge: int = 512) -> Rows:
    """One tile a call, the same weights; PyTorch in fp32 and channels-last."""
    tile = setting.network.geometry.tile_for((1, edge, edge))
    batch = np.random.default_rng(0).standard_normal((1, *tile)).astype(np.float32)
    torch.set_num_threads(CORES)
    network = setting.network
    network.lay_channels_last()
    image = torch.from_numpy(batch).to(memory_format=torch.channels_last)

    def pytorch() -> None:
        with torch.inference_mode():
            network(image).softmax(1)

    folder = setting.engine(backend, precision).parent
    with closing(load_engine(folder, tile=tile, batch=1, threads=CORES)) as engine:
        found = ratios(lambda: engine.run(batch), pytorch)
    expected = EXPECTED[backend][precision]
    return [
        Row(f"{backend} in {precision}, {setting.name}, tile of {tile[1]} x {tile[2]}", "PyTorch fp32", found, expected)
    ]
