"""What was predicted stands beside what came of it."""

from collections.abc import Callable
from typing import Any

import pytest

from unetpipe.files import read_json, write_json
from unetpipe.report.planning import planned
from unetpipe.report.render import report

pytestmark = pytest.mark.usefixtures("without_curves")

PREDICTED = {
    "seconds": 12.0,
    "start_seconds": 2.0,
    "blocks": 10,
    "bytes_written": 1000,
    "memory_mb_per_worker": 300,
    "basis": {"library": "some 1.0", "host": "some-node", "measured": "2026-01-02"},
}


def job(computed: int, seconds: float, **facts: Any) -> dict[str, Any]:
    return {"computed": computed, "seconds": seconds, "bytes_written": 40 * computed, **facts}


def test_a_whole_run_is_compared_as_a_whole() -> None:
    (found,) = planned({"v": {"predicted": PREDICTED}}, {"v": [job(10, 15.0, peak_memory_mb=[250, 251.4])]}).values()
    assert (found.seconds, found.took) == (12.0, 15.0)
    assert found.off == pytest.approx(0.25)
    assert (found.memory_mb, found.peak_mb) == (300, 251)
    assert (found.bytes_raw, found.bytes_written) == (1000, 400)
    assert found.basis == "some 1.0 on some-node, 2026-01-02"


def test_a_run_that_went_on_is_compared_with_what_was_left() -> None:
    found = planned({"v": {"predicted": PREDICTED}}, {"v": [job(4, 5.0)]})["v"]
    # To start, and four of ten blocks.
    assert found.seconds == pytest.approx(2 + 4)
    assert found.off == pytest.approx(-1 / 6)
    assert (found.bytes_raw, found.bytes_written, found.peak_mb) == (400, 160, None)


def test_mirror_images_are_counted() -> None:
    predicted = PREDICTED | {"mirror": ["z", "y", "x"]}
    found = planned({"v": {"predicted": predicted}, "w": {"predicted": PREDICTED}}, {"v": [job(4, 5.0)], "w": []})
    assert (found["v"].mirror, found["v"].images) == (("z", "y", "x"), 8)
    assert (found["w"].mirror, found["w"].images) == ((), 1)


def test_where_nothing_was_computed_nothing_is_compared() -> None:
    found = planned({"v": {"predicted": PREDICTED}}, {"v": [job(0, 0.001)]})["v"]
    assert (found.seconds, found.took, found.off, found.bytes_written) == (None, None, None, None)


def test_a_plan_of_another_version_is_left_out() -> None:
    assert planned({"v": {}}, {"v": [job(10, 15.0)]}) == {}


def test_the_page_shows_both(make_run: Callable[..., dict[str, Any]]) -> None:
    run = make_run({"train": "train", "test": "test"})
    (allocated,) = run["allocated"]
    description = read_json(allocated)
    described = description["predicted"] | {"seconds": 3.4, "start_seconds": 1.0, "memory_mb_per_worker": 1234}
    described["mirror"] = ["y", "x"]
    write_json(allocated, description | {"predicted": described})
    (done,) = run["predictions"]
    write_json(done, read_json(done) | {"seconds": 4.25, "peak_memory_mb": [1111, 1098]})
    report(**run)
    page = run["report"].read_text()
    _, _, table = page.partition("Predicted against actual")
    row = table.partition("</tbody>")[0]
    for cell in (
        ">4 (y, x)<",
        ">3.4<",
        ">4.2<",
        ">25\N{NO-BREAK SPACE}%<",
        ">1,234<",
        ">1,111<",
        "some library 1.0 on some-node",
    ):
        assert cell in row
    write_json(allocated, {name: value for name, value in description.items() if name != "predicted"})
    report(**run)
    assert "Predicted against actual" not in run["report"].read_text()
