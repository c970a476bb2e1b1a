#!/usr/bin/env bash
# ome-zarr writes an image or a mask in one chunk up to 128 MiB, unless told otherwise.
#
# An OME-Zarr file is expected to be cheap to read in parts. With the default of write_image and write_labels a window of
# 256 x 256 pixels decodes the whole plane, and a plane too large for one chunk is cut into squares of 11,585 pixels (uint8).
# Safe: `storage_options={"chunks": (1024, 1024)}`.
#
# Seen on 2026-11-29 with ome-zarr 0.18.0, uint8:
#   write_image of 5000 x 5000: chunks of (5000, 5000); a window of 256 x 256 decodes 381 times its pixels
#   write_labels of 5000 x 5000: chunks of (5000, 5000); a window of 256 x 256 decodes 381 times its pixels
#   with storage_options: chunks of (1024, 1024); a window of 256 x 256 decodes 16 times its pixels
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check ome-zarr==0.18.0 zarr==3.1.6 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import sys
from importlib.metadata import version

import numpy as np
import zarr
from ome_zarr.writer import write_image, write_labels

print(f"ome-zarr {version('ome-zarr')}")
plane = np.zeros((5000, 5000), np.uint8)
plane[1000:4000, 2000:3000] = 1


def chunks(what, path):
    found = zarr.open_group("mask.zarr", mode="r")[path].chunks
    print(f"{what}: chunks of {found}; a window of 256 x 256 decodes {np.prod(found) / 256**2:.0f} times its pixels")
    return found


def root():
    return zarr.open_group("mask.zarr", mode="w")


write_image(plane, root(), axes="yx", scale_factors=[2])
image = chunks("write_image of 5000 x 5000", "s0")
write_labels(plane, root(), "tissue", axes="yx", scale_factors=[2])
labels = chunks("write_labels of 5000 x 5000", "labels/tissue/s0")
write_image(plane, root(), axes="yx", scale_factors=[2], storage_options={"chunks": (1024, 1024)})
asked = chunks("with storage_options", "s0")
if (image, labels, asked) != ((5000, 5000), (5000, 5000), (1024, 1024)):
    sys.exit("changed: see the head of this script")
PYTHON
