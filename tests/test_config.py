"""Settings: all mistakes at once, with their paths."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from unetpipe.config import Settings, schema
from unetpipe.errors import SettingsError, UserError
from unetpipe.parse import parse, read

ROOT = Path(__file__).parents[1]

GOOD: dict[str, Any] = {
    "run": "try",
    "classes": {"membrane": [0], "inside": [255]},
    "volumes": {
        "a": {"role": "train", "image": "a.tif", "labels": "b.tif", "sections": [0, 4]},
        "c": {"role": "predict", "image": "c.tif"},
    },
}


VOLUME = GOOD["volumes"]["a"]


def with_change(path: str, value: Any) -> dict[str, Any]:
    data = deepcopy(GOOD)
    here = data
    *parents, last = path.split(".")
    for step in parents:
        here = here.setdefault(step, {})
    here[last] = value
    return data


def problems(data: dict[str, Any]) -> dict[str, str]:
    with pytest.raises(SettingsError) as caught:
        parse(data, "try.yaml")
    return dict(caught.value.problems)


@pytest.mark.parametrize(
    ("segment", "scored", "objects"),
    [
        pytest.param({}, None, "inside", id="the last"),
        pytest.param({}, "membrane", "membrane", id="that of the scores"),
        pytest.param({"objects": "inside"}, "membrane", "inside", id="its own"),
    ],
)
def test_the_class_of_the_objects(segment: dict[str, Any], scored: str | None, objects: str) -> None:
    data = with_change("evaluate.objects", scored) | {"segment": segment}
    assert parse(data, "try.yaml").segmented == objects


def test_defaults_are_filled_in() -> None:
    settings = parse(GOOD, "try.yaml")
    assert settings.named("predict", "train") == ["a", "c"]
    assert settings.label_values("a") == {"membrane": [0], "inside": [255]}
    assert settings.train == Settings.model_fields["train"].default


RUNS = sorted(path for path in (ROOT / "config").glob("*.yaml") if path.stem != "ablation")


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.name)
def test_the_configurations_of_the_project_can_be_used(path: Path) -> None:
    assert parse(read(path, {"data_dir": "somewhere"}), path.name).run == (
        "demo" if path.stem == "config" else path.stem
    )


def test_the_example_of_the_readme_can_be_used() -> None:
    example = (ROOT / "README.md").read_text().split("```yaml\n")[1].split("```")[0]
    assert parse(yaml.safe_load(example), "README.md").run == "mine"


@pytest.mark.parametrize(
    ("path", "value", "where", "message"),
    [
        pytest.param("widht", 3, "widht", "no setting", id="unknown key at the top"),
        pytest.param("train.stpes", 3, "train.stpes", "no setting", id="unknown key below"),
        pytest.param("volumes.a.lables", "x", "volumes.a.lables", "no setting", id="unknown key of a volume"),
        pytest.param("network.width", "16", "network.width", "valid integer; found '16'", id="text for a number"),
        pytest.param("network.width", 1.5, "network.width", "valid integer", id="fraction for an integer"),
        pytest.param("train.learning_rate", "1e-3", "train.learning_rate", "1.0e-3", id="YAML's 1e-3 is text"),
        pytest.param("train.momentum", 1.5, "train.momentum", "less than 1; found 1.5", id="out of range"),
        pytest.param("engine.backend", "cuda", "engine.backend", "tensorrt_rtx", id="unknown choice"),
        pytest.param("engine.precision", "FP32", "engine.precision",
                     "'auto', 'fp32', 'bf16', 'fp16' or 'int8'; found 'FP32'", id="precision in capitals"),
        pytest.param("engine.precision", None, "engine.precision",
                     "'auto', 'fp32', 'bf16', 'fp16' or 'int8'; found None", id="no precision"),
        pytest.param("engine.precision", {"gpu": "fp16"}, "engine.precision",
                     "'auto', 'fp32', 'bf16', 'fp16' or 'int8'; found {'gpu'", id="precision by device"),
        pytest.param("engine.precision", [], "engine.precision", "at least 1 item", id="empty ladder"),
        pytest.param("engine.precision", ["bf16", "FP32"], "engine.precision.1",
                     "'fp32', 'bf16', 'fp16' or 'int8'; found 'FP32'", id="precision of a ladder in capitals"),
        pytest.param("engine.precision", ["bf16", "auto"], "engine.precision.1",
                     "'fp32', 'bf16', 'fp16' or 'int8'; found 'auto'", id="a ladder that ends in auto"),
        pytest.param("classes.z", [], "classes.z", "has no label values", id="class without label values"),
        pytest.param("classes", {"one": [1]}, "classes", "at least 2", id="one class"),
        pytest.param("classes.inside", [0, 255], "classes.inside", "0 belongs to membrane already", id="value of two"),
        pytest.param("ignore", [255], "classes.inside", "255 belongs to ignore already", id="value ignored and not"),
        pytest.param("volumes.a.label_values", {"membrane": [1]}, "volumes.a.label_values.inside", "no label values",
                     id="class missing in a volume"),
        pytest.param("volumes.a.label_values", {"membrane": [1], "inside": [2], "x": [3]},
                     "volumes.a.label_values.x", "none of the classes", id="class of a volume unknown"),
        pytest.param("volumes.a.labels_are", "instances", "volumes.a.labels_are", "settings `instances` are missing",
                     id="instances without a rule"),
        pytest.param("volumes.a", VOLUME | {"labels_are": "instances", "label_values": GOOD["classes"]},
                     "volumes.a.label_values", "no meaning for instances", id="label values of instances"),
        pytest.param("volumes.c.labels_are", "instances", "volumes.c.labels_are", "without labels",
                     id="instances of a volume without labels"),
        pytest.param("volumes.c.annotated", [0], "volumes.c.annotated", "without labels",
                     id="parts of a volume without labels"),
        pytest.param("volumes.a.annotated", [], "volumes.a.annotated", "at least 1 item", id="no parts"),
        pytest.param("volumes.a.annotated", [-1], "volumes.a.annotated.0", "greater than or equal to 0",
                     id="part before the first section"),
        pytest.param("volumes.a.annotated", [0, "x"], "volumes.a.annotated.1", "valid integer", id="part that is text"),
        pytest.param("volumes.a.annotated", [0, [[0, 1], [0, 5]]], "volumes.a.annotated.1.2", "is required",
                     id="part of two axes"),
        pytest.param("volumes.a.annotated", [[[0, 1], [5, 5], [0, 5]]], "volumes.a.annotated.0",
                     "[5, 5) along y holds no voxel", id="empty part"),
        pytest.param("instances", {"boundary": "wall", "object": "inside"}, "instances.boundary", "none of the classes",
                     id="boundary of instances unknown"),
        pytest.param("instances", {"boundary": "membrane", "object": "cell"}, "instances.object", "none of the classes",
                     id="object of instances unknown"),
        pytest.param("instances", {"boundary": "inside", "object": "inside"}, "instances.object", "as the boundary",
                     id="one class for instances"),
        pytest.param("instances", {"boundary": "membrane", "object": "inside", "ignore": [2**64]}, "instances.ignore.0",
                     "less than", id="number that no type holds"),
        pytest.param("evaluate.compared_with", "dic-hela", "evaluate.compared_with", "has labels that are instances",
                     id="nothing to compare"),
        pytest.param("augment.class_weights", {"cell": 2.0}, "augment.class_weights.cell", "none of the classes",
                     id="weight of no class"),
        pytest.param("augment.class_weights", {"inside": 0.0}, "augment.class_weights.inside", "greater than 0",
                     id="class without weight"),
        pytest.param("volumes.a.sections", [4, 4], "volumes.a.sections", "holds no section", id="empty range"),
        pytest.param("volumes.a.sections", [0, 1, 2], "volumes.a.sections", "", id="range of three"),
        pytest.param("volumes.a.sections", [0, "x"], "volumes.a.sections.1", "integer", id="range of text"),
        pytest.param("volumes.a.labels", None, "volumes.a.labels", "required for the role train", id="no labels"),
        pytest.param("volumes.a.range", [1.0, 0.0], "volumes.a.range", "not below", id="range upside down"),
        pytest.param("volumes.a.image", "phantom", "volumes.a.image", "`phantom` are missing", id="no phantom"),
        pytest.param("volumes.a.image", "{data_dir}/x", "volumes.a.image", "add --config data_dir=DIR", id="data_dir"),
        pytest.param("volumes.a.role", "predict", "volumes", "no volume has the role train", id="nothing to train"),
        pytest.param("volumes.c.role", "train", "volumes", "nothing would be segmented", id="nothing to predict"),
        pytest.param("volumes.a b", {"role": "predict", "image": "x"}, "volumes.a b", "", id="name with a space"),
        pytest.param("phantom", {"shape": [5, 99, 99], "fold": 5}, "phantom.fold", "no section 5", id="fold outside"),
        pytest.param("phantom", {"fold": 3, "missing": 3}, "phantom.fold", "is the missing one", id="fold missing"),
        pytest.param("augment.tile", [300, 301], "augment.tile", "can take are [300, 300]", id="tile"),
        pytest.param("predict.tile", [31, 31], "predict.tile", "cannot take [31, 31]", id="tile of prediction"),
        pytest.param("predict.mirror", ["z"], "predict.mirror", "z is for 3D networks; this one sees a single section",
                     id="mirrored along z in 2D"),
        pytest.param("predict.mirror", ["y", "y"], "predict.mirror", "names an axis twice", id="mirrored twice"),
        pytest.param("predict.mirror", "all", "predict.mirror", "'none'; found 'all'", id="mirrored somehow"),
        pytest.param("predict.mirror", [], "predict.mirror", "at least 1 item", id="mirrored along no axis"),
        pytest.param("predict.mirror", ["t"], "predict.mirror.0", "'z', 'y' or 'x'", id="mirrored along no known axis"),
        pytest.param("network.kernel", [1, 3], "network.kernel.2", "is required", id="kernel of two axes"),
        pytest.param("network.kernel", [1, 4, 3], "network.kernel", "even along an axis", id="even kernel"),
        pytest.param("network.kernel", [[1, 3, 3]] * 4, "network.kernel", "list of 4; a network of depth 4 needs 5",
                     id="kernels of too few levels"),
        pytest.param("network.kernel", [], "network.kernel", "", id="no kernels"),
        pytest.param("network.pooling", [[1, 2, 2]] * 5, "network.pooling", "list of 5; a network of depth 4 needs 4",
                     id="poolings of too many levels"),
        pytest.param("network.pooling", [0, 2, 2], "network.pooling.0", "greater than or equal to 1",
                     id="pooling of 0"),
        pytest.param("network.sections", 2, "network.sections", "2 is even", id="even sections"),
        pytest.param("network", {"name": "patch_classifier", "skips": "add"}, "network.skips",
                     "has no meaning for the network patch_classifier", id="skips of patches"),
        pytest.param("network.upsampling", "bilinear", "network.upsampling", "'transposed', 'nearest'",
                     id="unknown upsampling"),
        pytest.param("network", {"kernel": [3, 3, 3], "sections": 3}, "network.sections", "is for 2D networks",
                     id="sections of a 3D network"),
        pytest.param("network.kernel", [3, 3, 3], "augment.tile", "this network takes tiles (z, y, x)",
                     id="tile of a 2D network"),
        pytest.param("predict.tile", [1, 44, 44], "predict.tile", "this network takes tiles (y, x)",
                     id="tile of a 3D network"),
        pytest.param("augment.border_class", "cell", "augment.border_class", "none of the classes", id="border class"),
        pytest.param("segment", {"objects": "cell"}, "segment.objects", "none of the classes", id="objects of none"),
        pytest.param("segment", {"method": "watershed", "seeds": 0.4}, "segment.seeds",
                     "0.4 is below segment.threshold, 0.5", id="seeds that would grow upwards"),
        pytest.param("segment", {"threshold": 1.0}, "segment.threshold", "less than 1; found 1", id="threshold is 1"),
        pytest.param("segment", {"threshold": "best"}, "segment.threshold", "'validation'; found 'best'",
                     id="threshold in another word"),
        pytest.param("segment", {"threshold": "validation"}, "segment.threshold", "the role validate",
                     id="threshold from no volume"),
        pytest.param("segment", {"threshold": "validation", "objects": "membrane"}, "segment.objects",
                     "'membrane', but the threshold `validation` is that of inside (evaluate.objects)",
                     id="threshold of another class"),
        pytest.param("segment", {"method": "seeds"}, "segment.method", "'components', 'components_2d' or 'watershed'",
                     id="unknown method"),
        pytest.param("predict.batch", 99, "predict.batch", "engine.max_batch", id="batch"),
        pytest.param("predict.cluster", "pbs", "predict.cluster", "should match pattern", id="unknown cluster"),
        pytest.param("predict.cluster", "tcp://host", "predict.cluster", "should match pattern", id="no port"),
        pytest.param("predict.jobs", 0, "predict.jobs", "greater than or equal to 1", id="no job"),
        pytest.param("predict", {"slurm": {"workers": 2}}, "predict.slurm", "set that to `slurm`",
                     id="worker jobs that nobody starts"),
        pytest.param("predict", {"cluster": "slurm", "jobs": 2}, "predict.jobs", "2 jobs would each drive workers",
                     id="spread twice"),
        pytest.param("predict", {"cluster": "slurm", "workers": 2}, "predict.workers", "set predict.slurm.workers",
                     id="workers here and there"),
        pytest.param("predict", {"cluster": "tcp://h:8786", "workers": 2}, "predict.workers",
                     "the number of the scheduler's workers", id="workers of a scheduler"),
        pytest.param("predict", {"cluster": "slurm", "slurm": {"options": ["--x y"]}}, "predict.slurm.options.0",
                     "should match pattern", id="two options in one"),
        pytest.param("gpus", -1, "gpus", "greater than or equal to 0", id="negative GPUs"),
        pytest.param("volumes.a.image", "a{x}.tif", "volumes.a.image", "takes for a pattern", id="pattern"),
        pytest.param("train.init", "{data_dir}/x", "train.init", "data_dir", id="data_dir in train.init"),
        pytest.param("predict.store", "{data_dir}/x", "predict.store", "data_dir", id="data_dir in predict.store"),
        pytest.param("train.loss", "focal", "train.loss", "'cross_entropy', 'dice'", id="unknown loss"),
        pytest.param("train.focus", 1.0, "train.focus", "less than 1", id="focus on nothing else"),
        pytest.param("train", {"steps": 200, "batch": 4, "focus": 0.5}, "train.focus", "after 2 passes over the 400 "
                     "samples (augment.samples); 800 are taken", id="focus that never begins"),
        pytest.param("train", {"steps": 4, "batch": 400, "focus": 0.5}, "train.focus", "begins after 4 passes",
                     id="focus with passes of one batch"),
        pytest.param("train", {"steps": 20, "average": 21}, "train.average", "21 is more than train.steps, 20",
                     id="average over more than all steps"),
        pytest.param("train.average", -1, "train.average", "greater than or equal to 0", id="negative average"),
    ],
)  # fmt: skip
def test_each_mistake_is_named(path: str, value: Any, where: str, message: str) -> None:
    found = problems(with_change(path, value))
    assert where in found
    assert message in found[where]


def test_classes_need_label_values_only_where_they_are_read() -> None:
    data = with_change("classes", {"membrane": [], "inside": []})
    assert problems(data).keys() == {"classes.membrane", "classes.inside"}
    data["volumes"]["a"]["label_values"] = {"membrane": [0], "inside": [255]}
    parse(data, "try.yaml")
    del data["volumes"]["a"]["label_values"]
    data["volumes"]["a"]["labels_are"] = "instances"
    data["instances"] = {"boundary": "membrane", "object": "inside", "ignore": [2**64 - 1, -1]}
    settings = parse(data, "try.yaml")
    assert settings.instances is not None
    assert settings.instances.ignore == [2**64 - 1, -1]


def test_all_mistakes_come_together() -> None:
    data = with_change("train.stpes", 1)
    data["network"] = {"width": "x"}
    data["volumes"]["a"]["sections"] = [4, 2]
    data["augment"] = {"border_class": "none"}
    del data["volumes"]["c"]["image"]
    del data["run"]
    assert problems(data).keys() == {"train.stpes", "network.width", "volumes.c.image", "run"}
    data["run"] = "try"
    data["volumes"]["c"]["image"] = "c.tif"
    assert problems(data).keys() == {
        "train.stpes", "network.width", "volumes.a.sections", "augment.border_class"
    }  # fmt: skip


def test_the_message_names_source_and_count() -> None:
    with pytest.raises(
        SettingsError, match=r"(?s)try\.yaml cannot be used.*1 mistake\n    run: is required and missing"
    ):
        parse({key: value for key, value in GOOD.items() if key != "run"}, "try.yaml")


def test_the_near_tile_sizes_are_legal() -> None:
    text = problems(with_change("augment.tile", [301, 411]))["augment.tile"]
    for near in text.split(" are ")[1].split(" and "):
        parse(with_change("augment.tile", yaml.safe_load(near)), "try.yaml")


def of_network(network: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {**deepcopy(GOOD), "network": network, **changes}


def test_what_a_network_has_no_use_for_is_named_all_at_once() -> None:
    network = {"name": "full_resolution", "pooling": [1, 3, 3], "skips": "none", "upsampling": "nearest"}
    found = problems(of_network(network))
    assert found.keys() == {"network.pooling", "network.skips", "network.upsampling"}
    assert all("has no meaning for the network full_resolution: leave it out" in text for text in found.values())
    parse(of_network({"name": "full_resolution"}), "try.yaml")


DEEP = {"depth": 2, "kernel": [[1, 3, 3], [3, 3, 3], [3, 3, 3]], "pooling": [[1, 2, 2], [2, 2, 2]]}


@pytest.mark.parametrize(
    ("network", "tile", "full"),
    [
        pytest.param({"depth": 2}, [44, 48], (1, 44, 48), id="2D"),
        pytest.param({"depth": 2, "sections": 5}, [44, 48], (5, 44, 48), id="2.5D"),
        pytest.param(DEEP, [18, 44, 48], (18, 44, 48), id="3D"),
    ],
)
def test_a_tile_is_that_of_the_network(network: dict[str, Any], tile: list[int], full: tuple[int, ...]) -> None:
    settings = parse(of_network(network, augment={"tile": tile}, predict={"tile": tile}), "try.yaml")
    assert settings.predict.tile is not None
    assert settings.network.tile(settings.augment.tile) == settings.network.tile(settings.predict.tile) == full


@pytest.mark.parametrize(
    ("network", "mirror", "axes"),
    [
        pytest.param({}, "none", [], id="not"),
        pytest.param({}, ["x", "y"], ["y", "x"], id="2D"),
        pytest.param({"sections": 5}, ["x"], ["x"], id="2.5D"),
        pytest.param(DEEP, ["x", "z", "y"], ["z", "y", "x"], id="3D"),
    ],
)
def test_axes_have_one_order(network: dict[str, Any], mirror: Any, axes: list[str]) -> None:
    tile = {"augment": {"tile": [18, 44, 48]}} if network is DEEP else {}
    assert parse(of_network(network, predict={"mirror": mirror}, **tile), "try.yaml").predict.mirror_axes == axes


def test_sections_that_are_channels_are_not_turned_round() -> None:
    found = problems(of_network({"sections": 5}, predict={"mirror": ["z", "x"]}))
    assert "this one sees 5 sections, in their order, and can be mirrored along y and x" in found["predict.mirror"]


def test_the_near_tile_sizes_of_a_3d_network_are_legal() -> None:
    text = problems(of_network(DEEP, augment={"tile": [19, 47, 51]}))["augment.tile"]
    for near in text.split(" are ")[1].split(" and "):
        parse(of_network(DEEP, augment={"tile": yaml.safe_load(near)}), "try.yaml")


def test_model_and_init_exclude_each_other() -> None:
    data = with_change("train.init", "x.safetensors") | {"model": "y.safetensors"}
    assert "train.init" in problems(data)


def test_a_model_leaves_nothing_to_watch() -> None:
    data = with_change("train.tensorboard", True) | {"model": "y.safetensors"}
    assert "no meaning beside `model`" in problems(data)["train.tensorboard"]


def test_settings_of_training_that_go_together_pass() -> None:
    train = {"steps": 201, "batch": 4, "focus": 0.5, "average": 201, "loss": "both", "tensorboard": True}
    assert parse(with_change("train", train), "try.yaml").train.focus == 0.5


def test_with_a_model_nothing_needs_to_train() -> None:
    data = with_change("model", "y.safetensors")
    del data["volumes"]["a"]
    assert parse(data, "try.yaml").named("train") == []


def test_data_dir_is_filled_in() -> None:
    data = with_change("volumes.a.image", "{data_dir}/x.tif") | {"predict": {"store": "{data_dir}/predicted"}}
    settings = parse(data | {"data_dir": "some/where/"}, "try.yaml")
    assert settings.volumes["a"].image == "some/where/x.tif"
    assert settings.predict.store == "some/where/predicted"


def test_data_that_is_no_yaml_is_refused() -> None:
    assert "" in problems(GOOD | {"seed": {1, 2}})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(None, "no such file", id="missing"),
        pytest.param("a: [1", "must be YAML", id="broken"),
        pytest.param("a: {b: 1}\nc: {b: 1, b: 2}", "'b' stands twice in one place(.|\n)*line 2", id="a key twice"),
        pytest.param("", "it is empty", id="empty"),
        pytest.param("- 1", "a list, not keys and values", id="list"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(content: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=message):
        read(path)


@pytest.mark.parametrize(
    ("backend", "gpus", "asked"),
    [("auto", None, 0), ("tensorrt", None, 1), ("tensorrt_rtx", None, 1), ("openvino", None, 0), ("auto", 2, 2),
     ("tensorrt", 0, 0)],
)  # fmt: skip
def test_the_gpus_that_a_job_asks_for(backend: str, gpus: int | None, asked: int) -> None:
    data = with_change("engine.backend", backend) | {"gpus": gpus}
    assert parse(data, "config.yaml").gpus_of_a_job == asked


def test_every_setting_is_described() -> None:
    def undescribed(part: dict[str, Any]) -> list[str]:
        return [
            name
            for name, entry in part["properties"].items()
            if "description" not in entry and "$ref" not in str(entry)
        ]

    whole = schema()
    assert [undescribed(part) for part in [whole, *whole["$defs"].values()] if undescribed(part)] == []
