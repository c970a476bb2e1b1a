"""The end of a network, computed otherwise: the same bits, and only where it is allowed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safron.engine.generator.onnx_model import OnnxModel
from safron.engine.generator.shipped import CPU_FORMS, MODELS, cpu_form

onnx = pytest.importorskip("onnx")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from safron.engine.optimization.packing import pack  # noqa: E402

NAMES = [path.name for path in sorted(CPU_FORMS.glob("*.onnx"))]
Values = dict[str, Any]


def run(content: bytes, feeds: Values) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"]).run(["image"], feeds)[0]


def feeds_of(path: Path, side: int) -> Values:
    """Random inputs of a generator, two windows."""
    rng, feeds = np.random.default_rng(0), dict[str, Any]()
    for entry in OnnxModel(path, device="cpu")._session.get_inputs():
        shape = (2, *(size if isinstance(size, int) else side for size in entry.shape[1:]))
        if entry.type == "tensor(uint8)":
            feeds[entry.name] = rng.integers(0, 3 if entry.name == "labels" else 2, shape, np.uint8)
        else:
            feeds[entry.name] = rng.standard_normal(shape, np.float32)
    return feeds


@pytest.mark.parametrize("name", NAMES)
def test_generators_that_ship_have_a_form_with_the_same_bits(name: str) -> None:
    form, changes = pack(onnx.load(str(MODELS / name)), even=True)
    assert changes
    assert form.SerializeToString(deterministic=True) == (CPU_FORMS / name).read_bytes()
    feeds = feeds_of(MODELS / name, 72)
    made = [run(path.read_bytes(), feeds) for path in (MODELS / name, CPU_FORMS / name)]
    assert np.array_equal(*made)
    assert made[0].std() > 1


def test_only_generators_that_ship_have_one(tmp_path: Path) -> None:
    copy = tmp_path / NAMES[0]
    assert cpu_form(MODELS / NAMES[0]) == CPU_FORMS / NAMES[0]
    assert cpu_form(copy) == copy


def network(*after: Any, kernel: int = 3, channels: int = 3, **how: Any) -> Any:
    """A convolution of 20 channels, and what follows it."""
    weight = np.random.default_rng(1).standard_normal((channels, 20, kernel, kernel), np.float32)
    bias = np.arange(channels, dtype=np.float32)
    constants = {
        "weight": weight,
        "bias": bias,
        "two": np.array([2], np.float32),
        "color": np.array([[[[1, 2, 3]]]], np.float32)[..., :channels],
        "row": np.array([3, 2, 1], np.float32)[:channels],
    }
    nodes = [helper.make_node("Conv", ["x", "weight", "bias"], ["y"], **how), *after]
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 20, "h", "w"])],
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", "a", "b", "c"])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


LAST = helper.make_node("Transpose", ["t"], ["last"], perm=[0, 2, 3, 1])
TANH = helper.make_node("Tanh", ["y"], ["t"])


@pytest.mark.parametrize(
    ("model", "even", "count"),
    [
        (network(TANH, LAST, helper.make_node("Mul", ["last", "two"], ["image"])), True, 1),
        (network(TANH, LAST, helper.make_node("Mul", ["last", "two"], ["image"])), False, 0),
        (network(TANH, LAST, helper.make_node("Sub", ["color", "last"], ["image"])), True, 2),
        (network(TANH, LAST, helper.make_node("Div", ["last", "row"], ["image"])), False, 1),
        (
            network(
                TANH,
                LAST,
                helper.make_node("Mul", ["last", "two"], ["a"]),
                helper.make_node("Mul", ["a", "last"], ["b"]),
                helper.make_node("Softmax", ["a"], ["c"]),
                helper.make_node("Softmax", ["a"], ["d"]),
                helper.make_node("Sum", ["b", "c", "d"], ["image"]),
            ),
            True,
            1,
        ),
        (network(TANH, helper.make_node("Identity", ["t"], ["image"])), True, 0),
        (network(helper.make_node("Relu", ["y"], ["image"]), kernel=4, channels=2), True, 1),
        (network(helper.make_node("Relu", ["y"], ["image"]), channels=5), True, 0),
        (network(helper.make_node("Relu", ["y"], ["image"]), pads=[1, 1, 1, 1]), True, 0),
        (network(helper.make_node("Relu", ["y"], ["image"]), strides=[2, 2]), True, 0),
    ],
)
def test_what_is_rewritten_gives_the_same_bits(model: Any, even: bool, count: int) -> None:
    changed, changes = pack(model, even=even)
    assert len(changes) == count
    onnx.checker.check_model(changed, full_check=True)
    side = 12 + next(tensor.dims[2] for tensor in model.graph.initializer if tensor.name == "weight") - 1
    feeds = {"x": np.random.default_rng(2).standard_normal((2, 20, side, side), np.float32)}
    made = [run(one.SerializeToString(), feeds) for one in (model, changed)]
    assert np.array_equal(*made)


def two_convolutions(
    *between: Any, channels: int = 24, inputs: int = 20, kernel: int = 3, **constants: Any
) -> Any:
    """A convolution, what is done to its pixels, and a convolution to three channels of the result `z`."""
    rng = np.random.default_rng(3)
    values = {
        "first": rng.standard_normal((channels, inputs, 3, 3), np.float32),
        "first_bias": rng.standard_normal(channels, np.float32),
        "weight": rng.standard_normal((3, channels, kernel, kernel), np.float32),
        "bias": rng.standard_normal(3, np.float32),
    } | constants
    nodes = [
        helper.make_node("Conv", ["x", "first", "first_bias"], ["y"]),
        *between,
        helper.make_node("Conv", ["z", "weight", "bias"], ["t"]),
        helper.make_node("Tanh", ["t"], ["image"]),
    ]
    graph = helper.make_graph(
        nodes,
        "test",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", inputs, "h", "w"]),
            helper.make_tensor_value_info("style", TensorProto.FLOAT, ["n", channels]),
        ],
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, "b", "c"])],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


LEAKY = helper.make_node("LeakyRelu", ["y"], ["z"], alpha=0.2)
BY_CHANNEL = np.arange(24, dtype=np.float32).reshape(1, 24, 1, 1)
AXES = {"down": np.array([2]), "right": np.array([3])}
STYLE = (
    helper.make_node("Relu", ["y"], ["r"]),
    helper.make_node("Unsqueeze", ["style", "down"], ["s"]),
    helper.make_node("Unsqueeze", ["s", "right"], ["channelwise"]),
)


@pytest.mark.parametrize(
    ("model", "count"),
    [
        (two_convolutions(LEAKY), 2),
        (two_convolutions(LEAKY, channels=40), 2),
        (two_convolutions(LEAKY, channels=20), 1),
        (two_convolutions(LEAKY, channels=32), 1),
        (two_convolutions(LEAKY, channels=26), 0),
        (two_convolutions(LEAKY, channels=8), 0),
        (two_convolutions(LEAKY, inputs=7), 1),
        (two_convolutions(LEAKY, kernel=4), 1),
        (two_convolutions(helper.make_node("Mul", ["y", "scale"], ["z"]), scale=BY_CHANNEL), 2),
        (two_convolutions(helper.make_node("Add", ["y", "one"], ["z"]), one=np.float32([1.5])), 2),
        (two_convolutions(*STYLE, helper.make_node("Mul", ["r", "channelwise"], ["z"]), **AXES), 2),
        (two_convolutions(helper.make_node("Mul", ["y", "y"], ["z"])), 1),
        (two_convolutions(helper.make_node("Softmax", ["y"], ["z"], axis=1)), 1),
        (two_convolutions(helper.make_node("Mul", ["y", "row"], ["z"]), row=np.ones(14, np.float32)), 1),
    ],
)
def test_channels_that_fill_no_block_are_made_of_two_pixels_at_once(model: Any, count: int) -> None:
    changed, changes = pack(model, even=True)
    assert len(changes) == count, changes
    onnx.checker.check_model(changed, full_check=True)
    (channels, inputs, *_), (*_, kernel) = (model.graph.initializer[i].dims for i in (0, 2))
    rng = np.random.default_rng(4)
    feeds: Values = {
        "x": rng.standard_normal((2, inputs, 13 + kernel, 13 + kernel), np.float32),
        "style": rng.standard_normal((2, channels), np.float32),
    }
    made = [run(one.SerializeToString(), feeds) for one in (model, changed)]
    assert made[0].std() > 0.1
    assert np.array_equal(*made)
