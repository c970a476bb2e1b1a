"""How is an ONNX graph changed between PyTorch and the file?

`fold_norms` multiplies frozen norms into the convolutions before them, transposed ones too, which PyTorch's exporter leaves
alone. `halve_network` makes the network's weights and arithmetic float16, and keeps in float32 what would suffer: the graph's
ends, and means of squares.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper, shape_inference

TRAINING_NODES = ("BatchNormalization", "InstanceNormalization", "Dropout", "RandomNormal", "RandomUniform")
_WIDE = {"Add", "Sqrt", "Div", "Reciprocal", "Pow"}


def training_nodes(model: onnx.ModelProto) -> list[str]:
    """Names of the nodes that a finished generator must not have: norms, dropout, random numbers."""
    found = [node for node in model.graph.node if node.op_type.startswith(TRAINING_NODES)]
    return [node.name or node.op_type for node in found]


def fold_norms(model: onnx.ModelProto) -> None:
    """Fold each batch norm with frozen statistics into the convolution before it, if that feeds nothing else."""
    graph = model.graph
    arrays = _constants_to_arrays(graph)
    makers = {name: node for node in graph.node for name in node.output}
    uses = Counter(name for node in graph.node for name in node.input)
    for norm in [node for node in graph.node if node.op_type == "BatchNormalization"]:
        conv = makers.get(norm.input[0])
        if conv is None or conv.op_type not in ("Conv", "ConvTranspose") or uses[norm.input[0]] != 1:
            continue
        gamma, beta, mean, variance = (arrays[name].astype(np.float64) for name in norm.input[1:5])
        epsilon = next((item.f for item in norm.attribute if item.name == "epsilon"), 1e-5)
        gain = gamma / np.sqrt(variance + epsilon)
        weight = arrays[conv.input[1]].astype(np.float64)
        bias = arrays[conv.input[2]].astype(np.float64) if len(conv.input) > 2 else 0.0
        # Output channels come first in a convolution's weights, second in a transposed one's.
        shape = (-1, 1, 1, 1) if conv.op_type == "Conv" else (1, -1, 1, 1)
        name = conv.name or conv.output[0]
        arrays[f"{name}.weight"] = (weight * gain.reshape(shape)).astype(np.float32)
        arrays[f"{name}.bias"] = ((bias - mean) * gain + beta).astype(np.float32)
        inputs = [conv.input[0], f"{name}.weight", f"{name}.bias"]
        del conv.input[:]
        conv.input.extend(inputs)
        conv.output[0] = norm.output[0]
        graph.node.remove(norm)
    _arrays_to_initializers(graph, arrays)


def halve_network(model: onnx.ModelProto, *, prefix: str = "/network/") -> onnx.ModelProto:
    """Return the model with all nodes below `prefix` in float16, and casts where they meet others.

    Means of squares stay in float32: squares of 256 and more overflow float16.
    """
    typed = shape_inference.infer_shapes(model, data_prop=True).graph
    kinds = {item.name: item.type.tensor_type.elem_type for item in [*typed.value_info, *typed.input]}
    out = onnx.ModelProto()
    out.CopyFrom(model)
    graph = out.graph
    arrays = _constants_to_arrays(graph)
    floats = {name for name, kind in kinds.items() if kind == TensorProto.FLOAT}
    floats |= {name for name, array in arrays.items() if array.dtype == np.float32}
    wide = _wide_outputs(graph)
    half: set[str] = set()  # float16 under its own name
    nodes: list[onnx.NodeProto] = []
    made: set[str] = set()

    def cast(name: str, to: int) -> str:
        """Name of `name` in another type; the cast is made once."""
        suffix = "f16" if to == TensorProto.FLOAT16 else "f32"
        other = f"{name}.{suffix}"
        if other not in made:
            made.add(other)
            if name in arrays:
                arrays[other] = arrays[name].astype(np.float16)
            else:
                nodes.append(helper.make_node("Cast", [name], [other], name=f"{other}.cast", to=to))
        return other

    for node in graph.node:
        halved = node.name.startswith(prefix) and node.output[0] not in wide and node.output[0] in floats
        for place, name in enumerate(node.input):
            if halved and name in floats and name not in half and not (node.op_type == "Resize" and place):
                node.input[place] = cast(name, TensorProto.FLOAT16)
            elif not halved and name in half:
                node.input[place] = cast(name, TensorProto.FLOAT)
        if halved:
            half.update(node.output)
            for item in node.attribute:
                if node.op_type == "Cast" and item.name == "to":
                    item.i = TensorProto.FLOAT16
        nodes.append(node)
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:], graph.value_info[:]
    graph.node.extend(kept)
    _arrays_to_initializers(graph, arrays)
    return out


def _wide_outputs(graph: onnx.GraphProto) -> set[str]:
    """Outputs of squares, of their means, and of all that is computed from those up to the factor itself."""
    wide: set[str] = set()
    for node in graph.node:
        square = node.op_type == "Mul" and node.input[0] == node.input[1]
        follows = node.op_type in _WIDE and any(name in wide for name in node.input)
        if square or follows or node.op_type in ("ReduceMean", "Pow"):
            wide.update(node.output)
    return wide


def _constants_to_arrays(graph: onnx.GraphProto) -> dict[str, npt.NDArray[np.generic]]:
    """Take initializers and Constant nodes out of the graph, as arrays by name.

    The exporter stores equal arrays once, and Identity nodes for the others.
    """
    arrays = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    for node in list(graph.node):
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            arrays[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
        elif node.op_type == "Identity" and node.input[0] in arrays:
            arrays[node.output[0]] = arrays[node.input[0]]
        else:
            continue
        graph.node.remove(node)
    del graph.initializer[:]
    return arrays


def _arrays_to_initializers(graph: onnx.GraphProto, arrays: dict[str, npt.NDArray[np.generic]]) -> None:
    """Put the arrays that are used back into the graph."""
    used = {name for node in graph.node for name in node.input}
    graph.initializer.extend(
        numpy_helper.from_array(np.ascontiguousarray(array), name)
        for name, array in arrays.items()
        if name in used
    )
