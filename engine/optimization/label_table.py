"""Is the input of a convolution a function of the label alone, and of how few channels?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .graph import Float64, Graph, attributes_of

if TYPE_CHECKING:
    import onnx

# Operations whose output at a pixel depends on that pixel alone, unless they reduce or move an image axis; `label_table`
# tests for that by running them. Convolutions with a 1 x 1 kernel belong to them too.
POINTWISE = {
    "Unsqueeze",
    "Cast",
    "Equal",
    "Add",
    "Sub",
    "Mul",
    "Div",
    "Where",
    "Concat",
    "Gather",
    "OneHot",
    "Transpose",
}


def label_table(graph: Graph, name: str) -> Float64 | None:
    """Return the channels of tensor `name` for each label, float64 [labels, C]; None if it depends on more than the label."""
    nodes = _pointwise_ancestors(graph, name)
    if not nodes or len(graph.label_values) < 2:
        return None
    import onnx
    from onnx import helper
    from onnx.reference import ReferenceEvaluator

    used = {entry for node in nodes for entry in node.input}
    part = helper.make_graph(
        nodes,
        "pointwise",
        [helper.make_tensor_value_info("labels", onnx.TensorProto.UINT8, ["n", "y", "x"])],
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)],
        [tensor for tensor in graph.model.graph.initializer if tensor.name in used],
    )
    evaluator: Any = ReferenceEvaluator(helper.make_model(part, opset_imports=graph.model.opset_import))
    values = np.array(graph.label_values, np.uint8)
    try:
        single = np.asarray(evaluator.run(None, {"labels": values[:, None, None]})[0])
        indices = np.random.default_rng(0).integers(0, len(values), (2, 5, 7))
        image = np.asarray(evaluator.run(None, {"labels": values[indices]})[0])
    except Exception:  # the evaluator fails in many ways on graphs that are not a function of the label
        return None
    if single.shape[2:] != (1, 1) or image.shape != (2, single.shape[1], 5, 7):
        return None
    table = single[:, :, 0, 0]
    return table.astype(np.float64) if np.array_equal(image, table[indices].transpose(0, 3, 1, 2)) else None


def _pointwise_ancestors(graph: Graph, name: str) -> list[onnx.NodeProto]:
    """Return the nodes between ``labels`` and `name` in order; empty if one is not pointwise or has another input."""
    found: dict[str, onnx.NodeProto] = {}
    waiting, reached = [name], False
    while waiting:
        tensor = waiting.pop()
        node = graph.makers.get(tensor)
        if node is None:
            if tensor and tensor != "labels" and graph.constant(tensor) is None:
                return []
            reached |= tensor == "labels"
            continue
        small = node.op_type == "Conv" and set(attributes_of(node).get("kernel_shape", [0])) == {1}
        if not small and node.op_type not in POINTWISE | {"Constant", "Identity"}:
            return []
        found[node.output[0]] = node
        waiting += node.input
    return [node for node in graph.nodes if node.output and node.output[0] in found] if reached else []


def directions_of(table: Float64) -> tuple[Float64, Float64]:
    """Factorize the table with as few channels as possible.

    Parameters
    ----------
    table
        [labels, C].

    Returns
    -------
    tuple[Float64, Float64]
        [labels, r], r at most labels - 1; if r has this size, 0 and 1 only. directions : [r, C], with
        ``table == table[0] + channels @ directions``.
    """
    steps = table - table[0]
    left, sizes, right = np.linalg.svd(steps[1:], full_matrices=False)
    rank = int((sizes > 1e-9 * max(1.0, sizes[0])).sum())
    if rank == len(steps) - 1:
        return np.eye(len(steps), dtype=np.float64)[:, 1:], steps[1:]
    channels = np.zeros((len(steps), rank))
    channels[1:] = left[:, :rank] * sizes[:rank]
    return channels, right[:rank]


def label_channels(graph: Graph, channels: Float64) -> str:
    """Emit the channels of the labels: float32 [N, r, y, x]."""
    import onnx
    from onnx import numpy_helper

    labels = graph.add("Unsqueeze", ["labels", graph.store([1], "safron_axis")])
    labels = graph.add("Cast", [labels], to=onnx.TensorProto.INT32)
    name = graph.fresh("safron_values")
    values = np.array(graph.label_values[1:], np.int32).reshape(1, -1, 1, 1)
    graph.initializers.append(numpy_helper.from_array(values, name))
    one_hot = graph.add("Cast", [graph.add("Equal", [labels, name])], to=onnx.TensorProto.FLOAT)
    mixed = channels[1:].T
    if np.array_equal(mixed, np.eye(len(mixed))):
        return one_hot
    return graph.add(
        "Conv", [one_hot, graph.store(mixed[:, :, None, None], "safron_channels")], kernel_shape=[1, 1]
    )
