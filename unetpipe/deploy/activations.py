"""Where the values come from that the convolutions of a network read."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from unetpipe.engines.graph import attribute_of
from unetpipe.engines.onnx_file import IMAGE

_NO_PADS: tuple[list[int], ...] = ([], [0] * 4, [0] * 6)

_PASSED_ON = ("MaxPool", "Slice", "Unsqueeze")
"""Operations that give values which they were given."""


@dataclass(frozen=True)
class Range:
    """Least and largest value of each channel: ``least`` and ``most`` (channels,)."""

    least: NDArray[np.float32]
    most: NDArray[np.float32]


@dataclass(frozen=True)
class Activations:
    """The values between the convolutions of a network.

    ``channels``: of each tensor that is computed and not merely passed on, by its name; not of the image.
    ``linear``: the names of those that may be negative: no ReLU follows the transposed convolutions.
    ``read``: by the name of a convolution's result, the tensors whose channels it reads, in their order.
    ``inner``: the results of the convolutions but the first, which reads the image, and the last, which gives the
    classes: those two are a hundredth of the work.
    ``groups``: tensors whose channels are joined somewhere: they share a scale, so that joining them is a copy.
    """

    channels: dict[str, int]
    linear: frozenset[str]
    read: dict[str, tuple[str, ...]]
    inner: frozenset[str]
    groups: tuple[tuple[str, ...], ...]


def trace(model: onnx.ModelProto) -> Activations:
    """Follow the values of ``model``, a network as ``export`` writes it.

    Raises
    ------
    ValueError
        If there are other operations than unpadded convolutions, ReLU, max-pooling, crops and joining channels.
    """
    sizes = {item.name: item.dims for item in model.graph.initializer}
    origin: dict[str, tuple[str, ...]] = {IMAGE: (IMAGE,)}
    computed: dict[str, int] = {}  # channels of a convolution's result
    channels: dict[str, int] = {}
    linear: set[str] = set()
    followed: set[str] = set()
    read: dict[str, tuple[str, ...]] = {}
    group: dict[str, set[str]] = {}
    for node in model.graph.node:
        source, result = node.input[0], node.output[0]
        pads = attribute_of(node, "pads", [])
        if pads not in _NO_PADS or attribute_of(node, "auto_pad", b"NOTSET") != b"NOTSET":
            raise ValueError(f"{node.op_type} of {source} is padded: no network that export writes")
        if node.op_type == "Conv":
            read[result] = origin[source]
            computed[result] = sizes[node.input[1]][0]
        elif node.op_type == "ConvTranspose":
            read[result] = origin[source]
            channels[result] = sizes[node.input[1]][1]
            linear.add(result)
            origin[result] = (result,)
        elif node.op_type == "Relu" and source in computed:
            channels[result] = computed[source]
            followed.add(source)
            origin[result] = (result,)
        elif node.op_type in _PASSED_ON and source in origin:
            origin[result] = origin[source]
        elif node.op_type == "Concat" and attribute_of(node, "axis", 0) == 1:
            origin[result] = tuple(name for item in node.input for name in origin[item])
            joined = set().union(*(group.get(name, {name}) for name in origin[result]))
            group |= dict.fromkeys(joined, joined)
        elif node.op_type not in ("Unsqueeze", "Softmax"):
            raise ValueError(f"{node.op_type} of {source} is none of the operations that bytes are followed through")
    alone = ({name} for name in channels if name not in group)
    groups = {tuple(sorted(names)) for names in (*group.values(), *alone)}
    inner = frozenset(name for name in linear | followed if IMAGE not in read[name])
    return Activations(channels, frozenset(linear), read, inner, tuple(sorted(groups)))


@dataclass(frozen=True)
class Stretch:
    """A linear tensor is stored as ``factor * value + offset``, both (channels,), so that it fills a range from 0."""

    factor: NDArray[np.float32]
    offset: NDArray[np.float32]


def stretch(activations: Activations, ranges: Mapping[str, Range]) -> tuple[dict[str, Stretch], dict[str, float]]:
    """How each linear tensor is to be stored, and the largest value of each tensor that is stored so.

    The largest value is that of the whole group. Each channel of a linear tensor is given all of it: none takes
    resolution from the others, nor from the tensors that it is joined with.
    """
    stretches: dict[str, Stretch] = {}
    largest: dict[str, float] = {}
    for group in activations.groups:
        spans = {name: ranges[name].most - np.minimum(ranges[name].least, np.float32(0)) for name in group}
        positive = [name for name in group if name not in activations.linear]
        top = max(float(spans[name].max()) for name in positive or group)
        largest |= dict.fromkeys(group, top)
        for name in activations.linear.intersection(group):
            given = (spans[name] > 0) & (top > 0)
            factor = np.divide(top, spans[name], out=np.ones_like(spans[name]), where=given)
            stretches[name] = Stretch(factor, factor * -np.minimum(ranges[name].least, np.float32(0)))
    return stretches, largest
