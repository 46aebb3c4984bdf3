"""Pictures open, zoom and change by mouse and by keyboard, in a real browser, from a file."""

import html
import json
import shutil
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from markupsafe import escape

from unetpipe.files import read_json
from unetpipe.report.explorer import policy, script
from unetpipe.report.render import report
from unetpipe.viewer.address import link

BROWSER = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None)

pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs Chromium or Chrome, and neither is installed")

# What a reader does, and what he sees after each step.
STEPS = r"""
const seen = [];
const dialog = document.querySelector("dialog.explorer");
const stage = dialog.querySelector("svg.stage");
const look = (name) => seen.push({
  name, open: dialog.open, title: dialog.querySelector(".title").textContent,
  box: stage.getAttribute("viewBox").split(" ").map(Number), layers: stage.children.length,
  pressed: [...dialog.querySelectorAll("[aria-pressed=true]")].map((each) => each.textContent),
  shown: dialog.style.getPropertyValue("--shown"), link: dialog.querySelector("a").href,
  where: dialog.querySelector(".where").textContent, focus: dialog.contains(document.activeElement),
});
const key = (name, on = document.activeElement) =>
  on.dispatchEvent(new KeyboardEvent("keydown", { key: name, bubbles: true, cancelable: true }));
const panels = document.querySelectorAll("figure.crop .panels svg");
panels[0].focus();
key("Enter");
look("opened");
key("2");
look("truth");
key("+");
look("closer");
key("ArrowRight");
look("moved");
key("0");
look("whole");
key("o");
look("without");
key("o");
look("with");
key("n");
look("next");
key("p");
key("9");
look("back");
// A voxel, as the browser shows it.
const point = new DOMPoint(90.5, 30.5).matrixTransform(stage.getScreenCTM());
const pointer = (name, x, y, kind = PointerEvent) =>
  stage.dispatchEvent(new kind(name, { deltaY: -1, clientX: x, clientY: y, bubbles: true, cancelable: true }));
pointer("wheel", point.x, point.y, WheelEvent);
pointer("pointermove", point.x, point.y);
look("wheel");
stage.setPointerCapture = () => undefined; // there is no such pointer
pointer("pointerdown", point.x, point.y);
pointer("pointermove", point.x + 20, point.y + 10);
pointer("pointerup", point.x + 20, point.y + 10);
look("dragged");
dialog.close();
look("closed");
panels[3].dispatchEvent(new MouseEvent("click", { bubbles: true }));
look("clicked");
document.body.replaceChildren(document.createTextNode("SEEN" + JSON.stringify(seen) + "SEEN"));
"""


@pytest.fixture(scope="module")
def seen(
    make_shared_run: Callable[..., dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The run, and what was seen after each step."""
    run = make_shared_run({"train": "train", "test": "test"}, name="explored", shape=(5, 90, 120))
    report(**run)
    page = run["report"].read_text(encoding="utf-8")
    # The page lets no other script run: here it has to.
    tried = run["report"].with_name("tried.html")
    allowed = page.replace(str(escape(policy())), "script-src 'unsafe-inline'")
    assert allowed != page
    tried.write_text(allowed.replace("</body>", f"<script>{STEPS}</script></body>"), encoding="utf-8")
    command = [
        str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        "--disable-background-networking", "--host-resolver-rules=MAP * ~NOTFOUND",
        f"--user-data-dir={tmp_path_factory.mktemp('profile')}", "--dump-dom", tried.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    steps = json.loads(html.unescape(done.stdout.split("SEEN")[1]))
    return run, {step["name"]: step for step in steps}


def test_a_picture_opens_and_closes(seen: tuple[Any, dict[str, dict[str, Any]]]) -> None:
    _, steps = seen
    assert steps["opened"]["open"]
    assert steps["opened"]["focus"]
    assert steps["opened"]["box"] == [0, 0, 120, 90]
    assert steps["opened"]["title"] == "test, section 0: Image"
    assert not steps["closed"]["open"]


def test_views_change_in_place(seen: tuple[Any, dict[str, dict[str, Any]]]) -> None:
    _, steps = seen
    assert steps["truth"]["title"] == "test, section 0: Truth"
    assert steps["truth"]["pressed"] == ["2 Truth"]
    assert steps["truth"]["layers"] == 2
    assert steps["clicked"]["title"] == "test, section 0: Errors"
    assert steps["without"]["shown"] == "0"
    assert steps["with"]["shown"] == "0.5"


def test_zoom_and_moves_stay_within_the_picture(seen: tuple[Any, dict[str, dict[str, Any]]]) -> None:
    _, steps = seen
    x, y, width, height = steps["closer"]["box"]
    assert (width, height) == (96, 72)
    assert (x, y) == (12, 9)
    assert steps["moved"]["box"] == [24, 9, 96, 72]
    assert steps["whole"]["box"] == [0, 0, 120, 90]
    # By the wheel, and when it is dragged, what lies under the pointer stays there; events have whole pixels.
    assert steps["wheel"]["box"] == pytest.approx([90.5 * 0.2, 30.5 * 0.2, 96, 72], abs=0.2)
    assert steps["wheel"]["where"] == steps["dragged"]["where"] == "y 30, x 90"
    assert steps["dragged"]["box"][0] < steps["wheel"]["box"][0]
    assert steps["dragged"]["box"][2:] == [96, 72]


def test_pictures_follow_one_another(seen: tuple[Any, dict[str, dict[str, Any]]]) -> None:
    _, steps = seen
    assert steps["next"]["title"] == "test, section 2: Truth"
    assert steps["back"]["title"] == "test, section 0: Truth"


def test_the_viewer_opens_at_what_is_seen(seen: tuple[Any, dict[str, dict[str, Any]]]) -> None:
    run, steps = seen
    assert set(read_json(run["facts"])["inputs"]) == {"train", "test"}
    assert steps["opened"]["link"] == link("test", (0, 45, 60))
    assert steps["moved"]["link"] == link("test", (0, 45, 72))


def test_no_word_of_the_run_is_in_the_script() -> None:
    assert "</" not in script()
    assert "{{" not in script()
