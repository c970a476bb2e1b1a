#!/usr/bin/env bash
# torch.onnx.export drops divisor_override of AvgPool2d, without a word: the layer's values are scaled in the exported file.
#
# ONNX's AveragePool has no such attribute, so an exporter has to write a multiplication, or refuse as PyTorch 2.0 did. Both
# write a plain mean now. With divisor_override=1, the usual way to write a sum of a window (nuclei counted in a
# neighbourhood), results are 9 times too small for a 3 x 3 window, and the shapes are right.
# Safe: `AvgPool2d(3) * 9`; compare PyTorch and ONNX Runtime after each export.
#
# Seen on 2026-11-30 with torch 2.13.0, onnxscript 0.7.2, onnxruntime 1.31.0, ones, AvgPool2d(3, divisor_override=1):
#   PyTorch 9, exported with dynamo 1, exported without 1
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

warnings.filterwarnings("ignore")  # of the exporters about themselves
logging.disable(logging.WARNING)
import onnxruntime
import torch

print(f"torch {torch.__version__}, onnxruntime {onnxruntime.__version__}")
pool, ones = torch.nn.AvgPool2d(3, divisor_override=1), torch.ones(1, 1, 6, 6)


def exported(dynamo):
    name = f"pool-{dynamo}.onnx"
    torch.onnx.export(pool, (ones,), name, dynamo=dynamo, verbose=False)
    session = onnxruntime.InferenceSession(name, providers=["CPUExecutionProvider"])
    return float(session.run(None, {session.get_inputs()[0].name: ones.numpy()})[0].max())


found = float(pool(ones).max()), exported(True), exported(False)
print(f"PyTorch {found[0]:g}, exported with dynamo {found[1]:g}, exported without {found[2]:g}")
if found != (9, 1, 1):
    sys.exit("changed: see the head of this script")
PYTHON
