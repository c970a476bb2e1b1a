#!/usr/bin/env bash
# cv2.imread returns a black image for a TIFF whose tiles are JPEG 2000, JPEG XL or PNG, and for damaged tiles.
#
# Its documentation says that it returns None where an image cannot be read, for one because its format is not supported. For
# 8 bits OpenCV asks libtiff for pixels in a way that goes on after errors, and does not look whether there were any: tiles
# which cannot be decoded stay black, in an image of the right size. A line on stderr is all, which many programs switch off.
# Aperio's slides and exports hold such tiles (JPEG 2000). For 16 bits, and for WebP or zstd, it returns None as documented.
# Safe: tifffile with imagecodecs, OpenSlide, or libvips, which say so or decode them.
#
# Seen on 2026-11-30 with opencv-python-headless 5.0.0.93 and 4.14.0.94, tifffile 2026.3.3, an image of one colour, 130:
#   deflate, uint8: 130
#   zstd, uint8: None
#   jpeg2000, uint16: None
#   jpeg2000, uint8: 0
#   aperio_jp2000_rgb, uint8: 0
#   jpegxl, uint8: 0
#   png, uint8: 0
#   deflate, uint8, first tile damaged: 0, 130
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check opencv-python-headless==5.0.0.93 tifffile==2026.3.3 imagecodecs==2026.3.6 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import sys
from importlib.metadata import version

import cv2
import numpy as np
import tifffile

cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
print(f"opencv {version('opencv-python-headless')}, tifffile {version('tifffile')}")
grey = np.full((200, 300, 3), 130, np.uint8)


def read(compression, image=grey, *, damage=False):
    """Write an image, read it again by OpenCV and tifffile; return what OpenCV finds: a set of values, or None."""
    name = f"{compression}-{image.dtype}-{damage}.tif"
    tifffile.imwrite(name, image, compression=compression, photometric="rgb", tile=(128, 128))
    whole = tifffile.imread(name)
    if (whole != image).any():
        sys.exit(f"{compression} is not lossless")
    if damage:
        with tifffile.TiffFile(name) as file:
            start = file.pages[0].dataoffsets[0]
        with open(name, "r+b") as file:
            file.seek(start + 2)
            file.write(bytes(8))
    found = cv2.imread(name, cv2.IMREAD_UNCHANGED)
    values = None if found is None else {int(value) for value in np.unique(found)}
    what = "None" if values is None else ", ".join(map(str, sorted(values)))
    print(f"{compression}, {image.dtype}{', first tile damaged' if damage else ''}: {what}")
    return values


right = read("deflate") == {130} and read("zstd") is None and read("jpeg2000", grey.astype(np.uint16)) is None
black = all(read(compression) == {0} for compression in ("jpeg2000", "aperio_jp2000_rgb", "jpegxl", "png"))
if not right or not black or read("deflate", damage=True) != {0, 130}:
    sys.exit("changed: see the head of this script")
PYTHON
