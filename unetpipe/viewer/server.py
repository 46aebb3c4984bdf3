"""A web server for this machine alone: the viewer's own files, and the voxels of the layers of a run.

No file is handed out by its path: a request names a volume, a layer of it, and a box of voxels, which are read by the
package, wherever they lie. So neither other files nor credentials can be asked for. Who asks under another name than
those of this machine is refused (a page elsewhere, whose name was made to lead here), and no other page may read an
answer.
"""

import asyncio
import html
import importlib.util
import json
import logging
import mimetypes
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from tornado.httputil import HTTPServerRequest
from tornado.iostream import StreamClosedError
from tornado.web import Application, HTTPError, RequestHandler

from unetpipe.arrays import ERRORS, told
from unetpipe.errors import UserError
from unetpipe.grid import Region
from unetpipe.viewer.layers import Layer
from unetpipe.viewer.run import Shown
from unetpipe.viewer.state import fragment

log = logging.getLogger(__name__)

_LOOPBACK = {"127.0.0.1", "localhost", "::1"}

_POLICY = {
    "default-src": "'self'",
    # The viewer compiles WebAssembly to decode, and makes its workers from what it has loaded.
    "script-src": "'self' 'wasm-unsafe-eval' blob:",
    "worker-src": "'self' blob:",
    "connect-src": "'self' data: blob:",
    "style-src": "'self' 'unsafe-inline'",
    "img-src": "'self' data: blob:",
    "font-src": "'self' data:",
    **dict.fromkeys(("object-src", "base-uri", "form-action", "frame-ancestors"), "'none'"),
}

# A worker has the policy that its own file came with, and the one that decodes makes functions of text.
_WORKERS = {**_POLICY, "script-src": f"{_POLICY['script-src']} 'unsafe-eval'"}


def _joined(policy: Mapping[str, str]) -> str:
    return "; ".join(f"{name} {value}" for name, value in policy.items())


_HEADERS = {
    "Content-Security-Policy": _joined(_POLICY),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    # A rerun can change every voxel.
    "Cache-Control": "no-store",
}

_PART = r"([^/]+)"
# As many digits as the voxels of any axis have: Python refuses to read thousands.
_NUMBER = r"([0-9]{1,15})"
_BOX = "_".join([f"{_NUMBER}-{_NUMBER}"] * 3)


def client_files() -> dict[str, Path]:
    """The files of the viewer, by their names.

    Raises
    ------
    UserError
        If it is not installed.
    """
    found = importlib.util.find_spec("neuroglancer")
    folders = (
        [] if found is None else [Path(place) / "static" / "client" for place in found.submodule_search_locations or []]
    )
    files = {
        path.relative_to(folder).as_posix(): path for folder in folders for path in folder.rglob("*") if path.is_file()
    }
    if "index.html" not in files:
        raise UserError(
            "the viewer was to be opened", "Neuroglancer is not installed", "pip install 'unetpipe[viewer]'"
        )
    return files


def application(name: str, volumes: Mapping[str, Shown]) -> Application:
    """What answers requests; ``name`` is that of the run."""
    return Application(
        [
            (r"/", _Index),
            (r"/favicon.ico", _Icon),
            (rf"/at/{_PART}/{_NUMBER}/{_NUMBER}/{_NUMBER}", _Place),
            (rf"/data/{_PART}/{_PART}/info", _Info),
            (rf"/data/{_PART}/{_PART}/{_NUMBER}/{_BOX}", _Chunk),
            (rf"/v/{_PART}/(.*)", _Client),
            (rf"/events/{_PART}", _Events),
        ],
        default_handler_class=_Nothing,
        # Who looks at what is in no log.
        log_function=lambda _: None,
        run=name,
        volumes=volumes,
        files=client_files(),
        pool=ThreadPoolExecutor(2 * (os.cpu_count() or 1)),
    )


class _Handler(RequestHandler):
    """What all have in common: for whom, and for whom not."""

    def set_default_headers(self) -> None:
        for name, value in _HEADERS.items():
            self.set_header(name, value)
        self.clear_header("Server")

    def prepare(self) -> None:
        if not is_loopback(self.request):
            raise HTTPError(403, reason="Only this machine is answered, under its own name")

    def write_error(self, status_code: int, **_: Any) -> None:
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish(f"{status_code}: {self._reason}\n")

    @property
    def origin(self) -> str:
        """The address of this server, as the browser knows it: another port can lead here."""
        return f"{self.request.protocol}://{self.request.host}"

    def shown(self, name: str) -> Shown:
        """The volume ``name``."""
        volumes: Mapping[str, Shown] = self.settings["volumes"]
        if name not in volumes:
            raise HTTPError(404, reason="There is no such volume")
        return volumes[name]

    def layer(self, name: str, kind: str) -> Layer:
        """The layer ``kind`` of a volume."""
        layers: Mapping[Any, Layer] = self.shown(name).layers
        if kind not in layers:
            raise HTTPError(404, reason="There is no such layer")
        return layers[kind]


def is_loopback(request: HTTPServerRequest) -> bool:
    """Whether a request asks for this machine by a name that nobody else can give to it."""
    try:
        return urlsplit(f"//{request.host}").hostname in _LOOPBACK
    except ValueError:
        return False


class _Nothing(_Handler):
    def prepare(self) -> None:
        super().prepare()
        raise HTTPError(404, reason="There is nothing of that name")


class _Index(_Handler):
    def get(self) -> None:
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.finish(index(self.settings["run"], self.settings["volumes"]))


def index(run: str, volumes: Mapping[str, Shown]) -> str:
    """The page that leads to all volumes."""
    rows = []
    for shown in volumes.values():
        size = " × ".join(map(str, shown.volume.shape))
        layers = ", ".join(shown.layers)
        problems = "".join(f"<br><small>{html.escape(problem)}</small>" for problem in shown.problems)
        place = "/".join([quote(shown.name, safe=""), *map(str, shown.middle)])
        rows.append(f'<tr><td><a href="/at/{place}">{html.escape(shown.name)}</a><td>{size}<td>{layers}{problems}')
    return "\n".join(
        [
            "<!doctype html>",
            f'<html lang="en"><meta charset="utf-8"><title>{html.escape(run)}</title>',
            "<style>body { font: 1rem system-ui; margin: 2rem } td { padding: .3rem 1rem .3rem 0 }</style>",
            f"<h1>{html.escape(run)}</h1>",
            "<table>",
            *rows,
            "</table>",
            "<p>A place: /at/VOLUME/Z/Y/X, in voxels.</p></html>\n",
        ]
    )


class _Icon(_Handler):
    def get(self) -> None:
        # Browsers ask for one, and complain where there is none.
        self.set_status(204)


class _Place(_Handler):
    def get(self, name: str, *at: str) -> None:
        shown = self.shown(name)
        z, y, x = map(int, at)
        if any(place >= size for place, size in zip((z, y, x), shown.volume.shape, strict=True)):
            size = " x ".join(map(str, shown.volume.shape))
            raise HTTPError(404, reason=f"The volume has {size} voxels: there is no voxel {z}, {y}, {x}")
        if not shown.layers:
            raise HTTPError(404, reason="Nothing of the volume can be shown: the terminal tells why")
        target = f"/v/{quote(name, safe='')}/{fragment(shown, f'{self.origin}/data', (z, y, x))}"
        self.set_status(302)
        self.set_header("Location", target)


class _Info(_Handler):
    def get(self, name: str, kind: str) -> None:
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps(self.layer(name, kind).info))


class _Chunk(_Handler):
    gone = False

    def on_connection_close(self) -> None:
        self.gone = True

    async def get(self, name: str, kind: str, number: str, *box: str) -> None:
        layer = self.layer(name, kind)
        x0, x1, y0, y1, z0, z1 = map(int, box)
        region = Region((z0, y0, x0), (z1, y1, x1))
        if int(number) >= len(layer.resolutions) or not layer.resolutions[int(number)].is_chunk(region):
            raise HTTPError(404, reason="There is no such chunk")

        def read() -> bytes | None:
            # Who looks elsewhere by now has cancelled it.
            return None if self.gone else layer.encoded(layer.resolutions[int(number)], region)

        try:
            voxels = await asyncio.get_running_loop().run_in_executor(self.settings["pool"], read)
        except (*ERRORS, OSError) as error:
            log.warning("%s, %s: the voxels %s cannot be read: %s", name, kind, region, told(error))
            raise HTTPError(500, reason="The voxels cannot be read: the terminal tells why") from None
        if voxels is not None:
            self.set_header("Content-Type", "application/octet-stream")
            self.finish(voxels)


class _Client(_Handler):
    def get(self, name: str, path: str) -> None:
        self.shown(name)
        file: Path | None = self.settings["files"].get(path or "index.html")
        if file is None:
            raise HTTPError(404, reason="There is no such file")
        kind, _ = mimetypes.guess_type(file.name)
        self.set_header("Content-Type", kind or "application/octet-stream")
        if file.suffix == ".js":
            self.set_header("Content-Security-Policy", _joined(_WORKERS))
        self.finish(file.read_bytes())


class _Events(_Handler):
    """The viewer waits here for a Python program that would lead it; there is none, and nothing is ever said."""

    async def get(self, name: str) -> None:
        self.shown(name)
        self.closed = asyncio.Event()
        self.set_header("Content-Type", "text/event-stream")
        try:
            await self.flush()
            await self.closed.wait()
        except StreamClosedError:
            return

    def on_connection_close(self) -> None:
        if hasattr(self, "closed"):
            self.closed.set()
