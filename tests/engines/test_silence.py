"""Libraries of engines report to nobody: they call nobody, fork nothing amid threads, and remember no device."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import sys
import time
seen = []
sys.addaudithook(lambda event, _: seen.append(event))
from unetpipe.engines import device_class
device_class({library!r})
time.sleep(0.5)
assert "import" in seen
print(*set(seen) & {{"os.fork", "os.forkpty", "socket.connect", "socket.getaddrinfo"}})
"""


@pytest.mark.parametrize("library", ["onnxruntime", "openvino"])
def test_a_library_keeps_to_itself(library: str, tmp_path: Path) -> None:
    # As in a shell: this process has told its children already what the package tells.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ORT_")}
    environment |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    command = [sys.executable, "-c", CODE.format(library=library)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.split() == []
    # What reports keeps the number of the device there.
    assert list(tmp_path.rglob("*")) == []
