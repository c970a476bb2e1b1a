"""Makes tiny ONNX generators: some keep the contract, each of the others breaks one rule of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

TILE, CONTEXT = 64, 4

CARD: dict[str, Any] = {
    "version": "3",
    "name": "tiny",
    "tile": {"multiple_of": 16, "default": TILE},
    "context": CONTEXT,
    "labels": [
        {"value": 0, "name": "background", "color": [0, 0, 255], "fill": [240, 241, 242]},
        {"value": 1, "name": "stroma", "color": [255, 0, 0]},
        {"value": 2, "name": "gland", "color": [0, 255, 0]},
    ],
    "licence": "CC0",
}


def write_onnx(
    path: Path,
    *,
    card: dict[str, Any] | None = None,
    side: int | str = "side",
    count: int | str = "n",
    crop: int = CONTEXT,
    noise: int = 0,
    edges: bool = False,
    label_name: str = "labels",
    label_type: str = "UINT8",
    image_name: str = "image",
    image_type: str = "FLOAT",
    nan_on: int | None = None,
    reshape_to: tuple[int, ...] = (),
) -> Path:
    """Write a generator whose grey is 60 times the label, plus its first noise channel.

    Parameters
    ----------
    card : put into the file; None leaves it out.
    side, count : of the label windows: a number, or a name where any number will do.
    crop : pixels cut from every side of the window.
    noise : channels of the input "noise"; 0 leaves it out.
    edges : whether it has that input, of which it adds seven times.
    label_name, label_type, image_name, image_type : of input and output.
    nan_on : label whose pixels are not a number.
    reshape_to : a shape that the window is forced into.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    fixed = {
        "starts": np.array([crop, crop], np.int64),
        "ends": np.array([-crop, -crop] if crop else [2**31, 2**31], np.int64),
        "axes": np.array([1, 2], np.int64),
        "last": np.array([3], np.int64),
        "scale": np.array([60, 60, 60], np.float32),
        "odd": np.array(-1 if nan_on is None else nan_on, np.float32),
        "first": np.array(0, np.int64),
    }
    nodes = [
        helper.make_node("Cast", [label_name], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Slice", ["float", "starts", "ends", "axes"], ["inner"]),
        helper.make_node("Unsqueeze", ["inner", "last"], ["deep"]),
        helper.make_node("Mul", ["deep", "scale"], ["grey"]),
        # x / x is 1 but where x is 0.
        helper.make_node("Sub", ["deep", "odd"], ["distance"]),
        helper.make_node("Div", ["distance", "distance"], ["one"]),
        helper.make_node("Mul", ["grey", "one"], ["clean"]),
    ]
    inputs = [
        helper.make_tensor_value_info(label_name, getattr(TensorProto, label_type), [count, side, side])
    ]
    made = "clean"
    if noise:
        inputs.append(helper.make_tensor_value_info("noise", TensorProto.FLOAT, [count, noise, side, side]))
        nodes += [
            helper.make_node("Gather", ["noise", "first"], ["white"], axis=1),
            helper.make_node("Slice", ["white", "starts", "ends", "axes"], ["white inner"]),
            helper.make_node("Unsqueeze", ["white inner", "last"], ["white deep"]),
            helper.make_node("Add", ["clean", "white deep"], ["noisy"]),
        ]
        made = "noisy"
    if edges:
        inputs.append(helper.make_tensor_value_info("edges", TensorProto.UINT8, [count, 1, side, side]))
        fixed["seven"] = np.array(7, np.float32)
        nodes += [
            helper.make_node("Gather", ["edges", "first"], ["borders"], axis=1),
            helper.make_node("Cast", ["borders"], ["border floats"], to=TensorProto.FLOAT),
            helper.make_node("Slice", ["border floats", "starts", "ends", "axes"], ["border inner"]),
            helper.make_node("Unsqueeze", ["border inner", "last"], ["border deep"]),
            helper.make_node("Mul", ["border deep", "seven"], ["border sevens"]),
            helper.make_node("Add", [made, "border sevens"], ["bordered"]),
        ]
        made = "bordered"
    if reshape_to:
        fixed["shape"] = np.array(reshape_to, np.int64)
        nodes.append(helper.make_node("Reshape", [made, "shape"], ["forced"]))
        made = "forced"
    nodes.append(helper.make_node("Cast", [made], [image_name], to=getattr(TensorProto, image_type)))
    output = helper.make_tensor_value_info(
        image_name, getattr(TensorProto, image_type), [count, "rows", "columns", 3]
    )
    tensors = [numpy_helper.from_array(value, name) for name, value in fixed.items()]
    graph = helper.make_graph(nodes, "tiny", inputs, [output], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    if card is not None:
        helper.set_model_props(model, {"safron": json.dumps(card)})
    onnx.save(model, str(path))
    return path


ADAPTED: dict[str, Any] = {
    "name": "somebody-elses",
    "tile": TILE,
    "context": 0,
    "labels": CARD["labels"],
    "adapter": {
        "input": {"name": "A", "kind": "rgb", "layout": "nchw", "range": [-1, 1]},
        "output": {"name": "B", "layout": "nchw", "range": [-1, 1]},
    },
}
"""A card for `write_foreign`: pix2pix's way of taking masks and giving pictures."""


def write_foreign(
    path: Path,
    *,
    card: dict[str, Any] | None = None,
    channels: int = 3,
    layout: str = "nchw",
    side: int | str = TILE,
    count: int | str = 1,
    noise: int = 0,
    kind: str = "FLOAT",
    flat: bool = False,
    seed: int = 0,
) -> Path:
    """Write a small U-turn in the manner of pix2pix, from input "A" to output "B" in -1..1, and its card beside it.

    One halving and one doubling of random weights, so that a patch has a phase, and tanh behind.

    Parameters
    ----------
    card : written beside the file; None leaves it out.
    channels : of the input.
    layout : "nchw" or "nhwc", of input and output.
    side, count : a number, or a name where any number will do.
    noise : channels of the input "z"; 0 leaves it out.
    kind : type of input "A".
    flat : the input has no axis of channels.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(seed)
    last = layout == "nhwc"
    shape = [count, side, side, channels] if last else [count, channels, side, side]
    fixed = {
        "down": rng.normal(0, 0.25, (8, channels + noise, 4, 4)).astype(np.float32),
        "up": rng.normal(0, 0.25, (8, 3, 4, 4)).astype(np.float32),
        "one": np.array([1], np.int64),
    }
    nodes = [helper.make_node("Cast", ["A"], ["float"], to=TensorProto.FLOAT)]
    made = "float"
    inputs = [helper.make_tensor_value_info("A", getattr(TensorProto, kind), shape)]
    if flat:
        inputs = [helper.make_tensor_value_info("A", getattr(TensorProto, kind), [count, side, side])]
        nodes.append(helper.make_node("Unsqueeze", [made, "one"], ["deep"]))
        made = "deep"
    elif last:
        nodes.append(helper.make_node("Transpose", [made], ["first"], perm=[0, 3, 1, 2]))
        made = "first"
    if noise:
        inputs.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [count, noise, side, side]))
        nodes.append(helper.make_node("Concat", [made, "z"], ["both"], axis=1))
        made = "both"
    nodes += [
        helper.make_node("Conv", [made, "down"], ["low"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("LeakyRelu", ["low"], ["lower"], alpha=0.2),
        helper.make_node("ConvTranspose", ["lower", "up"], ["high"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Tanh", ["high"], ["picture" if last else "B"]),
    ]
    if last:
        nodes.append(helper.make_node("Transpose", ["picture"], ["B"], perm=[0, 2, 3, 1]))
    out = [count, side, side, 3] if last else [count, 3, side, side]
    tensors = [numpy_helper.from_array(value, name) for name, value in fixed.items()]
    graph = helper.make_graph(
        nodes, "foreign", inputs, [helper.make_tensor_value_info("B", TensorProto.FLOAT, out)], tensors
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))
    if card is not None:
        path.with_suffix(".json").write_text(json.dumps(card))
    return path
