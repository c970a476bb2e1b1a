#!/usr/bin/env bash
# torchmetrics' Hausdorff distance is wrong for images that are wider than high: 55 for 5 pixels, or 0 for 40.
#
# It looks distances up in a map of distances to the nearest edge. The part in PyTorch, which the metric always takes, fills
# this map with row times height plus column, where row times width is meant. Square images are right. Wide ones get distances
# of other pixels, and there is no warning; high ones mostly end with an IndexError. HausdorffDistance and hausdorff_distance
# are alike. Sets with wide images: GlaS (775 x 522), fields of most microscopes.
# Safe: pad both masks with background to a square, or scipy.spatial.distance.directed_hausdorff on the edges.
#
# Seen on 2026-12-01 with torchmetrics 1.9.0, torch 2.13.0, a disk and the same disk 5 and 40 pixels beside it, so 5 and 40 are
# right:
#   height 100, width 100: 5.0, 40.0
#   height 100, width 150: 55.2, 70.6
#   height 100, width 200: 39.0, 59.4
#   height 100, width 300: 0.0, 0.0
#   height 100, width 300, padded to a square: 5.0, 40.0
# (PyTorch takes some gigabytes where pip finds only its CUDA build.)
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torchmetrics==1.9.0 torch==2.13.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import sys
import warnings

warnings.simplefilter("error")
import torch
import torchmetrics
from torchmetrics.segmentation import HausdorffDistance

print(f"torchmetrics {torchmetrics.__version__}, torch {torch.__version__}")


def disk(height, width, x):
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    inside = (rows - 50) ** 2 + (columns - x) ** 2 <= 15**2
    return torch.stack([~inside, inside])[None].long()


def distance(height, width, moved):
    metric = HausdorffDistance(num_classes=2, include_background=False)
    metric.update(disk(height, width, 40), disk(height, width, 40 + moved))
    return round(float(metric.compute()), 1)


def measured(words, height, width):
    found = distance(height, width, 5), distance(height, width, 40)
    print(f"{words}: {found[0]}, {found[1]}")
    return found


square = measured("height 100, width 100", 100, 100)
wide = [measured(f"height 100, width {width}", 100, width) for width in (150, 200, 300)]
padded = measured("height 100, width 300, padded to a square", 300, 300)
if square != (5, 40) or padded != (5, 40) or (5, 40) in wide:
    sys.exit("changed: see the head of this script")
PYTHON
