"""Loaded by every Python that finds this folder on its path.

Notes whom it calls, in the file named by CALLS, and that it looked, in the one named by CALLS with .watched behind it.
"""

import os
import sys
from typing import Any

_LOOPBACK = ("127.0.0.1", "::1", "localhost", "0.0.0.0", "::", "", None)


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "socket.connect":
        address = arguments[1]
        host = address[0] if isinstance(address, tuple) else None
    elif event == "socket.getaddrinfo":
        host = arguments[0]
    else:
        return
    if host not in _LOOPBACK:
        with open(os.environ["CALLS"], "a") as file:  # noqa: PTH123 – pathlib may not be there yet
            file.write(f"{event} {host} from {sys.argv}\n")


sys.addaudithook(_watch)
with open(os.environ["CALLS"] + ".watched", "a") as file:  # noqa: PTH123
    file.write(f"{sys.orig_argv}\n")
