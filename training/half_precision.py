"""Which value of a graph is too large for float16?

ONNX Runtime on a CPU keeps float32 between nodes that are said to compute in float16, so that the picture of a graph looks right there
and is NaN on a device that does as it is told. Here every node gives its value out, as float16.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from safron.training.graphs import open_graph

AT_A_TIME = 32
"""Values that are given out by one run, for memory."""


def beyond_float16(graph: onnx.ModelProto, windows: Iterable[Mapping[str, npt.NDArray[Any]]]) -> str | None:
    """Name the first node whose value is not finite in float16.

    Parameters
    ----------
    graph
        Its nodes in float16 are looked at, in their order.
    windows
        Inputs of each run.

    Returns
    -------
    str | None
        Operator and name of the node; None where all values are finite.
    """
    typed = onnx.shape_inference.infer_shapes(graph).graph
    kinds = {item.name: item for item in typed.value_info if _is_half(item)}
    values = [kinds[name] for node in typed.node for name in node.output if name in kinds]
    makers = {name: node for node in typed.node for name in node.output}
    windows = list(windows)
    for first in range(0, len(values), AT_A_TIME):
        asked = onnx.ModelProto()
        asked.CopyFrom(graph)
        shown = values[first : first + AT_A_TIME]
        asked.graph.output.extend(shown)
        session = open_graph(asked, optimized=False)
        for window in windows:
            found = session.run([item.name for item in shown], dict(window))
            for item, value in zip(shown, found, strict=True):
                if not np.isfinite(value).all():
                    node = makers[item.name]
                    return f"{node.op_type} {node.name or item.name}"
    return None


def _is_half(item: onnx.ValueInfoProto) -> bool:
    return bool(item.type.tensor_type.elem_type == onnx.TensorProto.FLOAT16)
