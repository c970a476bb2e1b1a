"""What is rewritten in a graph before OpenVINO compiles it?

Three identities that hold but for rounding. All save time with OpenVINO's kernels; measured in ``benchmarks/LOG.md``.

**A convolution of an image enlarged twofold, by phases.** Every other pixel of the enlarged image is a copy, so for each phase
(y mod 2, x mod 2) of the output, taps that meet the same pixel are added up. With k = 3, four taps on the small image do the work
of nine on the large one::

    concat(enlarge(a), b) --Conv k x k-->   becomes   a --Conv (k // 2 + 1)^2, 4 x channels--> depth to space --+
                                                      b --Conv k x k-------------------------------------------+--> sum

**A transposed convolution to a few channels, by phases.** One that doubles its image, as at the end of many generators, is a
convolution to four times the channels, and depth to space. OpenVINO runs it in float32 and without blocks of channels.

**A mean over a window, by rows and columns.**
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]

NEAREST = {
    "mode": "nearest",
    "shape_calculation_mode": "scales",
    "coordinate_transformation_mode": "asymmetric",
    "nearest_mode": "floor",
}
"""How an image is enlarged by repeating pixels."""
GROWING = {
    "Add",
    "BitwiseLeftShift",
    "CumSum",
    "FloorMod",
    "Mod",
    "Multiply",
    "Power",
    "ReduceProd",
    "ReduceSum",
    "Subtract",
}
"""Operators by which whole numbers may become large."""
REVISION = 5
"""Part of the name of a compiled generator in the cache; to be raised with every change here and in `openvino_precision`."""


FEW_CHANNELS = 16
"""Fewer fill no block of OpenVINO's transposed convolutions."""


def rewrite(model: Any) -> int:
    """Rewrite an `openvino.Model` in place, and return how many nodes were replaced."""
    count = 0
    for node in model.get_ordered_ops():
        kind = node.get_type_name()
        if kind == "Convolution":
            count += _enlarged_by_phases(node)
        elif kind == "ConvolutionBackpropData":
            count += _doubled_by_phases(node)
        elif kind == "AvgPool":
            count += _mean_by_axes(node)
    if count:
        model.validate_nodes_and_infer_types()
    return count


def has_large_numbers(model: Any) -> bool:
    """Whether an `openvino.Model` computes whole numbers for each pixel that may exceed 2^24, where many kernels round them.

    Shapes, of one axis, are whole numbers as well; labels that are only looked up or compared stay small.
    """
    return any(map(_may_grow, model.get_ordered_ops()))


def _may_grow(node: Any) -> bool:
    if not node.get_output_size() or not node.get_output_element_type(0).is_integral_number():
        return False
    rank = node.get_output_partial_shape(0).rank
    if rank.is_static and rank.get_length() < 3:
        return False
    kind = node.get_type_name()
    return kind in GROWING or (kind == "Convert" and node.get_input_element_type(0).is_real())


def _enlarged_by_phases(conv: Any) -> bool:
    from openvino import opset14 as ops

    weights, pieces = _constant(conv, 1), _pieces(conv)
    if (
        weights is None
        or pieces is None
        or not _is_plain(conv)
        or conv.get_output_partial_shape(0).rank.get_length() != 4
    ):
        return False
    size = weights.shape[2]
    if weights.shape[3] != size or size % 2 == 0 or size < 3:
        return False
    parts, start = [], 0
    for output in pieces:
        channels = output.get_partial_shape()[1]
        if channels.is_dynamic:
            return False
        part, start = weights[:, start : start + channels.get_length()], start + channels.get_length()
        small = _before_enlarging(output.get_node())
        if small is None:
            parts.append(ops.convolution(output, _weights(part), [1, 1], [0, 0], [0, 0], [1, 1]))
        else:
            phases = ops.convolution(small, _weights(phase_weights(part)), [1, 1], [0, 0], [0, 0], [1, 1])
            parts.append(ops.depth_to_space(phases, "blocks_first", 2))
    total = parts[0]
    for part in parts[1:]:
        total = ops.add(total, part)
    _replace(conv, total)
    return True


def phase_weights(weights: Float32) -> Float32:
    """Add up the taps that meet the same pixel of an image enlarged twofold.

    Parameters
    ----------
    weights
        float32 [out, in, k, k], k odd.

    Returns
    -------
    Float32
        [4 out, in, k // 2 + 1, k // 2 + 1], phase by phase: (0, 0), (0, 1), (1, 0), (1, 1).
    """
    out, channels, size, _ = weights.shape
    taps = size // 2 + 1
    summed = np.zeros((2, 2, out, channels, taps, taps), np.float64)
    for dy, dx, y, x in np.ndindex(2, 2, size, size):
        summed[dy, dx, :, :, (dy + y) // 2, (dx + x) // 2] += weights[:, :, y, x]
    return summed.reshape(4 * out, channels, taps, taps).astype(np.float32)


def _doubled_by_phases(conv: Any) -> bool:
    from openvino import opset14 as ops

    weights, how = _constant(conv, 1), conv.get_attributes()
    plain = how["auto_pad"] == "explicit" and {*how["dilations"]} == {1} and {*how["strides"]} == {2}
    if weights is None or conv.get_input_size() != 2 or weights.ndim != 4 or not plain:
        return False
    if weights.dtype != np.float32 or weights.shape[1] >= FEW_CHANNELS:
        return False
    begin, end, extra = (list(how[name]) for name in ("pads_begin", "pads_end", "output_padding"))
    if any(weights.shape[2 + axis] - begin[axis] - end[axis] + extra[axis] != 2 for axis in (0, 1)):
        return False
    spans = [_span(weights.shape[2 + axis], begin[axis]) for axis in (0, 1)]
    if any(low > 0 or high < 0 for low, high in spans):
        return False
    before, behind = ([-low for low, _ in spans], [high for _, high in spans])
    phases = ops.convolution(
        conv.input_value(0), _weights(doubling_weights(weights, begin)), [1, 1], before, behind, [1, 1]
    )
    _replace(conv, ops.depth_to_space(phases, "blocks_first", 2))
    return True


def _span(taps: int, pad: int) -> tuple[int, int]:
    """Return the first and the last input pixel, from its own on, that an output pixel of any phase is made of."""
    return -((taps - 1 - pad) // 2), (1 + pad) // 2


def doubling_weights(weights: Float32, pads: list[int]) -> Float32:
    """Give a transposed convolution of stride 2 as a convolution to each phase of its image.

    Parameters
    ----------
    weights
        float32 [in, out, ky, kx].
    pads
        Rows and columns that are cut from the beginning of its image.

    Returns
    -------
    Float32
        [4 out, in, y, x], phase by phase: (0, 0), (0, 1), (1, 0), (1, 1).
    """
    inner, out, *sizes = weights.shape
    spans = [_span(size, pad) for size, pad in zip(sizes, pads, strict=True)]
    made = np.zeros((2, 2, out, inner, *(high - low + 1 for low, high in spans)), np.float32)
    for dy, dx, y, x in np.ndindex(2, 2, *made.shape[4:]):
        # Input pixel i contributes to output pixel 2 i - pad + tap.
        down, across = dy + pads[0] - 2 * (y + spans[0][0]), dx + pads[1] - 2 * (x + spans[1][0])
        if 0 <= down < sizes[0] and 0 <= across < sizes[1]:
            made[dy, dx, :, :, y, x] = weights[:, :, down, across].T
    return made.reshape(4 * out, inner, *made.shape[4:])


def _pieces(conv: Any) -> list[Any] | None:
    """Return what is convolved, cut where channels are concatenated; None unless one of it was enlarged."""
    source = conv.input_value(0)
    node = source.get_node()
    pieces = [source]
    if node.get_type_name() == "Concat" and node.get_attributes()["axis"] in (1, -3):
        pieces = [node.input_value(index) for index in range(node.get_input_size())]
    return pieces if any(_before_enlarging(piece.get_node()) is not None for piece in pieces) else None


def _before_enlarging(node: Any) -> Any:
    """Return what a node enlarges by repeating each pixel twice in y and in x; None of any other node."""
    if node.get_type_name() != "Interpolate" or node.get_type_info().version_id != "opset11":
        return None
    how = node.get_attributes()
    if any(how.get(name) != value for name, value in NEAREST.items()):
        return None
    if any(how.get("pads_begin", ())) or any(how.get("pads_end", ())):
        return None
    scales = _constant(node, 1)
    axes = _constant(node, 2) if node.get_input_size() == 3 else np.arange(4)
    if scales is None or axes is None or len(scales) != len(axes):
        return None
    by_axis = dict(zip(axes.tolist(), scales.tolist(), strict=True))
    return node.input_value(0) if by_axis in ({0: 1, 1: 1, 2: 2, 3: 2}, {2: 2, 3: 2}) else None


def _mean_by_axes(pool: Any) -> bool:
    from openvino import opset14 as ops

    how = pool.get_attributes()
    kernel = list(how["kernel"])
    if len(kernel) != 2 or min(kernel) < 3 or not _is_plain(pool) or how["rounding_type"] != "floor":
        return False
    mean = pool.input_value(0)
    for shape in ([kernel[0], 1], [1, kernel[1]]):
        mean = ops.avg_pool(mean, [1, 1], [0, 0], [0, 0], shape, exclude_pad=False)
    _replace(pool, mean)
    return True


def _is_plain(node: Any) -> bool:
    """Whether a window moves pixel by pixel and stays inside the image."""
    how = node.get_attributes()
    return (
        how["auto_pad"] in ("explicit", "valid")
        and not any((*how["pads_begin"], *how["pads_end"]))
        and {*how["strides"], *how.get("dilations", ())} == {1}
    )


def _constant(node: Any, index: int) -> npt.NDArray[Any] | None:
    source = node.input_value(index).get_node()
    return np.array(source.data) if source.get_type_name() == "Constant" else None


def _weights(values: Float32) -> Any:
    from openvino import opset14 as ops

    return ops.constant(np.ascontiguousarray(values))


def _replace(old: Any, new: Any) -> None:
    new.set_friendly_name(old.get_friendly_name())
    for target in old.output(0).get_target_inputs():
        target.replace_source_output(new.output(0))
