"""The page says in words what the network is, wherever it is not the usual one."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unetpipe.config import Network
from unetpipe.files import read_json, write_json
from unetpipe.report.render import report

pytestmark = pytest.mark.usefixtures("without_curves")

MakeRun = Callable[..., dict[str, Any]]

VOLUMES = {"train": "train", "test": "test"}
DEEP = Network(depth=2, kernel=[(1, 3, 3), (3, 3, 3), (3, 3, 3)], pooling=(1, 2, 2))


def training_of(run: dict[str, Any], network: dict[str, Any], dimensions: int) -> str:
    """The text of the section on training."""
    model = read_json(run["model"])
    write_json(run["model"], model | {"network": network, "geometry": model["geometry"] | {"dimensions": dimensions}})
    report(**run)
    page = Path(run["report"]).read_text(encoding="utf-8")
    section = page.split('<section id="training">')[1].split("</section>")[0]
    return " ".join(re.sub("<[^>]*>", " ", section).split())


@pytest.mark.parametrize(
    ("network", "said", "unsaid"),
    [
        pytest.param(Network(depth=2), ["U-Net, 16 channels"], ["D U-Net", "Convolutions", "Sections"], id="2D"),
        pytest.param(
            Network(sections=5),
            ["2.5D U-Net", "Sections 5 neighbouring ones are read as channels"],
            ["Convolutions"],
            id="2.5D",
        ),
        pytest.param(
            DEEP,
            [
                "3D U-Net",
                "Convolutions 1 × 3 × 3, 3 × 3 × 3, 3 × 3 × 3 from the top level (z × y × x)",
                "Poolings 1 × 2 × 2 at every level (z × y × x)",
            ],
            ["2.5D", "Sections"],
            id="3D",
        ),
        pytest.param(Network(pooling=(1, 3, 3)), ["Poolings 1 × 3 × 3 at every level"], ["D U-Net"], id="pooling"),
    ],
)
def test_the_network_is_told_in_words(make_run: MakeRun, network: Network, said: list[str], unsaid: list[str]) -> None:
    text = training_of(make_run(VOLUMES), network.model_dump(mode="json"), network.geometry.dimensions)
    assert [words for words in said if words not in text] == []
    assert [words for words in unsaid if words in text] == []


@pytest.mark.parametrize(
    ("settings", "said", "unsaid"),
    [
        pytest.param(None, ["Loss softmax cross-entropy, each voxel"], ["Dice", "average", "Choice"], id="none told"),
        pytest.param({}, ["Loss softmax cross-entropy, each voxel"], ["Dice", "average", "Choice"], id="all off"),
        pytest.param({"loss": "dice"}, ["Loss one minus the soft Dice coefficient"], ["cross-entropy"], id="dice"),
        pytest.param({"loss": "both"}, ["softmax cross-entropy and one minus the soft Dice"], ["average"], id="both"),
        pytest.param({"average": 50}, ["as an exponential moving average over about 50 steps"], ["Choice"], id="mean"),
        pytest.param({"focus": 0.5}, ["Choice of samples 50 % in proportion to the loss"], ["average"], id="focus"),
    ],
)
def test_how_it_learnt_is_told(
    make_run: MakeRun, settings: dict[str, Any] | None, said: list[str], unsaid: list[str]
) -> None:
    run = make_run(VOLUMES)
    training = read_json(run["model"])["training"] | ({} if settings is None else {"settings": settings})
    write_json(run["model"], read_json(run["model"]) | {"training": training})
    network = Network(depth=2)
    text = training_of(run, network.model_dump(mode="json"), network.geometry.dimensions)
    assert [words for words in said if words not in text] == []
    assert [words for words in unsaid if words in text] == []


def test_a_network_that_knows_no_kernels_is_a_2d_one(make_run: MakeRun) -> None:
    old = {"name": "unet", "width": 8, "depth": 2, "normalisation": "batch", "dropout": 0.0}
    text = training_of(make_run(VOLUMES), old, 2)
    assert "U-Net, 8 channels in the first level, depth 2" in text
    assert "Convolutions" not in text
