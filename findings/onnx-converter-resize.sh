#!/usr/bin/env bash
# onnx.version_converter moves a bilinear Resize or Upsample by half a pixel of the enlarged image, without a word.
#
# In opset 10 an output pixel x takes its value at x / scale. Opset 11 has a mode for this, asymmetric, and half_pixel is the
# default. The converter writes no mode, so a file of opset 7, 9 or 10 that is converted to 11 or later computes another
# image: moved by a quarter of a pixel of its input where the size is doubled, at each such layer, and other values at the
# borders. Opset 9 was PyTorch's default for years. Nearest neighbour with whole factors gives the same image as before.
# Safe: set coordinate_transformation_mode to "asymmetric" in each converted Resize; compare both files in ONNX Runtime.
#
# Seen on 2026-12-01 with onnx 1.23.2, onnxruntime 1.31.0, one row of 0, 10, 20, 30 to twice its width:
#   Upsample 9, linear: 0, 5, 10, 15, 20, 25, 30, 30
#   converted to opset 17: 0, 2.5, 7.5, 12.5, 17.5, 22.5, 27.5, 30
#   Resize 10, linear: 0, 5, 10, 15, 20, 25, 30, 30
#   converted to opset 17: 0, 2.5, 7.5, 12.5, 17.5, 22.5, 27.5, 30
#   the same with mode asymmetric: 0, 5, 10, 15, 20, 25, 30, 30
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
from onnx import TensorProto, checker, helper, numpy_helper, version_converter

print(f"onnx {onnx.__version__}, onnxruntime {onnxruntime.__version__}")
SHAPE = [1, 1, 1, 4]
row = np.arange(0, 40, 10, dtype=np.float32).reshape(SHAPE)


def model(operator, opset, mode):
    scales = numpy_helper.from_array(np.array([1, 1, 1, 2], np.float32), "scales")
    graph = helper.make_graph(
        [helper.make_node(operator, ["x", "scales"], ["y"], mode=mode)],
        "doubled",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, 1, 8])],
        [scales],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    checker.check_model(made)
    return made


def computed(words, made):
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    values = session.run(None, {"x": row})[0].ravel()
    print(f"{words}: {', '.join(f'{value:g}' for value in values)}")
    return values.tolist()


def compared(operator, opset, mode):
    """Values before, after, and after with the mode that the old opset means."""
    before = model(operator, opset, mode)
    after = version_converter.convert_version(before, 17)
    checker.check_model(after)
    values = [computed(f"{operator} {opset}, {mode}", before), computed("converted to opset 17", after)]
    for node in after.graph.node:
        if node.op_type == "Resize":
            node.attribute.append(helper.make_attribute("coordinate_transformation_mode", "asymmetric"))
    return [*values, computed("the same with mode asymmetric", after)]


results = [compared("Upsample", 9, "linear"), compared("Resize", 10, "linear")]
if any(before == after or before != mended for before, after, mended in results):
    sys.exit("changed: see the head of this script")
PYTHON
