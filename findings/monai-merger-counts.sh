#!/usr/bin/env bash
# MONAI's AvgMerger counts patches in 8 bits: where 256 of them overlap the result is infinite, and too large beyond.
#
# PatchInferer adds up patches and divides by their number at each pixel, which is a uint8 and starts again at 0 after 255.
# A window of 32 moved by 2 pixels, for a dense map, reaches 256 everywhere but near the edges. ZarrAvgMerger counts in the
# same way.
# Safe: `PatchInferer(..., merger_cls=AvgMerger, count_dtype=torch.int32)`.
#
# Seen on 2026-11-30 with monai 1.5.2, torch 2.13.0, ones through the identity, so 1 is right everywhere:
#   window 32, step 4 (64 patches a pixel): 1 in the middle
#   window 32, step 2 (256 patches a pixel): inf in the middle, 28 % of the pixels are not 1
#   window 40, step 2 (400 patches a pixel): 2.78 in the middle, 36 % of the pixels are not 1
#   the same with count_dtype=torch.int32: 1 in the middle
# (PyTorch takes some gigabytes where pip finds only its CUDA build.)
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check monai==1.5.2 torch==2.13.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import sys
import warnings

warnings.filterwarnings("ignore")  # of its imports
import monai
import torch
from monai.inferers import AvgMerger, PatchInferer, SlidingWindowSplitter

print(f"monai {monai.__version__}, torch {torch.__version__}")
image = torch.ones(1, 1, 128, 128)


def merged(words, window, step, **options):
    """Value in the middle, and the part of the pixels that are not 1."""
    splitter = SlidingWindowSplitter(window, overlap=1 - step / window)
    made = PatchInferer(splitter, AvgMerger, batch_size=64, **options)(image, lambda patches: patches)
    off, middle = float(((made - 1).abs() > 1e-5).float().mean()), float(made[0, 0, 64, 64])
    print(f"{words}: {middle:.3g} in the middle" + (f", {off:.0%} of the pixels are not 1" if off else ""))
    return middle, off


plain = [
    merged(f"window {window}, step {step} ({(window // step) ** 2} patches a pixel)", window, step)
    for window, step in ((32, 4), (32, 2), (40, 2))
]
wide = merged("the same with count_dtype=torch.int32", 40, 2, count_dtype=torch.int32)
if plain[0][1] or wide[1] or plain[1][0] != float("inf") or not 2.7 < plain[2][0] < 2.8:
    sys.exit("changed: see the head of this script")
PYTHON
