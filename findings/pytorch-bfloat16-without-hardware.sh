#!/usr/bin/env bash
# torch.autocast in bfloat16 on a CPU that cannot multiply in it is 10 times slower than float32 and more, without a word.
#
# bfloat16 is autocast's default on CPUs. Without AVX512_BF16 or AMX, PyTorch computes convolutions by loops of its own rather
# than by oneDNN, and does not warn. Forward and backward of a 3 x 3 convolution: 32 to 72 times the time of float32.
# Safe: ask torch.cpu.get_capabilities() for avx512_bf16 or amx_bf16 (bf16 on Arm) first.
#
# Seen on 2026-11-30 with torch 2.13.0 on x86-64 with AVX2, one thread, CPU seconds of forward and backward:
#   32 channels, 128 x 128 pixels: float32 0.038, bfloat16 1.23
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cd "$work"
ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 "$work/venv/bin/python" - <<'PYTHON'
import sys
import time
import warnings

import torch

warnings.simplefilter("error")
torch.set_num_threads(1)
print("torch", torch.__version__)


def seconds(half):
    torch.manual_seed(0)
    convolution, image = torch.nn.Conv2d(32, 32, 3, padding=1), torch.randn(2, 32, 128, 128, requires_grad=True)
    spent = []
    for _ in range(3):
        start = time.process_time()
        with torch.autocast("cpu", enabled=half):
            made = convolution(image)
        made.float().square().mean().backward()
        spent.append(time.process_time() - start)
    return min(spent)


full, half = seconds(False), seconds(True)
print(f"forward and backward: float32 {full:.3f} s, bfloat16 {half:.3f} s, {half / full:.0f} times")
if half < 5 * full:
    sys.exit("changed: see the head of this script")
PYTHON
