"""The same network in operations whose last bit does not depend on the shape of the call.

A sum of many floating-point products depends on its order. The libraries choose the order for speed, some of them by
the shape of the call: then a tile would differ in its last bits from the whole volume. Where a library does that, the
network is put in operations for which it has but one order.
"""

import math
from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper

from unetpipe.engines.graph import Editor, Value, attribute_of

_TO_THE_END = np.iinfo(np.int64).max


def split_input_channels(model: onnx.ModelProto, most: int) -> onnx.ModelProto:
    """Write each convolution over many channels as a sum of convolutions over fewer.

    ``most``: channels of a kernel of at most 3 x 3 voxels; of larger kernels as many fewer as they have voxels more.

    oneDNN, which OpenVINO computes with on x86, sums over blocks of input channels, as many as fit into the caches
    beside a stretch of the output's row; how long that stretch is depends on the row. 128 channels of 3 x 3 voxels fit
    with every kernel that it has, so there is one block whatever the shape. (Seen with 256 and 512 channels, in rows of
    fewer than about 16 voxels: differences of 1e-6; with 3 x 3 x 3 voxels from 128 channels on.)
    """
    editor = Editor(model)
    for node in model.graph.node:
        weights = editor.weights(node) if node.op_type == "Conv" else None
        fitting = most if weights is None else max(1, min(most, most * 9 // math.prod(weights.shape[2:])))
        # Parts in less than single precision would be rounded before they are added.
        single = weights is not None and weights.dtype == np.float32
        if weights is None or not single or weights.shape[1] <= fitting or attribute_of(node, "group", 1) != 1:
            editor.keep(node)
            continue
        parts = np.array_split(weights, -(-weights.shape[1] // fitting), axis=1)
        source, result = node.input[0], node.output[0]
        names = [f"{result}.part{index}" for index in range(len(parts))]
        sizes = editor.constant(f"{result}.sizes", [part.shape[1] for part in parts])
        editor.add("Split", [source, sizes], names, axis=1)
        editor.add_sum(node, names, parts, result)
    return editor.model()


def convolve_to_upsample(model: onnx.ModelProto) -> onnx.ModelProto:
    """Write each transposed convolution whose stride equals its kernel as a convolution of one voxel, and a transpose.

    Each output voxel of such a transposed convolution sees one input voxel, so the two are the same sums. ONNX Runtime
    computes transposed convolutions as products of matrices; where there are more than 128 channels, it sums in other
    blocks if there are at most 64 voxels (or 64 for each thread). Its convolutions sum in one order. (Seen with 256 and
    512 channels: differences of 1e-6.)
    """
    editor = Editor(model)
    for node in model.graph.node:
        weights = editor.weights(node) if node.op_type == "ConvTranspose" else None
        # With a stride like that each output voxel sees one input voxel.
        if weights is None or not _is_plain(node, weights.shape[2:], strides=weights.shape[2:]):
            editor.keep(node)
            continue
        channels_in, channels_out, *size = weights.shape
        voxels = math.prod(size)
        # (in, out, *size) -> (out * voxels, in, 1, …): the voxels of a patch as channels beside each other
        pointwise = np.moveaxis(weights, 0, -1).reshape(channels_out * voxels, channels_in, *[1] * len(size))
        result = node.output[0]
        inputs = [node.input[0], editor.constant(f"{result}.weight", pointwise)]
        if len(node.input) > 2:
            bias = editor.array(node.input[2])
            inputs.append(editor.constant(f"{result}.bias", np.repeat(bias, voxels)))
        editor.add("Conv", inputs, [f"{result}.deep"], kernel_shape=[1] * len(size))
        upsample_patches(editor, f"{result}.deep", result, channels_out, size)
    return editor.model()


def upsample_patches(editor: Editor, source: str, result: str, channels: int, size: Sequence[int]) -> None:
    """(n, channels * size, y, x) -> (n, channels, y * size_y, x * size_x), the same with z."""
    if len(size) == 2 and size[0] == size[1]:
        # In ONNX Runtime faster than a transpose.
        editor.add("DepthToSpace", [source], [result], blocksize=size[0], mode="CRD")
        return
    # A size of 0 in the shape for Reshape stands for that of the input.
    sizes = editor.add_one("Shape", [source], f"{result}.sizes", start=2)
    patches = editor.constant(f"{result}.patches", [0, channels, *size])
    split = editor.add_one("Concat", [patches, sizes], f"{result}.split", axis=0)
    editor.add("Reshape", [source, split], [f"{result}.apart"])  # (n, channels, size_y, size_x, y, x)
    axes = range(2, 2 + len(size))
    beside = [axis for patch in axes for axis in (patch + len(size), patch)]
    editor.add("Transpose", [f"{result}.apart"], [f"{result}.beside"], perm=[0, 1, *beside])  # (n, …, y, size_y, …)
    scaled = editor.add_one("Mul", [sizes, editor.constant(f"{result}.scale", list(size))], f"{result}.scaled")
    kept = editor.constant(f"{result}.kept", [0, channels])
    joined = editor.add_one("Concat", [kept, scaled], f"{result}.joined", axis=0)
    editor.add("Reshape", [f"{result}.beside", joined], [result])


def convolve_sections(model: onnx.ModelProto) -> onnx.ModelProto:
    """Write each convolution in 3D as a sum of convolutions in 2D, one for each section of the kernel.

    All sections are one batch then. ONNX Runtime computes convolutions in 3D as products of matrices: it sums over
    blocks of voxels and channels that depend on how many voxels there are (seen in every network: differences of 1e-6).
    Those in 2D it sums in one order. The price is memory, for the sections that each part of the kernel sees.
    """
    editor = Editor(model)
    for node in model.graph.node:
        weights = editor.weights(node) if node.op_type == "Conv" else None
        if weights is None or weights.ndim != 5 or not _is_plain(node, weights.shape[2:], [1, 1, 1], gaps=True):
            editor.keep(node)
            continue
        gap, *gaps = dilations_of(node, 3)
        channels_out, channels_in, depth, *size = weights.shape
        source, result = node.input[0], node.output[0]
        sections = f"{result}.sections"
        editor.add("Transpose", [source], [sections], perm=[0, 2, 1, 3, 4])  # (n, z, channels, y, x)
        one_batch = editor.constant(f"{result}.one_batch", [-1, channels_in])
        sizes = editor.add_one("Shape", [source], f"{result}.sizes", start=3)
        flat = editor.add_one("Concat", [one_batch, sizes], f"{result}.flat", axis=0)
        names = []
        for z in range(depth):
            seen = sections
            if depth > 1:
                ends = [gap * z, gap * (z + 1 - depth) if z + 1 < depth else _TO_THE_END, 1]
                bounds = [editor.constant(f"{sections}.{z}.{index}", [end]) for index, end in enumerate(ends)]
                seen = editor.add_one("Slice", [sections, *bounds], f"{sections}.{z}")
            names.append(editor.add_one("Reshape", [seen, flat], f"{result}.from{z}"))  # (n * z', channels, y, x)
        planar = helper.make_node("Conv", node.input, node.output, name=node.name, kernel_shape=size, dilations=gaps)
        editor.add_sum(planar, names, [weights[:, :, z] for z in range(depth)], f"{result}.planar")
        batch = editor.add_one("Shape", [source], f"{result}.batch", start=0, end=1)
        between = editor.constant(f"{result}.between", [-1, channels_out])
        left = editor.add_one("Shape", [f"{result}.planar"], f"{result}.left", start=2)
        stacked = editor.add_one("Concat", [batch, between, left], f"{result}.stacked", axis=0)
        editor.add("Reshape", [f"{result}.planar", stacked], [f"{result}.stack"])  # (n, z', channels, y', x')
        editor.add("Transpose", [f"{result}.stack"], [result], perm=[0, 2, 1, 3, 4])
    return editor.model()


def fill_channels(model: onnx.ModelProto, multiple: int, least: int) -> onnx.ModelProto:
    """Give each 2D convolution over more than ``least`` channels a multiple of ``multiple``, with channels of zeros.

    They change no sum. ONNX Runtime has convolutions that sum in one order for multiples of 4 channels, and for so few
    that they fit into a register; it computes others as products of matrices, in blocks that depend on the shape.
    (Seen with 17, 18 and 150 channels: differences of 1e-6.)
    """
    editor = Editor(model)
    for node in model.graph.node:
        weights = editor.weights(node) if node.op_type == "Conv" else None
        missing = 0 if weights is None or weights.ndim != 4 else -weights.shape[1] % multiple
        if weights is None or missing == 0 or weights.shape[1] <= least or attribute_of(node, "group", 1) != 1:
            editor.keep(node)
            continue
        result = node.output[0]
        pads = editor.constant(f"{result}.pads", [0, 0, 0, 0, 0, missing, 0, 0])
        editor.add("Pad", [node.input[0], pads], [f"{result}.filled"])
        filled = np.pad(weights, [(0, 0), (0, missing), (0, 0), (0, 0)])
        convolution = onnx.NodeProto()
        convolution.CopyFrom(node)
        convolution.input[:2] = [f"{result}.filled", editor.constant(f"{result}.weight.filled", filled)]
        editor.keep(convolution)
    return editor.model()


def dilations_of(node: onnx.NodeProto, axes: int) -> list[int]:
    """How far apart the voxels are that a kernel of so many axes sees: 1 where they are neighbours."""
    dilations = attribute_of(node, "dilations", [1] * axes)
    return dilations if isinstance(dilations, list) else [1] * axes


def _is_plain(node: onnx.NodeProto, kernel: Sequence[int], strides: Sequence[int], *, gaps: bool = False) -> bool:
    """Whether it is a convolution, or a transposed one, of these steps, without groups and padding.

    ``gaps``: whether voxels that are not neighbours may be seen.
    """
    zeros = [0] * len(kernel)
    plain: dict[str, Value] = {
        "group": 1,
        "dilations": dilations_of(node, len(kernel)) if gaps else [1] * len(kernel),
        "pads": zeros * 2,
        "output_padding": zeros,
        "auto_pad": b"NOTSET",
    }
    return attribute_of(node, "strides", [1] * len(kernel)) == list(strides) and all(
        attribute_of(node, name, value) == value for name, value in plain.items()
    )
