"""The benchmarks run, at a tiny size, and the peers do what the table says of them."""

from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from benchmarks import (
    engines,
    peers,
    planning,
    rows,
    scale,
    scores,
    sections,
    setting,
    shards,
    storage,
    timing,
    training,
)
from unetpipe import config
from unetpipe.nets.unet import UNet

pytestmark = pytest.mark.long

EDGE = 256


def few(ours: Callable[[], object], theirs: Callable[[], object], _rounds: int = 1) -> timing.Range:
    return timing.ratios(ours, theirs, rounds=1)


def needs(*packages: str) -> pytest.MarkDecorator:
    missing = [name for name in packages if find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed, part of the extra peers: {', '.join(missing)}")


# What they import and do warns of things to come in Python and NumPy.
foreign = pytest.mark.filterwarnings("default")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> setting.Setting:
    return setting.prepare(tmp_path_factory.mktemp("benchmarks"), 4, edge=EDGE, steps=2)


@pytest.fixture
def network() -> UNet:
    torch.manual_seed(0)
    return UNet(config.Network(width=2, depth=2), 2).eval()


def sound(found: rows.Rows) -> bool:
    return all(isinstance(row, rows.Row) and 0 < row.found[0] <= row.found[1] <= row.found[2] for row in found)


def test_the_padded_network_is_the_same_far_from_its_edges(network: UNet) -> None:
    image = torch.randn(1, 1, 160, 160)
    tile, border = network.geometry.tile_for((1, 64, 64))[1], network.geometry.border[1]
    with torch.inference_mode():
        padded = peers.Padded(network)(image)
        equal = []
        # Poolings must begin at the same voxels: that is so for one place of a tile in four.
        for start in range(32, 36):
            plain = network(image[..., start : start + tile, start : start + tile])[:, :, 0]
            kept = slice(start + border, start + tile - border)
            equal.append(torch.allclose(padded[..., kept, kept], plain, atol=1e-5))
    assert padded.shape == (1, 2, 160, 160)
    assert equal.count(True) == 1


@foreign
@needs("monai", "nnunetv2")
def test_peers_call_the_network_as_often_as_their_defaults_say(network: UNet) -> None:
    found, missing = peers.peers(network, 2048)
    # MONAI: steps of 384, 5 x 5 windows. nnU-Net: steps of 256, 7 x 7 windows, each in four mirrored forms.
    assert {peer.name: (peer.calls, peer.section_calls) for peer in found} == {"MONAI": (2, 25), "nnU-Net": (4, 196)}
    assert missing == {}


@foreign
@needs("monai")
def test_monai_gives_what_the_network_gives_where_one_window_is_all(network: UNet, small: None) -> None:
    padded, image = peers.Padded(network), torch.randn(1, 1, peers.WINDOW, peers.WINDOW)
    with torch.inference_mode():
        assert torch.allclose(peers.monai(padded, 2)(image), padded(image), atol=1e-5)


@foreign
@needs("nnunetv2")
def test_nnunet_gives_the_mean_of_four_mirrored_forms(network: UNet, small: None) -> None:
    padded, image = peers.Padded(network), torch.randn(1, 1, peers.WINDOW, peers.WINDOW)
    with torch.inference_mode():
        forms = [torch.flip(padded(torch.flip(image, axes)), axes) for axes in ((), (2,), (3,), (2, 3))]
    # It sums weighted logits in half precision: near the edges, where its weights are small, that is coarse.
    inside = (..., slice(16, -16), slice(16, -16))
    torch.testing.assert_close(
        peers.nnunet(padded, 2)(image)[inside].float(), (sum(forms) / 4)[inside], atol=2e-2, rtol=0
    )


def test_peers_that_are_not_installed_are_named(network: UNet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "find_spec", lambda name: None)
    assert peers.peers(network, 64) == (
        [],
        {"MONAI": "monai is not installed", "nnU-Net": "nnunetv2 is not installed"},
    )


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "WINDOW", 64)


@foreign
@needs("monai", "nnunetv2")
def test_sections_against_peers(prepared: setting.Setting, small: None) -> None:
    found = sections.against_peers(prepared, "openvino", ("fp32",), edge=96, rounds=1, turns=1)
    assert len(found) == 4
    assert sound(found)


def test_sections_without_peers_say_so(prepared: setting.Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "find_spec", lambda name: None)
    found = sections.against_peers(prepared, "openvino", (), edge=96, rounds=1, turns=1)
    assert [type(row) for row in found] == [rows.Skipped, rows.Skipped]


def test_zarr_to_zarr_against_engine(prepared: setting.Setting) -> None:
    running, whole, spent = storage.against_engine(prepared, "openvino", "fp32", shape=(16, EDGE, EDGE), turns=1)
    assert sound([running, whole])
    # So small a share of what the start of processes takes is lost in its noise.
    assert isinstance(spent, rows.Row)
    assert np.isfinite(spent.found).all()


def test_shards_against_tensorstore() -> None:
    found = shards.against_tensorstore((8, 256, 256), rounds=1)
    assert [row.what.rpartition(", ")[2] for row in found] == ["disk", "disk", "S3", "S3"]
    assert sound(found)


def test_memory_of_a_volume_twice_as_large() -> None:
    found = scale.memory(((8, 256, 256), (16, 256, 256)), kept=128)
    assert sound(found)
    assert "8 blocks" in found[0].beside  # type: ignore[union-attr]


def test_blocks_of_a_volume_of_which_almost_nothing_is_stored() -> None:
    found = scale.blocks((1024, 1024, 1024), clusters=1)
    assert sound(found)
    assert found[0].what.startswith("0.00 x 10^12 voxels, ")


def test_plan_over_actual(prepared: setting.Setting) -> None:
    found = planning.predicted_over_actual(prepared, "openvino", "fp32", shapes=((3, EDGE, EDGE),), turns=1)
    assert [row.what.rpartition(": ")[2] for row in found] == ["seconds", "memory of a worker"]
    assert sound(found)


@pytest.mark.parametrize(
    ("backend", "precision"),
    [
        pytest.param(backend, precision, id=f"{backend}-{precision}")
        for backend in engines.EXPECTED
        for precision in engines.EXPECTED[backend]
    ],
)
def test_engines_against_pytorch(
    prepared: setting.Setting, monkeypatch: pytest.MonkeyPatch, backend: str, precision: config.Precision
) -> None:
    if precision not in setting.precisions(backend):
        pytest.skip(f"{backend} does not compute in {precision} here")
    monkeypatch.setattr(engines, "ratios", few)
    assert sound(engines.against_pytorch(prepared, backend, precision, edge=64))


def test_training_against_the_plain_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WIDTHS": (2,), "TILE": 204, "BATCH": 1, "STEPS": 1, "ratios": few}.items():
        monkeypatch.setattr(training, name, value)
    ((_, found),) = training.training_against_plain_fp32()
    assert 0 < found[0] <= found[2]


@foreign
@needs("monai", "batchgeneratorsv2")
@pytest.mark.parametrize("peer", ["against_grid_sample", "against_batchgenerators", "against_monai"])
def test_augmentation(monkeypatch: pytest.MonkeyPatch, peer: str) -> None:
    from benchmarks import augmentation  # It imports what not everybody has.

    for name, value in {"_CALLS": 1, "ratios": few}.items():
        monkeypatch.setattr(augmentation, name, value)
    least, _, most = getattr(augmentation, peer)()
    assert 0 < least <= most


def test_scores() -> None:
    found = scores.counting((2, 64, 64))
    assert len(found) == 10
    assert sound(found)


def test_volumes_of_the_benchmarks_have_no_two_equal_sections(prepared: setting.Setting) -> None:
    image = np.load(prepared.volume((3, EDGE + 40, EDGE)).parent / "image.npy")
    assert image.shape == (3, EDGE + 40, EDGE)
    assert all((image[a] != image[b]).any() for a, b in ((0, 1), (1, 2), (0, 2)))


def test_table_and_summary() -> None:
    found: rows.Rows = [
        rows.Row("ours", "theirs", (0.5, 1.234, 150.0), 1.2, "beside", "brief"),
        rows.Row("rate", "", (1.0, 2.0, 3.0), 1.0),
        rows.Row("slow", "theirs", (0.1, 0.1, 0.1), 1.0),
        rows.Skipped("other", "not here"),
    ]
    assert rows.table(found).splitlines()[2:] == [
        "| ours | theirs | 1.2 | 0.50 | 1.23 | 150 | beside |",
        "| rate |  | 1 | 1 | 2 | 3 |  |",
        "| slow | theirs | 1 | 0.10 | 0.10 | 0.10 |  |",
        "| other |  |  |  |  |  | not measured: not here |",
    ]
    assert rows.summary(found) == "brief 1.23; of 3 expectations 1 exceeded and 1 missed by more than 10%"
