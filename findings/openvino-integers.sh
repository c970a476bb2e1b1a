#!/usr/bin/env bash
# OpenVINO computes int32 in float32 on CPUs: ids above 16,777,216 become equal to their neighbours.
#
# Equal, Greater, ReduceMax, Clip, Pad and nearest Resize of int32 labels go through float32, which holds 24 bits. Two
# instances that touch have no border any more, and an enlarged mask holds ids that were never in it. Sub, Max and Gather
# are exact. It also takes int64 for int32, so ids from a hash lose their upper half.
# Safe: instances numbered 1 to n within what a graph sees, below 2^24.
#
# Seen on 2026-11-30 with openvino 2026.4.1, against onnxruntime 1.31.0, ids 16777217, 16777219, 5:
#   Equal to 16777216, 16777219, 5: onnxruntime [False, True, True], openvino [True, True, True]
#   ReduceMax: onnxruntime [16777219], openvino [16777220]
#   Resize, nearest, 2 times: onnxruntime [5, 16777217, 16777219], openvino [5, 16777216, 16777220]
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
ids = np.array([16777217, 16777219, 5], np.int32)
others = np.array([16777216, 16777219, 5], np.int32)


def both(words, operator, feeds, shape, constants=(), kind=TensorProto.INT32, **attributes):
    """Run one operator in both; return whether they agree."""
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT32, values.shape) for name, values in feeds.items()]
    names = [*feeds, *(tensor.name for tensor in constants)]
    graph = helper.make_graph(
        [helper.make_node(operator, names, ["y"], **attributes)],
        operator,
        inputs,
        [helper.make_tensor_value_info("y", kind, shape)],
        list(constants),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    content = model.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    compiled = core.compile_model(core.read_model(content), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = [np.ravel(session.run(None, feeds)[0]), np.ravel(compiled(feeds)[0])]
    if operator == "Resize":
        found = [np.unique(values) for values in found]
    print(f"{words}: onnxruntime {found[0].tolist()}, openvino {found[1].tolist()}")
    return np.array_equal(*found)


agree = [
    both(f"Equal to {', '.join(map(str, others))}", "Equal", {"x": ids, "to": others}, [3], kind=TensorProto.BOOL),
    both("ReduceMax", "ReduceMax", {"x": ids}, [], keepdims=0),
    both(
        "Resize, nearest, 2 times",
        "Resize",
        {"x": ids.reshape(1, 1, 1, 3)},
        [1, 1, 2, 6],
        [
            numpy_helper.from_array(np.zeros(0, np.float32), "roi"),
            numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales"),
        ],
        mode="nearest",
    ),
]
exact = both("Sub", "Sub", {"x": ids, "less": others}, [3])
if any(agree) or not exact:
    sys.exit("changed: see the head of this script")
PYTHON
