"""The command: what it prints, how it ends, and what it refuses."""

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from viewing import Made, Served

from unetpipe.cli import main
from unetpipe.viewer import server, view


@contextmanager
def viewing(run: Path, *options: str, **variables: str) -> Iterator[tuple["subprocess.Popen[str]", list[str]]]:
    """The command, and the lines that it has printed when it waits."""
    words = [sys.executable, "-m", "unetpipe", "view", str(run), *options]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | variables
    ) as process:
        lines = []
        try:
            assert process.stdout is not None
            for line in process.stdout:
                lines.append(line)
                if "Ctrl-C" in line:
                    break
            yield process, lines
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_it_is_interrupted(number: signal.Signals, made: Made) -> None:
    pytest.importorskip("neuroglancer", reason="Neuroglancer is not installed")
    with viewing(made.run, "--port", "0", "--no-open") as (process, lines):
        (place,) = (match for line in lines if (match := re.search(r"http://127.0.0.1:(\d+)(/at/v/4/100/115)", line)))
        # One that waits for events is no reason to go on.
        with closing(http.client.HTTPConnection("127.0.0.1", int(place[1]), timeout=20)) as waiting:
            waiting.request("GET", "/events/v")
            with closing(waiting.getresponse()) as opened:
                assert opened.status == 200
                assert Served(int(place[1])).get(place[2]).status == 302
                process.send_signal(number)
                _, errors = process.communicate(timeout=20)
        assert (process.returncode, errors) == (0, "")


def test_it_listens_on_this_machine_alone(made: Made) -> None:
    pytest.importorskip("neuroglancer", reason="Neuroglancer is not installed")
    with viewing(made.run, "--port", "0", "--no-open") as (process, _):
        sockets = [line.split() for line in Path(f"/proc/{process.pid}/net/tcp").read_text().splitlines()[1:]]
        inodes = {str(link.readlink()) for link in Path(f"/proc/{process.pid}/fd").iterdir()}
        own = {line[1].partition(":")[0] for line in sockets if line[3] == "0A" and f"socket:[{line[9]}]" in inodes}
        assert own == {"0100007F"}


def test_a_port_that_is_in_use_is_told(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("neuroglancer", reason="Neuroglancer is not installed")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["view", str(made.run), "--port", str(port), "--no-open"]) == 1
    told = capsys.readouterr().err
    assert f"port {port}" in told
    assert "another program uses it" in told
    assert "--port N" in told


def test_without_the_viewer_it_says_what_to_install(
    made: Made, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(server.importlib.util, "find_spec", lambda _: None)
    assert main(["view", str(made.run), "--no-open"]) == 1
    assert "pip install 'unetpipe[viewer]'" in capsys.readouterr().err


def test_it_opens_a_browser_at_the_volume(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("neuroglancer", reason="Neuroglancer is not installed")
    seen: list[str] = []
    monkeypatch.setenv("DISPLAY", ":0")

    def opened(address: str) -> None:
        seen.append(address)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(view.webbrowser, "open", opened)
    assert main(["view", str(made.run), "--port", "0"]) == 0
    assert re.fullmatch(r"http://127.0.0.1:\d+/at/v/4/100/115", *seen)


@pytest.mark.parametrize("port", ["-1", "65536", "http"])
def test_what_is_no_port_is_refused(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["view", "run", "--port", port])
    assert "no port" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("platform", "variables", "there"),
    [
        ("linux", {}, False),
        ("linux", {"DISPLAY": ":0"}, True),
        ("linux", {"WAYLAND_DISPLAY": "w"}, True),
        ("darwin", {}, True),
    ],
)
def test_a_browser_is_opened_where_it_can_be_seen(
    platform: str, variables: dict[str, str], there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(view.sys, "platform", platform)
    assert view._has_display() is there
