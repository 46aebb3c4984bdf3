"""What is answered, to whom, and with what."""

import dataclasses
import json
import logging
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest
from viewing import SHAPE, Made, Served, serving

from unetpipe.viewer import server
from unetpipe.viewer.address import link
from unetpipe.viewer.run import look


@pytest.fixture(scope="module")
def served(made: Made) -> Iterator[Served]:
    with serving(look(made.run)[1]) as running:
        yield running


def state_of(served: Served, path: str) -> dict[str, object]:
    answer = served.get(path)
    assert answer.status == 302
    place, _, state = answer.headers["location"].partition("#!")
    assert place == "/v/v/"
    found: dict[str, object] = json.loads(unquote(state))
    return found


def test_a_link_leads_to_its_place(served: Served) -> None:
    address = link("v", (3, 150, 220), served.port)
    state = state_of(served, address.removeprefix(f"http://127.0.0.1:{served.port}"))
    assert state["position"] == [220.5, 150.5, 3.5]
    assert state["dimensions"] == {"x": [4e-9, "m"], "y": [4e-9, "m"], "z": [4e-8, "m"]}
    layers = {layer["name"]: layer for layer in state["layers"]}  # type: ignore[attr-defined]
    assert list(layers) == ["image", "probability", "truth", "predicted classes", "objects"]
    origin = f"precomputed://http://127.0.0.1:{served.port}/data/v"
    assert [layer["source"] for layer in layers.values()] == [
        f"{origin}/{kind}" for kind in ("image", "probability", "truth", "classes", "segments")
    ]


def test_layers_are_asked_from_where_the_browser_is(served: Served) -> None:
    # Behind a tunnel, the port is another one.
    answer = served.get("/at/v/0/0/0", Host="localhost:9000")
    assert "precomputed://http://localhost:9000/data/v/image" in unquote(answer.headers["location"])


@pytest.mark.parametrize(
    "path",
    [
        "/at/v/9/0/0", "/at/v/0/200/0", "/at/v/0/0/230", "/at/w/0/0/0", "/at/v/-1/0/0", "/at/v/0/0", "/v/w/",
        "/data/w/image/info", "/data/v/grey/info", "/data/v/image/2/0-64_0-64_0-8", "/data/v/image/0/1-65_0-64_0-8",
        "/data/v/image/0/0-999999_0-999999_0-9", "/data/v/image/0/230-230_0-128_0-9", "/data", "/events/w",
        pytest.param(f"/at/v/0/0/{'1' * 5000}", id="a place of 5000 digits"), "/at/v/0/0/%D9%A1",
        pytest.param(f"/data/v/image/{'1' * 5000}/0-64_0-64_0-8", id="a level of 5000 digits"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_said_so(path: str, served: Served) -> None:
    answer = served.get(path)
    assert answer.status == 404
    assert answer.headers["content-type"].startswith("text/plain")
    assert b"Traceback" not in answer.body


@pytest.mark.parametrize(
    "path",
    [
        f"{start}{up}etc/passwd"
        for start in ("/", "/v/v/", "/data/v/image/", "/data/v/", "/at/", "/events/")
        for up in ("../" * 12, "..%2f" * 12, "%2e%2e/" * 12, "..%5c" * 12, "/", "%2f", "//")
    ],
)  # fmt: skip
def test_no_path_leads_to_another_file(path: str, served: Served) -> None:
    answer = served.get(path)
    assert answer.status in (400, 404)
    assert b"root:" not in answer.body


def test_files_of_the_run_itself_are_not_handed_out(served: Served, made: Made) -> None:
    for path in ("/v/v/../volume.json", "/volumes/v/volume.json", f"/v/v/{made.run}/volumes/v/volume.json"):
        assert served.get(path).status == 404


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8473", "127.0.0.1.evil.example", "192.168.0.7:8473", "0.0.0.0", "[::2]", "[", ""],
)
@pytest.mark.parametrize("path", ["/", "/at/v/0/0/0", "/data/v/image/info", "/v/v/", "/nothing", "/events/v"])
def test_a_name_that_is_not_of_this_machine_is_refused(host: str, path: str, served: Served) -> None:
    answer = served.get(path, Host=host)
    assert answer.status in (400, 403)
    assert b"precomputed" not in answer.body


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:9000", "[::1]:8473", "LOCALHOST"])
def test_names_of_this_machine_are_answered(host: str, served: Served) -> None:
    assert served.get("/", Host=host).status == 200


@pytest.mark.parametrize("path", ["/", "/at/v/0/0/0", "/data/v/image/info", "/v/v/", "/nothing"])
def test_no_other_page_may_read_an_answer(path: str, served: Served) -> None:
    answer = served.get(path, Origin="https://evil.example")
    assert "access-control-allow-origin" not in answer.headers
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    assert "default-src 'self'" in answer.headers["content-security-policy"]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_nothing_can_be_changed(method: str, served: Served) -> None:
    for path in ("/", "/data/v/image/info", "/v/v/"):
        assert served.get(path, method).status in (404, 405)


def test_the_page_leads_to_every_volume(served: Served) -> None:
    page = served.get("/").body.decode()
    assert '<a href="/at/v/4/100/115">v</a>' in page
    assert " × ".join(map(str, SHAPE)) in page


def test_names_are_quoted(made: Made, tmp_path: Path) -> None:
    name = "<b>&\"' /é"
    shown = look(made.run)[1]["v"]
    page = server.index("<i>", {name: dataclasses.replace(shown, name=name, problems=["<u>"])})
    assert "<b>" not in page
    assert "<i>" not in page
    assert "<u>" not in page
    assert "/at/%3Cb%3E%26%22%27%20%2F%C3%A9/4/100/115" in page


def test_a_volume_of_which_nothing_is_left_is_said_so(made: Made) -> None:
    shown = look(made.run)[1]["v"]
    empty = dataclasses.replace(shown, name="e", layers={}, problems=["it is gone"])
    with serving({"v": shown, "e": empty}) as running:
        assert running.get("/at/e/0/0/0").status == 404
        assert b"it is gone" in running.get("/").body


def test_a_layer_that_goes_is_told_in_the_terminal_alone(
    made: Made, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(made.run, tmp_path / "results" / "run")
    for path in (tmp_path / "results" / "run").glob("*/v/*.json"):
        path.write_text(path.read_text().replace(str(made.run), str(tmp_path / "results" / "run")))
    _, volumes = look(tmp_path / "results" / "run")
    chunk = volumes["v"].layers["image"].resolutions[0].chunk
    for shard in (tmp_path / "results" / "run" / "volumes" / "v" / "image.zarr" / "0" / "c").rglob("*"):
        if shard.is_file():
            shard.write_bytes(b"torn")
    x, y, z = chunk[::-1]
    with caplog.at_level(logging.WARNING), serving(volumes) as running:
        answer = running.get(f"/data/v/image/0/0-{x}_0-{y}_0-{z}")
    assert answer.status == 500
    assert str(tmp_path) not in answer.body.decode()
    assert "v, image" in caplog.text
    assert "tensorstore_spec" not in caplog.text


def test_only_workers_may_make_functions_of_text(served: Served) -> None:
    page = served.get("/v/v/")
    scripts = re.findall(r'src="([^"]+\.js)"', page.body.decode())
    assert scripts
    assert "'unsafe-eval'" not in page.headers["content-security-policy"]
    for name in scripts:
        answer = served.get(f"/v/v/{name}")
        assert answer.headers["content-type"] == "text/javascript"
        assert "'unsafe-eval'" in answer.headers["content-security-policy"]
        assert "default-src 'self'" in answer.headers["content-security-policy"]
