"""What follows from the runs of an ablation, and what does not."""

from dataclasses import replace

import pytest

from unetpipe.config import Network
from unetpipe.grid import patch_geometry
from unetpipe.report.compared import Found, Row, conclusions, costs, tables


def run(variant: str, iou: float | None, seed: int = 1, dataset: str = "d") -> Found:
    """Of which the score alone matters."""
    scores = {"mean_iou": iou, "v_rand": None, "v_info": 0.9}
    return Found(
        f"{dataset}-{variant}-{seed}", dataset, variant, seed, scores, 10, 5, 0.1 * seed, 2.0, (1, 60, 60), "fp32", True
    )


def row(*values: float, reference: tuple[float, ...] = (0.80, 0.82)) -> Row:
    """Of a variant with those scores, one a seed."""
    mine = [run("other", value, seed) for seed, value in enumerate(values)]
    return Row("other", mine, [run("first", value, seed) for seed, value in enumerate(reference)])


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        pytest.param((0.70, 0.79), "lower", id="lower"),
        pytest.param((0.70, 0.80), "alike", id="touches from below"),
        pytest.param((0.81, 0.90), "alike", id="overlaps"),
        pytest.param((0.83, 0.84), "higher", id="higher"),
        pytest.param((0.70,), None, id="one seed"),
        pytest.param((), None, id="no score"),
    ],
)
def test_a_difference_is_one_that_the_seeds_do_not_make(values: tuple[float, ...], verdict: str | None) -> None:
    assert row(*values).verdict("mean_iou") == verdict


def test_a_single_run_of_the_first_variant_tells_nothing_of_the_spread() -> None:
    assert row(0.1, 0.2, reference=(0.9,)).verdict("mean_iou") is None


def test_means_and_differences_are_over_the_seeds() -> None:
    (table,) = tables(
        [run("first", 0.8, 1), run("first", 0.9, 2), run("other", 0.7, 1), run("other", 0.6, 2)], {"d": "Data"}
    )
    first, other = table.rows
    assert (table.title, table.seeds) == ("Data", [1, 2])
    assert first.mean("mean_iou") == pytest.approx(0.85)
    assert first.difference("mean_iou") is None
    assert first.verdict("mean_iou") is None
    assert other.difference("mean_iou") == pytest.approx(-0.2)
    assert other.difference("v_rand") is None
    assert other.training_seconds == pytest.approx(0.15)


def test_no_more_is_concluded_than_the_seeds_allow() -> None:
    runs = [
        *(run("first", value, seed) for seed, value in enumerate((0.80, 0.82))),
        *(run("worse", value, seed) for seed, value in enumerate((0.70, 0.72))),
        *(run("like", value, seed) for seed, value in enumerate((0.79, 0.81))),
        *(run("better", value, seed) for seed, value in enumerate((0.90, 0.92))),
        run("first", 0.5, dataset="e"),
        run("worse", 0.4, dataset="e"),
        run("like", 0.6, dataset="e"),
        run("better", 0.6, dataset="e"),
    ]
    lower, higher, alike, single = conclusions(tables(runs, {"d": "Data", "e": "More"}))
    assert lower == "Data: mean IoU is lower than that of first with every seed for worse (\N{MINUS SIGN}0.100)."
    assert higher == "Data: mean IoU is higher than that of first with every seed for better (+0.100)."
    assert "no difference that the seeds do not make as well for like (\N{MINUS SIGN}0.010)" in alike
    assert single.startswith("More, one seed, so small differences mean nothing")
    assert "worse (\N{MINUS SIGN}0.100), like (+0.100) and better (+0.100)" in single


def test_what_was_chosen_with_the_truth_is_told() -> None:
    chosen, best = run("first", 0.8), replace(run("other", 0.8), chosen_on_validation=False)
    (table,) = tables([chosen, replace(chosen, variant="other")], {"d": "Data"})
    assert table.threshold == "the threshold chosen on validation"
    (table,) = tables([chosen, best], {"d": "Data"})
    assert table.threshold == "the best threshold, chosen with the truth"


def test_a_patch_classifier_is_told_beside_a_sliding_window() -> None:
    network = Network(name="patch_classifier", width=4, depth=2)
    tile = patch_geometry(network.kernels, network.poolings, 1).tile_for((1, 20, 20))
    found = run("patches", 0.5)
    sentence = costs(Row("patches", [replace(found, tile=tile)], [found]), network, 2)
    assert sentence is not None
    assert f"{tile[1]} × {tile[2]}" in sentence
    assert "with the same result" in sentence
    assert costs(row(0.5), Network(), 2) is None
