"""Captions of Snakemake's own report name only what the rules give, and are clean reStructuredText."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from docutils.core import publish_parts
from jinja2 import Environment, StrictUndefined

CAPTIONS = Path(__file__).parents[2] / "workflow" / "report"

SNAKEMAKE = SimpleNamespace(
    config={
        "run": "demo",
        "volumes": {
            "train": {"role": "train", "image": "phantom"},
            "test_1": {"role": "test", "image": "data/test*1*.tif"},
        },
    },
    wildcards=SimpleNamespace(volume="test_1"),
    params=SimpleNamespace(
        role="test",
        classes=["membrane", "inside"],
        objects="inside",
        run="demo",
        settings={"steps": 150, "validate_every": 15, "squares": 16, "uncertain": 0.8},
        seed=1,
    ),
)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        pytest.param("workflow", ["demo", "test_1", "data/test*1*.tif"], id="workflow"),
        pytest.param("scores", ["test_1", "membrane, inside", "<em>inside</em>"], id="scores"),
        pytest.param("history", ["150", "15 steps", "seed 1"], id="history"),
        pytest.param("report", ["demo"], id="report"),
        pytest.param("quality", ["test_1", "0.8", "16 squares"], id="quality"),
        pytest.param("figures", ["demo"], id="figures"),
        pytest.param("segments", ["test_1", "<em>inside</em>"], id="segments"),
    ],
)
def test_a_caption_quotes_its_job(name: str, told: list[str]) -> None:
    text = (CAPTIONS / f"{name}.rst").read_text(encoding="utf-8")
    caption = Environment(undefined=StrictUndefined).from_string(text).render(snakemake=SNAKEMAKE)
    # Warnings of docutils are errors at this level.
    body = publish_parts(caption, writer="html", settings_overrides={"halt_level": 2})["body"]
    for part in told:
        assert part in body


def test_there_is_no_other_caption() -> None:
    names = {"workflow", "scores", "quality", "figures", "history", "report", "segments"}
    assert {path.stem for path in CAPTIONS.glob("*")} == names
