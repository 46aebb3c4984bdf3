"""What a laboratory would predict a section with today: MONAI and nnU-Net, as they come, with the same weights.

Both mend the borders of a window with padding and overlap. So their network pads with zeros where ours reads more.
"""

import io
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from unetpipe.nets.unet import UNet

WINDOW = 512
"""Along y and x: a common choice of MONAI's users, and what nnU-Net plans for large 2D images."""

_OVERLAP = 0.25

_Run = Callable[[Tensor], Tensor]
"""From normalised grey values (1, 1, y, x) to logits (1, classes, y, x)."""


class Padded(UNet):
    """``network`` with padding: logits (n, classes, y, x) are as large as the image (n, 1, y, x)."""

    def __init__(self, network: UNet) -> None:
        super().__init__(network.settings, network.classes)
        self.load_state_dict(network.state_dict())
        self.eval()
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                module.padding = tuple((size - 1) // 2 for size in module.kernel_size)

    def forward(self, image: Tensor) -> Tensor:
        """Logits of ``image``."""
        return super().forward(image)[:, :, 0]

    def _crop(self, level: int) -> list[slice]:  # noqa: ARG002 – padding leaves all of every level
        return [slice(None)] * self.dimensions


@dataclass(frozen=True)
class Peer:
    """Computes ``part`` of a section; the network is called ``calls`` times for it, ``section_calls`` for all of it."""

    name: str
    part: Callable[[], object]
    calls: int
    section_calls: int

    @property
    def times(self) -> float:
        """What the section costs, in parts: a call costs the same everywhere."""
        return self.section_calls / self.calls

    @property
    def beside(self) -> str:
        """For the table."""
        return f"theirs scaled from {self.calls} of {self.section_calls} calls of the network"


def peers(network: UNet, edge: int) -> tuple[list[Peer], dict[str, str]]:
    """Those that are installed, for square sections of ``edge``; and the names of others, each with what it lacks."""
    found, missing = [], {}
    padded = Padded(network)
    for name, package, make, windows in (("MONAI", "monai", monai, 2), ("nnU-Net", "nnunetv2", nnunet, 1)):
        if find_spec(package) is None:
            missing[name] = f"{package} is not installed"
            continue
        image = torch.rand(1, 1, WINDOW, min(edge, round((1 + (windows - 1) * (1 - _OVERLAP)) * WINDOW)))
        counted = [_Counted(network.classes), _Counted(network.classes)]
        for counter, seen in zip(counted, (image, torch.zeros(1, 1, edge, edge)), strict=True):
            make(counter, network.classes)(seen)
        part = partial(make(padded, network.classes), image)
        found.append(Peer(name, part, *(counter.calls for counter in counted)))
    return found, missing


def monai(network: nn.Module, _classes: int) -> _Run:
    """MONAI's inferer: a quarter of overlap, its default."""
    from monai.inferers import SlidingWindowInferer

    inferer = SlidingWindowInferer(roi_size=(WINDOW, WINDOW), sw_batch_size=1, overlap=_OVERLAP)

    def run(image: Tensor) -> Tensor:
        with torch.inference_mode():
            logits: Tensor = inferer(image, network)
        return logits

    return run


def nnunet(network: nn.Module, classes: int) -> _Run:
    """nnU-Net's own predictor with its defaults: half a window of overlap, Gaussian weights, both axes mirrored."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    # It tells that a processor is no GPU.
    with redirect_stdout(io.StringIO()):
        predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    # What it would take from the folder of a training.
    predictor.network = network
    predictor.allowed_mirroring_axes = (0, 1)
    predictor.configuration_manager = SimpleNamespace(patch_size=(WINDOW, WINDOW))
    predictor.label_manager = SimpleNamespace(num_segmentation_heads=classes)

    def run(image: Tensor) -> Tensor:
        # Of one section: (channels, z, y, x).
        logits: Tensor = predictor.predict_sliding_window_return_logits(image[0, :, None])
        return logits[None, :, 0]

    return run


class _Counted(nn.Module):
    """Counts its calls, and gives zeros."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.calls = 0

    def forward(self, image: Tensor) -> Tensor:
        self.calls += len(image)
        return image.new_zeros(len(image), self.classes, *image.shape[2:])
