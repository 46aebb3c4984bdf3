"""MONAI's BasicUNet, trained as its tutorials train: the other side of scores against minutes."""

import math
import time
from collections.abc import Hashable, Iterator
from typing import Any

import numpy as np
import torch
from monai.inferers.utils import sliding_window_inference
from monai.losses import DiceCELoss
from monai.networks.nets.basic_unet import BasicUNet
from monai.transforms.compose import Compose
from monai.transforms.croppad.dictionary import RandSpatialCropd
from monai.transforms.intensity.dictionary import RandGaussianNoised, RandScaleIntensityd, RandShiftIntensityd
from monai.transforms.spatial.dictionary import Rand2DElasticd, RandFlipd, RandRotate90d
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from unetpipe.progress_bar import track

TILE = (256, 256)
"""Of training, and of the windows of prediction."""

BATCH = 4
FIRST = 10
"""Steps that do not count for the seconds of one; there must be more."""

_AROUND = (352, 352)
"""What is cut out before it is deformed: more than the tile, so that nothing is filled in."""

_RATE = 1e-3
_OVERLAP = 0.5


class _Cuts(IterableDataset[dict[Hashable, Tensor]]):
    """Deformed cut-outs of random sections, without end."""

    def __init__(self, images: NDArray[np.float32], labels: NDArray[np.uint8], seed: int) -> None:
        self._sections = [
            {"image": torch.from_numpy(image)[None], "label": torch.from_numpy(label)[None].float()}
            for image, label in zip(images, labels, strict=True)
        ]
        self._seed = seed
        both = ["image", "label"]
        self._transform = Compose(
            [
                RandSpatialCropd(both, roi_size=_AROUND, random_size=False),
                Rand2DElasticd(
                    both, prob=1.0, spatial_size=TILE, spacing=40, magnitude_range=(1, 3), rotate_range=math.pi,
                    scale_range=0.1, mode=["bilinear", "nearest"], padding_mode="reflection",
                ),
                RandFlipd(both, prob=0.5, spatial_axis=0),
                RandRotate90d(both, prob=0.75),
                RandScaleIntensityd("image", factors=0.2, prob=1.0),
                RandShiftIntensityd("image", offsets=0.2, prob=1.0),
                RandGaussianNoised("image", prob=0.5, std=0.1),
            ]
        )  # fmt: skip

    def __iter__(self) -> Iterator[dict[Hashable, Tensor]]:
        self._transform.set_random_state(self._seed)
        choice = np.random.default_rng(self._seed)
        while True:
            yield self._transform(self._sections[choice.integers(len(self._sections))])


def train(
    images: NDArray[np.float32], labels: NDArray[np.uint8], classes: int, steps: int, seed: int
) -> tuple[nn.Module, float]:
    """The network after so many steps, and the seconds that one takes after the first few.

    Parameters
    ----------
    images:
        (n, y, x), normalised.
    labels:
        (n, y, x), indices of classes.
    """
    torch.manual_seed(seed)
    network = BasicUNet(spatial_dims=2, in_channels=1, out_channels=classes)
    loss_of = DiceCELoss(to_onehot_y=True, softmax=True)
    optimiser = torch.optim.AdamW(network.parameters(), lr=_RATE)
    batches = iter(DataLoader(_Cuts(images, labels, seed), batch_size=BATCH, num_workers=1, prefetch_factor=4))
    begin = 0.0
    for step in track(range(steps), "training BasicUNet", steps, "steps"):
        for group in optimiser.param_groups:
            group["lr"] = _RATE * (1 + math.cos(math.pi * step / steps)) / 2
        batch: Any = next(batches)
        optimiser.zero_grad()
        loss = loss_of(network(batch["image"]), batch["label"])
        loss.backward()
        optimiser.step()
        if step == FIRST - 1:
            begin = time.monotonic()
    return network.eval(), (time.monotonic() - begin) / (steps - FIRST)


def predict(network: nn.Module, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Probabilities (classes, n, y, x) of sections (n, y, x): overlapping windows, blended by Gaussians."""
    found = []
    with torch.inference_mode():
        for image in images:
            logits: Any = sliding_window_inference(
                torch.from_numpy(image)[None, None], TILE, BATCH, network, overlap=_OVERLAP, mode="gaussian"
            )
            found.append(logits[0].softmax(dim=0).numpy())
    return np.stack(found, axis=1)
