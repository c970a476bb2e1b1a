#!/usr/bin/env bash
# Pillow exchanges the bytes of compressed, big-endian TIFF files of int16, int32 and float32: id 1 becomes 16,777,216.
#
# libtiff hands over decoded pixels in the byte order of the machine. Pillow knows this for uint16 and takes the others for
# big-endian still, without a word. Uncompressed, or in a little-endian file, the same values are right. TIFF 6.0 allows
# both byte orders.
# Safe: tifffile, or libvips; or write such files little-endian.
#
# Seen on 2026-11-30 with pillow 13.0.0; tifffile 2026.3.3 and libvips 8.18.7 read 0, 1, 2, 258 from each; Pillow:
#   uint16, zlib, big-endian: 0, 1, 2, 258
#   int32, zlib, little-endian: 0, 1, 2, 258
#   int32, uncompressed, big-endian: 0, 1, 2, 258
#   int16, zlib, big-endian: 0, 256, 512, 513
#   int32, zlib, big-endian: 0, 1.67772e+07, 3.35544e+07, 3.362e+07
#   int32, lzw, big-endian: 0, 1.67772e+07, 3.35544e+07, 3.362e+07
#   float32, zlib, big-endian: 0, 4.6006e-41, 8.96831e-44, 4.63704e-41
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check pillow==13.0.0 tifffile==2026.3.3 imagecodecs==2026.3.6 pyvips==3.2.0 pyvips-binary==8.18.7 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import sys
import warnings
from importlib.metadata import version

import numpy as np
import pyvips
import tifffile
from PIL import Image

warnings.simplefilter("error")
print(f"pillow {version('pillow')}, tifffile {version('tifffile')}, libvips {version('pyvips-binary')}")
VALUES = [0, 1, 2, 258]


def is_right(dtype, compression, byteorder):
    name = f"{dtype}-{compression}-{byteorder == '>'}.tif"
    tifffile.imwrite(name, np.array([VALUES], dtype), compression=compression, byteorder=byteorder)
    with Image.open(name) as image:
        found = np.asarray(image)[0]
    order = "big" if byteorder == ">" else "little"
    line = f"{dtype}, {compression or 'uncompressed'}, {order}-endian: {', '.join(f'{value:g}' for value in found.tolist())}"
    right = found.tolist() == VALUES
    if not right:
        other = pyvips.Image.new_from_file(name).numpy().ravel().tolist()
        if other != VALUES or tifffile.imread(name).ravel().tolist() != VALUES:
            sys.exit("changed: tifffile or libvips are wrong too")
    print(line)
    return right


right = is_right("uint16", "zlib", ">"), is_right("int32", "zlib", "<"), is_right("int32", None, ">")
wrong = (
    is_right("int16", "zlib", ">"),
    is_right("int32", "zlib", ">"),
    is_right("int32", "lzw", ">"),
    is_right("float32", "zlib", ">"),
)
if not all(right) or any(wrong):
    sys.exit("changed: see the head of this script")
PYTHON
