"""How does the end of a network take less time on a CPU, with the same bits?

ONNX Runtime computes 16 output channels of a convolution at a time, and the last convolution of a generator has three. So 2 x 2
pixels are computed at once, as 12 channels::

    x --Conv k x k, 3 channels--> image   becomes   x --Conv (k + 1) x (k + 1), stride 2, 12 channels--> depth to space --> image

A pixel adds the same products in the same order; taps outside of its window are zeros. For k = 3 a pixel costs 4 taps instead of 9.

And what follows is done in planes, channels first: with three channels last, ONNX Runtime takes each pixel of a broadcast
singly. Channels come last in the end.

Generators that ship have such a form beside them, which a CPU runs in their place. Written anew:
``python -m safron.engine.optimization.packing``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from safron.engine.generator.shipped import CPU_FORMS, MODELS

from .leftover import CHANNEL_BLOCK, in_blocks, is_plain, split_leftover

if TYPE_CHECKING:
    import onnx

UNARY = {"Tanh", "Sigmoid", "Relu", "LeakyRelu", "Cast"}
POINTWISE = UNARY | {"Add", "Sub", "Mul", "Div", "Clip", "Min", "Max"}
TO_LAST, TO_FIRST = [0, 2, 3, 1], [0, 3, 1, 2]


def pack(model: onnx.ModelProto, *, even: bool) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """Rewrite the end of a generator.

    Parameters
    ----------
    model
        A generator; it is not changed.
    even
        Whether its picture always has even sides.

    Returns
    -------
    tuple[onnx.ModelProto, tuple[str, ...]]
        A copy of the model, and one line for each change.
    """
    import onnx
    from onnx import numpy_helper

    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    added: dict[str, npt.NDArray[Any]] = {}
    nodes, changes = list(graph.node), []
    if even:
        changes += _pack_last(nodes, constants, added)
    changes += _in_planes(nodes, {entry.name for entry in graph.output}, constants, added, _colors(model))
    if not changes:
        return result, ()
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    graph.initializer.extend(numpy_helper.from_array(np.ascontiguousarray(v), n) for n, v in added.items())
    read = {name for node in nodes for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in read]:
        graph.initializer.remove(tensor)
    return result, tuple(changes)


def _pack_last(
    nodes: list[onnx.NodeProto], constants: Mapping[str, Any], added: dict[str, npt.NDArray[Any]]
) -> list[str]:
    """Compute 2 x 2 pixels of the last convolution at once."""
    from onnx import helper

    changes = []
    for conv in [node for node in nodes if node.op_type == "Conv"]:
        weight = constants.get(conv.input[1])
        if weight is None or not is_plain(conv) or not _ends_in_points(nodes, conv, constants):
            continue
        count, inner, height, width = weight.shape
        if 4 * count > CHANNEL_BLOCK or height != width or height < 2 or weight.dtype != np.float32:
            continue
        if not in_blocks(inner):
            continue
        packed = np.zeros((2, 2, count, inner, height + 1, width + 1), np.float32)
        for y, x in np.ndindex(2, 2):
            packed[y, x, :, :, y : y + height, x : x + width] = weight
        hint = conv.output[0]
        conv.input[1] = f"{hint}_packed"
        added[conv.input[1]] = packed.reshape(4 * count, inner, height + 1, width + 1)
        if len(conv.input) > 2:
            bias = constants[conv.input[2]]
            conv.input[2] = f"{hint}_packed_bias"
            added[conv.input[2]] = np.tile(bias, 4)
        del conv.attribute[:]
        conv.attribute.extend([helper.make_attribute("strides", [2, 2])])
        last = conv
        while len(users := [node for node in nodes if last.output[0] in node.input]) == 1:
            if users[0].op_type not in UNARY:
                break
            last = users[0]
        whole, last.output[0] = last.output[0], f"{last.output[0]}_packed_pixels"
        spread = helper.make_node("DepthToSpace", [last.output[0]], [whole], blocksize=2, mode="DCR")
        nodes.insert(nodes.index(last) + 1, spread)
        changes.append(f"{height} x {width} convolution to {count} channels: 2 x 2 pixels at once")
        if height % 2:  # so that the image before it has an even width
            more, values = split_leftover(nodes, conv, {**constants, **added})
            changes += more
            added |= values
    return changes


def _is_pixelwise(node: onnx.NodeProto, constants: Mapping[str, Any]) -> bool:
    """Whether a node is a convolution of single pixels."""
    weight = constants.get(node.input[1]) if node.op_type == "Conv" else None
    return weight is not None and weight.shape[2:] == (1, 1) and is_plain(node)


def _ends_in_points(
    nodes: Sequence[onnx.NodeProto], first: onnx.NodeProto, constants: Mapping[str, Any]
) -> bool:
    """Whether all that follows is done pixel by pixel."""
    reached = {first.output[0]}
    for node in nodes:
        if not reached.isdisjoint(node.input):
            if node.op_type not in POINTWISE | {"Transpose"} and not _is_pixelwise(node, constants):
                return False
            reached.update(node.output)
    return True


def _in_planes(
    nodes: list[onnx.NodeProto],
    outputs: set[str],
    constants: Mapping[str, npt.NDArray[Any]],
    added: dict[str, npt.NDArray[Any]],
    colors: set[str],
) -> list[str]:
    """Move transposes to channels last behind what is done pixel by pixel, if some of it differs from channel to channel."""
    from onnx import helper

    planes: dict[str, str] = {}
    kept: list[onnx.NodeProto] = []
    broadcasts, made = 0, set[str]()
    for old in nodes:
        node = type(old)()
        node.CopyFrom(old)
        if node.op_type == "Transpose" and list(helper.get_attribute_value(node.attribute[0])) == TO_LAST:
            planes[node.output[0]] = node.input[0]
            continue
        if node.op_type in POINTWISE and not planes.keys().isdisjoint(node.input):
            for name in (
                colors & set(node.input)
            ) - planes.keys():  # one colour for each patch: next to nothing
                planes[name] = f"{name}_planes"
                kept.append(helper.make_node("Transpose", [name], [planes[name]], perm=TO_FIRST))
        moved = [_planar(name, planes, constants, added) for name in node.input]
        if node.op_type in POINTWISE and not planes.keys().isdisjoint(node.input) and None not in moved:
            broadcasts += sum(name in planes or constants[name].size > 1 for name in node.input if name) > 1
            node.input[:] = moved
            planes[node.output[0]] = f"{node.output[0]}_planes"
            node.output[0] = planes[node.output[0]]
        else:
            wanted = planes.keys() & set(node.input) - made
            kept += [_to_last(name, planes) for name in sorted(wanted)]
            made |= wanted
        kept.append(node)
    kept += [_to_last(name, planes) for name in sorted(planes.keys() & outputs - made)]
    if not broadcasts:
        return []
    nodes[:] = kept
    return [f"{broadcasts} operators on pixels of three channels: in planes"]


def _colors(model: onnx.ModelProto) -> set[str]:
    """Names of values, not constants, with the shape [n, 1, 1, c]."""
    from onnx import shape_inference

    entries = shape_inference.infer_shapes(model).graph.value_info
    shapes = {entry.name: [axis.dim_value for axis in entry.type.tensor_type.shape.dim] for entry in entries}
    return {name for name, sizes in shapes.items() if len(sizes) == 4 and sizes[1:3] == [1, 1]}


def _planar(
    name: str,
    planes: Mapping[str, str],
    constants: Mapping[str, npt.NDArray[Any]],
    added: dict[str, npt.NDArray[Any]],
) -> str | None:
    """Name of an operand in planes; None where there is none."""
    if name in planes or not name:
        return planes.get(name, name)
    value = constants.get(name)
    if value is None or value.size == 1:
        return None if value is None else name
    if value.shape[:-1] not in ((), (1, 1, 1)):
        return None
    added[f"{name}_planes"] = value.reshape(1, -1, 1, 1)
    return f"{name}_planes"


def _to_last(name: str, planes: Mapping[str, str]) -> onnx.NodeProto:
    from onnx import helper

    return helper.make_node("Transpose", [planes[name]], [name], perm=TO_LAST)


def write_cpu_forms() -> None:
    """Write the forms of the generators that ship."""
    import onnx

    for path in MODELS.glob("*.onnx"):
        form, changes = pack(onnx.load(str(path)), even=True)
        print(path.name, *changes or ["as it is"], sep="\n  ")
        if changes:
            (CPU_FORMS / path.name).write_bytes(form.SerializeToString(deterministic=True))


if __name__ == "__main__":
    write_cpu_forms()
