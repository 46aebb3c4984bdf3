"""Which GPUs there are for this process, and who has which: each is used by one process at a time.

A lock for each GPU is held by the process that leads the work, and goes with it, however it ends. Locks lie on this
machine, never on a file system that others see.
"""

import ctypes
import fcntl
import functools
import logging
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from unetpipe.stop import Stop

# The same for all users and jobs of a machine: a folder of its own for each job would hold no one back.
_PLACE = Path("/tmp")  # noqa: S108

_LOOK_SECONDS = 0.5

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Card:
    """A GPU: ``word`` is what CUDA_VISIBLE_DEVICES calls it in this process, ``identity`` is the same for all."""

    word: str
    identity: str


@functools.cache
def visible() -> tuple[Card, ...]:
    """The GPUs that CUDA_VISIBLE_DEVICES leaves visible; none without a driver."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return ()
    count, device = ctypes.c_int(), ctypes.c_int()
    if cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count)):
        return ()
    words = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    if len(words) < count.value or not all(words[: count.value]):
        words = [str(number) for number in range(count.value)]
    found = []
    for number in range(count.value):
        name = (ctypes.c_ubyte * 16)()
        if cuda.cuDeviceGet(ctypes.byref(device), number) or cuda.cuDeviceGetUuid_v2(name, device):
            return ()
        found.append(Card(words[number].strip(), str(uuid.UUID(bytes=bytes(name)))))
    return tuple(found)


@contextmanager
def taken(cards: tuple[Card, ...], most: int, stop: Stop) -> Iterator[tuple[Card, ...]]:
    """Those of ``cards`` that nobody has, the first ``most`` of them, until the block ends.

    Where others have all, it waits until one is free, or until it is asked to stop: then there are none.
    """
    with ExitStack() as held:
        mine: list[Card] = []
        told = False
        while not mine and stop.signal is None:
            for card in cards:
                if len(mine) < most and (descriptor := _lock(card)) is not None:
                    held.callback(os.close, descriptor)
                    mine.append(card)
            if not mine:
                if not told:
                    log.info("other processes have all %d GPUs of this machine; waiting for one", len(cards))
                    told = True
                time.sleep(_LOOK_SECONDS)
        yield tuple(mine)


def _lock(card: Card) -> int | None:
    """The descriptor that holds a GPU; None if another process has it."""
    path = _PLACE / f"unetpipe-gpu-{card.identity}.lock"
    try:
        # Another user's can be read, but not opened with O_CREAT in a folder for all.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        descriptor = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
