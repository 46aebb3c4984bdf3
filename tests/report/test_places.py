"""The worst places are those that quality control names, where it says, and a link leads to each."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unetpipe.colours import colours
from unetpipe.files import read_json
from unetpipe.report.places import EDGE, MOST, Shown, places
from unetpipe.viewer.address import link
from unetpipe.volume import VolumeFile

MakeRun = Callable[..., dict[str, Any]]


def shown(run: dict[str, Any], kind: Any) -> list[Shown]:
    by_name = {Path(path).parent.name: VolumeFile.read(path) for path in run["volumes"]}
    allocated = {path.parent.name: read_json(path) for path in run["allocated"]}
    quality = {path.stem: read_json(path) for path in run["quality"]}
    return list(places(kind, by_name, allocated, quality, dict(enumerate(colours(2))), 2))


@pytest.fixture(scope="module")
def larger(make_shared_run: MakeRun) -> dict[str, Any]:
    """A run with sections that are larger than a picture, not to be changed."""
    return make_shared_run({"a": "test", "b": "validate"}, shape=(5, 300, 280), name="larger", trained=False)


@pytest.mark.parametrize("kind", ["wrong", "uncertain"])
def test_a_picture_shows_the_place_in_its_frame(larger: dict[str, Any], kind: str) -> None:
    found = shown(larger, kind)
    assert len(found) == MOST
    assert [item.place.share for item in found] == sorted((item.place.share for item in found), reverse=True)
    assert {item.volume for item in found} == {"a", "b"}
    for item in found:
        z, y, x = item.place.centre
        assert item.crop.section == z
        assert item.crop.shape == (EDGE, EDGE)
        top, left, height, width = item.box
        assert (item.crop.origin[0] + top, item.crop.origin[1] + left) == (item.place.y[0], item.place.x[0])
        assert (height, width) == (item.place.y[1] - item.place.y[0], item.place.x[1] - item.place.x[0])
        assert top >= 0
        assert left >= 0
        assert top + height <= EDGE
        assert left + width <= EDGE
        assert item.link == link(item.volume, (z, y, x))


def test_volumes_without_labels_have_no_wrong_places(make_run: MakeRun) -> None:
    run = make_run({"rest": "predict"}, unlabelled=["rest"], trained=False)
    assert shown(run, "wrong") == []
    assert shown(run, "uncertain")


def test_a_section_that_is_smaller_than_a_picture_is_shown_whole(make_run: MakeRun) -> None:
    for item in shown(make_run({"a": "test"}, shape=(3, 72, 80)), "wrong"):
        assert (item.crop.origin, item.crop.shape) == ((0, 0), (72, 80))
        assert np.prod(item.crop.shape) == 72 * 80
