"""What this machine computes with: the processor's instruction sets, and the first GPU that is visible."""

import ctypes
import functools
import platform
import re
from dataclasses import dataclass
from pathlib import Path

from unetpipe.config import Precision

# Libraries choose their kernels by these: another set can give another last bit.
_INSTRUCTIONS = re.compile(r"avx\w*|amx\w*|fma|f16c|asimd\w*|sve\w*|bf16|i8mm")

_PRODUCTS: dict[Precision, tuple[str, ...]] = {
    "fp32": (),
    "bf16": ("amx_bf16", "avx512_bf16"),
    "fp16": ("amx_fp16", "avx512_fp16"),
    # Older instructions saturate between product and sum: they give another result.
    "int8": ("amx_int8", "avx512_vnni", "avx_vnni"),
}


@dataclass(frozen=True)
class Processor:
    """``model``: its name. ``features``: the instruction sets for arithmetic on vectors and matrices, sorted."""

    model: str
    features: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.model} ({', '.join(self.features)})"

    def lacks(self, precision: Precision) -> str | None:
        """Why it gains nothing from ``precision``: it has no instructions that multiply and add so; None if it has."""
        wanted = _PRODUCTS[precision]
        if not wanted or set(wanted) & set(self.features):
            return None
        return f"the processor {self.model} has no instructions for products of {precision} ({', '.join(wanted)})"


@dataclass(frozen=True)
class Gpu:
    """``compute_capability``: such as 8.6. ``driver``: its version."""

    name: str
    compute_capability: str
    driver: str

    def __str__(self) -> str:
        return f"{self.name} (compute capability {self.compute_capability}, driver {self.driver})"


@functools.cache
def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> Processor:
    """The processor, as Linux describes it; elsewhere only its architecture is known."""
    fields: dict[str, str] = {}
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            fields.setdefault(key.strip(), value.strip())
    words = fields.get("flags", fields.get("Features", "")).split()
    features = tuple(sorted({word for word in words if _INSTRUCTIONS.fullmatch(word)}))
    return Processor(fields.get("model name") or platform.machine(), features)


@functools.cache
def gpu() -> Gpu | None:
    """The first GPU that CUDA_VISIBLE_DEVICES leaves visible; None without a GPU or its driver.

    The driver is asked directly: it is there wherever a GPU can be used, whatever packages are installed.
    """
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
        management = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    count, device = ctypes.c_int(), ctypes.c_int()
    if cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count)) or count.value == 0:
        return None
    name, version = ctypes.create_string_buffer(256), ctypes.create_string_buffer(80)
    major, minor = ctypes.c_int(), ctypes.c_int()
    failed = (
        cuda.cuDeviceGet(ctypes.byref(device), 0)
        or cuda.cuDeviceGetName(name, len(name), device)
        # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR
        or cuda.cuDeviceGetAttribute(ctypes.byref(major), 75, device)
        or cuda.cuDeviceGetAttribute(ctypes.byref(minor), 76, device)
        or management.nvmlInit_v2()
        or management.nvmlSystemGetDriverVersion(version, len(version))
    )
    if failed:
        return None
    return Gpu(name.value.decode(), f"{major.value}.{minor.value}", version.value.decode())
