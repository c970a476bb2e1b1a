"""What do samplers share that are exported, whatever they learn: their graph, their card, and how both are held to PyTorch?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from safron.training.graphs import Axes, open_graph, trace
from torch import nn

from .process import linear_alphas, sampling_times
from .settings import RunSettings

PARITY_LIMIT = 1e-3
"""Largest difference that is accepted between ONNX Runtime and PyTorch, of a prediction."""

AXES: Axes = {
    "labels": {0: "n", 1: "height", 2: "width"},
    "style": {0: "n"},
    "xt": {0: "n", 2: "height", 3: "width"},
    "t": {0: "n"},
    "edges": {0: "n", 2: "height", 3: "width"},
    "prediction": {0: "n", 1: "out_height", 2: "out_width"},
}

Floats = npt.NDArray[np.float32]
Patch = dict[str, npt.NDArray[Any]]
"""Inputs of a graph by name, in its order."""

Predict = Callable[[Patch], Floats]
"""Takes the inputs and returns the prediction, [n, T, T, 3]."""


def trace_sampler(wrapped: nn.Module, patch: Patch) -> onnx.ModelProto:
    """Turn a network into a graph for any number of patches of any size."""
    return trace(wrapped, patch, "prediction", {name: AXES[name] for name in (*patch, "prediction")})


def in_torch(wrapped: nn.Module) -> Predict:
    """Let PyTorch predict."""

    def predict(patch: Patch) -> Floats:
        with torch.no_grad():
            return np.asarray(wrapped(*map(torch.from_numpy, patch.values())).numpy())

    return predict


def in_runtime(graph: onnx.ModelProto) -> Predict:
    """Let ONNX Runtime predict."""
    session = open_graph(graph)
    return lambda patch: np.asarray(session.run(None, patch)[0])


def draw_labels(rng: np.random.Generator, count: int, side: int) -> npt.NDArray[np.uint8]:
    """Draw squares of 16 pixels of so many labels: uint8 [1, side, side]."""
    coarse = rng.integers(0, count, (side // 16 + 1, side // 16 + 1), np.uint8)
    return np.kron(coarse, np.ones((16, 16), np.uint8))[None, :side, :side].copy()


def make_card(config: RunSettings, *, tile: int, multiple: int, steps: int) -> dict[str, Any]:
    """Return what the card of any sampler has, without what is measured; `multiple` is that of sides and places of patches."""
    alphas, times = linear_alphas(), sampling_times(steps)
    labels = [
        {name: value for name, value in label.items() if value is not None}
        for label in config.to_json()["labels"]
    ]
    return {
        "name": config.name,
        "version": "1",
        "tile": {"multiple_of": multiple, "default": tile},
        "context": config.context,
        "alignment": multiple,
        "labels": labels,
        "outside": "edge",
        "mpp": config.mpp,
        "sampler": {
            "kind": "ddim",
            "prediction": config.prediction,
            "times": times,
            "alphas": [float(alphas[time]) for time in times],
        },
        "config_sha256": config.sha256(),
    }


def overlap_mismatch(predict: Predict, wide: Patch, side: int, step: int) -> float:
    """Mean difference of predictions where two patches overlap, over the prediction's standard deviation.

    Parameters
    ----------
    predict
        Predicts a patch.
    wide
        Inputs of both patches, side by side.
    side
        Of a patch with its context, in pixels.
    step
        From one to the other, in pixels.
    """
    left, right = (
        predict(
            {
                name: plane[..., :side, x : x + side].copy() if plane.ndim > 2 else plane
                for name, plane in wide.items()
            }
        )
        for x in (0, step)
    )
    return float(np.abs(left[0, :, step:] - right[0, :, : left.shape[2] - step]).mean() / left.std())
