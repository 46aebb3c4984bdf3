"""Serve a run to a browser on this machine, until it is interrupted."""

import asyncio
import errno
import logging
import os
import signal
import sys
import webbrowser
from collections.abc import Callable, Mapping
from pathlib import Path
from socket import create_server, socket

from tornado.httpserver import HTTPServer

from unetpipe.errors import UserError
from unetpipe.viewer.address import link
from unetpipe.viewer.run import Shown, look
from unetpipe.viewer.server import application

log = logging.getLogger(__name__)

_HOST = "127.0.0.1"

_TAKEN = {
    errno.EADDRINUSE: "another program uses it; that may be `unetpipe view` of another run",
    errno.EACCES: "the system does not allow it",
}

_DISPLAYS = ("DISPLAY", "WAYLAND_DISPLAY")


def view(run: Path, port: int, *, show: bool, say: Callable[[str], None]) -> None:
    """Serve a run; comes back after Ctrl-C.

    Parameters
    ----------
    run:
        A folder such as ``results/demo``, or the name of one in ``results``.
    port:
        To serve on; 0 for any that is free.
    show:
        Whether to open a browser, where there is one to be seen.
    say:
        Takes the lines for the user.

    Raises
    ------
    UserError
        If nothing of the run can be shown, the port is in use, or the viewer is not installed.
    """
    folder, volumes = look(run)
    for shown in volumes.values():
        for problem in shown.problems:
            log.warning("%s: not shown: %s", shown.name, problem)
    asyncio.run(_serve(folder, volumes, port, show, say))


async def _serve(folder: Path, volumes: Mapping[str, Shown], port: int, show: bool, say: Callable[[str], None]) -> None:
    server = HTTPServer(application(folder.name, volumes))
    listening = _listen(folder, port)
    server.add_sockets([listening])
    port = listening.getsockname()[1]
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    say(f"run {folder.name} in {folder}")
    links = {name: link(name, shown.middle, port) for name, shown in volumes.items() if shown.layers}
    for name, address in links.items():
        say(f"  {name}: {', '.join(volumes[name].layers)}")
        say(f"    {address}")
    every = f"http://{_HOST}:{port}/"
    say(f"all volumes: {every}")
    say("served to this machine alone, until Ctrl-C")
    if show and _has_display():
        (first, *others) = links.values()
        await asyncio.to_thread(webbrowser.open, every if others else first)
    await stopped.wait()
    server.stop()
    await server.close_all_connections()


def _listen(folder: Path, port: int) -> socket:
    """A socket on ``port``, or on any that is free where it is 0."""
    try:
        found = create_server((_HOST, port))
    except OSError as error:
        if error.errno not in _TAKEN:
            raise
        raise UserError(
            f"the run {folder} was to be served on port {port}",
            _TAKEN[error.errno],
            "end what uses it, or give another port: --port N (links in reports lead to the usual one)",
        ) from None
    found.setblocking(False)
    return found


def _has_display() -> bool:
    # Elsewhere, a browser in the terminal would be found, which cannot draw.
    return sys.platform != "linux" or any(os.environ.get(name) for name in _DISPLAYS)
