"""What the viewer is told to draw."""

import dataclasses
import re
from typing import Any

import pytest
from viewing import Made

from unetpipe.colours import colours
from unetpipe.viewer.run import Shown, look
from unetpipe.viewer.state import state


@pytest.fixture(scope="module")
def shown(made: Made) -> Shown:
    return look(made.run)[1]["v"]


def layers(shown: Shown, **changes: Any) -> dict[str, dict[str, Any]]:
    volume = dataclasses.replace(shown.volume, **changes)
    described = state(dataclasses.replace(shown, volume=volume), "http://127.0.0.1:1/data")
    return {layer["name"]: layer for layer in described["layers"]}


@pytest.mark.parametrize(
    ("changes", "black_and_white"),
    [
        pytest.param({"range": (10.0, 90.0)}, [10.0, 90.0], id="as the settings say"),
        pytest.param({"mean": (100.0, 120.0), "std": (10.0, 20.0)}, [60.0, 180.0], id="three deviations"),
        pytest.param({"mean": (100.0, 120.0), "std": (40.0, 50.0)}, [0.0, 255.0], id="within the type"),
        pytest.param({"mean": (0.5, 9.0), "std": (0.1, 0.0), "dtype": "float32"}, [0.2, 0.8], id="a missing section"),
        pytest.param({"mean": (7.0,), "std": (0.0,)}, [0.0, 1.0], id="nothing there"),
    ],
)
def test_grey_values_are_shown_over_their_range(
    changes: dict[str, Any], black_and_white: list[float], shown: Shown
) -> None:
    found = layers(shown, **changes)["image"]["shaderControls"]["normalized"]["range"]
    assert found == pytest.approx(black_and_white)


def test_each_class_has_its_colour_of_the_report(shown: Shown) -> None:
    shader = layers(shown)["probability"]["shader"]
    told = re.findall(r'#uicontrol vec3 (\w+) color\(default="#(\w{6})"\)', shader)
    assert [bytes.fromhex(colour) for _, colour in told] == [bytes(colour) for colour in colours(3)]
    assert [name.partition("_")[2] for name, _ in told] == ["membrane", "inside", "outside"]


def test_names_of_classes_are_names_for_the_shader(shown: Shown) -> None:
    classes = ["a-b", "a_b", "void", "0", "a--b-"]
    described = state(dataclasses.replace(shown, classes=classes), "http://127.0.0.1:1/data")
    names = re.findall(r"#uicontrol vec3 (\w+) ", described["layers"][1]["shader"])
    assert len(set(names)) == len(classes)
    # GLSL keeps names with two underlines for itself.
    assert all(re.fullmatch(r"[a-z]\w*", name) and "__" not in name for name in names)


def test_image_and_probabilities_are_shown_at_first(shown: Shown) -> None:
    assert [name for name, layer in layers(shown).items() if layer.get("visible", True)] == ["image", "probability"]


def test_one_section_is_shown_in_one_panel(shown: Shown) -> None:
    flat = dataclasses.replace(shown, volume=dataclasses.replace(shown.volume, shape=(1, 200, 230)))
    assert (state(shown, "x")["layout"], state(flat, "x")["layout"]) == ("4panel", "xy")
