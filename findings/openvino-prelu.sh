#!/usr/bin/env bash
# OpenVINO takes the slopes of PRelu for those of another axis: channels for columns, or columns for channels.
#
# ONNX aligns slopes with the last axes, as NumPy does: [C] belongs to columns, [C, 1, 1] to channels. OpenVINO gives [C] to
# the channels if there are C of them, as in the square maps of a network whose channels stand last. Behind a MatMul with a
# constant it makes one node of both, and gives [C, 1, 1] to the columns of the product if there are C of them; if not, it does
# not compile the file. Neither says a word, and each is right as soon as the sizes differ or no product stands before it.
# Safe: slopes as [1, 1, 1, C]; a Transpose and its inverse around PRelu, or Relu(x) - slopes * Relu(-x).
#
# Seen on 2026-12-01 with openvino 2026.4.1, against onnxruntime 1.31.0, largest difference of values of about 1:
#   8 channels, 8 columns, slopes [8, 1, 1]: 0.0
#   6 channels, 8 columns, slopes [8]: 0.0
#   MatMul before it, 8 channels, 8 columns, slopes [1]: 0.0
#   MatMul before it, 8 channels, 8 columns, slopes [1, 1, 1, 8]: 0.0
#   8 channels, 8 columns, slopes [8]: 0.8
#   MatMul before it, 8 channels, 8 columns, slopes [8, 1, 1]: 2.0
#   MatMul, Tanh before it, 8 channels, 8 columns, slopes [8, 1, 1]: 0.8
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check openvino==2026.4.1 onnxruntime==1.31.0 onnx==1.23.2 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import sys

sys.modules["openvino_telemetry"] = None  # it would report this run
import numpy as np
import onnxruntime
import openvino
from onnx import TensorProto, checker, helper, numpy_helper

print(f"openvino {openvino.__version__}, onnxruntime {onnxruntime.__version__}")
core = openvino.Core()


def difference(channels, slopes, behind=()):
    """Largest difference; `behind` are nodes in front of PRelu, MatMul with an 8 x 8 matrix."""
    random = np.random.default_rng(0)
    image = random.uniform(-1, 1, (1, channels, 6, 8)).astype(np.float32)
    constants, nodes, name = {"p": random.uniform(-1, 1, slopes)}, [], "x"
    if "MatMul" in behind:
        constants["w"] = random.uniform(-1, 1, (8, 8))
    for number, kind in enumerate(behind):
        nodes.append(helper.make_node(kind, [name, "w"] if kind == "MatMul" else [name], [f"n{number}"]))
        name = f"n{number}"
    graph = helper.make_graph(
        [*nodes, helper.make_node("PRelu", [name, "p"], ["y"])],
        "slopes",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, image.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, image.shape)],
        [numpy_helper.from_array(values.astype(np.float32), key) for key, values in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model, full_check=True)
    file = model.SerializeToString()
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    compiled = core.compile_model(core.read_model(file), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = float(np.abs(session.run(None, {"x": image})[0] - compiled(image)[0]).max())
    before = f"{', '.join(behind)} before it, " if behind else ""
    print(f"{before}{channels} channels, 8 columns, slopes {list(slopes)}: {found:.1f}")
    return found


right = [
    difference(8, (8, 1, 1)),
    difference(6, (8,)),
    difference(8, (1,), ("MatMul",)),
    difference(8, (1, 1, 1, 8), ("MatMul",)),
]
wrong = [difference(8, (8,)), difference(8, (8, 1, 1), ("MatMul",)), difference(8, (8, 1, 1), ("MatMul", "Tanh"))]
if max(right) > 1e-4 or min(wrong) < 0.1:
    sys.exit("changed: see the head of this script")
PYTHON
