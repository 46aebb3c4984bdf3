"""Small runs to look at, a server for them in a thread, and requests to it as a browser makes them."""

import asyncio
import http.client
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore as ts
from numpy.typing import NDArray

from unetpipe.viewer import server
from unetpipe.viewer.run import Shown

SHAPE = (9, 200, 230)


@dataclass(frozen=True)
class Made:
    """A run of one volume ``v``: its folder, and the voxels of each layer as they were written."""

    run: Path
    voxels: dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Served:
    """A server that runs."""

    port: int

    def get(self, path: str, method: str = "GET", **headers: str) -> Answer:
        """The answer to ``path`` as it stands: nothing is made plain on the way."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
            found = connection.getresponse()
            return Answer(found.status, {key.lower(): value for key, value in found.getheaders()}, found.read())
        finally:
            connection.close()

    def read(self, volume: str, layer: str, scale: int = 0) -> NDArray[Any]:
        """All voxels of a layer, (c, z, y, x), as another reader of the format finds them."""
        spec = {
            "driver": "neuroglancer_precomputed",
            "kvstore": f"http://127.0.0.1:{self.port}/data/{volume}/{layer}/",
            "scale_index": scale,
        }
        return np.asarray(ts.open(spec, read=True).result().read().result()).T


@contextmanager
def serving(volumes: Mapping[str, Shown], name: str = "run") -> Iterator[Served]:
    """A server for ``volumes``, on any port."""
    pytest.importorskip("neuroglancer", reason="Neuroglancer is not installed")
    ready, ports, loops = threading.Event(), [], []

    async def serve() -> None:
        stop = asyncio.Event()
        listening = server.application(name, volumes).listen(0, "127.0.0.1")
        ports.extend(each.getsockname()[1] for each in listening._sockets.values())
        loops.append((asyncio.get_running_loop(), stop))
        ready.set()
        await stop.wait()
        listening.stop()
        await listening.close_all_connections()

    thread = threading.Thread(target=asyncio.run, args=(serve(),), daemon=True)
    thread.start()
    assert ready.wait(20)
    loop, stop = loops[0]
    try:
        yield Served(ports[0])
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(20)


def run_of(folder: Path) -> Path:
    """The folder in which the volumes of a run are to be."""
    return folder / "results" / "run"
