"""What a process has held of the machine's memory."""

import resource
import sys
from pathlib import Path


def peak_memory_mb() -> float:
    """The most memory that this process has held since :func:`forget_peak_memory`, in megabytes (2**20 bytes).

    That of the kernel's status, where there is one: what ``getrusage`` says of a new process counts its parent in.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size / 2**20 if sys.platform == "darwin" else size / 1024


def forget_peak_memory() -> None:
    """Begin to count anew, where the kernel allows it; elsewhere what was counted stays, and is too much."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    except OSError:
        return
