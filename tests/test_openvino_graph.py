"""Rewritten graphs give the same values but for rounding, and what looks alike but is not is left as it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from safron.engine.generator.openvino_graph import phase_weights, rewrite
from safron.engine.generator.openvino_session import open_core

pytest.importorskip("openvino")
pytest.importorskip("onnx")


@dataclass(frozen=True)
class Net:
    """Two images, the first enlarged, joined and convolved.

    Attributes
    ----------
    what : the test's name.
    rewritten : nodes that are replaced.
    kernel, pads : of the convolution.
    resize : attributes of the enlargement.
    scales : of its axes.
    beside : whether the second image is joined.
    order : of what is joined.
    """

    what: str
    rewritten: int
    kernel: int = 3
    pads: int = 0
    resize: dict[str, Any] = field(default_factory=dict)
    scales: tuple[float, ...] = (1, 1, 2, 2)
    beside: bool = True
    order: tuple[str, ...] = ("large", "b")


NETS = [
    Net("three by three", 1),
    Net("five by five", 1, kernel=5),
    Net("seven by seven alone", 1, kernel=7, beside=False),
    Net("the other order", 1, order=("b", "large")),
    Net("enlarged on both sides", 1, order=("large", "b", "large")),
    Net("even", 0, kernel=4),
    Net("one pixel", 0, kernel=1),
    Net("with a margin", 0, pads=1),
    Net("smooth", 0, resize={"mode": "linear"}),
    Net("other places", 0, resize={"nearest_mode": "ceil"}),
    Net("half pixels", 0, resize={"coordinate_transformation_mode": "half_pixel"}),
    Net("threefold", 0, scales=(1, 1, 3, 3), beside=False),
    Net("one axis", 0, scales=(1, 1, 1, 2), beside=False),
]


def write(path: Path, net: Net) -> Path:
    from onnx import TensorProto, helper, numpy_helper, save

    rng = np.random.default_rng(0)
    names = net.order if net.beside else ("large",)
    channels = sum({"large": 3, "b": 2}[name] for name in names)
    fixed = {
        "scales": np.array(net.scales, np.float32),
        "w": rng.normal(size=(4, channels, net.kernel, net.kernel)).astype(np.float32),
        "bias": rng.normal(size=4).astype(np.float32),
    }
    how = {"mode": "nearest", "nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"}
    nodes = [
        helper.make_node("Resize", ["a", "", "scales"], ["large"], **(how | net.resize)),
        helper.make_node("Concat", list(names), ["joined"], axis=1),
        helper.make_node("Conv", ["joined", "w", "bias"], ["image"], pads=[net.pads] * 4),
    ]
    inputs = [helper.make_tensor_value_info("a", TensorProto.FLOAT, ["n", 3, "y", "x"])]
    if net.beside:
        inputs.append(helper.make_tensor_value_info("b", TensorProto.FLOAT, ["n", 2, "Y", "X"]))
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 4, "r", "c"])
    tensors = [numpy_helper.from_array(value, name) for name, value in fixed.items()]
    graph = helper.make_graph(nodes, "net", inputs, [image], tensors)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))
    return path


def run(model: Any, feeds: dict[str, npt.NDArray[Any]]) -> npt.NDArray[np.float32]:
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    request = open_core().compile_model(model, "CPU", settings).create_infer_request()
    request.infer(feeds)
    return np.array(request.get_output_tensor().data)


@pytest.mark.parametrize("net", NETS, ids=lambda net: net.what)
def test_an_enlarged_image_is_convolved_by_phases(net: Net, tmp_path: Path) -> None:
    import onnxruntime

    path, rng = write(tmp_path / "net.onnx", net), np.random.default_rng(1)
    feeds = {"a": rng.normal(size=(2, 3, 9, 8)).astype(np.float32)}
    if net.beside:
        feeds["b"] = rng.normal(size=(2, 2, 18, 16)).astype(np.float32)
    model = open_core().read_model(str(path))
    assert rewrite(model) == net.rewritten
    made = run(model, feeds)
    (expected,) = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, feeds)
    assert made.shape == expected.shape
    np.testing.assert_allclose(made, expected, atol=1e-4)
    kinds = {node.get_type_name() for node in model.get_ordered_ops()}
    assert ("Interpolate" in kinds) == (not net.rewritten)


@pytest.mark.parametrize(
    ("kernel", "more", "rewritten"),
    [
        ([9, 9], {}, 1),
        ([3, 5], {}, 1),
        ([2, 9], {}, 0),
        ([3, 3], {"strides": [2, 2]}, 0),
        ([3, 3], {"pads": [1, 1, 1, 1]}, 0),
        ([3, 3], {"ceil_mode": 1}, 0),
    ],
)
def test_a_mean_by_rows_and_columns(
    kernel: list[int], more: dict[str, Any], rewritten: int, tmp_path: Path
) -> None:
    import onnxruntime
    from onnx import TensorProto, helper, save

    nodes = [helper.make_node("AveragePool", ["a"], ["image"], kernel_shape=kernel, **more)]
    entry = helper.make_tensor_value_info("a", TensorProto.FLOAT, ["n", 1, "y", "x"])
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 1, "r", "c"])
    graph = helper.make_graph(nodes, "net", [entry], [image])
    path = str(tmp_path / "net.onnx")
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    feeds = {"a": np.random.default_rng(0).random((2, 1, 17, 12), np.float32)}
    model = open_core().read_model(path)
    assert rewrite(model) == rewritten
    (expected,) = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, feeds)
    np.testing.assert_allclose(run(model, feeds), expected, atol=1e-6)


def test_taps_that_meet_the_same_pixel_are_added_up() -> None:
    weights = np.arange(9, dtype=np.float32).reshape(1, 1, 3, 3)
    summed = phase_weights(weights)
    assert summed.shape == (4, 1, 2, 2)
    assert summed.sum() == 4 * weights.sum()
    assert summed[:, 0].tolist() == [
        [[0 + 1 + 3 + 4, 2 + 5], [6 + 7, 8]],
        [[0 + 3, 1 + 2 + 4 + 5], [6, 7 + 8]],
        [[0 + 1, 2], [3 + 4 + 6 + 7, 5 + 8]],
        [[0, 1 + 2], [3 + 6, 4 + 5 + 7 + 8]],
    ]


@pytest.mark.parametrize(
    ("kernel", "pads", "more", "rewritten"),
    [
        (4, 1, {}, 1),
        (2, 0, {}, 1),
        (6, 2, {}, 1),
        (3, 1, {"output_padding": [1, 1]}, 1),
        (3, 0, {}, 0),  # more than twice as large
        (4, 1, {"dilations": [2, 2]}, 0),
        (4, 1, {"group": 3}, 0),
        (4, 1, {"strides": [1, 1]}, 0),
        (4, 1, {"outputs": 16}, 0),  # a block of channels
    ],
)
def test_a_transposed_convolution_to_a_few_channels_is_one_by_phases(
    kernel: int, pads: int, more: dict[str, Any], rewritten: int, tmp_path: Path
) -> None:
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper, save

    rng, outputs = np.random.default_rng(3), more.pop("outputs", 3)
    weights = rng.normal(size=(6, outputs, kernel, kernel)).astype(np.float32)
    how = {"strides": [2, 2], "pads": [pads] * 4} | more
    node = helper.make_node("ConvTranspose", ["a", "w"], ["image"], **how)
    entries = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", channels, f"{name}y", f"{name}x"])
        for name, channels in (("a", 6), ("image", outputs * more.get("group", 1)))
    ]
    graph = helper.make_graph(
        [node], "net", entries[:1], entries[1:], [numpy_helper.from_array(weights, "w")]
    )
    path = tmp_path / "net.onnx"
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))
    feeds = {"a": rng.normal(size=(2, 6, 9, 7)).astype(np.float32)}
    model = open_core().read_model(str(path))
    assert rewrite(model) == rewritten
    made = run(model, feeds)
    (expected,) = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, feeds)
    assert made.shape == expected.shape
    np.testing.assert_allclose(made, expected, atol=1e-4)
    assert ("Convolution" in {node.get_type_name() for node in model.get_ordered_ops()}) == bool(rewritten)
