"""A rewritten graph gives the same numbers: single operations of every shape, and whole generators pixel by pixel."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_models import ADAPTED, CARD, write_foreign, write_onnx
from safron.engine.generator.onnx_model import OnnxModel
from safron.engine.optimization.optimize import example_patches, optimize
from safron.engine.optimization.rewrite import Rewritten, rewrite
from safron.io.errors import BadInput, Failed

RNG = np.random.default_rng(0)


def graph_of(
    nodes: list[Any], tensors: dict[str, Any], shape: list[Any], *, opset: int = 17
) -> onnx.ModelProto:
    """A model from float input "x" of a shape to output "y"."""
    graph = helper.make_graph(
        nodes,
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def run(model: onnx.ModelProto, x: Any, *, name: str = "x", threads: int = 1) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {name: x})[0]


@pytest.fixture(autouse=True)
def _same_numbers() -> None:
    """Each test draws the same numbers, whichever ran before it in this process."""
    RNG.bit_generator.state = np.random.default_rng(0).bit_generator.state


def floats(*shape: int, scale: float = 1.0) -> Any:
    return RNG.normal(0, scale, shape).astype(np.float32)


@dataclass(frozen=True)
class Conv:
    """A convolution, and whether it is worth rewriting."""

    kernel: tuple[int, int]
    width: int
    channels: int = 3
    outputs: int = 8
    pads: tuple[int, ...] = (0, 0, 0, 0)
    bias: bool = True
    changed: bool = True
    settings: tuple[tuple[str, Any], ...] = ()


CONVS = [
    Conv((41, 41), 104),
    Conv((41, 41), 60, outputs=5, bias=False),  # 20 columns: one narrow strip
    Conv((21, 31), 131),  # a last, narrower strip; not square
    Conv((24, 24), 90, channels=1),  # an even kernel
    Conv((25, 25), 80, pads=(12, 12, 12, 12)),
    Conv((25, 25), 80, pads=(3, 0, 1, 7)),
    Conv((3, 3), 64, changed=False),
    Conv((7, 7), 64, changed=False),
    Conv((25, 25), 80, changed=False, settings=(("strides", [2, 2]),)),
    Conv((25, 25), 80, changed=False, settings=(("dilations", [2, 2]),)),
    Conv((25, 25), 80, channels=4, changed=False, settings=(("group", 2),)),
]


@pytest.mark.parametrize("case", CONVS, ids=str)
def test_convolution(case: Conv) -> None:
    settings = dict(case.settings)
    group = settings.get("group", 1)
    tensors = {
        "w": floats(case.outputs - case.outputs % group, case.channels // group, *case.kernel, scale=0.05)
    }
    if case.bias:
        tensors["b"] = floats(len(tensors["w"]))
    node = helper.make_node("Conv", ["x", *tensors], ["y"], pads=list(case.pads), **settings)
    model = graph_of([node], tensors, ["n", case.channels, 66, case.width])
    made = rewrite(model)
    assert bool(made.changes) == case.changed
    x = floats(2, case.channels, 66, case.width)
    expected, found = run(model, x), run(made.model, x)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=2e-6 * abs(expected).max(), rtol=0)
    assert any(node.op_type == "Conv" and "w" in node.input for node in made.model.graph.node) != case.changed


@dataclass(frozen=True)
class Transposed:
    """A transposed convolution, and whether it is worth rewriting."""

    kernel: int = 4
    stride: int = 2
    pad: int = 1
    extra: int = 0
    side: int = 9
    outputs: int = 16
    changed: bool = True


TRANSPOSED = [
    Transposed(),
    Transposed(kernel=2, pad=0),
    Transposed(kernel=3, pad=1, extra=1),
    Transposed(kernel=6, pad=2, outputs=32),
    Transposed(kernel=7, stride=3, pad=2),
    Transposed(outputs=3, changed=False),  # too few channels for blocks
    Transposed(side=4, changed=False),  # too few pixels
    Transposed(pad=0, changed=False),  # not a whole multiple
    Transposed(kernel=3, stride=1, pad=1, changed=False),
]


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("case", TRANSPOSED, ids=str)
def test_transposed_convolution(case: Transposed, norm: bool) -> None:
    tensors = {"w": floats(6, case.outputs, case.kernel, case.kernel), "b": floats(case.outputs)}
    nodes = [
        helper.make_node(
            "ConvTranspose",
            ["x", "w", "b"],
            ["t" if norm else "y"],
            strides=[case.stride] * 2,
            pads=[case.pad] * 4,
            output_padding=[case.extra] * 2,
        )
    ]
    if norm:
        tensors |= {name: floats(case.outputs) for name in ("gain", "shift", "mean")}
        tensors["variance"] = floats(case.outputs) ** 2
        nodes.append(
            helper.make_node("BatchNormalization", ["t", "gain", "shift", "mean", "variance"], ["y"])
        )
    model = graph_of(nodes, tensors, ["n", 6, case.side, case.side + 1])
    made = rewrite(model)
    assert bool(made.changes) == case.changed
    kinds = {node.op_type for node in made.model.graph.node}
    assert ("ConvTranspose" in kinds) != case.changed
    assert "BatchNormalization" not in kinds or not case.changed
    x = floats(2, 6, case.side, case.side + 1)
    expected = run(model, x)
    np.testing.assert_allclose(run(made.model, x), expected, atol=3e-6 * abs(expected).max(), rtol=0)


def test_a_norm_that_others_bypass_stays() -> None:
    """Folding it would change what the other user sees."""
    tensors = {
        "w": floats(6, 16, 4, 4),
        **{name: floats(16) for name in ("g", "s", "m")},
        "v": floats(16) ** 2,
    }
    nodes = [
        helper.make_node("ConvTranspose", ["x", "w"], ["t"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["t", "g", "s", "m", "v"], ["u"]),
        helper.make_node("Add", ["t", "u"], ["y"]),
    ]
    model = graph_of(nodes, tensors, ["n", 6, 9, 9])
    made = rewrite(model)
    assert made.changes
    x = floats(1, 6, 9, 9)
    expected = run(model, x)
    np.testing.assert_allclose(run(made.model, x), expected, atol=3e-6 * abs(expected).max(), rtol=0)


def test_a_norm_that_a_branch_bypasses_stays() -> None:
    """What a branch reads from outside is used, weights too: without them the new graph would not load."""
    tensors = {
        "w": floats(6, 16, 4, 4),
        **{name: floats(16) for name in ("g", "s", "m")},
        "v": floats(16) ** 2,
        "shift": floats(1, 16, 1, 1),
        "way": np.array(True),
    }
    branches = {}
    for way, made in (("then_branch", "a"), ("else_branch", "b")):
        nodes = [
            helper.make_node("Add", ["t", "shift"], [f"{made} moved"]),
            helper.make_node("Add", ["u", f"{made} moved"], [made]),
        ]
        result = helper.make_tensor_value_info(made, TensorProto.FLOAT, None)
        branches[way] = helper.make_graph(nodes, way, [], [result])
    nodes = [
        helper.make_node("ConvTranspose", ["x", "w"], ["t"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["t", "g", "s", "m", "v"], ["u"]),
        helper.make_node("If", ["way"], ["y"], **branches),
    ]
    model = graph_of(nodes, tensors, ["n", 6, 9, 9])
    made = rewrite(model)
    assert made.changes
    x = floats(1, 6, 9, 9)
    expected = run(model, x)
    np.testing.assert_allclose(run(made.model, x), expected, atol=3e-6 * abs(expected).max(), rtol=0)


def write_stem(path: Path, *, colors: Any = None, values: tuple[int, ...] = (0, 1, 2)) -> Path:
    """A generator under the contract in the manner of the paper's: a 41 x 41 stem, one halving, one doubling."""
    labels = [{"value": v, "name": str(v), "color": [v, v, v]} for v in values]
    labels[0]["fill"] = [240, 240, 240]
    card = CARD | {"tile": 64, "context": 20, "labels": labels}
    colors = np.eye(len(values)) if colors is None else np.asarray(colors)
    tensors = {
        "values": np.array(values, np.int32).reshape(1, -1, 1, 1),
        "colors": colors.T[:, :, None, None].astype(np.float32),
        "stem": floats(32, colors.shape[1], 41, 41, scale=0.03),
        "down": floats(32, 32, 4, 4, scale=0.06),
        "down bias": floats(32),
        "up": floats(32, 16, 4, 4, scale=0.08),
        "last": floats(3, 16, 1, 1, scale=0.4),
        "one": np.array([1], np.int64),
        "gain": np.array(127.5, np.float32),
    }
    nodes = [
        helper.make_node("Unsqueeze", ["labels", "one"], ["deep"]),
        helper.make_node("Cast", ["deep"], ["whole"], to=TensorProto.INT32),
        helper.make_node("Equal", ["whole", "values"], ["is"]),
        helper.make_node("Cast", ["is"], ["one hot"], to=TensorProto.FLOAT),
        helper.make_node("Conv", ["one hot", "colors"], ["colored"], kernel_shape=[1, 1]),
        helper.make_node("Conv", ["colored", "stem"], ["a"]),
        helper.make_node("LeakyRelu", ["a"], ["b"], alpha=0.2),
        helper.make_node("Conv", ["b", "down", "down bias"], ["c"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("ConvTranspose", ["d", "up"], ["e"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["e", "last"], ["f"]),
        helper.make_node("Tanh", ["f"], ["g"]),
        helper.make_node("Transpose", ["g"], ["h"], perm=[0, 2, 3, 1]),
        helper.make_node("Mul", ["h", "gain"], ["i"]),
        helper.make_node("Add", ["i", "gain"], ["image"]),
    ]
    graph = helper.make_graph(
        nodes,
        "stem",
        [helper.make_tensor_value_info("labels", TensorProto.UINT8, ["n", 104, 104])],
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 64, 64, 3])],
        [numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(model, {"safron": json.dumps(card)})
    onnx.save(model, str(path))
    return path


@pytest.mark.parametrize(
    ("colors", "values", "channels"),
    [
        (None, (0, 1, 2), 2),
        ([[-1, -1, 1], [1, -1, -1], [-1, 1, -1]], (0, 7, 255), 2),
        (RNG.normal(size=(6, 3)), (0, 1, 2, 3, 4, 5), 3),  # six labels in a space of three colours
    ],
)
def test_generator_with_a_large_stem(
    tmp_path: Path, colors: Any, values: tuple[int, ...], channels: int
) -> None:
    """Same pixels within one level on every trial window, and the same bits for any number of threads."""
    source = write_stem(tmp_path / "g.onnx", colors=colors, values=values)
    out = tmp_path / "fast.onnx"
    done = optimize(source, out)
    assert len(done.changes) == 2
    assert done.levels <= 1
    assert done.max_abs < 3e-3
    before, after = OnnxModel(source, device="cpu"), OnnxModel(out, device="cpu")
    assert after.sha256 != before.sha256
    assert after.card == before.card
    assert after.card.extra["rewritten_from"] == before.sha256
    made = onnx.load(str(out))
    spectral = next(
        node for node in made.graph.node if node.op_type == "Conv" and "spectrum" in node.input[1]
    )
    weight = next(tensor for tensor in made.graph.initializer if tensor.name == spectral.input[1])
    assert weight.dims[1] == 2 * channels
    seen = set()
    for inputs in example_patches(before, seed=1):
        labels = inputs["labels"]
        expected, found = (np.rint(model(labels)).astype(int) for model in (before, after))
        assert abs(found - expected).max() <= 1
        seen.update(expected.ravel().tolist())
        bits = {run(made, labels, name="labels", threads=threads).tobytes() for threads in (1, 2, 3)}
        assert len(bits) == 1
    assert len(seen) > 100  # a picture, not one grey


def test_a_graph_for_openvino_keeps_its_transposed_convolution(tmp_path: Path) -> None:
    """And has its spectra made columns by a convolution: the same pixels, timed with OpenVINO."""
    pytest.importorskip("openvino")
    source, out = write_stem(tmp_path / "g.onnx"), tmp_path / "fast.onnx"
    done = optimize(source, out, runtime="openvino")
    assert len(done.changes) == 1
    assert done.levels <= 1
    kinds = [node.op_type for node in onnx.load(str(out)).graph.node]
    assert "ConvTranspose" in kinds
    assert "MatMul" in kinds, "forward"
    assert kinds.count("MatMul") < [
        node.op_type for node in rewrite(onnx.load(str(source)), label_values=[0, 1, 2]).model.graph.node
    ].count("MatMul")
    labels = example_patches(OnnxModel(source, device="cpu"), seed=1)[-1]["labels"]
    expected, found = (
        np.rint(OnnxModel(path, device="cpu", runtime="openvino")(labels)) for path in (source, out)
    )
    assert abs(found - expected).max() <= 1


def test_a_stem_of_more_than_labels_is_left_its_channels(tmp_path: Path) -> None:
    """What lies between labels and stem looks at neighbours: no table of labels stands for it."""
    source = write_stem(tmp_path / "g.onnx")
    model = onnx.load(str(source))
    blur = helper.make_node("AveragePool", ["colored"], ["blurred"], kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    model.graph.node.insert(5, blur)
    model.graph.node[6].input[0] = "blurred"
    made = rewrite(model, label_values=[0, 1, 2])
    assert len(made.changes) == 2
    labels = RNG.integers(0, 3, (1, 104, 104)).astype(np.uint8)
    expected = run(model, labels, name="labels")
    np.testing.assert_allclose(run(made.model, labels, name="labels"), expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("version", [3, 8])
def test_weights_that_are_inputs_too(tmp_path: Path, version: int) -> None:
    """As the oldest files have them: those that are left out would be inputs that nobody feeds."""
    source, out = write_stem(tmp_path / "g.onnx"), tmp_path / "fast.onnx"
    model = onnx.load(str(source))
    model.ir_version = version
    for tensor in model.graph.initializer:
        entry = helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
        model.graph.input.append(entry)
    onnx.save(model, str(source))
    assert len(optimize(source, out).changes) == 2
    made = onnx.load(str(out))
    onnx.checker.check_model(made)
    assert [entry.name for entry in made.graph.input] == ["labels"]


def test_foreign_network_keeps_its_card(tmp_path: Path) -> None:
    source = write_foreign(tmp_path / "g.onnx", card=ADAPTED)
    model = onnx.load(str(source))
    up = next(tensor for tensor in model.graph.initializer if tensor.name == "up")
    up.CopyFrom(numpy_helper.from_array(floats(8, 16, 4, 4, scale=0.25), "up"))
    model.graph.initializer.append(numpy_helper.from_array(floats(3, 16, 1, 1), "mix"))
    turn = next(node for node in model.graph.node if node.op_type == "ConvTranspose")
    place = list(model.graph.node).index(turn)
    model.graph.node.insert(place + 1, helper.make_node("Conv", ["wide", "mix"], list(turn.output)))
    turn.output[0] = "wide"
    onnx.save(model, str(source))
    done = optimize(source, tmp_path / "fast.onnx")
    assert len(done.changes) == 1
    assert json.loads((tmp_path / "fast.json").read_text())["adapter"] == ADAPTED["adapter"]


def test_an_old_card_goes_with_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A card beside a file stands above the one inside: left behind, it would paint the new graph as the old."""
    source, out, beside = write_stem(tmp_path / "g.onnx"), tmp_path / "o.onnx", tmp_path / "o.json"
    out.write_bytes(b"old")
    beside.write_text(json.dumps(CARD | {"name": "old"}))
    replace = Path.replace

    def stopped(self: Path, target: Path) -> Path:
        if target == out:
            raise KeyboardInterrupt
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", stopped)
        with pytest.raises(KeyboardInterrupt):
            optimize(source, out, overwrite=True)
    assert not out.exists(), "neither file may stand under the other's card"
    beside.write_text(json.dumps(CARD | {"name": "old"}))
    with pytest.raises(BadInput, match=r"o\.json: exists already; pass --overwrite"):
        optimize(source, out)
    optimize(source, out, overwrite=True)
    assert not beside.exists()
    assert OnnxModel(out, device="cpu").card == OnnxModel(source, device="cpu").card


def test_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = write_onnx(tmp_path / "small.onnx", card=CARD)
    with pytest.raises(BadInput, match="nothing in it can be made faster; render with it as it is"):
        optimize(small, tmp_path / "out.onnx")
    with pytest.raises(BadInput, match=r"IN .*none\.onnx: no such file; give an ONNX file"):
        optimize(tmp_path / "none.onnx", tmp_path / "out.onnx")
    source = write_stem(tmp_path / "g.onnx")
    with pytest.raises(BadInput, match=r"must end in \.onnx and differ from"):
        optimize(source, source)
    other = source.rename(tmp_path / "g.model")
    with pytest.raises(BadInput, match=r"differ from .*g\.model in more than the ending"):
        optimize(other, source, overwrite=True)
    other.rename(source)
    (tmp_path / "old.onnx").write_bytes(b"old")
    with pytest.raises(BadInput, match="exists already; pass --overwrite"):
        optimize(source, tmp_path / "old.onnx")
    monkeypatch.setattr("safron.engine.optimization.optimize.FLOAT_LIMIT", 1e-12)
    with pytest.raises(Failed, match=r"pixels of the rewritten graph differ by .* nothing was written"):
        optimize(source, tmp_path / "old.onnx", overwrite=True)
    assert (tmp_path / "old.onnx").read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["g.onnx", "old.onnx", "small.onnx"]
    broken = Rewritten(onnx.ModelProto(), ("a change",))
    monkeypatch.setattr("safron.engine.optimization.rewrite.rewrite", lambda *_, **__: broken)
    with pytest.raises(
        Failed, match=r"g\.onnx: the rewritten graph is not a valid generator \(--model new\.onnx: "
    ):
        optimize(source, tmp_path / "new.onnx")
    node = helper.make_node("Relu", ["x"], ["y"])
    with pytest.raises(BadInput, match="opset 9 and rewriting needs 13"):
        rewrite(graph_of([node], {}, [1, 3, 8, 8], opset=9))


def test_command(tmp_path: Path) -> None:
    source = write_stem(tmp_path / "g.onnx")
    command = [sys.executable, "-m", "safron.engine.optimization.cli", str(source)]
    done = subprocess.run([*command, str(tmp_path / "o.onnx")], capture_output=True, text=True, check=True)
    assert "41x41 convolution" in done.stdout
    assert "pixels: within" in done.stdout
    again = subprocess.run([*command, str(tmp_path / "o.onnx")], capture_output=True, text=True, check=False)
    assert again.returncode == 2
    assert again.stderr.count("\n") == 1
    assert again.stderr.startswith("safron-optimize: ")
