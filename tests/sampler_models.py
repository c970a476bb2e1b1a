"""Samplers whose predictions are known, for tests."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from models import LABELS
from safron.engine.generator.card import Card
from safron.engine.generator.sampler import Sampler


def schedule(steps: int, **changes: Any) -> Sampler:
    """Give so many steps, from much noise to little."""
    alphas = tuple(float(alpha) for alpha in np.linspace(0.05, 0.95, steps))
    times = tuple(float(time) for time in np.linspace(900, 0, steps))
    given: dict[str, Any] = {"kind": "ddim", "prediction": "epsilon", "times": times, "alphas": alphas}
    return Sampler(**(given | changes))


class MixModel:
    """Predicts from a pixel's neighbours as far as its context, its label, the time and where in the patch it lies.

    So every overlap disagrees, and what a pixel becomes spreads with every step.
    """

    device = "cpu"
    returns_uint8 = False
    batch_invariant = True

    def __init__(
        self, steps: int = 3, *, tile: int = 64, context: int = 4, noise: bool = False, **changes: Any
    ) -> None:
        self.card = Card(
            "mix",
            tile,
            context,
            LABELS,
            tile_multiple=1,
            alignment=4,
            noise_scales=(1,) if noise else (),
            mpp=1.0,
            sampler=schedule(steps, **changes),
        )
        self.sha256 = hashlib.sha256(f"mix {steps} {changes}".encode()).hexdigest()
        self.calls = 1
        self.made = 0

    def __call__(
        self,
        labels: npt.NDArray[np.uint8],
        noise: npt.NDArray[np.float32] | None = None,
        *,
        xt: npt.NDArray[np.float32],
        t: npt.NDArray[np.float32],
    ) -> npt.NDArray[np.float32]:
        self.made += len(labels)
        c = self.card.context
        height, width = labels.shape[1] - 2 * c, labels.shape[2] - 2 * c
        assert xt.dtype == t.dtype == np.float32
        assert t.shape == labels.shape[:1]

        def at(y: int, x: int) -> Any:
            return xt[:, :, c + y : c + y + height, c + x : c + x + width]

        near = (
            np.float32(0.5) * at(0, 0) + np.float32(0.2) * (at(-c, 0) - at(c, 0)) + np.float32(0.1) * at(0, c)
        )
        near += np.float32(0.1) * at(0, -c)
        of_label = labels[:, None, c : c + height, c : c + width] * np.float32(0.3)
        ramp = np.arange(width, dtype=np.float32) * np.float32(0.5 / width)
        made = near + of_label + ramp + (t * np.float32(1e-3))[:, None, None, None]
        if noise is not None:
            made += np.float32(0.1) * noise[:, :1, c : c + height, c : c + width]
        return np.ascontiguousarray(made.transpose(0, 2, 3, 1))


class Killed(MixModel):
    """Ends its process before a patch, counted over all runs in a file.

    Parameters
    ----------
    counts : a byte for each patch.
    at : the patch, counted over all runs; None for none.
    like : does the same, and lives.
    """

    def __init__(self, counts: Path, at: int | None = None, *, like: MixModel) -> None:
        super().__init__()
        self.card, self.sha256 = like.card, like.sha256
        self._counts, self._at = counts, at

    def __call__(self, labels: Any, noise: Any = None, **planes: Any) -> Any:
        with self._counts.open("ab") as file:
            file.write(bytes(len(labels)))
        if self._at is not None and self._counts.stat().st_size > self._at:
            os._exit(9)
        return super().__call__(labels, noise, **planes)


CARD: dict[str, Any] = {
    "name": "tiny-diffusion",
    "tile": {"multiple_of": 16, "default": 64},
    "context": 4,
    "alignment": 4,
    "mpp": 1.0,
    "labels": [
        {"value": 0, "name": "background", "color": [0, 0, 255], "fill": [240, 241, 242]},
        {"value": 1, "name": "stroma", "color": [255, 0, 0]},
        {"value": 2, "name": "gland", "color": [0, 255, 0]},
    ],
    "sampler": {
        "kind": "ddim",
        "prediction": "epsilon",
        "times": [900, 600, 300, 0],
        "alphas": [0.05, 0.3, 0.6, 0.95],
        "null_label": 1,
    },
}


def write_sampler(
    path: Path,
    *,
    card: dict[str, Any] | None = None,
    spare: str = "t",
    output: str = "prediction",
    gain: float = 0.5,
) -> Path:
    """Write a sampler that predicts `gain` times the running picture, plus a little of label and time.

    Parameters
    ----------
    card : put into the file, after `CARD`.
    spare : what its input "t" is called.
    output : what its output is called.
    gain : factor of the running picture.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    fixed = {
        "starts": np.array([4, 4], np.int64),
        "ends": np.array([-4, -4], np.int64),
        "axes": np.array([2, 3], np.int64),
        "one": np.array([1], np.int64),
        "three": np.array([1, 2, 3], np.int64),
        "gain": np.array(gain, np.float32),
        "little": np.array(0.3, np.float32),
        "least": np.array(1e-4, np.float32),
    }
    nodes = [
        helper.make_node("Cast", ["labels"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["float", "one"], ["deep"]),
        helper.make_node("Mul", ["deep", "little"], ["of_label"]),
        helper.make_node("Mul", ["xt", "gain"], ["of_picture"]),
        helper.make_node("Unsqueeze", [spare, "three"], ["shaped_time"]),
        helper.make_node("Mul", ["shaped_time", "least"], ["of_time"]),
        helper.make_node("Add", ["of_picture", "of_label"], ["both"]),
        helper.make_node("Add", ["both", "of_time"], ["all"]),
        helper.make_node("Slice", ["all", "starts", "ends", "axes"], ["inner"]),
        helper.make_node("Transpose", ["inner"], [output], perm=[0, 2, 3, 1]),
    ]
    inputs = [
        helper.make_tensor_value_info("labels", TensorProto.UINT8, ["n", "y", "x"]),
        helper.make_tensor_value_info("xt", TensorProto.FLOAT, ["n", 3, "y", "x"]),
        helper.make_tensor_value_info(spare, TensorProto.FLOAT, ["n"]),
    ]
    outputs = [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["n", "v", "u", 3])]
    weights = [numpy_helper.from_array(value, name) for name, value in fixed.items()]
    graph = helper.make_graph(nodes, "sampler", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(model, {"safron": json.dumps(CARD | (card or {}))})
    onnx.save(model, path)
    return path
