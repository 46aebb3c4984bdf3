"""Versions come without imports, and nothing names the machine or its user."""

import getpass
import platform
import subprocess
import sys

import unetpipe
from unetpipe.engines.devices import gpu, processor
from unetpipe.report import environment


def test_versions_are_those_installed() -> None:
    found = environment.versions()
    assert found["python"] == platform.python_version()
    assert found["unetpipe"] == unetpipe.__version__
    assert found["zarr"]
    assert None not in found.values()


def test_nothing_is_imported_for_its_version() -> None:
    code = "import sys; from unetpipe.report.environment import versions; versions(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "onnxruntime", "openvino", "snakemake"} & {*loaded}


def test_the_machine_has_no_name() -> None:
    found = environment.machine()
    assert found["processor"] == processor().model
    assert ("GPU" in found) is (gpu() is not None)
    assert int(found["cores"]) >= 1
    words = {word for value in found.values() for word in value.split()}
    assert not {platform.node(), getpass.getuser()} & words
