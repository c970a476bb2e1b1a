#!/usr/bin/env bash
# ONNX Runtime's optimizer, on by default, loses zeros padded before MaxPool: negative features change at the border.
#
# It moves a Pad of zeros into the pads of the MaxPool behind it. Padding of MaxPool counts as minus infinity, not as zero,
# so windows at the border hold their largest negative value instead of 0. PyTorch writes just these two nodes for ZeroPad2d
# and MaxPool2d, as in networks that came from TensorFlow. After ReLU it makes no difference; after LeakyReLU or a norm it
# does, at the border of each patch.
# Safe: `InferenceSession(..., disabled_optimizers=["Pad_Fusion"])`.
#
# Seen on 2026-11-30 with onnxruntime 1.31.0, 4 x 4 pixels of -3, zeros around, MaxPool of 3 with stride 2:
#   as ONNX says: [0.0, 0.0, 0.0, -3.0]
#   onnxruntime: [-3.0, -3.0, -3.0, -3.0]
#   onnxruntime without Pad_Fusion: [0.0, 0.0, 0.0, -3.0]
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check onnx==1.23.2 onnxruntime==1.31.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import sys

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

print(f"onnxruntime {onnxruntime.__version__}")
image = np.full((1, 1, 4, 4), -3, np.float32)
graph = helper.make_graph(
    [
        helper.make_node("Pad", ["x", "one"], ["padded"], mode="constant"),
        helper.make_node("MaxPool", ["padded"], ["y"], kernel_shape=[3, 3], strides=[2, 2]),
    ],
    "zeros around, then the maximum",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 4, 4])],
    [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, 2, 2])],
    [numpy_helper.from_array(np.array([0, 0, 1, 1, 0, 0, 1, 1]), "one")],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
onnx.checker.check_model(model)


def run(words, **options):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"], **options)
    found = session.run(None, {"x": image})[0].ravel().tolist()
    print(f"{words}: {found}")
    return found


padded = np.pad(image[0, 0], 1)
right = [float(padded[y : y + 3, x : x + 3].max()) for y in (0, 2) for x in (0, 2)]
print(f"as ONNX says: {right}")
plain = run("onnxruntime")
without = run("onnxruntime without Pad_Fusion", disabled_optimizers=["Pad_Fusion"])
if plain == right or without != right:
    sys.exit("changed: see the head of this script")
PYTHON
