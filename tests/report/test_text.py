"""Numbers as a reader expects them."""

import pytest

from unetpipe.report.text import abbreviated, count_of, decimal, listed, plain, share, short


@pytest.mark.parametrize(
    ("value", "text"),
    [
        pytest.param(0.0, "0", id="zero"),
        pytest.param(0.00012, "0.00012", id="small"),
        pytest.param(2.44e-6, "2.4 × 10⁻⁶", id="very small"),
        pytest.param(-3e-12, "-3 × 10⁻¹²", id="negative"),
        pytest.param(31.0, "31", id="two digits"),
        pytest.param(1.25e9, "1.2 × 10⁹", id="large"),
    ],
)
def test_short(value: float, text: str) -> None:
    assert short(value) == text


@pytest.mark.parametrize(
    ("name", "text"), [("membrane", "membrane"), ("volume-27", "volu…-27"), ("", "")], ids=["short", "long", "none"]
)
def test_a_long_name_keeps_its_ends(name: str, text: str) -> None:
    assert abbreviated(name, 8) == text


def test_digits() -> None:
    assert decimal(0.97316, 4) == "0.9732"
    assert count_of(1_234_567) == "1,234,567"
    assert share(0.5213, 1) == "52.1\N{NO-BREAK SPACE}%"


@pytest.mark.parametrize(
    ("names", "text"),
    [
        pytest.param(["a"], "a", id="one"),
        pytest.param(["a", "b"], "a and b", id="two"),
        pytest.param(["a", "b", "c"], "a, b and c", id="three"),
    ],
)
def test_listed(names: list[str], text: str) -> None:
    assert listed(names) == text


def test_facts_in_a_line() -> None:
    facts = {"library": "ONNX Runtime 1.30", "features": ["avx2", "fma"], "profile": None, "tile": {"y": 1, "x": 2}}
    assert plain(facts) == "library: ONNX Runtime 1.30; features: avx2, fma; profile: –; tile: y: 1; x: 2"
