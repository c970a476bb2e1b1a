#!/usr/bin/env bash
# scikit-image's join_segmentations gives one label to places that have nothing in common, where its input is uint8 or uint16.
#
# By its documentation two pixels have the same label if and only if they have the same one in both inputs. It numbers pairs
# as label of the first x (largest of the second + 1) + label of the second, in the dtype of the input. With 256 objects in
# each this exceeds 65,535 and begins again at 0: pairs from different places get one number, and the maps of return_mapping
# name one of them. Nothing warns. Masks of instances are mostly uint16.
# Safe: `join_segmentations(a.astype(np.int64), b.astype(np.int64))`.
#
# Seen on 2026-11-30 with scikit-image 0.26.0, squares and the same squares moved by 5 pixels:
#   uint8, 9 objects: 44 pairs of labels, 0 of them have the label of another pair
#   int64, 1024 objects: 6018 pairs of labels, 0 of them have the label of another pair
#   uint8, 100 objects: 562 pairs of labels, 509 of them have the label of another pair
#   uint16, 256 objects: 1474 pairs of labels, 10 of them have the label of another pair
#   uint16, 1024 objects: 6018 pairs of labels, 230 of them have the label of another pair
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check scikit-image==0.26.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import sys
import warnings

import numpy as np
import skimage
from skimage.segmentation import join_segmentations

warnings.simplefilter("error")
print("scikit-image", skimage.__version__)


def shared(dtype, side):
    """Join squares of 12 pixels, 16 apart, with the same moved by 5; return how many pairs have the label of another."""
    first = np.zeros((16 * side + 8, 16 * side + 8), dtype)
    for number in range(side**2):
        y, x = 16 * (number // side), 16 * (number % side)
        first[y : y + 12, x : x + 12] = number + 1
    second = np.roll(first, (5, 5), (0, 1))
    made = np.asarray(join_segmentations(first, second))
    found = np.unique(np.stack([made, first, second]).reshape(3, -1).astype(np.int64), axis=1)
    label, counts = np.unique(found[0], return_counts=True)
    count = int(np.isin(found[0], label[counts > 1]).sum())
    pairs = np.unique(found[1:], axis=1).shape[1]
    print(f"{np.dtype(dtype)}, {side**2} objects: {pairs} pairs of labels, {count} of them have the label of another pair")
    return count


right = shared(np.uint8, 3), shared(np.int64, 32)
wrong = shared(np.uint8, 10), shared(np.uint16, 16), shared(np.uint16, 32)
if any(right) or min(wrong) == 0:
    sys.exit("changed: see the head of this script")
PYTHON
