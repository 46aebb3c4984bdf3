"""Write the trained network as an ONNX file, which every engine is made from."""

import copy
import itertools
import json
import logging
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnx as onnx_format
import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.nn.utils.fusion import fuse_conv_bn_eval

import unetpipe
from unetpipe.engines.onnx_file import IMAGE, PROBABILITY
from unetpipe.files import digest, write_bytes, write_json
from unetpipe.grid import AXES, Geometry
from unetpipe.nets.checkpoint import load_checkpoint

log = logging.getLogger(__name__)

_OPSET = 18
"""The oldest that PyTorch writes without converting: the more engines read it."""

_MOST = 1 << 20
"""Beyond any tile; the exporter wants a bound."""

_NORMS = (nn.BatchNorm2d, nn.BatchNorm3d)


def export(checkpoint: Path, onnx: Path, description: Path) -> None:
    """Back the rule ``export``.

    The ONNX file takes ``image``, normalised grey values (n, z, y, x) float32, and gives ``probability``
    (n, classes, z', y', x') float32, twice the border less along each axis, which sum to 1 over the classes. Batch and
    tile are open, but for the z of a 2D network: it reads the sections that it needs for one. Legal tiles are those of
    the network. Batch normalisation is folded into the convolutions. The same checkpoint gives the same bytes.

    Parameters
    ----------
    checkpoint:
        ``checkpoint.safetensors``.
    onnx:
        The network, with everything that an engine must know of it in its metadata.
    description:
        The same, and its size, as JSON; written last.

    Raises
    ------
    UserError
        If the checkpoint cannot be read.
    """
    description.unlink(missing_ok=True)
    network, trained = load_checkpoint(checkpoint)
    metadata = {
        "classes": trained["classes"],
        "geometry": asdict(network.geometry),
        "normalisation": trained.get("normalisation"),
        "network": network.settings.model_dump(mode="json"),
        "precision": "fp32",
        "form": "fp32",
        "checkpoint_digest": digest(checkpoint),
        "opset": _OPSET,
        "version": unetpipe.__version__,
    }
    model = to_onnx(network, network.geometry, metadata)
    write_bytes(onnx, model.SerializeToString(deterministic=True))
    parameters = sum(parameter.numel() for parameter in network.parameters())
    write_json(
        description,
        {
            **metadata,
            "training": trained.get("training"),
            "onnx_digest": digest(onnx),
            "bytes": onnx.stat().st_size,
            "parameters": parameters,
            "versions": {"torch": str(torch.__version__), "onnx": onnx_format.__version__},
        },
    )
    log.info("%d parameters, %.1f MB, classes %s", parameters, onnx.stat().st_size / 1e6, ", ".join(trained["classes"]))


def to_onnx(network: nn.Module, geometry: Geometry, metadata: dict[str, Any]) -> onnx_format.ModelProto:
    """The network with softmax as an ONNX model; ``metadata`` is JSON data for its properties.

    ``network`` gives logits (n, classes, z', y', x') for an image (n, z, y, x), with the border of ``geometry``.
    """
    model = _trace(_Probability(fold(network)).eval(), geometry)
    _anonymise(model)
    batch, *sizes = model.graph.input[0].type.tensor_type.shape.dim
    result, _, *result_sizes = model.graph.output[0].type.tensor_type.shape.dim
    batch.dim_param = result.dim_param = "n"
    for axis in _open_axes(geometry):
        name, border = AXES[axis], geometry.border[axis]
        sizes[axis].dim_param, result_sizes[axis].dim_param = name, f"{name} - {2 * border}" if border else name
    model.producer_name, model.producer_version = "unetpipe", unetpipe.__version__
    model.graph.name = "unetpipe"
    for key, value in sorted(metadata.items()):
        model.metadata_props.add(key=key, value=json.dumps(value, sort_keys=True))
    onnx_format.checker.check_model(model, full_check=True)
    return model


def fold(network: nn.Module) -> nn.Module:
    """A copy of ``network`` whose batch normalisations are part of the convolutions before them.

    Raises
    ------
    ValueError
        If a batch normalisation does not follow a convolution in an ``nn.Sequential``.
    """
    # In double precision, so that folding costs no accuracy.
    folded = copy.deepcopy(network).eval().double()
    for block in [module for module in folded.modules() if isinstance(module, nn.Sequential)]:
        for index in range(len(block) - 1):
            convolution, norm = block[index], block[index + 1]
            if isinstance(convolution, nn.Conv2d | nn.Conv3d) and isinstance(norm, _NORMS):
                block[index], block[index + 1] = fuse_conv_bn_eval(convolution, norm), nn.Identity()
    left = [name for name, module in folded.named_modules() if isinstance(module, _NORMS)]
    if left:
        raise ValueError(f"batch normalisation without a convolution before it: {', '.join(left)}")
    return folded.float()


class _Probability(nn.Module):
    """Softmax is part of the file: the engines give probabilities, whatever they compute in."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        return torch.softmax(self.network(image), dim=1)


def _open_axes(geometry: Geometry) -> range:
    """Along z, a 2D network takes one size alone."""
    return range(3 - geometry.dimensions, 3)


def _trace(network: nn.Module, geometry: Geometry) -> onnx_format.ModelProto:
    smallest = geometry.tile_for((1, 1, 1))
    sizes, example = {}, [2, *smallest]
    for axis in _open_axes(geometry):
        base, pooling = geometry.base[axis], geometry.pooling[axis]
        count = (smallest[axis] - base) // pooling
        # Legal sizes alone; for others the exporter would have to prove that levels fit together.
        open_size = Dim(f"k_{AXES[axis]}", min=count, max=_MOST)
        sizes[axis + 1] = open_size if (base, pooling) == (0, 1) else pooling * open_size + base
        # Two equal sizes would be taken for one, and a size of 1 for fixed.
        taken = {1, *example[: axis + 1]}
        example[axis + 1] = next(n for n in itertools.count(smallest[axis] + pooling, pooling) if n not in taken)
    shapes = {IMAGE: {0: Dim("n", min=1, max=_MOST), **sizes}}
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    with warnings.catch_warnings():
        # The exporter warns of its own use of PyTorch's parts, and of torchvision, which has no part in this.
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        logger.setLevel(logging.ERROR)
        try:
            program = torch.onnx.export(
                network,
                (torch.zeros(example),),
                dynamo=True,
                dynamic_shapes=shapes,
                input_names=[IMAGE],
                output_names=[PROBABILITY],
                opset_version=_OPSET,
                external_data=False,
                verbose=False,
            )
        finally:
            logger.setLevel(level)
    if program is None:
        raise RuntimeError("the exporter of PyTorch gave no model")
    model: onnx_format.ModelProto = program.model_proto
    return model


def _anonymise(model: onnx_format.ModelProto) -> None:
    """Remove what the exporter says of the machine and of itself: source lines, paths, traces."""
    graph = model.graph
    del model.metadata_props[:], graph.metadata_props[:], graph.value_info[:]
    for item in (*graph.input, *graph.output, *graph.node, *graph.initializer):
        item.doc_string = ""
        del item.metadata_props[:]
    model.doc_string = graph.doc_string = ""
