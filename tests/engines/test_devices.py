"""Processors and GPUs are described by what can change a voxel."""

import os
from pathlib import Path

import pytest

from unetpipe.config import Precision
from unetpipe.engines.devices import Processor, gpu, processor

X86 = """\
processor\t: 0
model name\t: Some Processor 9000
cpu MHz\t\t: 2100.000
flags\t\t: fpu sse2 avx512f avx2 fma amx_tile f16c avx512_bf16 nopl

processor\t: 1
model name\t: Some Processor 9000
cpu MHz\t\t: 3400.000
flags\t\t: fpu sse2 avx512f avx2 fma amx_tile f16c avx512_bf16 nopl
"""
ARM = """\
processor\t: 0
BogoMIPS\t: 243.75
Features\t: fp asimd crc32 asimddp sve bf16 i8mm
"""


def described(folder: Path, text: str) -> Processor:
    file = folder / "cpuinfo"
    file.write_text(text)
    return processor(file)


def test_a_processor_is_its_name_and_its_instructions(tmp_path: Path) -> None:
    found = described(tmp_path, X86)
    assert found.model == "Some Processor 9000"
    assert found.features == ("amx_tile", "avx2", "avx512_bf16", "avx512f", "f16c", "fma")
    assert str(found) == "Some Processor 9000 (amx_tile, avx2, avx512_bf16, avx512f, f16c, fma)"


def test_the_clock_and_the_number_of_cores_do_not_count(tmp_path: Path) -> None:
    first = described(tmp_path, X86)
    (tmp_path / "other").mkdir()
    assert described(tmp_path / "other", X86.split("\n\n")[0].replace("2100.000", "1200.000")) == first


def test_a_processor_without_a_name(tmp_path: Path) -> None:
    assert described(tmp_path, ARM) == Processor(os.uname().machine, ("asimd", "asimddp", "bf16", "i8mm", "sve"))


def test_elsewhere_than_on_linux_the_architecture_is_known(tmp_path: Path) -> None:
    assert processor(tmp_path / "none") == Processor(os.uname().machine, ())


@pytest.mark.parametrize(
    ("features", "precision", "lacks"),
    [
        pytest.param((), "fp32", False, id="fp32 everywhere"),
        pytest.param(("avx2", "avx512f"), "int8", True, id="saturating products"),
        pytest.param(("avx_vnni",), "int8", False, id="avx_vnni"),
        pytest.param(("avx512_vnni",), "int8", False, id="avx512_vnni"),
        pytest.param(("avx512_vnni",), "bf16", True, id="int8 without bf16"),
        pytest.param(("avx512_bf16",), "bf16", False, id="avx512_bf16"),
        pytest.param(("amx_bf16", "amx_int8"), "int8", False, id="amx"),
        pytest.param(("asimddp", "bf16", "i8mm"), "bf16", True, id="Arm"),
    ],
)
def test_what_a_processor_lacks(features: tuple[str, ...], precision: Precision, lacks: bool) -> None:
    reason = Processor("P", features).lacks(precision)
    assert (reason is not None) == lacks
    if reason:
        assert f"P has no instructions for products of {precision}" in reason


@pytest.mark.gpu
def test_a_gpu_is_described() -> None:
    card = gpu()
    if card is None:
        pytest.skip("no NVIDIA GPU with its driver is visible")
    assert card.name.startswith("NVIDIA") or card.name
    assert float(card.compute_capability) >= 5
    assert card.driver.count(".") >= 1
