#!/usr/bin/env bash
# On CPUs with AVX2 and no more, the gradient of a convolution with a large kernel takes some 30 times as long in channels_last.
#
# PyTorch's tuning guide recommends channels_last for convolutions on CPUs too. Forward it costs nothing here, and 3 x 3 kernels
# are as fast either way. A 41 x 41 kernel over 3 channels, as in networks that see labels far around a pixel, is not: training
# becomes 20 times slower, and nothing says why. Newer CPUs are held to AVX2 by ONEDNN_MAX_CPU_ISA, so that all show the same.
# Safe: the default layout on CPUs in float32.
#
# Seen on 2026-11-30 with torch 2.13.0 on x86-64, one thread, CPU seconds of forward and backward:
#   41 x 41 over 3 channels: 0.63 in the default layout, 18.6 in channels_last
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cd "$work"
ONEDNN_MAX_CPU_ISA=AVX2 "$work/venv/bin/python" - <<'PYTHON'
import sys
import time

import torch

torch.set_num_threads(1)
print("torch", torch.__version__)


def seconds(layout):
    torch.manual_seed(0)
    convolution = torch.nn.Conv2d(3, 16, 41).to(memory_format=layout)
    image = torch.randn(9, 3, 104, 104, requires_grad=True).to(memory_format=layout)
    spent = []
    for _ in range(2):
        start = time.process_time()
        convolution(image).square().mean().backward()
        spent.append(time.process_time() - start)
    return min(spent)


default, last = seconds(torch.contiguous_format), seconds(torch.channels_last)
print(f"forward and backward: default layout {default:.2f} s, channels_last {last:.2f} s, {last / default:.0f} times")
if last < 5 * default:
    sys.exit("changed: see the head of this script")
PYTHON
