"""What OpenVINO computes otherwise than ONNX says is found in the file, and rendered by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safron.engine.generator import devices
from safron.engine.generator.onnx_model import OnnxModel
from safron.io.errors import BadInput

onnx = pytest.importorskip("onnx")
from onnx import helper  # noqa: E402
from small_graphs import constant, graph, node, save  # noqa: E402


def resized(**how: Any) -> Any:
    """Half the size and back."""
    constants = [constant("half", np.array([1, 1, 0.5, 0.5], np.float32)), constant("sizes", [1, 3, 64, 64])]
    back = helper.make_node("Resize", ["s", "", "", "sizes"], ["b"], mode="nearest")
    how = {"mode": "linear", **how}
    return graph([node("Resize", "", "half", out=("s",), **how), back], constants, opset=18)


def pooled(kind: str, stride: int, pad: int, **how: Any) -> Any:
    pool = node(kind, out=("s",), kernel_shape=[3, 3], strides=[stride] * 2, pads=[pad] * 4, **how)
    back = helper.make_node("Resize", ["s", "", "", "sizes"], ["b"], mode="nearest")
    return graph([pool, back], [constant("sizes", [1, 3, 64, 64])], opset=19)


def convolved(side: int, stride: int, pad: int, *, declared: bool = True) -> Any:
    """Behind a layer, since as the first one it is right."""
    weights = np.random.default_rng(0).normal(size=(3, 3, side, side)).astype(np.float32)
    how = {"kernel_shape": [side, side]} if declared else {}
    conv = helper.make_node("Conv", ["r", "w"], ["s"], strides=[stride] * 2, pads=[pad] * 4, **how)
    back = helper.make_node("Resize", ["s", "", "", "sizes"], ["b"], mode="nearest")
    constants = [constant("sizes", [1, 3, 64, 64]), constant("w", weights)]
    return graph([node("Abs", out=("r",)), conv, back], constants, opset=18)


def doubled(auto_pad: str, groups: int, **how: Any) -> Any:
    """Twice the size, by a kernel of 3, so one row of 129 is cut off; and back."""
    weights = np.random.default_rng(0).normal(size=(3, 3 // groups, 3, 3)).astype(np.float32)
    how = {"output_shape": [128, 128], **how}
    conv = node("ConvTranspose", "w", out=("s",), strides=[2, 2], auto_pad=auto_pad, group=groups, **how)
    back = helper.make_node("Resize", ["s", "", "", "sizes"], ["b"], mode="nearest")
    constants = [constant("sizes", [1, 3, 64, 64]), constant("w", weights)]
    return graph([conv, back], constants, opset=18)


def sloped(*shape: int, before: tuple[str, ...] = ()) -> Any:
    """Negative values times slopes; `before` are the nodes in front of it, MatMul along the rows of the image."""
    nodes, name = [node("Neg", out=("n",))], "n"
    for number, kind in enumerate(before):
        more = {"MatMul": ["w"], "Add": ["c"]}.get(kind, [])
        how = {"perm": [0, 1, 3, 2]} if kind == "Transpose" else {}
        nodes.append(helper.make_node(kind, [name, *more], [f"n{number}"], **how))
        name = f"n{number}"
    random = np.random.default_rng(0)
    constants = [
        constant("p", random.uniform(-1, 1, shape).astype(np.float32)),
        constant("w", random.normal(size=(64, 64)).astype(np.float32)),
        constant("c", random.normal(size=64).astype(np.float32)),
    ]
    return graph([*nodes, helper.make_node("PRelu", [name, "p"], ["b"])], constants, opset=18)


PADDED, SHAPED = "Conv of 1 x 1 with a stride and padding", "ConvTranspose with output_shape"
SLOPES, BEHIND = "PRelu with slopes of one axis", "PRelu behind a product of matrices"
OTHERWISE: list[tuple[str, Callable[[], Any], tuple[str, ...]]] = [
    ("resized", resized, ()),
    ("without antialias", lambda: resized(antialias=0), ()),
    ("with antialias", lambda: resized(antialias=1), ("Resize with antialias 1",)),
    ("cubic", lambda: resized(mode="cubic"), ()),
    ("cubic, outside", lambda: resized(mode="cubic", exclude_outside=1), ("Resize with exclude_outside 1",)),
    ("point", lambda: convolved(1, 2, 0), ()),
    ("padded point", lambda: convolved(1, 1, 1), ()),
    ("padded window", lambda: convolved(3, 2, 1), ()),
    ("padded point, stride", lambda: convolved(1, 2, 1), (PADDED,)),
    ("size by weights", lambda: convolved(1, 2, 1, declared=False), (PADDED,)),
    ("doubled", lambda: doubled("NOTSET", 1), ()),
    (
        "doubled in groups",
        lambda: doubled("NOTSET", 3, output_shape=None, pads=[1, 1, 1, 1], output_padding=[1, 1]),
        (),
    ),
    ("doubled, upper", lambda: doubled("SAME_UPPER", 1), (SHAPED,)),
    ("doubled, groups", lambda: doubled("NOTSET", 3), (SHAPED,)),
    ("ceil", lambda: pooled("MaxPool", 2, 0, ceil_mode=1), ()),
    ("floor", lambda: pooled("MaxPool", 2, 1, ceil_mode=0), ()),
    ("one by one", lambda: pooled("MaxPool", 1, 1, ceil_mode=1), ()),
    ("maximum", lambda: pooled("MaxPool", 2, 1, ceil_mode=1), ("MaxPool with ceil_mode 1 and padding",)),
    (
        "mean",
        lambda: pooled("AveragePool", 2, 1, ceil_mode=1, count_include_pad=1),
        ("AveragePool with ceil_mode 1 and padding",),
    ),
    ("slopes of channels", lambda: sloped(3, 1, 1), ()),
    ("one slope", lambda: sloped(1), ()),
    ("slopes of columns", lambda: sloped(64), (SLOPES,)),
    ("one slope, product", lambda: sloped(1, before=("MatMul", "Add")), ()),
    ("product apart", lambda: sloped(3, 1, 1, before=("MatMul", "Transpose")), ()),
    ("slopes, product", lambda: sloped(3, 1, 1, before=("MatMul",)), (BEHIND,)),
    ("slopes, layer", lambda: sloped(3, 1, 1, before=("MatMul", "Add", "Tanh")), (BEHIND,)),
]


@pytest.mark.parametrize(("make", "found"), [row[1:] for row in OTHERWISE], ids=[row[0] for row in OTHERWISE])
def test_what_openvino_computes_otherwise_runs_with_onnx_runtime_alone(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    make: Callable[[], Any],
    found: tuple[str, ...],
) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = save(tmp_path, make())
    labels = np.random.default_rng(0).integers(0, 3, (1, 64, 64), np.uint8)
    model = OnnxModel(path, device="cpu")
    assert model.file.otherwise_in_openvino == found
    if not found:
        other = OnnxModel(path, device="cpu", runtime="openvino")
        np.testing.assert_allclose(other(labels), model(labels), atol=0.01)
        return
    with pytest.raises(
        BadInput,
        match=rf"m\.onnx: OpenVINO computes {found[0]} otherwise than ONNX says; use --runtime onnxruntime",
    ):
        OnnxModel(path, device="cpu", runtime="openvino")
    monkeypatch.setattr(devices, "_why_not_bfloat16", lambda *args: None)
    automatic = OnnxModel(path, device="cpu", precision="auto")
    assert (automatic.precision, automatic.runtime.partition(" 1")[0]) == ("float32", "ONNX Runtime")
    assert caplog.messages[-1].startswith("--precision auto: float32 is used (--model ")
    assert np.array_equal(automatic(labels), model(labels))
