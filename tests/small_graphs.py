"""Networks of a few nodes, from "A" to "B" in the manner of pix2pix, as ONNX files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx_models import ADAPTED

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402


def constant(name: str, value: Any) -> Any:
    return numpy_helper.from_array(np.asarray(value), name)


def graph(nodes: list[Any], constants: list[Any] | None = None, **about: Any) -> Any:
    """A network from "A" to "B" in the manner of pix2pix, with these nodes from "a" to "b" in it."""
    shape = [about.pop("count", 1), 3, 64, 64]
    made = helper.make_graph(
        [helper.make_node("Identity", ["A"], ["a"]), *nodes, helper.make_node("Tanh", ["b"], ["B"])],
        "g",
        [helper.make_tensor_value_info("A", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("B", TensorProto.FLOAT, shape)],
        constants or [],
    )
    opset = helper.make_opsetid("", about.pop("opset", 17))
    return helper.make_model(made, opset_imports=[opset], ir_version=about.pop("ir_version", 9), **about)


def save(folder: Path, model: Any) -> Path:
    path = folder / "m.onnx"
    path.write_bytes(model.SerializeToString())
    path.with_suffix(".json").write_text(json.dumps(ADAPTED))
    return path


def node(kind: str, *others: str, out: tuple[str, ...] = ("b",), **attributes: Any) -> Any:
    return helper.make_node(kind, ["a", *others], list(out), **attributes)
