#!/usr/bin/env bash
# torch.onnx.export(dynamo=True) turns adaptive pooling into a pool of fixed size, though height and width are dynamic.
#
# AdaptiveAvgPool2d(4) always gives 4 x 4. The exported graph divides by the size that was traced, so it is right at that
# size alone; at others it returns another shape, with no error or warning on the way. AdaptiveAvgPool2d(1) is exported right.
# Safe: compare PyTorch and ONNX Runtime at a second size after each export.
#
# Seen on 2026-11-29 with torch 2.13.0, onnxscript 0.7.2, onnxruntime 1.31.0, traced at 32 x 32:
#   32 x 32: PyTorch (1, 3, 4, 4), ONNX (1, 3, 4, 4)
#   64 x 64: PyTorch (1, 3, 4, 4), ONNX (1, 3, 8, 8)
# (PyTorch takes some gigabytes where pip finds only its CUDA build.)
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 onnx==1.23.2 onnxscript==0.7.2 onnxruntime==1.31.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import logging
import sys
import warnings

warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)
import onnxruntime
import torch

print(f"torch {torch.__version__}, onnxruntime {onnxruntime.__version__}")
pool = torch.nn.AdaptiveAvgPool2d(4)
dynamic = {2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
torch.onnx.export(
    pool, (torch.rand(1, 3, 32, 32),), "pool.onnx", dynamo=True, dynamic_shapes=(dynamic,), verbose=False
)
session = onnxruntime.InferenceSession("pool.onnx", providers=["CPUExecutionProvider"])
name = session.get_inputs()[0].name
shapes = []
for size in (32, 64):
    x = torch.rand(1, 3, size, size)
    shapes.append((tuple(pool(x).shape), session.run(None, {name: x.numpy()})[0].shape))
    print(f"{size} x {size}: PyTorch {shapes[-1][0]}, ONNX {shapes[-1][1]}")
if shapes != [((1, 3, 4, 4), (1, 3, 4, 4)), ((1, 3, 4, 4), (1, 3, 8, 8))]:
    sys.exit("changed: see the head of this script")
PYTHON
