"""How good a network is on the tiles of the validation volumes."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from unetpipe.config.types import Loss
from unetpipe.data.batches import Samples
from unetpipe.errors import UserError
from unetpipe.metrics import confusion
from unetpipe.nets.layers import SegmentationNetwork
from unetpipe.nets.recipe import cross_entropy, dice_loss, dice_sums, diverged
from unetpipe.volume import IGNORE

Show = Callable[[int, NDArray[np.float32], NDArray[np.uint8], NDArray[np.float32]], None]
"""What gets a tile's number, image (z, y, x), labels (z', y', x') and probabilities (classes, z', y', x')."""


@torch.no_grad()
def validate(
    model: SegmentationNetwork, data: Samples, classes: list[str], kind: Loss, step: int, show: Show | None = None
) -> dict[str, Any]:
    """Loss and IoU on all validation tiles together, in fp32: the columns of the history.

    The loss is of the ``kind`` that is trained, but all voxels count alike.

    Raises
    ------
    UserError
        If no voxel has a label, or the loss is no number.
    """
    model.eval()
    device = next(model.parameters()).device
    table = np.zeros((len(classes), len(classes)), np.int64)
    losses = []
    sums = torch.zeros(3, len(classes), dtype=torch.float64)
    for tile, (image, label) in enumerate(data.validation()):
        logits = model(torch.from_numpy(image).to(device)).cpu()  # (1, classes, z, y, x)
        truth = torch.from_numpy(label.astype(np.int64))
        if kind != "dice":
            losses.append(cross_entropy(logits, truth, ignore_index=IGNORE, reduction="sum").item())
        if kind != "cross_entropy":
            known = truth != IGNORE
            sums += dice_sums(logits, truth.where(known, 0), known)
        table += confusion.count(label, logits.argmax(1).numpy().astype(np.uint8), len(classes))
        if show is not None:
            show(tile, image[0], label[0], logits[0].softmax(0).numpy())
    voxels = int(table.sum())
    if voxels == 0:
        raise UserError(
            "the network was to be validated",
            "no voxel of the validation volumes has a label that is not ignored",
            "give the validation volumes labels, or another role",
        )
    loss = math.fsum(losses) / voxels
    if kind != "cross_entropy":
        loss += dice_loss(sums).item()
    if not math.isfinite(loss):
        raise diverged(f"the loss on validation after step {step} is {loss}")
    scores = {f"iou_{name}": value for name, value in zip(classes, confusion.iou(table), strict=True)}
    return {"validation_loss": loss, "validation_mean_iou": confusion.mean_iou(table), **scores}
