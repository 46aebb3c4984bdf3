"""The same bytes again: one number of threads, one generator, and what of the processor makes a difference."""

import logging
import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import torch

log = logging.getLogger(__name__)


def processor_facts() -> dict[str, str]:
    """What makes PyTorch compute in one order or another: the instructions that it uses, and those that there are."""
    facts = {"machine": platform.machine(), "capability": torch.backends.cpu.get_cpu_capability()}
    with suppress(FileNotFoundError):  # Linux alone has it
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        facts |= dict(re.findall(r"^(model name|flags|Features)\s*: (.*)$", text, re.MULTILINE))
    return facts


def usable_precision(wanted: Literal["auto", "bf16", "fp32"], processor: dict[str, str]) -> Literal["bf16", "fp32"]:
    """``bf16`` or ``fp32``. On x86-64 without instructions for it bf16 took 2.5 to 7 times as long as fp32."""
    fast = not {"avx512_bf16", "amx_bf16"}.isdisjoint(processor.get("flags", "").split())
    if wanted == "bf16" and not fast:
        log.warning("this processor has no instructions for bf16: train.precision fp32 would be several times as fast")
    return "bf16" if wanted == "bf16" or (wanted == "auto" and fast) else "fp32"


@contextmanager
def repeatable(threads: int, seed: int) -> Iterator[None]:
    """PyTorch with ``threads`` threads, deterministic operations and a seeded generator; all as before afterwards."""
    filling: Any = torch.utils.deterministic
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), filling.fill_uninitialized_memory
    with torch.random.fork_rng(devices=[]):
        try:
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(True)
            # It would write every tensor twice; nothing here reads what it has not written.
            filling.fill_uninitialized_memory = False
            torch.default_generator.manual_seed(seed)
            yield
        finally:
            torch.set_num_threads(before[0])
            torch.use_deterministic_algorithms(before[1])
            filling.fill_uninitialized_memory = before[2]
