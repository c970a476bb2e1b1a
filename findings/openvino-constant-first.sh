#!/usr/bin/env bash
# OpenVINO asked for bfloat16 computes a matrix product in float32 if its constant factor stands first.
#
# W x and x^T W^T are the same numbers. With INFERENCE_PRECISION_HINT bf16 the second is computed in bfloat16, as asked, and
# the first in float32, without a word. A graph written the first way (transforms, resampling matrices, mixing of channels) is
# neither as fast nor as coarse as the hint says, so a comparison of precisions tells nothing about it.
# Safe: let the constant stand second, or write the product as a convolution 1 x 1.
#
# Seen on 2026-11-30 with openvino 2026.4.1 on a CPU with AVX512_BF16, largest error against float64 of sums of 170 products:
#   constant first: MatMul in f32, largest error 0.00004
#   constant second: FullyConnected in bf16, largest error 0.21702
# Needs a CPU that multiplies bfloat16 numbers; on others it ends with 0 and says so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check openvino==2026.4.1 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import sys

sys.modules["openvino_telemetry"] = None  # the import would report to a server

import numpy as np
import openvino
from openvino import opset13

core = openvino.Core()
print(f"openvino {openvino.__version__.split('-')[0]}")
if "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
    print("this CPU does not multiply bfloat16 numbers: nothing to show")
    sys.exit()
rng = np.random.default_rng(0)
matrix = rng.standard_normal((128, 170), np.float32)
x = rng.standard_normal((256, 170, 64), np.float32)
exact = np.matmul(matrix.astype(np.float64), x.astype(np.float64))


def product(first):
    """Return the largest error, and the precision that OpenVINO chose."""
    given = x if first else np.ascontiguousarray(x.transpose(0, 2, 1))
    port = opset13.parameter(given.shape, np.float32)
    weights = opset13.constant(matrix if first else np.ascontiguousarray(matrix.T))
    pair = (weights, port) if first else (port, weights)
    model = openvino.Model([opset13.matmul(*pair, False, False)], [port], "product")
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "bf16"})
    assert str(compiled.get_property("INFERENCE_PRECISION_HINT").to_string()) == "bf16"
    made = compiled([given])[0]
    error = np.abs((made if first else made.transpose(0, 2, 1)) - exact).max()
    kind, precision = next(
        (info["layerType"].astype(str), info["runtimePrecision"].astype(str))
        for info in (node.get_rt_info() for node in compiled.get_runtime_model().get_ordered_ops())
        if info["layerType"].astype(str) in ("MatMul", "FullyConnected")
    )
    print(f"constant {'first' if first else 'second'}: {kind} in {precision}, largest error {error:.5f}")
    return error


if not (product(True) < 0.001 < 0.05 < product(False)):
    sys.exit("changed: see the head of this script")
PYTHON
