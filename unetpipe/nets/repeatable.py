"""The same bytes again: one number of threads, one generator, and what of the processor makes a difference."""

import logging
import os
import platform
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from unetpipe.errors import UserError

PROCESSOR = torch.device("cpu")

log = logging.getLogger(__name__)


def processor_facts() -> dict[str, str]:
    """What makes PyTorch compute in one order or another: the instructions that it uses, and those that there are."""
    facts = {"machine": platform.machine(), "capability": torch.backends.cpu.get_cpu_capability()}
    with suppress(FileNotFoundError):  # Linux alone has it
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        facts |= dict(re.findall(r"^(model name|flags|Features)\s*: (.*)$", text, re.MULTILINE))
    return facts


def usable_device(wanted: Literal["auto", "cpu", "cuda"], processes: int = 1) -> torch.device:
    """Where to train; ``auto``: on a GPU where PyTorch can use one.

    Raises
    ------
    UserError
        If a GPU is asked for, and PyTorch can use none; if there is not one for each of the ``processes``.
    """
    there = torch.cuda.is_available()
    if there and wanted != "cpu" and processes > torch.cuda.device_count():
        raise UserError(
            f"{processes} processes were to learn together (train.processes), on a GPU each",
            f"{torch.cuda.device_count()} of them to be seen",
            "set train.processes to so many, give the job more GPUs, or set train.device: cpu",
        )
    if wanted == "cuda" and not there:
        built = f"is built for CUDA {torch.version.cuda}" if torch.version.cuda else "is built without CUDA"
        raise UserError(
            "the network was to be trained on a GPU (train.device)",
            f"PyTorch {torch.__version__} {built} and finds no GPU",
            "start the job where there is one, install a PyTorch that fits its driver, or set train.device: cpu",
        )
    return torch.device("cuda" if there and wanted != "cpu" else "cpu")


def device_facts(device: torch.device) -> dict[str, str]:
    """What makes PyTorch compute in one order or another on a GPU."""
    return {
        "name": torch.cuda.get_device_name(device),
        "cuda": str(torch.version.cuda),
        "cudnn": str(torch.backends.cudnn.version()),  # type: ignore[no-untyped-call]
    }


def usable_precision(
    wanted: Literal["auto", "bf16", "fp32"], processor: dict[str, str], device: torch.device
) -> Literal["bf16", "fp32"]:
    """``bf16`` or ``fp32``. On x86-64 without instructions for it bf16 took 2.5 to 7 times as long as fp32."""
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = not {"avx512_bf16", "amx_bf16"}.isdisjoint(processor.get("flags", "").split())
    if wanted == "bf16" and not fast:
        what = "GPU" if device.type == "cuda" else "processor"
        log.warning("this %s has no instructions for bf16: train.precision fp32 would be several times as fast", what)
    return "bf16" if wanted == "bf16" or (wanted == "auto" and fast) else "fp32"


def manual_seed(numbers: Sequence[int], device: torch.device) -> None:
    """Seed what draws random numbers on ``device``."""
    seed = int(np.random.SeedSequence(numbers).generate_state(1)[0])
    # The generator itself: torch.manual_seed would also queue a call for a GPU that is never used, at every step.
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


@contextmanager
def repeatable(threads: int, seed: int, device: torch.device = PROCESSOR) -> Iterator[None]:
    """PyTorch with ``threads`` threads, deterministic operations and a seeded generator; all as before afterwards."""
    filling: Any = torch.utils.deterministic
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), filling.fill_uninitialized_memory
    cuda = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if cuda else []), _strict_cuda() if cuda else nullcontext():
        try:
            torch.set_num_threads(threads)
            # On a GPU PyTorch also refuses what comes out the same here: pooling by windows that do not overlap, and
            # losses of single voxels. It may warn of them.
            torch.use_deterministic_algorithms(True, warn_only=cuda)
            # It would write every tensor twice; nothing here reads what it has not written.
            filling.fill_uninitialized_memory = False
            torch.default_generator.manual_seed(seed)
            yield
        finally:
            torch.set_num_threads(before[0])
            torch.use_deterministic_algorithms(before[1])
            filling.fill_uninitialized_memory = before[2]


@contextmanager
def _strict_cuda() -> Iterator[None]:
    """On GPUs: fp32 is fp32, and no algorithm is chosen by the clock."""
    # cuBLAS reads it when it is first used.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    backends: Any = torch.backends
    before = backends.fp32_precision, backends.cudnn.benchmark
    try:
        backends.fp32_precision, backends.cudnn.benchmark = "ieee", False
        yield
    finally:
        backends.fp32_precision, backends.cudnn.benchmark = before
