"""How is a graph run that was just recorded?"""

from __future__ import annotations

import onnx
import onnxruntime


def open_graph(graph: onnx.ModelProto, *, optimized: bool = True) -> onnxruntime.InferenceSession:
    """Open a graph in ONNX Runtime, on all cores of the CPU.

    Parameters
    ----------
    graph
        Any graph.
    optimized
        Whether nodes may be joined, as in a render; else each one's output can be asked for.

    Returns
    -------
    onnxruntime.InferenceSession
        What runs it.
    """
    options = onnxruntime.SessionOptions()
    # Threads that spin while they wait slow down everything on a machine with other work.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(
        graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
