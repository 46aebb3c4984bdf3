"""Each mistake in the data ends with what was asked, what was found, and what to do; and leaves nothing half done."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from unetpipe.check import check
from unetpipe.config import Settings
from unetpipe.data.ingest import ingest
from unetpipe.errors import SettingsError, UserError

SHAPE = (20, 64, 72)
Data = dict[str, Any]


@pytest.fixture(autouse=True)
def quiet() -> None:
    # tifffile logs what it finds wrong with a damaged file; the tests look at what is raised.
    logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)


@pytest.fixture
def data(tmp_path: Path) -> Data:
    """Settings with one volume to train on and one to segment."""
    rng = np.random.default_rng(0)
    with tifffile.TiffWriter(tmp_path / "image.tif") as tiff:
        for _ in range(SHAPE[0]):
            tiff.write(rng.integers(0, 255, SHAPE[1:], dtype=np.uint8), contiguous=False, compression="zlib")
    tifffile.imwrite(tmp_path / "labels.tif", rng.choice(np.array([0, 255], np.uint8), SHAPE), compression="zlib")
    tifffile.imwrite(tmp_path / "more.tif", rng.integers(0, 255, SHAPE, dtype=np.uint8))
    return {
        "run": "x",
        "data_dir": str(tmp_path),
        "classes": {"membrane": [0], "inside": [255]},
        "volumes": {
            "known": {"role": "train", "image": "{data_dir}/image.tif", "labels": "{data_dir}/labels.tif"},
            "unknown": {"role": "predict", "image": "{data_dir}/more.tif"},
        },
    }


def _ingest_all(settings: Settings, folder: Path) -> None:
    """As the rule does."""
    for name, volume in settings.volumes.items():
        ingest(
            volume.image,
            volume.labels,
            folder / name / "volume.json",
            name,
            volume.sections,
            volume.voxel_size_nm,
            volume.range,
            settings.label_values(name),
            settings.ignore,
            cores=2,
            annotated=volume.annotated,
            instances=settings.instances if volume.labels_are == "instances" else None,
        )


def _cut(name: str, share: float) -> Callable[[Path, Data], None]:
    def spoil(folder: Path, data: Data) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(share * len(content))])

    return spoil


def _delete(name: str) -> Callable[[Path, Data], None]:
    def spoil(folder: Path, data: Data) -> None:
        (folder / name).unlink()

    return spoil


def _image(name: str, voxels: Any) -> Callable[[Path, Data], None]:
    def spoil(folder: Path, data: Data) -> None:
        tifffile.imwrite(folder / name, voxels, photometric="minisblack")

    return spoil


def _set(volume: str, **settings: Any) -> Callable[[Path, Data], None]:
    def spoil(folder: Path, data: Data) -> None:
        data["volumes"][volume] |= settings

    return spoil


def _no_labels(folder: Path, data: Data) -> None:
    del data["volumes"]["known"]["labels"]


def _no_training(folder: Path, data: Data) -> None:
    del data["volumes"]["known"]


def _foreign_zarr(folder: Path, data: Data) -> None:
    (folder / "a.zarr" / "s0").mkdir(parents=True)
    data["volumes"]["unknown"]["image"] = "{data_dir}/a.zarr"


def _five_dimensional_zarr(folder: Path, data: Data) -> None:
    # As bioformats2raw and most light microscopes write it.
    axes = [{"name": name} for name in "tczyx"]
    levels = [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [1, 1, 1, 1, 1]}]}]
    multiscales = [{"version": "0.4", "axes": axes, "datasets": levels}]
    group = zarr.create_group(folder / "a.zarr", zarr_format=2, attributes={"multiscales": multiscales})
    group.create_array("0", shape=(1, 2, *SHAPE), dtype="uint8")
    data["volumes"]["unknown"]["image"] = "{data_dir}/a.zarr"


def _unreadable_zarr(folder: Path, data: Data) -> None:
    zarr.create_array(folder / "a.zarr", shape=SHAPE, dtype="uint8")
    (folder / "a.zarr" / "zarr.json").write_text("{")
    data["volumes"]["unknown"]["image"] = "{data_dir}/a.zarr"


def _hdf5_of_labels_alone(folder: Path, data: Data) -> None:
    with h5py.File(folder / "a.h5", "w") as file:
        file["labels"] = np.zeros(SHAPE, np.uint8)
    data["volumes"]["unknown"]["image"] = "{data_dir}/a.h5:/image"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        pytest.param(
            _delete("image.tif"),
            r"volumes\.known\.image: .*/image\.tif: there is no such file; mend .* holds labels\.tif, more\.tif",
            id="missing",
        ),
        pytest.param(
            _set("known", image="{data_dir}/imgae.tif"),
            r"volumes\.known\.image: .*/imgae\.tif: there is no such file; .* image\.tif.*: is one of these meant\?",
            id="misspelt",
        ),
        pytest.param(
            _cut("image.tif", 0.5),
            r"volumes\.known\.image: .*/image\.tif: it tells of more pages, but only \d+ can be found; write or copy",
            id="page-chain-cut",
        ),
        pytest.param(
            _cut("image.tif", 0.999),
            r"/image\.tif: section 19 ends at byte \d+, the file at byte \d+; write or copy the file again",
            id="last-section-cut",
        ),
        pytest.param(_cut("image.tif", 0), r"/image\.tif: it is no whole TIFF file", id="empty-file"),
        pytest.param(
            _image("labels.tif", np.zeros((20, 64, 73), np.uint8)),
            r"volumes\.known\.labels: have the shape \(20, 64, 73\) \(z, y, x\), the image has \(20, 64, 72\)",
            id="labels-of-another-width",
        ),
        pytest.param(
            _image("labels.tif", np.zeros((19, 64, 72), np.uint8)),
            r"volumes\.known\.labels: have the shape \(19, 64, 72\) \(z, y, x\), the image has \(20, 64, 72\)",
            id="labels-of-another-depth",
        ),
        pytest.param(
            _image("labels.tif", np.zeros(SHAPE, np.float32)),
            r"volumes\.known\.labels: are float32; label values are integers",
            id="labels-float",
        ),
        pytest.param(
            _image("more.tif", np.zeros((20, 24, 72), np.uint8)),
            r"volumes\.unknown\.image: has 24 voxels along y.* at least 32 are needed",
            id="too-small",
        ),
        pytest.param(
            _image("more.tif", np.zeros(SHAPE, np.float32)),
            r"volumes\.unknown\.range: is required: the image is float32; give the grey values that mean black",
            id="float-without-range",
        ),
        pytest.param(
            _image("more.tif", np.zeros(SHAPE, np.int16)),
            r"volumes\.unknown\.range: is required: the image is int16",
            id="signed-without-range",
        ),
        pytest.param(
            _image("more.tif", np.zeros((*SHAPE, 3), np.uint8)),
            r"volumes\.unknown\.image: .*/more\.tif: the axes Q: 20, Q: 64, Y: 72, X: 3 .*; give a stack",
            id="four-axes",
        ),
        pytest.param(_set("known", sections=[4, 4]), r"volumes\.known\.sections: \[4, 4\) holds no", id="no-section"),
        pytest.param(
            _set("known", sections=[4, 21]),
            r"volumes\.known\.sections: \[4, 21\) reaches beyond the image, which has 20 sections",
            id="sections-beyond",
        ),
        pytest.param(_no_labels, r"volumes\.known\.labels: are required for the role train", id="no-labels"),
        pytest.param(_no_training, r"volumes: no volume has the role train, and no model is given", id="no-training"),
        pytest.param(
            _foreign_zarr,
            r"volumes\.unknown\.image: .*a\.zarr: a folder without zarr\.json, .*; it holds s0; give an OME-Zarr",
            id="foreign-zarr",
        ),
        pytest.param(
            _five_dimensional_zarr,
            r"volumes\.unknown\.image: .*a\.zarr: .*5 axes; write .* \(z, y, x\)",
            id="five-dimensional-zarr",
        ),
        pytest.param(_unreadable_zarr, r"a\.zarr: a folder whose Zarr metadata cannot be read", id="unreadable-zarr"),
        pytest.param(
            _hdf5_of_labels_alone, r"a\.h5:/image: no dataset /image in .*; .* holds /labels", id="hdf5-other-dataset"
        ),
    ],
)
def test_it_is_found_before_any_job_starts(
    tmp_path: Path, data: Data, spoil: Callable[[Path, Data], None], message: str
) -> None:
    check(data, "config.yaml")
    spoil(tmp_path, data)
    with pytest.raises(SettingsError, match=message) as caught:
        check(data, "config.yaml")
    assert str(caught.value).startswith("the settings of config.yaml cannot be used\n  found: 1 mistake\n")


def _damage_section(folder: Path, data: Data) -> None:
    with tifffile.TiffFile(folder / "image.tif") as tiff:
        page = tiff.pages[11]
        start, length = page.dataoffsets[0], page.databytecounts[0]
    with (folder / "image.tif").open("r+b") as file:
        file.seek(start)
        file.write(b"\0" * length)


def _label_values(*wrong: tuple[int, int]) -> Callable[[Path, Data], None]:
    def spoil(folder: Path, data: Data) -> None:
        labels = tifffile.imread(folder / "labels.tif")
        labels[13] = 0
        at = 0
        for value, count in wrong:
            labels[13].reshape(-1)[at : at + count] = value
            at += count
        tifffile.imwrite(folder / "labels.tif", labels)

    return spoil


def _strange_section(folder: Path, data: Data) -> None:
    (folder / "sections").mkdir()
    for z in range(12):
        shape = (64, 72) if z != 9 else (64, 71)
        Image.fromarray(np.full(shape, z * 20, np.uint8)).save(folder / "sections" / f"s{z}.png")
    data["volumes"]["unknown"]["image"] = "{data_dir}/sections"


def _cut_png(folder: Path, data: Data) -> None:
    (folder / "sections").mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (12, 64, 72), dtype=np.uint8)
    for z in range(12):
        Image.fromarray(noise[z]).save(folder / "sections" / f"s{z}.png")
    _cut("sections/s10.png", 0.6)(folder, data)
    data["volumes"]["unknown"]["image"] = "{data_dir}/sections"


def _cut_chunk(folder: Path, data: Data) -> None:
    noise = np.random.default_rng(0).integers(0, 255, SHAPE, dtype=np.uint8)
    zarr.create_array(folder / "a.zarr", shape=SHAPE, dtype="uint8", chunks=(10, 64, 72))[...] = noise
    _cut("a.zarr/c/1/0/0", 0.5)(folder, data)
    data["volumes"]["unknown"]["image"] = "{data_dir}/a.zarr"


@pytest.mark.parametrize(
    ("spoil", "volume", "message"),
    [
        pytest.param(
            _damage_section,
            "known",
            r"volume .*/image\.tif was to be read\n  found: section 11 cannot be decoded .*\n  to do: .*copy the file",
            id="section-damaged",
        ),
        pytest.param(
            _label_values((17, 40), (9, 300)),
            "known",
            r"labels .*/labels\.tif were to be read, with the values membrane: \[0\], inside: \[255\], ignore: \[\]\n"
            r"  found: section 13 .* belong to no class: 9 \(300 voxels\), 17 \(40 voxels\)\n"
            r"  to do: add them to a class .*`ignore`",
            id="undeclared-label-values",
        ),
        pytest.param(
            _label_values(*((value, 2) for value in range(1, 21))),
            "known",
            r"1 \(2 voxels\), .* 6 \(2 voxels\) and 14 more",
            id="many-undeclared-label-values",
        ),
        pytest.param(
            _strange_section,
            "unknown",
            r"s9\.png holds \(64, 71\) pixels \(y, x\) of uint8, s0\.png holds \(64, 72\)",
            id="strange-section",
        ),
        pytest.param(_cut_png, "unknown", r"s10\.png cannot be decoded .*\n.*copy it again", id="png-cut"),
        pytest.param(
            _cut_chunk, "unknown", r"a\.zarr was to be read\n  found: sections 10 to 19 cannot be read", id="chunk-cut"
        ),
    ],
)
def test_it_is_found_by_ingest_and_leaves_no_volume(
    tmp_path: Path, data: Data, spoil: Callable[[Path, Data], None], volume: str, message: str
) -> None:
    folder = tmp_path / "volumes"
    spoil(tmp_path, data)
    settings = check(data, "config.yaml")
    # From an earlier run, when the file was whole.
    (folder / volume).mkdir(parents=True)
    (folder / volume / "volume.json").write_text("{}")
    with pytest.raises(UserError, match=message):
        _ingest_all(settings, folder)
    assert not (folder / volume / "volume.json").exists()


def test_labels_without_a_class_are_found_by_ingest(tmp_path: Path, data: Data) -> None:
    data["ignore"] = [17]
    data["volumes"]["known"]["annotated"] = [13]
    _label_values((17, SHAPE[1] * SHAPE[2]))(tmp_path, data)
    message = (
        r"labels .*/labels\.tif of the volume known were to be read, .* ignore: \[17\]\n"
        r"  found: not one voxel is labelled: all label values in the parts that are annotated .*\n"
        r"  to do: compare volumes\.known\.sections and \.annotated"
    )
    with pytest.raises(UserError, match=message):
        _ingest_all(check(data, "config.yaml"), tmp_path / "volumes")
    # As instances, they are one object in every section.
    data["instances"] = {"boundary": "membrane", "object": "inside"}
    data["volumes"]["known"]["labels_are"] = "instances"
    _ingest_all(check(data, "config.yaml"), tmp_path / "volumes")


def test_a_file_that_changed_after_the_check_is_refused_by_ingest(tmp_path: Path, data: Data) -> None:
    settings = check(data, "config.yaml")
    tifffile.imwrite(tmp_path / "labels.tif", np.zeros((20, 64, 73), np.uint8))
    message = r"volume known .*image\.tif and .*labels\.tif\n.*labels have the shape \(20, 64, 73\).*\n.*volumes\.known"
    with pytest.raises(UserError, match=message):
        _ingest_all(settings, tmp_path / "volumes")


def test_mended_labels_go_through(tmp_path: Path, data: Data) -> None:
    _label_values((17, 40))(tmp_path, data)
    with pytest.raises(UserError, match="17 \\(40 voxels\\)"):
        _ingest_all(check(data, "config.yaml"), tmp_path / "volumes")
    data["ignore"] = [17]
    _ingest_all(check(data, "config.yaml"), tmp_path / "volumes")
    labels = zarr.open_array(tmp_path / "volumes" / "known" / "labels.zarr" / "0", mode="r")
    assert int((np.asarray(labels[13]) == 255).sum()) == 40
