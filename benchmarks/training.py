"""Steps of training, against the plain loop that PyTorch's tutorials show."""

import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.timing import Range, ratios
from unetpipe import config
from unetpipe.data import samples
from unetpipe.data.batches import Batch, Samples
from unetpipe.nets.recipe import make_optimiser
from unetpipe.nets.repeatable import PROCESSOR, processor_facts, repeatable, usable_precision
from unetpipe.nets.together import ALONE
from unetpipe.nets.unet import UNet
from unetpipe.train import one_step

WIDTHS = 16, 32
TILE = 316
BATCH = 4
THREADS = 2
STEPS = 2
"""In a round, of each."""

_CLASSES = 2
_SAMPLES = 24


class PlainUNet(UNet):
    """The same layers and weights, joined as the paper's figure shows it: pool, slice, concatenate."""

    def forward(self, image: Tensor) -> Tensor:
        """As that of :class:`UNet`."""
        skips = []
        features = image
        for level, pooling in enumerate(self.poolings):
            features = self.down[level](features)
            skips.append(features)
            features = torch.nn.functional.max_pool2d(features, pooling)
        features = self.dropout(self.down[-1](features))
        for level in reversed(range(len(skips))):
            features = self.up[level](features)
            margins = [(whole - part) // 2 for whole, part in zip(skips[level].shape, features.shape, strict=True)][2:]
            y, x = (slice(margin, -margin or None) for margin in margins)
            features = self.join[level](torch.cat([skips[level][:, :, y, x], features], dim=1))
        logits: Tensor = self.head(features)
        return logits[:, :, None]


def training_against_plain_fp32() -> list[tuple[str, Range]]:
    """Steps a second of both, with two threads: a row for each width.

    Ours reads samples from a store and turns them; the plain loop has one batch in memory. It computes in fp32 in
    PyTorch's usual order of memory, with the same network, loss, batch and optimiser.
    """
    rows = []
    with tempfile.TemporaryDirectory() as folder, repeatable(THREADS, seed=0):
        for width in WIDTHS:
            network = config.Network(width=width, depth=4)
            store = Path(folder) / f"{width}.zarr"
            _write(store, network)
            what = f"width {width}, depth {network.depth}, tile {TILE} x {TILE}, batch {BATCH}"
            data = Samples(store)
            found = ratios(_ours(network, data), _plain(network, data.batch(0, BATCH, 0)))
            rows.append((f"training against PyTorch fp32 ({what})", found))
    return rows


def _ours(network: config.Network, data: Samples) -> Callable[[], None]:
    """The steps that the trainer does, in the precision that it takes here."""
    settings = config.Train(batch=BATCH, precision=usable_precision("auto", processor_facts(), PROCESSOR))
    model = UNet(network, _CLASSES)
    model.lay_channels_last()
    optimiser = make_optimiser(model, settings)
    numbers = itertools.count()

    def steps() -> None:
        start = next(numbers) * STEPS
        for step, batch in enumerate(data.batches(range(start, start + STEPS), BATCH, 0), start):
            one_step(ALONE, model, optimiser, batch, settings.learning_rate, settings, 0, step)

    return steps


def _plain(network: config.Network, batch: Batch) -> Callable[[], None]:
    model = PlainUNet(network, _CLASSES)
    optimiser = torch.optim.AdamW(model.parameters(), lr=config.Train().learning_rate)
    image, label, weight = map(torch.from_numpy, (batch.image, batch.label, batch.weight))

    def steps() -> None:
        for _ in range(STEPS):
            optimiser.zero_grad()
            losses = torch.nn.functional.cross_entropy(model(image), label, reduction="none")
            loss = (losses * weight).sum() / weight.sum()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            loss.item()

    return steps


def _write(store: Path, network: config.Network) -> None:
    """Samples of noise: what is in them does not change the work."""
    tile = network.tile((TILE, TILE))
    output = network.geometry.output(tile)
    samples.create(store, _SAMPLES, tile, output, "noise")
    random = np.random.default_rng(0)
    for start in range(0, _SAMPLES, samples.SHARD):
        count = min(samples.SHARD, _SAMPLES - start)
        arrays = {
            "image": random.integers(0, 256, (count, *tile), np.uint8),
            "label": random.integers(0, _CLASSES, (count, *output), np.uint8),
            "weight": random.uniform(0.5, 1.5, (count, *output)).astype(np.float16),
            "source": np.zeros((count, 5), np.int64),
        }
        samples.write_shard(store, "train", start, arrays)
    nothing = {name: data[:0] for name, data in arrays.items() if name != "weight"}
    samples.write_validation(store, tile, output, nothing)
