"""How does a transposed convolution become plain ones?

With stride s, the output pixels of one phase (y mod s, x mod s) are an ordinary
convolution of the input with every s-th tap, which ONNX Runtime computes in its blocked layout. A batch norm that follows
is folded into the weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .graph import Float64, Graph, attributes_of, weights_of

if TYPE_CHECKING:
    import onnx

# ONNX Runtime's blocked convolutions process so many channels at once; images with fewer pixels a side gain nothing.
CHANNEL_BLOCK, SMALL = 16, 8


def by_phases(graph: Graph, node: onnx.NodeProto) -> None:
    """Replace a transposed convolution that enlarges its input by a whole number."""
    weights = weights_of(graph, node, 1)
    settings = attributes_of(node)
    strides, pads = settings.get("strides", [1, 1]), settings.get("pads", [0, 0, 0, 0])
    shape = graph.shape(node.input[0])
    plain = settings.get("group", 1) == 1 and settings.get("auto_pad", b"NOTSET") == b"NOTSET"
    if weights is None or not plain or "output_shape" in settings or {*settings.get("dilations", ())} - {1}:
        return
    kernel, bias = weights
    if len(shape) != 4 or shape[2] is None or shape[3] is None or min(shape[2], shape[3]) < SMALL:
        return
    extra = settings.get("output_padding", [0, 0])
    grows = all(
        kernel.shape[2 + axis] - pads[axis] - pads[2 + axis] + extra[axis] == strides[axis] for axis in (0, 1)
    )
    rows, columns = (_phases(kernel.shape[2 + axis], strides[axis], pads[axis]) for axis in (0, 1))
    if not grows or max(strides) < 2 or kernel.shape[1] % CHANNEL_BLOCK or rows is None or columns is None:
        return
    norm, output = _norm_behind(graph, node)
    if norm is not None:
        scale, shift = norm
        kernel, bias = kernel * scale[:, None, None], bias * scale + shift
    width = shape[3] * strides[1]
    _emit_phases(graph, node.input[0], kernel, bias, (rows, columns), width=width, output=output)
    behind = [] if norm is None else graph.users[node.output[0]]
    size = "x".join(str(side) for side in kernel.shape[2:])
    graph.replace(
        node,
        f"{size} transposed convolution of {kernel.shape[0]} channels by {strides[0] * strides[1]} phases",
        also=behind,
    )


@dataclass(frozen=True)
class _Phase:
    """One phase along one axis.

    Attributes
    ----------
    taps
        Taps that it uses, in the order of their input pixels.
    before, behind
        Input pixels that they reach before and behind the phase's own input pixel.
    """

    taps: list[int]
    before: int
    behind: int


def _phases(taps: int, stride: int, pad: int) -> list[_Phase] | None:
    """Return all phases of an axis; None if one of them does not use its own input pixel.

    Input pixel i contributes to output pixel ``stride * i - pad + tap``.
    """
    found = []
    for phase in range(stride):
        mine = sorted((tap for tap in range(taps) if (tap - phase - pad) % stride == 0), reverse=True)
        steps = [(phase + pad - tap) // stride for tap in mine]
        if not mine or not steps[0] <= 0 <= steps[-1]:
            return None
        found.append(_Phase(mine, -steps[0], steps[-1]))
    return found


def _norm_behind(graph: Graph, node: onnx.NodeProto) -> tuple[tuple[Float64, Float64] | None, str]:
    """Return scale and shift of a batch norm that is the only user of `node`, and the name of the last output."""
    users = graph.users.get(node.output[0], [])
    is_result = node.output[0] in {entry.name for entry in graph.model.graph.output}
    if len(users) != 1 or users[0].op_type != "BatchNormalization" or len(users[0].output) != 1 or is_result:
        return None, node.output[0]
    settings = attributes_of(users[0])
    values = [graph.constant(name) for name in users[0].input[1:]]
    if settings.get("training_mode", 0) or any(value is None for value in values):
        return None, node.output[0]
    gain, shift, mean, variance = (np.asarray(value, np.float64) for value in values)
    scale = gain / np.sqrt(variance + settings.get("epsilon", 1e-5))
    return (scale, shift - mean * scale), users[0].output[0]


def _emit_phases(
    graph: Graph,
    x: str,
    kernel: Float64,
    bias: Float64,
    phases: tuple[list[_Phase], list[_Phase]],
    *,
    width: int,
    output: str,
) -> None:
    """Emit one convolution per phase and interleave them; kernel [C, O, ky, kx] as in ConvTranspose."""
    offset = graph.store(bias, "safron_offset")
    last, across = graph.store([4], "safron_axis"), graph.store([0, 0, 0, 1, -1], "safron_shape")
    rows = []
    for row in phases[0]:
        pieces = []
        for column in phases[1]:
            part = kernel[:, :, row.taps][:, :, :, column.taps].transpose(1, 0, 2, 3)
            weight = graph.store(part, "safron_phase")
            pads = [row.before, column.before, row.behind, column.behind]
            piece = graph.add("Conv", [x, weight, offset], kernel_shape=list(part.shape[2:]), pads=pads)
            pieces.append(graph.add("Unsqueeze", [piece, last]))
        rows.append(graph.add("Reshape", [graph.add("Concat", pieces, axis=4), across]))
    interleaved = graph.add("Concat", rows, axis=3)
    graph.add("Reshape", [interleaved, graph.store([0, 0, -1, width], "safron_shape")], output)
