#!/usr/bin/env bash
# rasterio.features.rasterize clips ids to the range of dtype, without an error or a warning.
#
# Ids of instances above 65,535 all become 65,535 in uint16: different objects merge into one. Without dtype, rasterize
# chooses one that holds all values.
# Safe: leave dtype out, or check the largest id against `numpy.iinfo(dtype).max` first.
#
# Seen on 2026-11-29 with rasterio 1.4.4:
#   dtype=uint16: ids 70000, 80000 are written as [65535]
#   dtype=uint8: ids 300, 400 are written as [255]
#   no dtype: ids 70000, 80000 are written as [70000, 80000]
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check rasterio==1.4.4 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import sys
import warnings

import numpy as np
import rasterio
from rasterio.features import rasterize

warnings.simplefilter("error")
print(f"rasterio {rasterio.__version__}")


def square(x):
    return {"type": "Polygon", "coordinates": [[(x, 0), (x + 4, 0), (x + 4, 4), (x, 4), (x, 0)]]}


def written(ids, **options):
    shapes = [(square(4 * number), value) for number, value in enumerate(ids)]
    found = np.unique(rasterize(shapes, out_shape=(4, 4 * len(ids)), **options)).tolist()
    name = options.get("dtype")
    print(f"{f'dtype={name}' if name else 'no dtype'}: ids {', '.join(map(str, ids))} are written as {found}")
    return found


if (
    written([70000, 80000], dtype="uint16") != [65535]
    or written([300, 400], dtype="uint8") != [255]
    or written([70000, 80000]) != [70000, 80000]
):
    sys.exit("changed: see the head of this script")
PYTHON
