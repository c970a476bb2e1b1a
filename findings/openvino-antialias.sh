#!/usr/bin/env bash
# OpenVINO ignores `antialias` of ONNX's Resize, linear and cubic: thin structures vanish when an image is made smaller.
#
# The attribute asks that all pixels under an output pixel count, as in Pillow. OpenVINO reads the same two or four pixels
# as without it, and no line says that the attribute was dropped. A reference or an image that is resized within the graph
# is another one.
# Safe: AveragePool where the factor is whole; or resize before the graph.
#
# Seen on 2026-11-30 with openvino 2026.4.1, against onnxruntime 1.31.0: white with a black line in every fourth column, to a
# quarter of the width, so 191.25 is right; the middle of the image:
#   linear: onnxruntime 191.2, openvino 255.0, both without antialias 255.0
#   cubic: onnxruntime 191.2, openvino 278.9, both without antialias 278.9
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check onnx==1.23.2 onnxruntime==1.31.0 openvino==2026.4.1 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import sys

sys.modules["openvino_telemetry"] = None  # the import would report to a server

import numpy as np
import onnx
import onnxruntime
import openvino
from onnx import TensorProto, helper, numpy_helper

print(f"openvino {openvino.__version__.split('-')[0]}, onnxruntime {onnxruntime.__version__}")
core = openvino.Core()
image = np.tile(np.array([0, 255, 255, 255], np.float32), (1, 1, 64, 16))
RIGHT = image.mean()


def middle(mode, antialias):
    """Resize to a quarter in both; return the mean of the middle of each result."""
    graph = helper.make_graph(
        [helper.make_node("Resize", ["x", "", "scales"], ["y"], mode=mode, antialias=antialias)],
        "one resize",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, image.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, 16, 16])],
        [numpy_helper.from_array(np.array([1, 1, 0.25, 0.25], np.float32), "scales")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    content = model.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    compiled = core.compile_model(core.read_model(content), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = session.run(None, {"x": image})[0], compiled({"x": image})[0]
    return [float(values[0, 0, 4:-4, 4:-4].mean()) for values in found]


changed = False
for mode in ("linear", "cubic"):
    ours, theirs = middle(mode, 1)
    plain = middle(mode, 0)
    print(f"{mode}: onnxruntime {ours:.1f}, openvino {theirs:.1f}, both without antialias {plain[0]:.1f}")
    changed |= abs(ours - RIGHT) > 0.1 or abs(theirs - plain[1]) > 0.1 or abs(theirs - RIGHT) < 10
if changed:
    sys.exit("changed: see the head of this script")
PYTHON
