"""How can a generator's graph be made faster on a CPU without changing its pixels?

Two exact identities are applied to an ONNX graph wherever they hold and save arithmetic: a large convolution becomes a product
of spectra (`safron.engine.optimization.frequencies`), and a transposed convolution becomes plain ones
(`safron.engine.optimization.phases`). The result is an ordinary ONNX graph, so rendering needs nothing new. Only the rounding
of float32 differs. OpenVINO gains by the first alone: its transposed convolutions are fast.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from safron.io.errors import BadInput

from .frequencies import by_frequencies
from .graph import Graph
from .phases import by_phases

if TYPE_CHECKING:
    import onnx

MIN_OPSET = 13


@dataclass(frozen=True)
class Rewritten:
    """A faster graph.

    Attributes
    ----------
    model
        The new graph with the metadata and the signature of the old one, except for weights listed as inputs.
    changes
        One line for each replacement.
    """

    model: onnx.ModelProto
    changes: tuple[str, ...]


def rewrite(
    model: onnx.ModelProto, *, label_values: Sequence[int] = (), runtime: str = "onnxruntime"
) -> Rewritten:
    """Apply the identities wherever they save work.

    Parameters
    ----------
    model
        A generator; it is not changed.
    label_values
        The labels that can occur, if the graph has an input ``labels``, uint8 [N, y, x].
    runtime
        "onnxruntime" or "openvino": what is to run the graph.

    Raises
    ------
    BadInput
        The graph's opset is too old.
    """
    import onnx

    opset = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)
    if opset < MIN_OPSET:
        raise BadInput(
            f"the graph uses opset {opset} and rewriting needs {MIN_OPSET}; export it with a newer opset"
        )
    graph = Graph(onnx.shape_inference.infer_shapes(model), tuple(label_values))
    for node in list(graph.nodes):
        if node.op_type == "Conv":
            by_frequencies(graph, node, runtime=runtime)
        elif node.op_type == "ConvTranspose" and runtime == "onnxruntime":
            by_phases(graph, node)
    return Rewritten(graph.rebuilt(model), tuple(graph.changes))
