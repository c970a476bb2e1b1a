#!/usr/bin/env bash
# EMPatches' `merge_patches(..., mode="avg")` is no average where more than two patches overlap, nor where a patch says 0.
#
# It keeps one running image: a patch and what is there are added and halved, so the last of four patches weighs 4 times
# as much as the first; and a pixel that is 0 counts as empty, so a prediction of 0 is replaced by the next patch's.
# The documentation says "mean/average value of overlapping area". Merging the image's own patches does not show it.
# Safe: add up patches and their number at each pixel, and divide.
#
# Seen on 2026-12-01 with empatches 0.2.3, numpy 2.4.6; 100 x 100 px, patches of 64 px, overlap 0.5:
#   four patches of 0.1, 0.2, 0.3, 0.4 over one pixel: 0.3125 (mean 0.25)
#   two patches of 0 and 1, a background and an object: 1 (mean 0.5)
#   the same in the other order: 0.5
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check empatches==0.2.3 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import sys
from importlib.metadata import version

import numpy as np
from empatches import EMPatches

print(f"empatches {version('empatches')}, numpy {np.__version__}")
patches = EMPatches()
image = np.zeros((100, 100), np.float32)
_, places = patches.extract_patches(image, patchsize=64, overlap=0.5)


def merged(y, x, values):
    """Value at a pixel over which lie patches of these values, in order, and the mean."""
    left = list(values)
    made = [
        np.full((y1 - y0, x1 - x0), left.pop(0) if y0 <= y < y1 and x0 <= x < x1 else 0.5, np.float32)
        for y0, y1, x0, x1 in places
    ]
    assert not left
    found = patches.merge_patches(made, places, mode="avg")[y, x]
    return round(float(found), 4), float(np.mean(values))


covering = [sum(y0 <= 33 < y1 and x0 <= x < x1 for y0, y1, x0, x1 in places) for x in (5, 33)]
assert covering == [2, 4], covering
four = merged(33, 33, (0.1, 0.2, 0.3, 0.4))
two = merged(33, 5, (0.0, 1.0))
back = merged(33, 5, (1.0, 0.0))
print(f"four patches of 0.1, 0.2, 0.3, 0.4 over one pixel: {four[0]} (mean {four[1]:g})")
print(f"two patches of 0 and 1: {two[0]} (mean {two[1]})")
print(f"the same in the other order: {back[0]}")
if (four[0], two[0], back[0]) != (0.3125, 1.0, 0.5):
    sys.exit("changed: see the head of this script")
PYTHON
