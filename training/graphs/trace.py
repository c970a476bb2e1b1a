"""How is a network recorded as an ONNX graph, and which of its axes may vary?"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from typing import Any

import numpy.typing as npt
import onnx
import torch
from torch import nn

OPSET = 17

Axes = dict[str, dict[int, str]]
"""Of inputs and outputs by name: the numbers of the axes whose length may vary, and what these are called."""


def trace(
    network: nn.Module, inputs: Mapping[str, npt.NDArray[Any]], output: str, axes: Axes
) -> onnx.ModelProto:
    """Record what a network does with its inputs as a checked ONNX graph.

    Parameters
    ----------
    network
        Takes the inputs in their order; it does the same for all values of them.
    inputs
        An example of each input, by name.
    output
        Name of what it returns.
    axes
        Axes whose length may differ from the example's.

    Returns
    -------
    onnx.ModelProto
        The graph.
    """
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # The exporter that traces is deprecated, but the other one needs another package.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            network,
            tuple(torch.from_numpy(array) for array in inputs.values()),
            buffer,  # type: ignore[arg-type]
            input_names=[*inputs],
            output_names=[output],
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,
        )
    graph = onnx.load_model_from_string(buffer.getvalue())
    onnx.checker.check_model(graph)
    return graph
