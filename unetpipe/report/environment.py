"""What the run was made with: versions of packages, and the machine without names of hosts or users."""

import importlib.metadata
import os
import platform

from unetpipe.engines.devices import gpu, processor

PACKAGES = (
    "unetpipe",
    "torch",
    "onnx",
    "onnxruntime-gpu",
    "onnxruntime",
    "openvino",
    "tensorrt",
    "tensorrt-rtx",
    "zarr",
    "numpy",
    "scipy",
    "scikit-image",
    "dask",
    "distributed",
    "snakemake",
)


def versions() -> dict[str, str]:
    """Versions of Python and of those of ``PACKAGES`` that are installed; none is imported."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, str]:
    """Processor, cores, GPU (if there is one), memory and system of this machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found = {
        "processor": processor().model,
        "cores": str(cores or "unknown"),
        "system": f"{platform.system()} {platform.machine()}",
    }
    if (card := gpu()) is not None:
        found["GPU"] = str(card)
    if "SC_PHYS_PAGES" in os.sysconf_names:
        gibibytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
        found["memory"] = f"{gibibytes:.0f} GiB"
    return found
