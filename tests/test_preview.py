"""A preview is a part of the prediction, made with the engine of the run; where there is none, it says what to do."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import yaml
from engines import make_engine_in
from numpy.typing import NDArray
from onnx_unet import CLASSES, unet

from unetpipe import cli, config
from unetpipe.allocate import allocate, read_plan
from unetpipe.arrays import open_array
from unetpipe.check import check
from unetpipe.config import Settings
from unetpipe.data.ingest import ingest
from unetpipe.engines import device_class
from unetpipe.errors import UserError
from unetpipe.files import digest, read_json, write_json
from unetpipe.grid import Region
from unetpipe.predict import predict
from unetpipe.preview import Preview, parse_region, preview
from unetpipe.selection import Selection

SHAPE = (20, 90, 75)
REGION = Region((1, 30, 20), (3, 34, 40))
COMMAND = "snakemake --cores all --configfile mine.yaml"
RUN = Path("results/mine")
CERTIFICATE = RUN / "engine/openvino-fp32/certificate.json"
SETTINGS: dict[str, Any] = {
    "run": "mine",
    "classes": {name: [value] for value, name in enumerate(CLASSES)},
    "volumes": {
        "some": {"role": "train", "image": "em.tif", "labels": "labels.tif"},
        "whole": {"role": "predict", "image": "em.tif"},
    },
    "network": {"depth": 2},
    "engine": {"backend": "openvino", "precision": "fp32"},
    "predict": {"tile": [64, 64], "batch": 2, "workers": 1},
    "augment": {"tile": [100, 100]},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run that is trained and certified, and with the whole prediction."""
    place = tmp_path_factory.mktemp("trained")
    image = np.random.default_rng(7).integers(0, 256, SHAPE, np.uint8)
    tifffile.imwrite(place / "em.tif", image, photometric="minisblack")
    tifffile.imwrite(place / "labels.tif", image // 100, photometric="minisblack")
    engine = place / CERTIFICATE.parent
    engine.mkdir(parents=True)
    (place / "model.onnx").write_bytes(unet([4, 6, 8]).SerializeToString(deterministic=True))
    make_engine_in(engine, place / "model.onnx", "openvino")
    write_json(
        place / CERTIFICATE,
        {
            "geometry": dataclasses.asdict(config.Network(depth=2).geometry),
            "classes": list(CLASSES),
            "engine_digest": digest(engine / "engine"),
            "device_class": device_class("openvino"),
            "backend": "openvino",
            "precision": "fp32",
            "versions": {},
            "profile": None,
        },
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        ingest(
            image="em.tif", labels=None, volume=RUN / "volumes/whole/volume.json", name="whole", sections=None,
            voxel_size_nm=[40, 4, 4], range=None, label_values={}, ignore=[], cores=1,
        )  # fmt: skip
        allocated = RUN / "predictions/whole/allocated.json"
        allocate(
            RUN / "volumes/whole/volume.json", CERTIFICATE, allocated,
            classes=list(CLASSES), tile=[1, 64, 64], batch=1, on_change="refuse",
        )  # fmt: skip
        predict(allocated, CERTIFICATE, allocated.with_name("job-0.json"), job="job-0", workers=1, cores=1)
    return place


@pytest.fixture
def run(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The settings of a copy of that run, in the current folder."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(SETTINGS, sort_keys=False))
    monkeypatch.chdir(tmp_path)
    return check(SETTINGS, "mine.yaml")


def make(settings: Settings, region: Region = REGION, volume: str = "whole") -> Preview:
    return preview(settings, volume, region, workers=1, command=COMMAND)


def voxels(folder: Path) -> NDArray[Any]:
    return np.asarray(open_array(str(folder / "probability.zarr" / "0"))[...])


def test_a_preview_is_a_part_of_the_whole_and_is_kept(run: Settings) -> None:
    found = make(run)
    assert found.store == RUN / "previews/whole-z1-3_y30-34_x20-40/probability.zarr"
    allocated = read_json(found.store.parent / "allocated.json")
    chosen = Selection.read(allocated)
    assert found.blocks == found.computed == chosen.count < chosen.total
    assert found.voxels == sum(block.write.voxels for block in chosen.blocks(read_plan(allocated)))
    whole, part = voxels(RUN / "predictions/whole"), voxels(found.store.parent)
    wanted = chosen.voxels(Region((0, 0, 0), SHAPE))
    assert wanted[REGION.slices].all()
    np.testing.assert_array_equal(part, np.where(wanted, whole, 0))
    assert f"{found.blocks} computed (" in str(found)
    # It is looked at from afar first.
    made = read_json(found.store.parent / "pyramid.json")
    assert [level["shape"] for level in made["levels"]] == [level["shape"] for level in allocated["levels"]]

    again = make(run)
    assert (again.blocks, again.computed) == (found.blocks, 0)
    assert f"{found.blocks} there already" in str(again)

    # Whatever the engine was, a preview shows the one that is there now.
    write_json(CERTIFICATE, read_json(CERTIFICATE) | {"versions": {"openvino": "another"}})
    assert make(run).computed == found.blocks


@pytest.mark.long
def test_a_preview_is_mirrored_where_the_prediction_would_be(run: Settings) -> None:
    mirrored = check({**SETTINGS, "predict": {**SETTINGS["predict"], "mirror": ["y", "x"]}}, "mine.yaml")
    found = make(mirrored)
    assert read_json(found.store.parent / "allocated.json")["key"]["mirror"] == ["y", "x"]
    part = voxels(found.store.parent)
    assert (part[:, *REGION.slices] != voxels(RUN / "predictions/whole")[:, *REGION.slices]).any()
    # Without, it is another one.
    assert make(run).computed == found.blocks
    assert (voxels(found.store.parent) != part).any()


@pytest.mark.long
def test_the_command_tells_where_it_lies(run: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["preview", "mine.yaml", "whole", "--region", "0:1,0:8,0:8", "--workers", "1", "--config", "seed=2"]
    assert cli.main(arguments) == 0
    store = RUN / "previews/whole-z0-1_y0-8_x0-8/probability.zarr"
    told = capsys.readouterr().out
    assert told.startswith(f"{store}\n")
    assert f"napari --plugin napari-ome-zarr {store}\n" in told
    assert f"unetpipe view {RUN}, and there http://127.0.0.1:8473/at/whole-z0-1_y0-8_x0-8/0/4/4\n" in told
    assert store.is_dir()


def test_without_a_trained_network_the_command_that_makes_it_is_told(
    run: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    CERTIFICATE.unlink()
    (RUN / "volumes/whole/volume.json").unlink()
    assert cli.main(["preview", "mine.yaml", "whole", "--region", "0:1,0:8,0:8", "--config", "seed=2"]) == 1
    told = capsys.readouterr().err
    assert "no engine that is trained and certified" in told
    assert "no measured volume" in told
    assert f"{COMMAND} --config seed=2 -- {CERTIFICATE} {RUN / 'volumes/whole/volume.json'}" in told


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"classes": ["a", "b", "c"]}, r"knows the classes a, b, c, the settings have", id="classes"),
        pytest.param(
            {"geometry": dataclasses.asdict(config.Network(depth=1).geometry)}, "of another network", id="network"
        ),
    ],
)
def test_an_engine_of_other_settings_is_refused(run: Settings, change: dict[str, Any], message: str) -> None:
    write_json(CERTIFICATE, read_json(CERTIFICATE) | change)
    with pytest.raises(UserError, match=message) as caught:
        make(run)
    assert caught.value.repair == f"make it anew with: {COMMAND} -- {CERTIFICATE}"
    assert not (RUN / "previews").exists()


def test_a_region_beyond_the_volume_and_an_unknown_volume_are_refused(run: Settings) -> None:
    with pytest.raises(UserError, match=r"\[0, 76\) along x reaches beyond .* 75 voxels.*\n.*0:20,0:90,0:75"):
        make(run, Region((0, 0, 0), (20, 90, 76)))
    with pytest.raises(UserError, match="no such volume, but some, whole"):
        make(run, volume="hole")
    assert not (RUN / "previews").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("0:1,0:8", "write it as z0:z1,y0:y1,x0:x1", id="two axes"),
        pytest.param("0:1,0:8,-1:8", "write it as", id="negative"),
        pytest.param("0:1,8:8,9:8", r"\[8, 8\) along y holds no voxel; \[9, 8\) along x", id="empty"),
    ],
)
def test_what_is_no_region_is_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_region(text)


def test_a_region_is_read_as_it_is_told() -> None:
    assert parse_region(str(REGION)) == REGION
