#!/usr/bin/env bash
# PyTorch's group norm of a large image in channels_last is inexact on CPUs, and hundreds of times too large on flat images.
#
# In the default layout the variance is exact. In channels_last all values and their squares are added up one after the other
# in float32, and the square of the mean is subtracted at the end: what a large sum cannot hold is lost. If the difference is
# negative it counts as 0, and 1 / sqrt(eps) = 316 becomes the factor. The error grows with the image and with mean /
# deviation, is the same for bfloat16 tensors, and depends on the number of threads. A network trained on patches, where it is
# small, gives another image when a whole field goes through it. Instance and batch norm are exact in both layouts.
# Safe: `x.contiguous()` before the norm.
#
# Seen on 2026-12-01 with torch 2.13.0, one thread, 8 channels in 4 groups; the deviation after the norm should be 1:
#   mean 0, deviation 1, 256 x 256: largest error 7e-07 by default, 2e-05 in channels_last; deviation 1.00 and 1.00
#   mean 0, deviation 1, 2048 x 2048: largest error 5e-07 by default, 1e-02 in channels_last; deviation 1.00 and 1.00
#   mean 20, deviation 1, 256 x 256: largest error 2e-06 by default, 8e-03 in channels_last; deviation 1.00 and 1.00
#   mean 20, deviation 1, 2048 x 2048: largest error 1e-06 by default, 2e+03 in channels_last; deviation 1.00 and 316.25
#   mean 240, deviation 2, 256 x 256: largest error 5e-06 by default, 4e-01 in channels_last; deviation 1.00 and 1.03
#   mean 240, deviation 2, 1024 x 1024: largest error 7e-06 by default, 3e+03 in channels_last; deviation 1.00 and 632.41
# (PyTorch takes some gigabytes where pip finds only its CUDA build.)
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import sys

import torch
from torch.nn.functional import group_norm

torch.set_num_threads(1)
print("torch", torch.__version__)


def errors(mean, deviation, side):
    """Largest error by default and in channels_last, against float64."""
    random = torch.Generator().manual_seed(0)
    image = torch.randn(1, 8, side, side, generator=random) * deviation + mean
    last = image.contiguous(memory_format=torch.channels_last)
    right = group_norm(image.double(), 4)
    made = [group_norm(x, 4) for x in (image, last)]
    found = [float((values - right).abs().max()) for values in made]
    spread = [float(values.std()) for values in made]
    print(
        f"mean {mean}, deviation {deviation}, {side} x {side}: largest error {found[0]:.0e} by default, {found[1]:.0e} in "
        f"channels_last; deviation {spread[0]:.2f} and {spread[1]:.2f}"
    )
    return found


small = errors(0, 1, 256)
large = [errors(0, 1, 2048), errors(20, 1, 256), errors(20, 1, 2048), errors(240, 2, 256), errors(240, 2, 1024)]
if max(small) > 1e-3 or max(default for default, _ in large) > 1e-3 or max(last for _, last in large) < 0.1:
    sys.exit("changed: see the head of this script")
PYTHON
