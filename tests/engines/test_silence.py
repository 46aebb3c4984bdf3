"""Libraries of engines report to nobody, and fork no process amid the threads of this one."""

import subprocess
import sys

import pytest

CODE = """
import sys
seen = []
sys.addaudithook(lambda event, _: seen.append(event))
from unetpipe.engines import device_class
device_class({library!r})
import time
time.sleep(0.5)
assert "import" in seen
print(*set(seen) & {{"os.fork", "os.forkpty", "socket.connect", "socket.getaddrinfo"}})
"""


@pytest.mark.parametrize("library", ["onnxruntime", "openvino"])
def test_a_library_keeps_to_itself(library: str) -> None:
    code = CODE.format(library=library)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == []
