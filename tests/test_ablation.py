"""From the settings of an ablation to those of each run."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from unetpipe.ablation import trials_of
from unetpipe.cli import main
from unetpipe.errors import SettingsError

ROOT = Path(__file__).parents[1]

VOLUMES = {
    name: {"role": name, "image": "phantom", "labels": "phantom", "sections": [first, first + 2]}
    for name, first in (("train", 0), ("validate", 2), ("test", 4))
}
SETTINGS: dict[str, Any] = {
    "ablation": "a",
    "common": {
        "classes": {"membrane": [0], "inside": [128, 255]},
        "phantom": {"shape": [6, 128, 128]},
        "network": {"width": 4, "depth": 2, "dropout": 0.5},
        "augment": {"tile": [104, 104], "samples": 4},
        "train": {"steps": 2},
    },
    "datasets": {
        "first": {"title": "One", "seeds": [1, 2], "settings": {"volumes": VOLUMES}},
        "second": {"title": "Two", "seeds": [3], "settings": {"volumes": VOLUMES, "train": {"steps": 3, "batch": 1}}},
    },
    "variants": {
        "plain": {"title": "as it is"},
        "less": {"title": "less", "settings": {"network": {"dropout": 0.0}, "train": {"batch": 2}}},
    },
}


@pytest.fixture
def settings() -> dict[str, Any]:
    """Two variants on two datasets, to change: no part of it stands in two places."""
    parsed: dict[str, Any] = json.loads(json.dumps(SETTINGS))
    return parsed


def test_each_variant_runs_on_each_dataset_with_each_seed(settings: dict[str, Any]) -> None:
    found = trials_of(settings, "c.yaml")
    assert [trial.run for trial in found.all] == [
        "a-first-plain-1", "a-first-plain-2", "a-first-less-1", "a-first-less-2", "a-second-plain-3", "a-second-less-3",
    ]  # fmt: skip
    assert [trial.settings["seed"] for trial in found.all] == [1, 2, 1, 2, 3, 3]
    assert all(trial.scored == ["test"] for trial in found.all)
    assert found.tested("scores/{}.json")[:2] == [f"results/a-first-plain-{seed}/scores/test.json" for seed in (1, 2)]
    assert settings == SETTINGS


def test_what_is_more_particular_replaces_key_by_key(settings: dict[str, Any]) -> None:
    trials = {trial.run: trial.settings for trial in trials_of(settings, "c.yaml").all}
    assert trials["a-second-less-3"]["train"] == {"steps": 3, "batch": 2}
    assert trials["a-second-plain-3"]["train"] == {"steps": 3, "batch": 1}
    assert trials["a-first-less-1"]["train"] == {"steps": 2, "batch": 2}
    assert trials["a-first-less-1"]["network"] == {"width": 4, "depth": 2, "dropout": 0.0}
    # A list is replaced whole.
    settings["variants"]["less"]["settings"] = {"augment": {"tile": [84, 84]}}
    assert trials_of(settings, "c.yaml").all[2].settings["augment"]["tile"] == [84, 84]


def test_all_mistakes_are_told_at_once_and_once(settings: dict[str, Any]) -> None:
    settings["common"]["network"]["widht"] = 4
    settings["variants"]["less"]["settings"]["train"]["momentum"] = "high"
    settings["datasets"]["second"]["settings"]["volumes"]["test"]["image"] = "nowhere.tif"
    with pytest.raises(SettingsError) as caught:
        trials_of(settings, "c.yaml")
    problems = dict(caught.value.problems)
    assert problems.keys() == {"network.widht", "train.momentum", "volumes.test.image"}
    assert "variants.plain on datasets.first and 3 more" in problems["network.widht"]
    assert "variants.less on datasets.first and 1 more" in problems["train.momentum"]
    assert "variants.plain on datasets.second and 1 more" in problems["volumes.test.image"]


@pytest.mark.parametrize(
    ("change", "path", "text"),
    [
        pytest.param({"variants": {"plain": {"title": "alone"}}}, "variants", "at least 2", id="one variant"),
        pytest.param({"variant": {}}, "variant", "is no setting", id="misspelt"),
        pytest.param({"datasets": {}}, "datasets", "at least 1", id="no dataset"),
    ],
)
def test_its_own_settings_are_strict(change: dict[str, Any], path: str, text: str, settings: dict[str, Any]) -> None:
    with pytest.raises(SettingsError) as caught:
        trials_of(settings | change, "c.yaml")
    assert text in dict(caught.value.problems)[path]


def test_a_dataset_without_a_volume_to_test_is_a_mistake(settings: dict[str, Any]) -> None:
    del settings["datasets"]["first"]["settings"]["volumes"]["test"]
    with pytest.raises(SettingsError, match="none has the role test"):
        trials_of(settings, "c.yaml")


@pytest.mark.parametrize("part", ["common", "datasets.first.settings", "variants.less.settings"])
@pytest.mark.parametrize("key", ["run", "seed", "data_dir", "model"])
def test_what_each_run_has_of_its_own_is_not_set_elsewhere(part: str, key: str, settings: dict[str, Any]) -> None:
    here = settings
    for step in part.split("."):
        here = here[step]
    here[key] = "x" if key != "seed" else 3
    with pytest.raises(SettingsError) as caught:
        trials_of(settings, "c.yaml")
    assert f"{part}.{key}" in dict(caught.value.problems)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"classes": {"membrane": [0, 128], "inside": [255]}}, id="classes"),
        pytest.param(
            {"volumes": {"more": {"role": "test", "image": "phantom", "labels": "phantom", "sections": [0, 1]}}},
            id="volumes to test",
        ),
    ],
)
def test_variants_that_cannot_be_compared_are_a_mistake(change: dict[str, Any], settings: dict[str, Any]) -> None:
    settings["variants"]["less"]["settings"] |= change
    with pytest.raises(SettingsError, match=r"nothing can be compared \(in variants\.less on datasets\.first"):
        trials_of(settings, "c.yaml")


def test_each_run_has_a_folder_of_its_own(settings: dict[str, Any]) -> None:
    settings["datasets"]["first"]["seeds"] = [1, 1]
    with pytest.raises(SettingsError, match="more than one run would be a-first-plain-1"):
        trials_of(settings, "c.yaml")
    settings["datasets"]["first"]["seeds"] = [1]
    settings["datasets"]["first-plain"] = settings["datasets"]["first"]
    settings["variants"] |= {"plain-plain": {"title": "again"}}
    with pytest.raises(SettingsError, match="more than one run would be a-first-plain-plain-1"):
        trials_of(settings, "c.yaml")


def test_what_a_changed_variant_predicts_replaces_what_it_predicted(settings: dict[str, Any]) -> None:
    assert all(trial.settings["predict"]["on_change"] == "restart" for trial in trials_of(settings, "c.yaml").all)
    settings["common"]["predict"] = {"on_change": "refuse", "workers": 1}
    for trial in trials_of(settings, "c.yaml").all:
        assert trial.settings["predict"] == {"on_change": "refuse", "workers": 1}


def test_datasets_whose_folder_is_not_told_are_left_out(settings: dict[str, Any]) -> None:
    settings["datasets"]["second"]["settings"]["volumes"]["test"]["image"] = "{data_dir}/image.tif"
    found = trials_of(settings, "c.yaml")
    assert found.left_out == ("second",)
    assert {trial.dataset for trial in found.all} == {"first"}
    del settings["datasets"]["first"]
    with pytest.raises(SettingsError, match="data_dir"):
        trials_of(settings, "c.yaml")


def test_check_knows_them(settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings["datasets"]["second"]["settings"]["volumes"]["test"]["image"] = "{data_dir}/image.tif"
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(settings))
    assert main(["check", str(tmp_path / "c.yaml")]) == 0
    told = capsys.readouterr().out
    assert "4 runs can be used" in told
    assert "second" in told


def test_the_one_that_comes_along_is_whole(isbi_dir: Path) -> None:
    data = yaml.safe_load((ROOT / "config" / "ablation.yaml").read_text())
    assert trials_of(data, "c.yaml").left_out == ("isbi2012",)
    found = trials_of(data | {"data_dir": str(isbi_dir)}, "c.yaml")
    assert not found.left_out
    first = found.ablation.variants["unet"]
    assert first.settings == {}
    assert len(found.all) == 3 * len(found.ablation.variants)
