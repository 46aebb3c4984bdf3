"""Trained networks as safetensors files that describe themselves."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from unetpipe.config import Network
from unetpipe.errors import UserError
from unetpipe.files import write_bytes
from unetpipe.grid import Shape
from unetpipe.nets.build import build
from unetpipe.nets.layers import SegmentationNetwork

_KEY = "unetpipe"


def save_checkpoint(path: Path, network: SegmentationNetwork, metadata: Mapping[str, Any]) -> None:
    """Write weights and metadata, atomically. The same network and metadata give the same bytes.

    Parameters
    ----------
    metadata:
        JSON data; the keys ``network`` and ``classes`` are those that :func:`load_checkpoint` needs, and are set here.
    """
    described = {**metadata, "network": network.settings.model_dump(mode="json")}
    if len(described["classes"]) != network.classes:
        raise ValueError(f"{network.classes} channels for the classes {described['classes']}")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    write_bytes(path, save(tensors, metadata={_KEY: json.dumps(described, sort_keys=True)}))


def read_metadata(path: Path) -> dict[str, Any]:
    """The metadata of a checkpoint.

    Raises
    ------
    UserError
        If the file is missing, is no safetensors file, or was not written by this package.
    """
    asked = f"the checkpoint {path} was to be read"
    try:
        with safe_open(path, framework="numpy") as file:
            text = (file.metadata() or {}).get(_KEY)
    except FileNotFoundError:
        raise UserError(asked, "there is no such file", "give the path of a checkpoint.safetensors") from None
    except (SafetensorError, OSError) as error:
        raise UserError(asked, f"it is no whole safetensors file ({error})", "train or copy it again") from None
    if text is None:
        raise UserError(
            asked,
            "a safetensors file without unetpipe's description of the network",
            "give the checkpoint.safetensors of a run",
        )
    metadata: dict[str, Any] = json.loads(text)
    return metadata


def load_checkpoint(path: Path) -> tuple[SegmentationNetwork, dict[str, Any]]:
    """The network, in evaluation mode on the CPU, and its metadata; UserError as :func:`read_metadata`."""
    metadata = read_metadata(path)
    try:
        # Strict JSON: lists may stand for tuples. A checkpoint that knows less has the defaults of what came later.
        settings = Network.model_validate_json(json.dumps(metadata["network"]))
        network = build(settings, len(metadata["classes"]))
    except (ValidationError, KeyError) as error:
        raise UserError(
            f"the checkpoint {path} was to be loaded",
            f"its network is not one that this version knows: {error}",
            "use the version of unetpipe that trained it",
        ) from None
    with safe_open(path, framework="pt") as file:
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 – it is no mapping
    network.load_state_dict(state)
    network.eval()
    return network, metadata


def start_from(path: Path, model: SegmentationNetwork, classes: list[str]) -> None:
    """Give ``model`` the weights of a checkpoint; UserError if it is of another architecture or for other classes."""
    other, metadata = load_checkpoint(path)
    found, wanted = _description(other, metadata["classes"]), _description(model, classes)
    if found != wanted:
        raise UserError(
            f"training was to start from {path}, with {wanted}",
            f"it holds {found}",
            "set network and classes to those of the checkpoint, or leave train.init out",
        )
    model.load_state_dict(other.state_dict())


def _description(model: SegmentationNetwork, classes: list[str]) -> str:
    """All that must agree for the weights of one network to mean the same in another."""
    network = model.settings
    return (
        f"a {network.name} of width {network.width} and depth {network.depth}, kernels {_listed(network.kernels)}, "
        f"poolings {_listed(network.poolings)}, sections {network.sections}, skips {network.skips}, "
        f"upsampling {network.upsampling}, normalisation {network.normalisation}, for the classes {', '.join(classes)}"
    )


def _listed(shapes: Sequence[Shape]) -> str:
    """Of each level, (z, y, x); once where all are the same."""
    alike = shapes[:1] if len(set(shapes)) == 1 else shapes
    return ", ".join(" x ".join(map(str, shape)) for shape in alike)
