"""What the page says of numbered objects."""

from collections.abc import Callable
from typing import Any

import pytest

from unetpipe.files import write_json
from unetpipe.report.render import report

pytestmark = pytest.mark.usefixtures("without_curves")

FOUND = {
    "volume": "test",
    "segments": "s3://labs/<run>/segments.zarr",
    "objects": "<b>inside</b>",
    "method": "components",
    "threshold": 0.7,
    "threshold_chosen_on": ["validate"],
    "min_voxels": 50,
    "count": 12345,
    "voxels": 9876543,
    "dropped": 42,
    "largest": [{"number": 7, "voxels": 54321}, {"number": 2, "voxels": 4321}],
    "digests": {"segments": "5e9"},
}


def page(run: dict[str, Any], **changes: Any) -> str:
    place = run["report"].with_name("segments.json")
    write_json(place, FOUND | changes)
    report(**run, segments=[place])
    text: str = run["report"].read_text(encoding="utf-8")
    return text


def test_the_page_tells_how_many_and_how_large(make_run: Callable[..., dict[str, Any]]) -> None:
    text = page(make_run({"train": "train", "test": "test"}))
    assert "12,345 objects" in text
    assert "above 0.7 (chosen on validate); 42 of fewer than 50 voxels are left out." in text
    assert "54,321 voxels (number 7), 4,321 voxels (number 2), of 9,876,543 in all objects." in text
    assert "objects of test" in text
    assert "in all objects. In <code>" in text.replace("\n", " ")
    assert "5e9" in text
    assert "&lt;b&gt;inside&lt;/b&gt;" in text
    assert "<b>inside" not in text
    assert "s3://labs/&lt;run&gt;/segments.zarr" in text


def test_a_watershed_tells_its_seeds(make_run: Callable[..., dict[str, Any]]) -> None:
    text = page(make_run({"train": "train", "test": "test"}), method="watershed", seeds=0.95)
    assert "above 0.7, grown from seeds above 0.95 (chosen on validate);" in text


def test_a_volume_without_objects(make_run: Callable[..., dict[str, Any]]) -> None:
    run = make_run({"train": "train", "test": "test"})
    text = page(run, count=0, voxels=0, dropped=0, largest=[], threshold_chosen_on=None)
    assert "0 objects" in text
    assert "The largest" not in text
    assert "left out." not in text.split('id="objects"')[1].split("</section>")[0]


def test_without_the_rule_nothing_is_said(make_run: Callable[..., dict[str, Any]]) -> None:
    run = make_run({"train": "train", "test": "test"})
    report(**run)
    assert "Numbered objects" not in run["report"].read_text(encoding="utf-8")
