"""What the rule writes is what the whole volume in memory gives, however it is cut, interrupted or spread."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from halves import halves
from numpy.typing import NDArray

from unetpipe.config import Quality
from unetpipe.errors import UserError
from unetpipe.files import read_json, write_json
from unetpipe.grid import Region
from unetpipe.quality import measure
from unetpipe.quality.certainty import entropy
from unetpipe.quality.look import Look, Seen, look
from unetpipe.quality.measure import quality

MakePredicted = Callable[..., dict[str, Any]]

SHAPE = (20, 300, 290)


def image(shape: tuple[int, int, int] = SHAPE, seed: int = 1) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(20, 230, shape, np.uint8)


def run(given: dict[str, Any], cores: int = 2, **settings: Any) -> dict[str, Any]:
    quality(**given, settings=Quality(**settings), cores=cores)
    found: dict[str, Any] = read_json(given["quality"])
    return found


def test_numbers_are_those_of_the_whole_in_memory(make_predicted: MakePredicted) -> None:
    probability = halves(SHAPE, classes=3)
    found = run(make_predicted(image(), probability), uncertain=0.7)
    uncertainty = entropy(probability)
    assert found["voxels"] == np.prod(SHAPE)
    assert found["looked_at"]["share"] == 1
    assert found["entropy"] == pytest.approx(uncertainty.mean(dtype=float), rel=1e-9)
    assert found["uncertain"] == pytest.approx((uncertainty > 0.7).mean())
    shares = [(probability.argmax(axis=0) == index).mean() for index in range(3)]
    assert found["shares"] == pytest.approx(shares)
    by_section = found["per_section"]
    assert by_section["section"] == list(range(20))
    assert by_section["entropy"] == pytest.approx(uncertainty.mean(axis=(1, 2), dtype=float), rel=1e-9)
    assert by_section["contrast"] == pytest.approx(image().reshape(20, -1).std(axis=1))
    worst = found["uncertain_places"][0]
    (y0, y1), (x0, x1) = worst["y"], worst["x"]
    assert worst["share"] == pytest.approx(uncertainty[worst["section"], y0:y1, x0:x1].mean(dtype=float), rel=1e-6)
    assert found["wrong_places"] == []
    assert not any(found["faults"].values())


@pytest.mark.parametrize(
    ("block", "cores", "few"),
    [
        pytest.param((4, 32, 48), 2, 10**9, id="other blocks"),
        pytest.param((8, 64, 64), 2, 0, id="worker processes"),
    ],
)
def test_they_do_not_depend_on_blocks_and_workers(
    make_predicted: MakePredicted, block: tuple[int, int, int], cores: int, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = (70, 130, 120)
    expected = run(make_predicted(image(shape), halves(shape)))
    monkeypatch.setattr(measure, "_FEW_VOXELS", few)
    assert run(make_predicted(image(shape), halves(shape), block=block), cores) == expected


def test_with_labels_the_places_of_wrong_voxels_are_told(make_predicted: MakePredicted) -> None:
    probability = halves(SHAPE)
    labels = probability.argmax(axis=0).astype(np.uint8)
    labels[3, 70:110, 20:60] ^= 1
    labels[9, 250:260, 200:210] ^= 1
    labels[15] = 255
    grey = image()
    grey[12] = 0
    labels[12] ^= 1
    found = run(make_predicted(grey, probability, labels))
    assert found["faults"]["missing"] == [12]
    # Of the missing section nothing is told that the scores do not tell.
    assert {(place["section"], place["amount"]) for place in found["wrong_places"]} <= {(3, n) for n in range(1601)} | {
        (9, 100.0)
    }
    first = found["wrong_places"][0]
    assert first["section"] == 3
    assert first["y"][0] < 110
    assert first["y"][1] > 70


def test_what_was_not_predicted_does_not_count(make_predicted: MakePredicted) -> None:
    probability = halves(SHAPE)
    found = run(make_predicted(image(), probability, region=Region((8, 64, 0), (16, 128, 64))))
    part = probability[:, 8:16, 64:128, :64]
    assert found["looked_at"]["sections"] == [8, 16]
    assert found["voxels"] == part[0].size
    assert found["entropy"] == pytest.approx(entropy(part).mean(dtype=float), rel=1e-9)
    assert found["per_section"]["section"] == list(range(8, 16))


def test_a_volume_of_missing_sections_has_no_numbers_but_a_result(make_predicted: MakePredicted) -> None:
    shape = (3, 64, 64)
    found = run(make_predicted(np.zeros(shape, np.uint8), np.zeros((2, *shape), np.uint8)))
    assert found["faults"]["missing"] == [0, 1, 2]
    assert (found["voxels"], found["entropy"], found["uncertain"], found["shares"]) == (0, None, None, None)
    assert found["uncertain_places"] == []


def test_a_killed_run_goes_on_and_ends_the_same(make_predicted: MakePredicted, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = (200, 64, 64)
    expected = run(make_predicted(image(shape), halves(shape)))
    given = make_predicted(image(shape), halves(shape))
    looked: list[str] = []

    def until(stop: int) -> Callable[[Look], Seen]:
        def spied(task: Look) -> Seen:
            if len(looked) == stop:
                raise KeyboardInterrupt
            looked.append(task.name)
            return look(task)

        return spied

    monkeypatch.setattr(measure, "_AT_ONCE", 1)
    monkeypatch.setattr(measure, "look", until(2))
    with pytest.raises(KeyboardInterrupt):
        run(given)
    assert not given["quality"].exists()
    monkeypatch.setattr(measure, "look", until(-1))
    assert run(given) == expected
    # Four runs of sections: none that was recorded is looked at again.
    assert len(looked) == len(set(looked)) == 4
    assert run(given) == expected
    assert len(looked) == 4


def test_other_settings_or_another_prediction_begin_anew(make_predicted: MakePredicted) -> None:
    given = make_predicted(image(), halves(SHAPE))
    first = run(given)
    assert run(given, uncertain=0.1)["uncertain"] > first["uncertain"]
    write_json(given["predicted"][0], {"digest": "f" * 64})
    assert run(given)["digests"]["prediction"] == "f" * 64


def test_a_shard_that_is_gone_is_no_part_that_was_not_wanted(make_predicted: MakePredicted) -> None:
    given = make_predicted(image(), halves(SHAPE))
    store = Path(read_json(given["allocated"])["probability"]) / "0"
    (store / "c" / "0" / "1" / "2" / "3").unlink()
    with pytest.raises(UserError, match=r"1 shards of .* are gone, .*c/0/1/2/3"):
        run(given)
    assert not given["quality"].exists()
