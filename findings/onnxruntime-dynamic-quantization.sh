#!/usr/bin/env bash
# A dynamically quantized ONNX model gives an image other values when another image shares its batch.
#
# quantize_dynamic measures the range of a layer's input at run time, over the whole tensor, batch included. A dark image
# beside a bright one is quantized with the bright one's coarse steps. With float weights the batch changes nothing.
# Safe: batches of one, or static quantization, whose ranges are fixed beforehand.
#
# Seen on 2026-11-29 with onnxruntime 1.31.0, one convolution, values up to 0.1 beside values up to 1:
#   float: alone and beside the other image differ by 0
#   quantized: error 0.00095 alone, 0.0042 beside the other image; 100 % of the values change
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check onnx==1.23.2 onnxruntime==1.31.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import logging
import sys

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

logging.disable(logging.WARNING)
print(f"onnxruntime {onnxruntime.__version__}")
random = np.random.default_rng(0)
graph = helper.make_graph(
    [helper.make_node("Conv", ["x", "weight"], ["y"], pads=[1, 1, 1, 1])],
    "one convolution",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 32, 32])],
    [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 8, 32, 32])],
    [numpy_helper.from_array(random.normal(0, 0.2, (8, 3, 3, 3)).astype(np.float32), "weight")],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
onnx.checker.check_model(model)
onnx.save(model, "float.onnx")
quantize_dynamic("float.onnx", "quantized.onnx", weight_type=QuantType.QUInt8)

dark, bright = (random.uniform(0, top, (1, 3, 32, 32)).astype(np.float32) for top in (0.1, 1))


def run(name):
    """Outputs for the dark image: in a batch of its own, and beside the bright one."""
    session = onnxruntime.InferenceSession(name, providers=["CPUExecutionProvider"])
    return [session.run(None, {"x": batch})[0][0] for batch in (dark, np.concatenate([dark, bright]))]


exact, float_beside = run("float.onnx")
alone, beside = run("quantized.onnx")
float_change = np.abs(float_beside - exact).max()
errors = [np.abs(found - exact).max() for found in (alone, beside)]
print(f"float: alone and beside the other image differ by {float_change:.2g}")
print(
    f"quantized: error {errors[0]:.2g} alone, {errors[1]:.2g} beside the other image; "
    f"{(alone != beside).mean():.0%} of the values change"
)
if float_change > 1e-6 or errors[1] < 3 * errors[0]:
    sys.exit("changed: see the head of this script")
PYTHON
