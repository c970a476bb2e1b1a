"""Does OpenVINO draw what ONNX Runtime draws, where a generator computes whole numbers for each pixel?

Many of its kernels take int32 for float32, which holds 24 bits. A graph that makes noise from places, or mixes numbers of another
kind, then draws something else without a word, so its first patch is drawn by both.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from safron.io.errors import BadInput

from .onnx_model import OnnxModel
from .planes import Inputs, call_with, each

ROUNDING = 1.0
"""Grey levels that both may differ by in float32."""


def check_whole_numbers(model: OnnxModel, inputs: Inputs, drawn: npt.NDArray[Any]) -> None:
    """Compare OpenVINO and ONNX Runtime where whole numbers in the graph may exceed 2^24.

    Parameters
    ----------
    model
        The generator.
    inputs
        Of one or more patches.
    drawn
        [N, T, T, C]: what it made of them.

    Raises
    ------
    BadInput
        They differ.
    """
    if not model.large_numbers:
        return
    one = each(inputs, slice(1))
    here = drawn[:1] if model.precision == "float32" else _draw(model, one, "openvino")
    apart = float(np.abs(_draw(model, one, "onnxruntime").astype(np.float64) - here).max())
    if apart > ROUNDING:
        raise BadInput(
            f"generator {model.card.name!r} computes whole numbers above 2^24, which OpenVINO rounds: its pixels differ from ONNX "
            f"Runtime's by {apart:.3g} grey levels; use --runtime onnxruntime in float32"
        )


def _draw(model: OnnxModel, inputs: Inputs, runtime: str) -> npt.NDArray[Any]:
    other = OnnxModel(model.path, device="cpu", threads=model.threads, runtime=runtime)
    return call_with(other, inputs)
