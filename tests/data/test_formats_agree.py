"""The law of sources: the same voxels, whatever the format and wherever they lie, are the same volume."""

from collections.abc import Callable, Iterator
from pathlib import Path

import buckets
import numpy as np
import predicting
import pytest
from formats import (
    Voxels,
    as_hdf5,
    as_n5,
    as_n5_pyramid,
    as_npy,
    as_ome_zarr_4,
    as_ome_zarr_5,
    as_png_folder,
    as_precomputed,
    as_sharded_precomputed,
    as_sharded_zarr,
    as_tiff,
    as_tiff_folder,
    as_zarr_array,
)
from ingesting import ingested
from uploading import upload

from unetpipe.allocate import read_plan
from unetpipe.arrays import open_array
from unetpipe.compute import Task, compute_block
from unetpipe.data.phantom import make_phantom
from unetpipe.files import read_json
from unetpipe.grid import Region
from unetpipe.volume import Image, VolumeFile

Write = Callable[[Path, Voxels], str]

SHAPE = (12, 150, 170)
ON_DISK: dict[str, Write] = {
    "tiff": as_tiff(),
    "tiff, tiles": as_tiff(tile=(64, 64), compression="zlib"),
    "tiff folder": as_tiff_folder,
    "png folder": as_png_folder,
    "hdf5": as_hdf5,
    "zarr 2": as_zarr_array(2),
    "zarr 3": as_zarr_array(3),
    "zarr 3, shards": as_sharded_zarr,
    "ome-zarr 0.4": as_ome_zarr_4,
    "ome-zarr 0.5": as_ome_zarr_5,
    "n5": as_n5,
    "n5, pyramid": as_n5_pyramid,
    "precomputed": as_precomputed,
    "precomputed, shards": as_sharded_precomputed,
}
ON_S3 = {name: ON_DISK[name] for name in ("zarr 2", "ome-zarr 0.5", "n5", "precomputed")}


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with buckets.server() as found, pytest.MonkeyPatch.context() as patch:
        for name, value in buckets.environment(found).items():
            patch.setenv(name, value)
        buckets.forget()
        buckets.make_bucket(found, "agree")
        yield found
    buckets.forget()


@pytest.fixture(scope="module")
def voxels() -> tuple[Voxels, Voxels]:
    """Image and labels, with sections that are missing and folded."""
    made = make_phantom(SHAPE, (40, 8, 8), seed=3, missing=4, fold=9)
    return made.image, made.labels


@pytest.fixture(scope="module")
def reference(voxels: tuple[Voxels, Voxels], tmp_path_factory: pytest.TempPathFactory) -> VolumeFile:
    """What becomes of them from .npy files."""
    return bring_in(as_npy, voxels, tmp_path_factory.mktemp("npy"))


def bring_in(
    write: Write, voxels: tuple[Voxels, Voxels], folder: Path, place: Callable[[Path, str], str] = lambda _, at: at
) -> VolumeFile:
    """Ingest image and labels as ``write`` puts them into folders, and ``place`` then elsewhere."""
    addresses = []
    for kind, what in zip(("image", "labels"), voxels, strict=True):
        (folder / kind).mkdir()
        addresses.append(place(folder / kind, write(folder / kind, what)))
    how = {"label_values": {"membrane": [0], "mitochondrion": [128], "inside": [255]}, "sections": (1, 11)}
    return ingested(addresses[0], folder / "v" / "volume.json", addresses[1], **how)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The certificate of an engine."""
    return predicting.make_engine("openvino", tmp_path_factory.mktemp("engine"))


def predicted(volume: Path, engine: Path, folder: Path) -> dict[str, bytes]:
    """Every object of the prediction of a volume."""
    allocated = predicting.start(engine, volume, folder)
    predicting.forget()
    for block in read_plan(read_json(allocated)).blocks():
        compute_block(Task(allocated, engine.parent, 1, block.index))
    return predicting.shards(folder)


@pytest.fixture(scope="module")
def expected(reference: VolumeFile, engine: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The prediction of the voxels from .npy files."""
    folder = tmp_path_factory.mktemp("reference")
    reference.write(folder / "volume.json")
    return predicted(folder / "volume.json", engine, folder / "prediction")


def refuse_difference(volume: VolumeFile, reference: VolumeFile) -> None:
    assert (volume.shape, volume.dtype, volume.missing_sections) == (reference.shape, reference.dtype, (3,))
    assert (volume.mean, volume.std) == (reference.mean, reference.std)
    assert volume.labels_digest == reference.labels_digest
    assert volume.labels is not None
    assert reference.labels is not None
    np.testing.assert_array_equal(open_array(volume.labels)[...], open_array(reference.labels)[...])
    image, expected = Image(volume), Image(reference)
    rng = np.random.default_rng(0)
    for _ in range(12):
        start = [int(rng.integers(-8, n)) for n in volume.shape]
        stop = [a + int(rng.integers(1, 90)) for a in start]
        region = Region((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))
        np.testing.assert_array_equal(image.read(region), expected.read(region), strict=True)


@pytest.mark.parametrize("write", ON_DISK.values(), ids=ON_DISK.keys())
def test_each_format_is_the_same_volume(
    write: Write,
    voxels: tuple[Voxels, Voxels],
    reference: VolumeFile,
    engine: Path,
    expected: dict[str, bytes],
    tmp_path: Path,
) -> None:
    refuse_difference(bring_in(write, voxels, tmp_path), reference)
    # And so every voxel of its prediction.
    assert predicted(tmp_path / "v" / "volume.json", engine, tmp_path / "prediction") == expected


@pytest.mark.parametrize("write", ON_S3.values(), ids=ON_S3.keys())
def test_so_it_is_in_a_bucket(
    write: Write,
    voxels: tuple[Voxels, Voxels],
    tmp_path_factory: pytest.TempPathFactory,
    endpoint: str,
    engine: Path,
) -> None:
    here, there = tmp_path_factory.mktemp("here"), tmp_path_factory.mktemp("there")
    # Each chunk is a request, which the server of the tests takes its time to answer.
    image, labels = (what[:, :40, :44] for what in voxels)

    def put(folder: Path, address: str) -> str:
        name = f"{there.name}/{folder.name}"
        return upload(folder, endpoint, "agree", name) + address.removeprefix(str(folder))

    volume = bring_in(write, (image, labels), there, put)
    assert volume.image.startswith("s3://agree/")
    refuse_difference(volume, bring_in(as_npy, (image, labels), here))
    one, other = (predicted(folder / "v" / "volume.json", engine, folder / "prediction") for folder in (here, there))
    assert one == other
