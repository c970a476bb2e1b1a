"""How does a large convolution become a product of spectra?

Along x it becomes a product of spectra; along y it remains a convolution. X is the transform of a strip of ``tile + kx - 1`` columns, wide enough that no output of the strip wraps
around:

    x [C, y, strip] --F--> X [k, 2C, y] --Conv 1 x ky, one group per frequency--> Y [k, 2O, y] --M--> out [O, y, tile]

Both transforms are matrix products. A pixel of one output channel costs ``4 C ky (tile + kx) / (2 tile)`` multiply-adds
in the middle and ``tile + kx`` in M, instead of ``C ky kx``: 380 instead of 5,043 for a 41 x 41 kernel over three colours.
If the input depends on the label alone, L labels span L - 1 directions around the first label. One channel is then part of
the bias.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from .graph import Float64, Graph, attributes_of, weights_of
from .label_table import directions_of, label_channels, label_table

if TYPE_CHECKING:
    import onnx

# Least ratio of multiply-adds before and after. Below it, replacing gained no time: other costs dominate.
WORTHWHILE = 3.0
# Output columns that share one transform.
TILES = (32, 48, 64, 96, 128, 192, 256)


def by_frequencies(graph: Graph, node: onnx.NodeProto, *, runtime: str = "onnxruntime") -> None:
    """Replace a convolution of stride 1 with a large kernel, by what is fast in a runtime."""
    weights = weights_of(graph, node, 0)
    settings = attributes_of(node)
    plain = settings.get("group", 1) == 1 and settings.get("auto_pad", b"NOTSET") in (b"NOTSET", b"VALID")
    if weights is None or not plain or {*settings.get("strides", ()), *settings.get("dilations", ())} - {1}:
        return
    kernel, bias = weights
    pads = settings.get("pads", [0, 0, 0, 0])
    shape = graph.shape(node.input[0])
    if len(shape) != 4 or shape[3] is None:
        return
    before = kernel.shape[1] * kernel.shape[2] * kernel.shape[3]
    table = None if any(pads) else label_table(graph, node.input[0])
    x = node.input[0]
    if table is not None:
        channels, directions = directions_of(table)
        kernel, offset = (
            np.einsum("rc,ocyx->oryx", directions, kernel),
            np.einsum("c,ocyx->o", table[0], kernel),
        )
        bias = bias + offset
    width = shape[3] + pads[1] + pads[3] - kernel.shape[3] + 1
    tile = min((min(tile, width) for tile in TILES), key=lambda tile: _cost(kernel.shape, width, tile))
    cost = _cost(kernel.shape, width, tile)
    if before < WORTHWHILE * cost:
        return
    if table is not None:
        x = label_channels(graph, channels)
    elif any(pads):
        x = graph.add("Pad", [x, graph.store([0, 0, *pads[:2], 0, 0, *pads[2:]], "safron_pads")])
    back = _by_convolution if runtime == "openvino" else _by_product
    _emit_frequencies(graph, x, kernel, bias, width=width, tile=tile, output=node.output[0], back=back)
    size = "x".join(str(side) for side in kernel.shape[2:])
    graph.replace(
        node,
        f"{size} convolution by {tile}-column spectra: {before} to {round(cost)} multiply-adds per value",
    )


def _cost(kernel: tuple[int, ...], width: int, tile: int) -> float:
    """Return the multiply-adds for one pixel of one output channel."""
    _, channels, rows, columns = kernel
    strips = math.ceil(width / tile)
    frequencies = (tile + columns - 1) // 2 + 1
    return (4 * channels * rows * frequencies * strips + 2 * frequencies * width) / width


def _emit_frequencies(
    graph: Graph,
    x: str,
    kernel: Float64,
    bias: Float64,
    *,
    width: int,
    tile: int,
    output: str,
    back: Callable[[Graph, str, Float64, int], str],
) -> None:
    """Emit the product of spectra; see the formula in the module's docstring.

    Parameters
    ----------
    x
        Tensor [N, C, y, x], padded as needed.
    kernel
        [O, C, ky, kx], correlated with x.
    width, tile
        Output columns, of the image and of a strip.
    output
        Name of the result [N, O, y - ky + 1, width].
    back
        Makes columns of spectra.
    """
    outputs, channels, rows, columns = kernel.shape
    length = tile + columns - 1
    forward, inverse = _transforms(length, tile)
    count = forward.shape[0]
    weight = graph.store(_spectral_kernel(kernel, length), "safron_spectrum")
    offsets = np.zeros((count, 2, outputs))
    offsets[0, 0] = bias * length  # the inverse divides frequency 0 by the length
    offset = graph.store(offsets.reshape(-1), "safron_offset")
    split = graph.store([0, channels, -1, count, 2], "safron_shape")
    grouped = graph.store([0, count * 2 * channels, 1, -1], "safron_shape")
    axis = graph.store([3], "safron_axis")
    strips = []
    for start in range(0, width, tile):
        part = min(tile, width - start)
        reach = part + columns - 1  # a narrower last strip counts as one that ends in zeros
        strip = graph.add(
            "Slice",
            [x, graph.store([start], "safron_start"), graph.store([start + reach], "safron_stop"), axis],
        )
        into = graph.store(forward[:, :, :reach].reshape(count * 2, reach).T, "safron_forward")
        spectrum = graph.add("Reshape", [graph.add("MatMul", [strip, into]), split])
        # [N, C, y, k, 2] -> [N, k, C, 2, y]: the channels of a group are those of one frequency.
        spectrum = graph.add("Reshape", [graph.add("Transpose", [spectrum], perm=[0, 3, 1, 4, 2]), grouped])
        spectrum = graph.add("Conv", [spectrum, weight, offset], group=count, kernel_shape=[1, rows])
        strips.append(back(graph, spectrum, inverse[:, :, :part].reshape(count * 2, part), outputs))
    graph.add("Concat", strips, output, axis=3)


def _by_product(graph: Graph, spectrum: str, inverse: Float64, outputs: int) -> str:
    """Make columns of a spectrum [N, 2 k O, 1, y] as products of the picture's rows with M.

    ONNX Runtime fuses the transposition into the product.
    """
    count, part = inverse.shape
    flat = graph.add("Reshape", [spectrum, graph.store([0, count, -1], "safron_shape")])
    rows = graph.add("Transpose", [flat], perm=[0, 2, 1])
    product = graph.add("MatMul", [rows, graph.store(inverse, "safron_inverse")])
    return graph.add("Reshape", [product, graph.store([0, outputs, -1, part], "safron_shape")])


def _by_convolution(graph: Graph, spectrum: str, inverse: Float64, outputs: int) -> str:
    """Make them by a convolution 1 x 1 to as many channels as columns.

    OpenVINO computes with channels innermost in memory, so the axes of the convolution are (k, y, O): each row of the picture then
    stays together, and only its columns and channels change places.
    """
    count, _ = inverse.shape
    last = graph.add("Transpose", [spectrum], perm=[0, 2, 3, 1])
    rows = graph.add("Reshape", [last, graph.store([0, -1, count, outputs], "safron_shape")])
    image = graph.add("Transpose", [rows], perm=[0, 2, 1, 3])
    weight = graph.store(inverse.T[:, :, None, None], "safron_inverse")
    columns = graph.add("Conv", [image, weight], kernel_shape=[1, 1])
    return graph.add("Transpose", [columns], perm=[0, 3, 2, 1])


def _transforms(length: int, tile: int) -> tuple[Float64, Float64]:
    """Return real transforms: [frequency, (re, im), column] forward, and back to the first `tile` columns."""
    frequency = np.arange(length // 2 + 1)
    forward_angle = 2 * np.pi * np.outer(frequency, np.arange(length)) / length
    forward = np.stack([np.cos(forward_angle), -np.sin(forward_angle)], axis=1)
    # Every frequency except 0 and the middle one also stands for its mirror image.
    scale = np.where((frequency == 0) | (2 * frequency == length), 1.0, 2.0) / length
    return forward, forward[:, :, :tile] * scale[:, None, None]


def _spectral_kernel(kernel: Float64, length: int) -> Float64:
    """Return the weights of the grouped convolution, [k 2 O, 2 C, 1, ky]: complex products in real numbers."""
    _, channels, rows, columns = kernel.shape
    angle = 2 * np.pi * np.outer(np.arange(length // 2 + 1), np.arange(columns)) / length
    real = np.einsum("ocyx,kx->kocy", kernel, np.cos(angle))
    imaginary = np.einsum("ocyx,kx->kocy", kernel, np.sin(angle))  # conjugate: a correlation
    products = np.array([[real, -imaginary], [imaginary, real]])  # [out, in, k, O, C, ky]
    return products.transpose(2, 0, 3, 4, 1, 5).reshape(-1, 2 * channels, 1, rows)
