"""What quality control found is told in words that say no more than it knows."""

import base64
from collections.abc import Callable
from typing import Any

import pytest

from unetpipe.quality.faults import faults
from unetpipe.report import inspection
from unetpipe.report.render import report

MakeRun = Callable[..., dict[str, Any]]


def measured(sections: int = 12, **changes: Any) -> dict[str, Any]:
    nothing = faults(
        first=0, missing=[], contrast=[], sharpness=[], empty=[], band_nm=[], digest=[]
    )  # fmt: skip
    return {
        "volume": "v",
        "classes": ["a", "b"],
        "uncertain": 0.0625,
        "shares": [0.25, 0.75],
        "faults": nothing,
        "per_section": {
            "section": list(range(sections)),
            "contrast": [30.0] * sections,
            "sharpness": [0.02] * sections,
            "entropy": [0.1] * sections,
            "uncertain": [0.06] * sections,
            "shares": [[0.25, 0.75]] * sections,
        },
    } | changes


def test_every_kind_of_fault_has_a_word() -> None:
    assert inspection.FAULTS.keys() == measured()["faults"].keys()


def test_faults_are_named_with_their_sections() -> None:
    found = measured(faults={**measured()["faults"], "missing": [27], "folded": [24, 27]})
    assert inspection.sentence(found) == (
        "The network is uncertain of 6.2\N{NO-BREAK SPACE}% of the voxels. "
        "Sections that look missing (27), folded or dirty (24, 27)."
    )
    assert inspection.count_of_faults(found) == 2
    assert inspection.rows(found) == [("missing", 1, "27"), ("folded or dirty", 2, "24, 27")]


def test_many_sections_are_counted_not_listed() -> None:
    found = measured(faults={**measured()["faults"], "blurred": list(range(10_000))})
    assert "and 9988 more" in inspection.sentence(found)
    assert len(inspection.sentence(found)) < 200


def test_few_sections_are_not_compared() -> None:
    assert list(inspection.of(measured(3), {})) == ["uncertainty", "shares"]


def test_where_nothing_was_predicted_nothing_is_claimed() -> None:
    found = measured(uncertain=None, shares=None)
    assert inspection.sentence(found) == "Nothing was predicted where it was looked. No section looks faulty."
    assert set(inspection.of(found, {})) == {"image"}


@pytest.mark.parametrize("sections", [12, 30_000])
def test_figures_do_not_grow_with_the_volume(sections: int) -> None:
    found = measured(sections, faults={**measured()["faults"], "missing": list(range(0, sections, 2))})
    drawings = inspection.of(found, {"a": "#009e73"})
    assert list(drawings) == ["uncertainty", "image", "shares"]
    for drawing in drawings.values():
        assert len(base64.b64decode(drawing.picture.partition(",")[2])) < 120_000


def test_one_section_is_a_whole_number() -> None:
    for drawing in inspection.of(measured(1), {}).values():
        assert "\N{MINUS SIGN}0.0" not in base64.b64decode(drawing.picture.partition(",")[2]).decode()


def test_a_page_without_labels_leads_with_what_is_known(make_run: MakeRun) -> None:
    run = make_run({"rest": "predict"}, unlabelled=["rest"], trained=False, missing={"rest": [2]}, shape=(9, 72, 80))
    report(**run)
    page = " ".join(run["report"].read_text(encoding="utf-8").split())
    assert "Uncertain voxels, volume to predict <strong>rest</strong>" in page
    assert "sections with a fault: 1 of 9" in page
    assert "Sections that look missing (2)." in page
    assert "That the network is sure does not mean that it is right." in page
    assert "Where it is least sure" in page
    assert "Where it is most often wrong" not in page
