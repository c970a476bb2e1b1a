#!/usr/bin/env bash
# onnx.reference.ReferenceEvaluator, which looks like the definition of ONNX, is wrong for three layers of image networks.
#
# A transposed convolution with one channel a group, as in a learned upsampling, gives all channels the bias of channel 0.
# MaxPool with auto_pad SAME_LOWER lacks a row and a column where an odd number is padded: the text asks for ceil(size /
# stride) of them. LpNormalization with p = 1 divides by the sum instead of the sum of absolute values. ONNX Runtime agrees with
# PyTorch and with the text in all of these: a runtime that is checked against the evaluator looks broken where it is right.
# Safe: PyTorch, or ONNX Runtime without optimizations, as the reference.
#
# Seen on 2026-12-01 with onnx 1.23.2, onnxruntime 1.31.0, torch 2.13.0, size and largest difference to
# PyTorch:
#   ConvTranspose, 4 groups: onnxruntime (19, 19), difference 1e-06
#   ConvTranspose, 4 groups: evaluator (19, 19), difference 3
#   MaxPool, SAME_LOWER: onnxruntime (5, 5), difference 0
#   MaxPool, SAME_LOWER: evaluator (4, 4), difference inf
#   LpNormalization, p = 1: onnxruntime (9, 9), difference 0
#   LpNormalization, p = 1: evaluator (9, 9), difference 6e+01
# (PyTorch takes some gigabytes where pip finds only its CUDA build.)
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 onnx==1.23.2 onnxruntime==1.31.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import sys

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, checker, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch.nn import functional

print(f"onnx {onnx.__version__}, onnxruntime {onnxruntime.__version__}, torch {torch.__version__}")
random = np.random.default_rng(0)


def differences(words, node, x, constants, right):
    """Largest difference to PyTorch of ONNX Runtime and of the evaluator; infinite where the shape is another."""
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, right.shape)],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found = []
    for made in session.run(None, {"x": x})[0], ReferenceEvaluator(model).run(None, {"x": x})[0]:
        same = made.shape == tuple(right.shape)
        found.append(float(np.abs(made - right.numpy()).max()) if same else float("inf"))
        print(f"{words}: {'evaluator' if len(found) == 2 else 'onnxruntime'} {made.shape[2:]}, difference {found[-1]:.1g}")
    return found


image = random.standard_normal((1, 4, 9, 9)).astype(np.float32)
weight = random.standard_normal((4, 1, 3, 3)).astype(np.float32)
bias = np.arange(4, dtype=np.float32)
tensor = torch.from_numpy(image)
enlarged = functional.conv_transpose2d(tensor, torch.from_numpy(weight), torch.from_numpy(bias), stride=2, groups=4)
padded = functional.pad(tensor, (1, 0, 1, 0), value=-torch.inf)
transposed = helper.make_node("ConvTranspose", ["x", "w", "b"], ["y"], strides=[2, 2], group=4)
pool = helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2], strides=[2, 2], auto_pad="SAME_LOWER")
norm = helper.make_node("LpNormalization", ["x"], ["y"], axis=1, p=1)
found = [
    differences("ConvTranspose, 4 groups", transposed, image, {"w": weight, "b": bias}, enlarged),
    differences("MaxPool, SAME_LOWER", pool, image, {}, functional.max_pool2d(padded, 2)),
    differences("LpNormalization, p = 1", norm, image, {}, functional.normalize(tensor, p=1)),
]
if max(runtime for runtime, _ in found) > 1e-4 or min(evaluator for _, evaluator in found) < 0.1:
    sys.exit("changed: see the head of this script")
PYTHON
