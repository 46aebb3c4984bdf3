"""Processes that learn one network together, each from its share of every batch.

What one process sums over the voxels of a batch is summed over all processes: the losses, and the mean and variance of
batch normalisation. PyTorch's DistributedDataParallel does it for the gradients. So the weights are those that one
process would learn from whole batches, but for the rounding of sums that are added up in another order::

    batch       | samples 0, 1 | samples 2, 3 |
    process     |      0       |      1       |     the first one is the caller's, and it alone validates and writes
    loss        '------- one number ----------'
    gradients   '------- one mean ------------'
"""

import os
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.multiprocessing.spawn import ProcessContext, ProcessExitedException, ProcessRaisedException, spawn
from torch.nn.parallel import DistributedDataParallel

from unetpipe.errors import UserError
from unetpipe.nets.layers import SegmentationNetwork
from unetpipe.nets.repeatable import PROCESSOR

_WAIT = timedelta(hours=2)
"""For the others while the first process validates, at most."""

_MOMENT_SECONDS = 1.0
"""For a process to end, or to be seen to have ended."""


@dataclass(frozen=True)
class Team:
    """Process ``rank`` of ``size``, which computes on ``device``."""

    rank: int
    size: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Whether this process validates and writes."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """Which of ``count`` samples are for this process."""
        return slice(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def total(self, part: Tensor) -> Tensor:
        """The sum over all processes, of the shape of ``part``; gradients of all go back to all."""
        if self.size == 1:
            return part
        total: Tensor = _Total.apply(part)  # type: ignore[no-untyped-call]
        return total

    def gathered(self, part: Sequence[float]) -> list[float]:
        """What the processes have, one behind the other."""
        if self.size == 1:
            return list(part)
        parts: list[Any] = [None] * self.size
        distributed.all_gather_object(parts, list(part))
        return [value for values in parts for value in values]

    def told(self, value: Any) -> Any:
        """The ``value`` of the first process."""
        if self.size == 1:
            return value
        values = [value]
        distributed.broadcast_object_list(values, src=0)
        return values[0]

    def joined(self, model: SegmentationNetwork) -> nn.Module:
        """The network whose gradients are means over all processes: itself, or around it."""
        if self.size == 1:
            return model
        share_statistics(model, self)
        where = [self.device] if self.device.type == "cuda" else None
        # Their statistics remain the same everywhere: nothing is to be sent.
        return DistributedDataParallel(model, device_ids=where, forward_sync_buffers=False)


ALONE = Team(0, 1, PROCESSOR)


@contextmanager
def together(device: torch.device, size: int, work: Callable[..., object], *arguments: Any) -> Iterator[Team]:
    """The first of ``size`` processes; the others call ``work(team, *arguments)`` meanwhile, and end with this one.

    ``work`` and ``arguments`` are pickled. On GPUs each process has one of its own, by rank.

    Raises
    ------
    UserError
        If another process has ended before its time.
    """
    if size == 1:
        yield Team(0, 1, device)
        return
    with tempfile.TemporaryDirectory() as folder:
        place = f"file://{folder}/meeting"
        others = spawn(_other, (size, device.type, place, work, arguments), nprocs=size - 1, join=False, daemon=True)  # type: ignore[no-untyped-call]
        try:
            with _member(0, size, device.type, place) as team:
                try:
                    yield team
                except RuntimeError as error:
                    # One that is gone shows in the next sum.
                    _ask(others, size)
                    raise error from None
            while not _ask(others, size):
                pass
        finally:
            for process in others.processes:
                process.kill()


def _ask(others: ProcessContext, size: int) -> bool:
    """Whether all have ended as they should; UserError if one has not."""
    asked = f"{size} processes were to learn together"
    repair = "look into the log, and start again: training goes on from the last state that was stored"
    try:
        return bool(others.join(_MOMENT_SECONDS))
    except ProcessExitedException as error:
        how = f"signal {error.signal_name}" if error.signal_name else f"exit code {error.exit_code}"
        raise UserError(asked, f"process {error.error_index + 1} of them was ended, by {how}", repair) from error
    except ProcessRaisedException as error:
        last = error.msg.strip().splitlines()[-1]
        raise UserError(asked, f"process {error.error_index + 1} of them has failed: {last}", repair) from error


def _other(index: int, size: int, kind: str, place: str, work: Callable[..., object], arguments: Sequence[Any]) -> None:
    # The first process answers an interrupt, and then ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with _member(index + 1, size, kind, place) as team:
        work(team, *arguments)


@contextmanager
def _member(rank: int, size: int, kind: str, place: str) -> Iterator[Team]:
    device = torch.device(kind, rank) if kind == "cuda" else torch.device(kind)
    if kind == "cuda":
        torch.cuda.set_device(device)
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        # They are on one machine, and nobody else has to reach them.
        os.environ.setdefault(name, _loopback())
    distributed.init_process_group(
        "nccl" if kind == "cuda" else "gloo", init_method=place, rank=rank, world_size=size, timeout=_WAIT
    )
    try:
        yield Team(rank, size, device)
    finally:
        distributed.destroy_process_group()


def _loopback() -> str:
    """Its name: ``lo``, or ``lo0``."""
    return next(name for _, name in socket.if_nameindex() if name.startswith("lo"))


class _Total(torch.autograd.Function):
    """A sum over all processes."""

    @staticmethod
    def forward(_: Any, part: Tensor) -> Tensor:
        total = part.detach().clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        # The loss of each process is that of all, and each has its own gradient of it.
        total = gradient.contiguous().clone()
        distributed.all_reduce(total)
        return total


class _Shared(nn.modules.batchnorm._BatchNorm):
    """Batch normalisation by the statistics of the whole batch; PyTorch's own (SyncBatchNorm) wants a GPU."""

    team: Team

    def forward(self, features: Tensor) -> Tensor:
        """As that of BatchNorm2d and BatchNorm3d."""
        if not self.training:
            return super().forward(features)
        axes = [0, *range(2, features.ndim)]
        count = self.team.size * features.numel() // features.shape[1]
        shape = (1, -1, *[1] * (features.ndim - 2))
        values = features.float()
        mean = self.team.total(values.sum(axes)) / count
        values = values - mean.view(shape)
        variance = self.team.total(values.square().sum(axes)) / count
        self._remember(mean.detach(), variance.detach() * (count / (count - 1)))
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (values * scale.view(shape) + self.bias.view(shape)).to(features.dtype)

    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        known: Any = self
        known.num_batches_tracked += 1
        known.running_mean.lerp_(mean, known.momentum)
        known.running_var.lerp_(variance, known.momentum)

    def _check_input_dim(self, features: Tensor) -> None:
        """Any number of axes."""


def share_statistics(model: nn.Module, team: Team) -> None:
    """Let batch normalisation see the batches of all processes; parameters keep their names."""
    if team.device.type == "cuda":
        for name, child in list(model.named_children()):
            setattr(model, name, nn.SyncBatchNorm.convert_sync_batchnorm(child))  # type: ignore[no-untyped-call]
        return
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d | nn.BatchNorm3d):
            shared: Any = layer
            shared.__class__, shared.team = _Shared, team
