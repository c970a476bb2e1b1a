#!/usr/bin/env bash
# pycocotools moves and inflates objects on a canvas of more than 2^32 pixels, such as a whole slide.
#
# A mask of COCO is a list of run lengths over the whole image, kept in 32 bits. Runs that are longer start again at 0, with
# no error: boxes and areas are wrong, and two objects far from each other can have the same mask, so that their IoU is 1.
# Polygons in the JSON file are not touched; areas, boxes and scores made from them by this library are.
# Safe: annotations in tiles or regions of up to 65,535 x 65,535 pixels.
#
# Seen on 2026-11-30 with pycocotools 2.0.11, squares of 100 x 100 on a canvas of 100,000 x 80,000:
#   at (1000, 1000): box [1000, 1000, 100, 100], area 10000
#   at (50000, 40000): box [46312, 0, 3788, 80000], area 302917396
#   at (99500, 79500): box [45813, 72204, 100, 100], area 10000
#   at (99500, 39500) of a canvas half as high: box [99500, 39500, 100, 100], area 10000
#   IoU of the squares at (1000, 1000) and (54687, 8296): 1
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check pycocotools==2.0.11 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import sys
from importlib.metadata import version

from pycocotools import mask

print(f"pycocotools {version('pycocotools')}")
SIDE = 100


def square(x, y, width=100_000, height=80_000):
    polygon = [x, y, x + SIDE, y, x + SIDE, y + SIDE, x, y + SIDE]
    return mask.frPyObjects([[float(value) for value in polygon]], height, width)[0]


def is_right(x, y, **canvas):
    made = square(x, y, **canvas)
    box, area = mask.toBbox(made).astype(int).tolist(), int(mask.area(made))
    print(f"at ({x}, {y}){' of a canvas half as high' if canvas else ''}: box {box}, area {area}")
    return box == [x, y, SIDE, SIDE] and area == SIDE**2


large = [is_right(1000, 1000), is_right(50_000, 40_000), is_right(99_500, 79_500)]
small = is_right(99_500, 39_500, height=40_000)
overlap = float(mask.iou([square(1000, 1000)], [square(54_687, 8296)], [0])[0, 0])
print(f"IoU of the squares at (1000, 1000) and (54687, 8296): {overlap:g}")
if any(large[1:]) or not small or overlap < 1:
    sys.exit("changed: see the head of this script")
PYTHON
