#!/usr/bin/env bash
# Pooling with ceil_mode and padding has other sizes and other values at the right and lower edge in OpenVINO.
#
# ONNX and PyTorch leave out a window that would start in the padding. OpenVINO's MaxPool keeps it: one row and column more
# than the file says, filled with -3.4e38, which the next layer spreads. Its AveragePool with count_include_pad (PyTorch's
# way) divides by the whole window where it hangs over the padding. PyTorch's layers with ceil_mode=True and padding are
# exported to just these.
# Safe: ceil_mode=False, and the image padded to a multiple beforehand.
#
# Seen on 2026-11-30 with openvino 2026.4.1, against onnxruntime 1.31.0:
#   MaxPool of 5 x 5, kernel 2, stride 2, pads 1: onnxruntime (3, 3), least 1; openvino (4, 4), least -3.4e+38
#   AveragePool of ones, 6 x 6, kernel 3, stride 2, pads 1: last row
#   onnxruntime 0.33, 0.50, 0.50, 0.25; openvino 0.22, 0.33, 0.33, 0.11
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
from onnx import TensorProto, helper

print(f"openvino {openvino.__version__.split('-')[0]}, onnxruntime {onnxruntime.__version__}")
core = openvino.Core()


def both(operator, image, kernel, **attributes):
    """Results of one pooling layer in both, [height, width]."""
    graph = helper.make_graph(
        [
            helper.make_node(
                operator, ["x"], ["y"], kernel_shape=[kernel] * 2, strides=[2, 2], pads=[1] * 4, ceil_mode=1, **attributes
            )
        ],
        "one pool",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, *image.shape])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, "height", "width"])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    onnx.checker.check_model(model)
    content, feeds = model.SerializeToString(), {"x": image[None, None]}
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    compiled = core.compile_model(core.read_model(content), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return session.run(None, feeds)[0][0, 0], np.array(compiled(feeds)[0])[0, 0]


ours, theirs = both("MaxPool", np.arange(1, 26, dtype=np.float32).reshape(5, 5), 2)
print(
    f"MaxPool of 5 x 5, kernel 2, stride 2, pads 1: onnxruntime {ours.shape}, least {ours.min():.2g}; "
    f"openvino {theirs.shape}, least {theirs.min():.2g}"
)
mean, other = both("AveragePool", np.ones((6, 6), np.float32), 3, count_include_pad=1)
print(
    "AveragePool of ones, 6 x 6, kernel 3, stride 2, pads 1: last row onnxruntime "
    + ", ".join(f"{value:.2f}" for value in mean[-1])
    + "; openvino "
    + ", ".join(f"{value:.2f}" for value in other[-1])
)
if ours.shape != (3, 3) or theirs.shape != (4, 4) or theirs.min() > -1e38 or np.abs(mean - other).max() < 0.1:
    sys.exit("changed: see the head of this script")
PYTHON
