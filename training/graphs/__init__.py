"""How does a network of PyTorch become a graph for ONNX Runtime?"""

from safron.training.graphs.session import open_graph
from safron.training.graphs.trace import Axes, trace

__all__ = ["Axes", "open_graph", "trace"]
