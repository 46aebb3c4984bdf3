"""A real browser opens the viewer at a place, draws the layers, and has nothing to complain about."""

import io
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import numpy as np
import pytest
from levelled import fill, make, plan
from numpy.typing import NDArray
from PIL import Image
from stores import make_store
from viewing import Served, run_of, serving

from unetpipe.colours import colours
from unetpipe.files import write_json
from unetpipe.viewer.address import link
from unetpipe.viewer.run import look

BROWSER = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None)

pytestmark = [
    pytest.mark.skipif(BROWSER is None, reason="needs Chromium or Chrome, and neither is installed"),
    pytest.mark.long,
    # Of the driver's own threads and pipes.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]

SHAPE = (6, 260, 300)
AT = (3, 101, 171)


@pytest.fixture(scope="module")
def page() -> Iterator[Any]:
    """Of a browser without a network, which draws without a graphics card."""
    pytest.importorskip("neuroglancer", reason="Neuroglancer is not installed")
    driver = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    options = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-background-networking", "--disable-gpu"]
    options += ["--enable-unsafe-swiftshader", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
    with driver.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=options)
        yield browser.new_page(viewport={"width": 900, "height": 700})
        browser.close()


@pytest.fixture(scope="module")
def served(make_volume: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    run = run_of(tmp_path_factory.mktemp("browser"))
    z, y, x = np.indices(SHAPE)
    image = ((x // 30 + y // 26) % 2 * 150 + 50 + z).astype(np.uint8)
    truth = np.where((x // 7 + y // 9) % 5 == 0, 255, (x + y + z) // 11 % 3).astype(np.uint8)
    make_volume(image, truth, folder=run, source={"sections": [0, 6], "image_sections": 6})
    prediction = run / "predictions" / "v"
    shutil.copytree(run / "volumes", prediction / "volumes")
    allocated = plan(prediction, make_volume, SHAPE, labels=True)
    fill(allocated)
    make(allocated)
    objects = run / "segments" / "v"
    make_store(
        objects / "segments.zarr",
        shape=SHAPE, dtype="uint64", chunk=(6, 64, 64), shard=(6, 320, 320), voxel_size_nm=(40, 4, 4),
    )[...] = (1 + (y // 17) * 20 + x // 19).astype(np.uint64)  # fmt: skip
    write_json(objects / "segments.json", {"segments": str(objects / "segments.zarr"), "array": "0"})
    _, volumes = look(run)
    with serving(volumes) as running:
        yield running


Change = Callable[[dict[str, Any]], None]


def complaints_of(page: Any) -> list[str]:
    """What the browser complains of from now on."""
    found: list[str] = []
    page.on("console", lambda said: found.append(said.text) if said.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: found.append(str(error)))
    page.on("response", lambda answer: found.append(f"{answer.status} {answer.url}") if answer.status > 399 else None)
    return found


def changed(served: Served, change: Change) -> str:
    """The address of the place, in another state."""
    place, _, state = served.get(link("v", AT).partition("8473")[2]).headers["location"].partition("#!")
    described = json.loads(unquote(state))
    change(described)
    return f"http://127.0.0.1:{served.port}{place}#!{quote(json.dumps(described))}"


def opened(page: Any, served: Served, change: Change | None = None) -> NDArray[np.uint8]:
    """What the browser shows at the place, (y, x, rgb), with the state changed; it must not complain."""
    complaints = complaints_of(page)
    page.goto("about:blank")
    page.goto(link("v", AT, served.port) if change is None else changed(served, change))
    # Asked again and again from here: the page's policy lets no text be run as a program, not even the driver's.
    for _ in range(240):
        page.wait_for_timeout(250)
        if page.evaluate(
            "() => Boolean(window.viewer?.layerManager.managedLayers.length > 1 && window.viewer.isReady())"
        ):
            break
    else:
        raise TimeoutError(f"the viewer is not ready: {complaints}")
    page.wait_for_timeout(500)
    shot = np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB"))
    # What software draws with is told as a warning of the driver.
    assert [line for line in complaints if "GPU stall" not in line and "GL Driver Message" not in line] == []
    return shot


def one_panel(visible: str) -> Change:
    """A change of the state: sections alone, a pixel for a voxel, and one layer."""

    def change(state: dict[str, Any]) -> None:
        state["layout"], state["crossSectionScale"] = "xy", 1.0
        state["showAxisLines"] = False
        for layer in state["layers"]:
            layer["visible"] = layer["name"] == visible
            layer["selectedAlpha" if layer["type"] == "segmentation" else "opacity"] = 1.0

    return change


def around(page: Any, shot: NDArray[np.uint8], reach: int = 60) -> NDArray[np.uint8]:
    """The pixels around the middle of the panel, where the place is."""
    box = page.evaluate(
        "(() => { const b = document.querySelector('.neuroglancer-rendered-data-panel').getBoundingClientRect();"
        " return [b.left + b.width / 2, b.top + b.height / 2]; })()"
    )
    x, y = round(box[0]), round(box[1])
    return shot[y - reach : y + reach, x - reach : x + reach]


def test_the_page_opens_at_a_link_and_draws(page: Any, served: Served) -> None:
    shot = opened(page, served)
    assert page.evaluate("Array.from(window.viewer.navigationState.position.value)") == [171.5, 101.5, 3.5]
    # Grey alone, or black alone, would be what nothing was drawn in.
    assert len(np.unique(shot.reshape(-1, 3), axis=0)) > 100


def off(shot: NDArray[np.uint8], expected: NDArray[np.float64]) -> list[float]:
    """How far pixels are from what is expected, in the mean, at most a pixel away: corners of voxels lie between."""
    steps = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    moved = (np.roll(shot.astype(float), step, (0, 1)) for step in steps)
    return [float(np.abs(each - expected)[2:-2, 2:-2].mean()) for each in moved]


def shown(served: Served, layer: str) -> NDArray[Any]:
    """The voxels (c, y, x) that :func:`around` shows of a layer."""
    z, y, x = AT
    return served.read("v", layer)[:, z, y - 60 : y + 60, x - 60 : x + 60]


def test_the_image_is_drawn_where_it_lies(page: Any, served: Served) -> None:
    shot = around(page, opened(page, served, one_panel("image")))
    assert (shot.max(axis=-1) == shot.min(axis=-1)).all(), "grey"
    bright = shown(served, "image")[0] > 120
    drawn = shot[..., 0] > shot[..., 0].mean()
    errors = off(255 * drawn.astype(np.uint8), 255.0 * bright)
    assert min(errors) == 0
    assert max(errors) > 5, "voxels one off are told apart"


def test_the_probabilities_are_drawn_in_the_colours_of_their_classes(page: Any, served: Served) -> None:
    shot = around(page, opened(page, served, one_panel("probability")))
    expected = np.einsum("cyx,ck->yxk", shown(served, "probability") / 255, np.array(colours(3)))
    errors = off(shot, expected)
    assert min(errors) < 4
    assert max(errors) > 10, "voxels one off are told apart"


@pytest.mark.parametrize(("layer", "kind"), [("truth", "truth"), ("predicted classes", "classes")])
def test_classes_are_drawn_in_their_colours(layer: str, kind: str, page: Any, served: Served) -> None:
    shot = around(page, opened(page, served, one_panel(layer)))
    classes = shown(served, kind)[0]
    # What is ignored shows the background of a section.
    background = [128, 128, 128]
    palette = np.array([*colours(3), *[background] * 253], float)
    errors = off(shot, palette[classes])
    assert min(errors) < 1
    assert max(errors) > 10, "voxels one off are told apart"


def test_each_object_has_a_colour(page: Any, served: Served) -> None:
    shot = around(page, opened(page, served, one_panel("objects"))).astype(int) @ [1, 256, 65536]
    objects = shown(served, "segments")[0].astype(int)
    steps = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    pairs = [np.stack([np.roll(shot, step, (0, 1)), objects])[:, 2:-2, 2:-2].reshape(2, -1) for step in steps]
    seen = min((np.unique(each, axis=1) for each in pairs), key=lambda each: each.shape[1])
    count = len(np.unique(objects[2:-2, 2:-2]))
    assert seen.shape[1] == count, "one colour for each"
    assert len(np.unique(seen[0])) > count // 2


def test_a_link_cannot_bring_in_or_send_out_anything(page: Any, served: Served) -> None:
    asked: list[str] = []

    class Elsewhere(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)

    elsewhere = ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere)
    threading.Thread(target=elsewhere.serve_forever, daemon=True).start()

    def ask_there(state: dict[str, Any]) -> None:
        state["layers"][0]["source"] = f"precomputed://http://127.0.0.1:{elsewhere.server_port}/a"

    complaints = complaints_of(page)
    try:
        page.goto("about:blank")
        page.goto(changed(served, ask_there))
        for _ in range(80):
            page.wait_for_timeout(250)
            if any("Content Security Policy" in line for line in complaints):
                break
        page.wait_for_timeout(1000)
    finally:
        elsewhere.shutdown()
        elsewhere.server_close()
    assert any("Content Security Policy" in line for line in complaints), complaints
    assert asked == []
