#!/usr/bin/env bash
# OpenVINO gives a convolution of 1 x 1 with stride and padding another image, and another size, if a layer stands before it.
#
# To save work it moves the stride of a 1 x 1 convolution to the layers before it, so that they compute fewer pixels. It
# leaves the padding where it was: the layers before then drop other pixels than the stride would, and the padding comes on
# top. Height and width must be fixed in the file, which is usual for a patch. The same convolution is right as the first
# layer of a graph, without padding, with stride 1, or with a larger kernel. No warning.
# Safe: padding of 0 for 1 x 1 convolutions with a stride, or dynamic height and width.
#
# Seen on 2026-11-30 with openvino 2026.4.1, against onnxruntime 1.31.0, 1 x 8 x 32 x 32, 1 x 1 kernel, stride 2:
#   Relu before it, pads [0, 0, 0, 0]: largest difference 9.5e-07
#   nothing before it, pads [1, 1, 1, 1]: largest difference 9.5e-07
#   Relu before it, pads [1, 1, 1, 1], dynamic size: largest difference 9.5e-07
#   Relu before it, pads [1, 1, 1, 1]: onnxruntime (17, 17), openvino (18, 18)
#   Relu before it, pads [1, 1, 0, 0]: largest difference 9
#   Sigmoid before it, pads [1, 0, 0, 1]: largest difference 3.4
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check openvino==2026.4.1 onnxruntime==1.31.0 onnx==1.23.2 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import sys

sys.modules["openvino_telemetry"] = None  # else the import reports to a server
import numpy as np
import onnx
import onnxruntime
import openvino
from onnx import TensorProto, helper, numpy_helper

print(f"openvino {openvino.__version__.split('-')[0]}, onnxruntime {onnxruntime.__version__}")
random = np.random.default_rng(0)
image = random.normal(size=(1, 8, 32, 32)).astype(np.float32)
weights = random.normal(size=(8, 8, 1, 1)).astype(np.float32)


def apart(before, pads, *, fixed=True):
    """Build `before` and the convolution, run both; return whether they agree."""
    size = [1, 8, 32, 32] if fixed else [1, 8, "y", "x"]
    nodes = [helper.make_node(before, ["image"], ["seen"])] if before else []
    nodes.append(helper.make_node("Conv", ["seen" if before else "image", "w"], ["out"], strides=[2, 2], pads=pads))
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, size)],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 8, None, None])],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    content = model.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    right = session.run(None, {"image": image})[0]
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(content), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = compiled({"image": image})[0]
    same = right.shape == found.shape and bool(np.allclose(right, found, atol=1e-4))
    line = f"{before or 'nothing'} before it, pads {pads}{'' if fixed else ', dynamic size'}: "
    if right.shape != found.shape:
        line += f"onnxruntime {right.shape[2:]}, openvino {found.shape[2:]}"
    else:
        line += f"largest difference {np.abs(right - found).max():.2g}"
    print(line)
    return same


right = apart("Relu", [0, 0, 0, 0]), apart(None, [1, 1, 1, 1]), apart("Relu", [1, 1, 1, 1], fixed=False)
wrong = apart("Relu", [1, 1, 1, 1]), apart("Relu", [1, 1, 0, 0]), apart("Sigmoid", [1, 0, 0, 1])
if not all(right) or any(wrong):
    sys.exit("changed: see the head of this script")
PYTHON
