#!/usr/bin/env bash
# spatialdata.to_polygons shifts objects by half a pixel and fills or keeps a hole by the chunk size of the labels.
#
# Pixel (0, 0) covers 0 to 1 on both axes there, so a square over the pixels 10 to 49 has the corners 10 and 50. The
# outlines come from scikit-image's find_contours, which counts from pixel centres; the half pixel is not added, and corners
# are cut off. A hole within one chunk becomes a second polygon on top of the first. Chunks that cut the object leave
# notches and small holes along their edges.
# Safe: `rasterio.features.shapes(connectivity=4)`, whose polygons give the same mask back.
#
# Seen on 2026-11-29 with spatialdata 0.7.3, a square of 40 x 40 pixels with a hole of 12 x 12:
#   mask: corners 10 and 50, area 1456
#   chunks of 64: corners 9.5 and 49.5, area 1743, holes 0
#   chunks of 32: corners 9.5 and 49.5, area 1454, holes 1
#   chunks of 16: corners 9.5 and 49.5, area 1448, holes 9
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check spatialdata==0.7.3 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import sys
import warnings
from importlib.metadata import version

import numpy as np

warnings.filterwarnings("ignore")  # of its dependencies
import spatialdata
from spatialdata.models import Labels2DModel

print(f"spatialdata {version('spatialdata')}")
mask = np.zeros((64, 64), np.uint8)
mask[10:50, 10:50] = 1
mask[24:36, 24:36] = 0
print(f"mask: corners 10 and 50, area {mask.sum()}")


def outline(chunk):
    (shape,) = spatialdata.to_polygons(Labels2DModel.parse(mask, dims=("y", "x"), chunks=chunk)).geometry
    holes = sum(len(part.interiors) for part in getattr(shape, "geoms", [shape]))
    print(f"chunks of {chunk}: corners {shape.bounds[0]} and {shape.bounds[2]}, area {shape.area:g}, holes {holes}")
    return shape.bounds[0], shape.bounds[2], shape.area, holes


if [outline(64), outline(32), outline(16)] != [(9.5, 49.5, 1743, 0), (9.5, 49.5, 1454, 1), (9.5, 49.5, 1448, 9)]:
    sys.exit("changed: see the head of this script")
PYTHON
