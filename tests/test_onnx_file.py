"""What an ONNX file says of its graph is read without the onnx package, and decides whether it may render."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import RampModel
from onnx_models import ADAPTED, CARD, write_foreign, write_onnx
from safron.engine import render
from safron.engine.generator.onnx_file import OnnxFile
from safron.engine.generator.onnx_model import OnnxModel
from safron.engine.generator.whole_numbers import check_whole_numbers
from safron.io.errors import BadInput

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper  # noqa: E402
from small_graphs import constant, graph, node, save  # noqa: E402

MASK = np.ones((100, 120), np.uint8)
OPTIONS: dict[str, Any] = {
    "tiff_tile": 64,
    "block": 128,
    "overlap": 8,
    "device": "cpu",
    "executor": "threads",
}


def norm(training_mode: int) -> Any:
    """A batch norm between "a" and "b"; one that trains gives running means, too."""
    one, zero = np.ones(3, np.float32), np.zeros(3, np.float32)
    constants = [constant("s", one), constant("z", zero)]
    out = ("b", "m", "v") if training_mode else ("b",)
    return graph(
        [node("BatchNormalization", "s", "z", "z", "s", out=out, training_mode=training_mode)], constants
    )


def dropout(mode: Any) -> Any:
    constants = [constant("ratio", np.float32(0.5))] + ([] if mode is None else [constant("mode", mode)])
    others = ("ratio",) if mode is None else ("ratio", "mode")
    return graph([node("Dropout", *others)], constants)


def dropout_by_node() -> Any:
    nodes = [
        helper.make_node("Constant", [], ["mode"], value=constant("", np.array(True))),
        node("Dropout", "ratio", "mode"),
    ]
    return graph(nodes, [constant("ratio", np.float32(0.5))])


def computed_dropout() -> Any:
    nodes = [
        helper.make_node("ReduceMax", ["a"], ["most"], keepdims=0),
        helper.make_node("Cast", ["most"], ["mode"], to=TensorProto.BOOL),
        node("Dropout", "ratio", "mode"),
    ]
    return graph(nodes, [constant("ratio", np.float32(0.5))])


def noisy(kind: str) -> Any:
    return graph([node(kind, out=("r",)), node("Add", "r")])


def in_a_branch() -> Any:
    out = [helper.make_tensor_value_info("t", TensorProto.FLOAT, None)]
    branch = helper.make_graph([helper.make_node("RandomUniformLike", ["a"], ["t"])], "t", [], out)
    choice = helper.make_node("If", ["yes"], ["b"], then_branch=branch, else_branch=branch)
    return graph([choice], [constant("yes", np.array(True))])


def in_a_function() -> Any:
    inside = [helper.make_node("RandomNormalLike", ["x"], ["y"])]
    opset = [helper.make_opsetid("", 17)]
    function = helper.make_function("own", "Noise", ["x"], ["y"], inside, opset)
    made = graph([node("Noise", domain="own")], functions=[function])
    made.opset_import.append(helper.make_opsetid("own", 1))
    return made


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "dropout": (lambda: dropout(np.array(True)), "Dropout in training mode"),
    "dropout by a node": (dropout_by_node, "Dropout in training mode"),
    "dropout by what it sees": (computed_dropout, "Dropout in training mode"),
    "batch norm": (lambda: norm(1), "BatchNormalization with training_mode 1"),
    "normal": (lambda: noisy("RandomNormalLike"), "RandomNormalLike"),
    "uniform": (lambda: noisy("RandomUniformLike"), "RandomUniformLike"),
    "in a branch": (in_a_branch, "RandomUniformLike"),
    "in a function": (in_a_function, "RandomNormalLike"),
    "two": (
        lambda: graph([node("RandomNormalLike", out=("c",)), helper.make_node("Bernoulli", ["c"], ["b"])]),
        "Bernoulli, RandomNormalLike",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_graph_that_is_not_a_function_is_refused_by_operator(tmp_path: Path, case: str) -> None:
    make, says = REFUSED[case]
    with pytest.raises(BadInput, match=r"m\.onnx: ") as refused:
        OnnxModel(save(tmp_path, make()), device="cpu")
    assert f"m.onnx: {says}: its output would differ from call to call; export it for inference" in str(
        refused.value
    )
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("make", [lambda: dropout(None), lambda: dropout(np.array(False)), lambda: norm(0)])
def test_a_graph_for_inference_is_taken(tmp_path: Path, make: Callable[[], Any]) -> None:
    """And gives the pixels of one without these nodes, which do nothing then."""
    labels = np.random.default_rng(0).integers(0, 3, (1, 64, 64), np.uint8)
    (tmp_path / "plain").mkdir()
    plain = OnnxModel(save(tmp_path / "plain", graph([node("Identity")])), device="cpu")(labels)
    assert np.ptp(plain) > 100
    np.testing.assert_allclose(OnnxModel(save(tmp_path, make()), device="cpu")(labels), plain, atol=0.01)


class Moody(RampModel):
    """Draws noise of its own, which only the warm-up can see."""

    def __call__(self, labels: Any, noise: Any = None) -> Any:
        image = super().__call__(labels, noise)
        return image + np.float32(self.calls % 7) / 64


@pytest.mark.parametrize("batch", [1, 3])
def test_a_generator_that_gives_other_pixels_for_the_same_input_is_refused(
    tmp_path: Path, batch: int
) -> None:
    with pytest.raises(
        BadInput, match=r"'ramp' returned other pixels for the same input, .* export it for inference"
    ):
        render(MASK, tmp_path / "s.tiff", model=Moody(), batch=batch, workers=1, **OPTIONS)
    assert not list(tmp_path.iterdir())


def layer(axis: int) -> Any:
    shape = {1: (3, 64, 64), 2: (64, 64), 3: (64,), -1: (64,)}[axis]
    return graph([node("LayerNormalization", "s", axis=axis)], [constant("s", np.ones(shape, np.float32))])


def largest(axes: Any) -> Any:
    given = {} if axes is None else {"axes": axes}
    return graph([node("ReduceMax", out=("m",), **given), node("Div", "m")])


def mean(axes: Any, opset: int = 17) -> Any:
    if opset < 18:
        reduced = node("ReduceMean", out=("m",), **({} if axes is None else {"axes": axes}))
        return graph([reduced, node("Sub", "m")], opset=opset)
    return graph(
        [node("ReduceMean", "axes", out=("m",)), node("Sub", "m")], [constant("axes", axes)], opset=opset
    )


def instance() -> Any:
    constants = [constant("s", np.ones(3, np.float32)), constant("z", np.zeros(3, np.float32))]
    return graph([node("InstanceNormalization", "s", "z")], constants)


WHOLE: list[tuple[str, Callable[[], Any], tuple[str, ...]]] = [
    ("instance", instance, ("InstanceNormalization",)),
    (
        "pooled",
        lambda: graph([node("GlobalAveragePool", out=("m",)), node("Mul", "m")]),
        ("GlobalAveragePool",),
    ),
    ("layer, all", lambda: layer(1), ("LayerNormalization",)),
    ("layer, plane", lambda: layer(2), ("LayerNormalization",)),
    ("layer, last", lambda: layer(-1), ()),
    ("layer, third", lambda: layer(3), ()),
    ("mean of planes", lambda: mean([2, 3]), ("ReduceMean",)),
    ("mean of all", lambda: mean(None), ("ReduceMean",)),
    ("largest of planes", lambda: largest([2, 3]), ("ReduceMax",)),
    ("largest of channels", lambda: largest([1]), ()),
    ("largest of all, as of a shape", lambda: largest(None), ()),
    ("mean of channels", lambda: mean([1]), ()),
    ("mean of planes, 18", lambda: mean(np.array([-2, -1]), 18), ("ReduceMean",)),
    ("mean of channels, 18", lambda: mean(np.array([-1]), 18), ()),
]


@pytest.mark.parametrize(("make", "kinds"), [row[1:] for row in WHOLE], ids=[row[0] for row in WHOLE])
def test_statistics_over_a_patch_are_warned_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, make: Callable[[], Any], kinds: tuple[str, ...]
) -> None:
    model = OnnxModel(save(tmp_path, make()), device="cpu")
    assert model.file.whole_patch == kinds
    warnings = [record.getMessage() for record in caplog.records]
    assert warnings == [
        f"--model m.onnx: {kind} takes statistics over a whole patch, so neighbours may disagree where they overlap; look "
        "for seams with safron-eval seams"
        for kind in kinds
    ]


@pytest.mark.parametrize("between", [None, "Identity", "Dropout"])
def test_zeros_before_a_maximum_count_as_zeros(tmp_path: Path, between: str | None) -> None:
    """ONNX Runtime alone would make one node of both, whose padding counts as minus infinity."""
    nodes = [
        helper.make_node("Sub", ["a", "three"], ["c"]),
        helper.make_node("Pad", ["c", "sides"], ["p"]),
        *([helper.make_node(between, ["p"], ["q"])] if between else []),
        helper.make_node("MaxPool", ["q" if between else "p"], ["b"], kernel_shape=[3, 3]),
    ]
    constants = [constant("sides", [0, 0, 1, 1, 0, 0, 1, 1]), constant("three", np.float32(3))]
    model = OnnxModel(save(tmp_path, graph(nodes, constants)), device="cpu")
    image = model(np.ones((1, 64, 64), np.uint8))
    assert model.file.pads_before_maximum
    np.testing.assert_allclose(image[0, 0], 127.5, atol=0.01)  # tanh(0)
    assert image[0, 1:-1, 1:-1].max() < 10


def counted(factor: int) -> Any:
    """A pattern of whole numbers: where the label times `factor`, plus one, is a number that float32 has not."""
    nodes = [
        helper.make_node("Greater", ["a", "zero"], ["on"]),
        helper.make_node("Cast", ["on"], ["n"], to=TensorProto.INT32),
        helper.make_node("Mul", ["n", "factor"], ["m"]),
        helper.make_node("Add", ["m", "one"], ["s"]),
        helper.make_node("Equal", ["s", "even"], ["e"]),
        helper.make_node("Cast", ["e"], ["b"], to=TensorProto.FLOAT),
    ]
    constants = [
        constant("zero", np.float32(0)),
        constant("factor", np.int32(factor)),
        constant("one", np.int32(1)),
        constant("even", np.int32(factor)),
    ]
    return graph(nodes, constants)


@pytest.mark.parametrize(("factor", "same"), [(1 << 20, True), (1 << 24, False)])
def test_openvino_is_kept_from_whole_numbers_that_it_rounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factor: int, same: bool
) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = save(tmp_path, counted(factor))
    for _ in range(2):  # compiled, and from the cache
        model = OnnxModel(path, device="cpu", runtime="openvino")
        assert model.large_numbers
        labels = np.random.default_rng(0).integers(0, 3, (1, 64, 64), np.uint8)
        drawn = model(labels)
        assert np.array_equal(drawn, OnnxModel(path, device="cpu")(labels)) == same
        if same:
            check_whole_numbers(model, {"labels": labels}, drawn)
        else:
            with pytest.raises(BadInput, match=r"rounds: its pixels differ .*; use --runtime onnxruntime"):
                check_whole_numbers(model, {"labels": labels}, drawn)
    refused = None if same else "computes whole numbers above 2.24, which OpenVINO rounds"
    with nullcontext() if refused is None else pytest.raises(BadInput, match=refused):
        render(MASK, tmp_path / "o.tiff", model=path, mpp=0.5, runtime="openvino", **OPTIONS)


def quantized(count: int | str) -> Any:
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["a"], ["q", "scale", "zero"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["b"]),
    ]
    return graph(nodes, count=count)


def test_dynamic_quantization_sees_one_patch_at_a_time(tmp_path: Path) -> None:
    model = OnnxModel(save(tmp_path, quantized("n")), device="cpu")
    assert model.per_call == 1
    labels = np.random.default_rng(0).integers(0, 3, (4, 64, 64), np.uint8)
    alone = np.concatenate([model(labels[index : index + 1]) for index in range(4)])
    assert np.array_equal(model(labels), alone)
    model.device = "cuda:0"  # asks for no other way there
    del model.per_call
    assert model.per_call == 1
    with pytest.raises(
        BadInput, match="dynamic quantization scales a patch by all 4 of its batch; export it with"
    ):
        OnnxModel(save(tmp_path, quantized(4)), device="cpu")


@pytest.mark.parametrize(("ir_version", "opset"), [(99, 17), (9, 99)])
def test_a_file_newer_than_onnx_runtime_is_told_the_remedy(
    tmp_path: Path, ir_version: int, opset: int
) -> None:
    path = save(tmp_path, graph([node("Identity")], ir_version=ir_version, opset=opset))
    found = OnnxFile.parse(path.read_bytes())
    assert (found.ir_version, found.opset) == (ir_version, opset)
    with pytest.raises(BadInput) as refused:
        OnnxModel(path, device="cpu")
    says = f"does not read IR version {ir_version} with opset {opset}; export it with ir_version 9 and an opset of 17 to 26"
    assert says in str(refused.value)


@pytest.mark.parametrize(
    ("kinds", "float16"),
    [((np.float32,), False), ((np.float16,), True), ((np.float16, np.float32), False), ((), False)],
)
def test_a_graph_in_float16_is_known_by_its_weights(kinds: tuple[type, ...], float16: bool) -> None:
    weights = [constant(f"w{index}", np.ones((2, 2), kind)) for index, kind in enumerate(kinds)]
    biases = [constant("b1", np.ones(2, np.float32)), constant("b2", np.ones(2, np.float16))]
    made = graph([node("Identity")], weights + biases)
    assert OnnxFile.parse(made.SerializeToString()).float16 is float16


def test_generators_of_the_tests_have_nothing_to_say(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for path in (
        write_onnx(tmp_path / "a.onnx", card=CARD),
        write_foreign(tmp_path / "b.onnx", card=ADAPTED),
    ):
        OnnxModel(path, device="cpu")
    assert not caplog.records
