#!/usr/bin/env bash
# ONNX Runtime's GroupNormalization is wrong on bright, flat images, and NaN on flatter ones.
#
# It has no kernel of its own on CPUs and runs the formula that ONNX gives for this operator, whose variance is the mean of
# squares less the square of the mean, in float32. Little or nothing is left of the variance of glass. InstanceNormalization
# is right for the same values. torch.onnx.export writes GroupNormalization from opset 21 on, InstanceNormalization below.
# Safe: opset 18 or 20, values scaled to -1..1 before the first norm.
#
# Seen on 2026-11-30 with onnxruntime 1.31.0, 8 channels in 4 groups, 256 x 256, largest error of values that are about 1:
#   mean 0, standard deviation 1: GroupNormalization 3.4e-06, InstanceNormalization 4e-06
#   mean 240, standard deviation 2: GroupNormalization 0.035, InstanceNormalization 5.1e-05
#   mean 240, standard deviation 0.1: GroupNormalization nan, InstanceNormalization 0.0027
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
random = np.random.default_rng(0)
GROUPS, CHANNELS, SIZE = 4, 8, 256


def model(operator, parts, **attributes):
    shape = [1, "channels", "height", "width"]
    weights = {"scale": np.ones(parts, np.float32), "bias": np.zeros(parts, np.float32)}
    graph = helper.make_graph(
        [helper.make_node(operator, ["x", *weights], ["y"], epsilon=1e-5, **attributes)],
        "one norm",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(values, name) for name, values in weights.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(made)
    return onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])


group = model("GroupNormalization", CHANNELS, num_groups=GROUPS)
instance = model("InstanceNormalization", GROUPS)


def errors(mean, deviation):
    """Largest errors of both, against float64."""
    x = random.normal(mean, deviation, (1, CHANNELS, SIZE, SIZE)).astype(np.float32)
    parts = x.reshape(1, GROUPS, -1, SIZE)
    exact = parts.astype(np.float64)
    exact = (exact - exact.mean((2, 3), keepdims=True)) / np.sqrt(exact.var((2, 3), keepdims=True) + 1e-5)
    found = group.run(None, {"x": x})[0].reshape(exact.shape), instance.run(None, {"x": parts})[0]
    of_group, of_instance = (float(np.abs(values - exact).max()) for values in found)
    print(
        f"mean {mean}, standard deviation {deviation}: "
        f"GroupNormalization {of_group:.2g}, InstanceNormalization {of_instance:.2g}"
    )
    return of_group, of_instance


centred, bright, flat = errors(0, 1), errors(240, 2), errors(240, 0.1)
if centred[0] > 1e-5 or bright[0] < 0.01 or not np.isnan(flat[0]) or max(bright[1], flat[1]) > 0.01:
    sys.exit("changed: see the head of this script")
PYTHON
