"""A section is told of where it differs from its neighbours, and only there."""

from typing import Any

import numpy as np
import pytest

from unetpipe.quality.faults import drift, faults, ratios

FINE: dict[str, Any] = {
    "first": 100,
    "missing": [],
    "contrast": [30.0, 31, 29, 30, 32, 30, 28, 30, 31, 30, 29, 30],
    "sharpness": [0.02, 0.021, 0.019, 0.02, 0.018, 0.02, 0.022, 0.02, 0.019, 0.02, 0.021, 0.02],
    "empty": [0.1] * 12,
    "band_nm": [0.0, 40, 160, 0, 80, None, 20, 0, 0, 100, 40, 30],
    "digest": [str(n) for n in range(12)],
}


def changed(key: str, **values: Any) -> dict[str, list[int]]:
    """The faults that are told of when the values at some places (as in ``at5``) are others."""
    given = {name: list(value) if isinstance(value, list) else value for name, value in FINE.items()}
    for place, value in values.items():
        given[key][int(place.removeprefix("at"))] = value
    return {kind: sections for kind, sections in faults(**given).items() if sections}


def test_nothing_is_told_of_sections_that_are_alike() -> None:
    assert changed("contrast") == {}


@pytest.mark.parametrize(
    ("key", "values", "told"),
    [
        pytest.param("contrast", {"at3": 14.0}, {"low_contrast": [103]}, id="low contrast"),
        pytest.param("contrast", {"at3": 90.0}, {}, id="much contrast"),
        pytest.param("contrast", {"at0": 14.0, "at11": 10.0}, {"low_contrast": [100, 111]}, id="at both ends"),
        pytest.param("sharpness", {"at4": 0.005, "at5": 0.006}, {"blurred": [104, 105]}, id="two in a row"),
        pytest.param("sharpness", {"at4": 0.012}, {}, id="a little less sharp"),
        pytest.param("sharpness", {"at4": None}, {}, id="not measured"),
        pytest.param("empty", {"at7": 0.3}, {"incomplete": [107]}, id="a part is lost"),
        pytest.param("empty", {"at7": 0.0}, {}, id="less is empty"),
        pytest.param("band_nm", {"at9": 350.0}, {"folded": [109]}, id="fold"),
        pytest.param("digest", {"at6": "5"}, {"repeated": [106]}, id="repeated"),
        pytest.param("digest", {"at5": None, "at6": "4"}, {"repeated": [106]}, id="repeated behind a missing one"),
        pytest.param("digest", {"at6": "1"}, {}, id="repeated later is by chance"),
    ],
)
def test_each_fault_is_told_at_its_section(key: str, values: dict[str, Any], told: dict[str, list[int]]) -> None:
    assert changed(key, **values) == told


def test_of_a_blurred_section_it_is_not_said_that_it_is_folded() -> None:
    given = FINE | {"band_nm": [500.0 if z in (3, 7) else 0.0 for z in range(12)]}
    given["sharpness"] = [0.004 if z == 3 else value for z, value in enumerate(FINE["sharpness"])]
    found = faults(**given)
    assert (found["blurred"], found["folded"]) == ([103], [107])


def test_what_changes_slowly_is_no_fault() -> None:
    fading = [float(value) for value in np.linspace(60, 6, 100)]
    given = {
        **FINE, "contrast": fading, "sharpness": fading, "empty": [0.0] * 100, "band_nm": [0.0] * 100,
        "digest": [str(n) for n in range(100)],
    }  # fmt: skip
    assert not any(faults(**given).values())


def test_few_neighbours_allow_no_verdict() -> None:
    assert ratios([1.0, 9.0, 1.0]) == [None, None, None]
    assert ratios([1.0, 9.0, None, 1.0, 1.0])[1] == 9.0
    assert ratios([0.0] * 6) == [None] * 6


def test_drift_is_between_parts() -> None:
    shares = np.repeat([[0.2, 0.8], [0.3, 0.7]], 50, axis=0)
    shares[7] = np.nan
    found = drift(shares)
    assert found["largest"] == pytest.approx([0.1, 0.1])
    assert found["parts"][0] == pytest.approx([0.2, 0.8])
    assert found["parts"][-1] == pytest.approx([0.3, 0.7])


def test_drift_of_nothing() -> None:
    assert drift(np.full((3, 2), np.nan)) == {"parts": [None] * 3, "largest": None}
