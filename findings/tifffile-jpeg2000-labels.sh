#!/usr/bin/env bash
# Labels written by tifffile with lossless JPEG 2000 come back wrong where they are 32 bits wide, or 16 bits big-endian.
#
# imagecodecs encodes 32 bits, and OpenJPEG loses the lower ones: in a mask of 0, 1 and 2 background becomes 1, with no
# error and no warning. For a big-endian file it encodes 16-bit values with their bytes exchanged, so label 1 becomes 256
# for each reader. JPEG 2000 in TIFF is right for 8 bits, and for 16 bits little-endian. Deflate, LZW and zstd are right for
# all of these.
# Safe: deflate with predictor for ids; read the file back once.
#
# Seen on 2026-11-30 with tifffile 2026.3.3 and imagecodecs 2026.3.6, 64 x 64:
#   uint8, little-endian: 0 % of the pixels are wrong, 0 % with deflate
#   uint16, little-endian: 0 % of the pixels are wrong, 0 % with deflate
#   uint16, big-endian: 26 % of the pixels are wrong, 0 % with deflate; 0, 1, 2 became mostly 0, 256, 512
#   uint32, little-endian: 80 % of the pixels are wrong, 0 % with deflate; 0, 1, 2 became mostly 1, 1, 2
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check tifffile==2026.3.3 imagecodecs==2026.3.6 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import sys
import warnings
from importlib.metadata import version

import numpy as np
import tifffile

warnings.simplefilter("error")
print(f"tifffile {version('tifffile')}, imagecodecs {version('imagecodecs')}")
labels = np.zeros((64, 64), np.uint8)
labels[10:40, 10:40] = 1
labels[20:30, 45:60] = 2


def wrong(dtype, byteorder):
    """Write and read back; return the wrong part of the pixels with JPEG 2000 and with deflate."""
    mask, parts = labels.astype(dtype), []
    for compression in ("jpeg2000", "deflate"):
        tifffile.imwrite("mask.tif", mask, compression=compression, byteorder=byteorder, photometric="minisblack")
        found = tifffile.imread("mask.tif")
        parts.append(float((found != mask).mean()))
        if compression == "jpeg2000":
            became = [int(np.bincount(found[labels == label]).argmax()) for label in range(3)]
    ends = "big" if byteorder == ">" else "little"
    line = f"{dtype}, {ends}-endian: {100 * parts[0]:.0f} % of the pixels are wrong, {100 * parts[1]:.0f} % with deflate"
    print(line + (f"; 0, 1, 2 became mostly {', '.join(map(str, became))}" if parts[0] else ""))
    return parts


right = [wrong("uint8", "<"), wrong("uint16", "<")]
swapped, wide = wrong("uint16", ">"), wrong("uint32", "<")
if any(max(parts) > 0 for parts in right) or min(swapped[0], wide[0]) < 0.1 or max(swapped[1], wide[1]) > 0:
    sys.exit("changed: see the head of this script")
PYTHON
