#!/usr/bin/env bash
# A boolean mask with several channels in a page, written by tifffile, comes back with half of its pixels wrong.
#
# TIFF 6.0 stores the channels of a pixel side by side, with one bit each. tifffile packs eight columns of one channel into a
# byte, then eight of the next, and reads them in the order of the standard: neither it nor another program gets the mask back.
# No error, no warning, and the shape and dtype are right. Channels as planes or as pages of their own, and a single channel,
# are right.
# Safe: `mask.astype(numpy.uint8)`, which deflate makes as small; or channels first, with planarconfig="separate".
#
# Seen on 2026-12-01 with tifffile 2026.3.3, random booleans, part of the pixels that differ after imwrite and imread:
#   one channel: 0.00
#   3 channels as planes: 0.00
#   3 channels, uint8: 0.00
#   3 channels, photometric rgb: 0.50
#   3 channels, photometric rgb, deflate: 0.51
#   3 channels, OME-TIFF, axes YXS: 0.50
#   2 channels, photometric minisblack, planarconfig contig: 0.51
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check tifffile==2026.3.3 imagecodecs==2026.3.6 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import logging
import sys
import warnings

warnings.simplefilter("error")
import numpy as np
import tifffile

logged = []
watch = logging.Handler()
watch.emit = logged.append
logging.getLogger("tifffile").addHandler(watch)
print("tifffile", tifffile.__version__)
random = np.random.default_rng(0)


def differs(words, shape, dtype=bool, name="mask.tif", **how):
    mask = (random.random(shape) < 0.5).astype(dtype)
    tifffile.imwrite(name, mask, **how)
    found = tifffile.imread(name)
    assert (found.shape, found.dtype) == (mask.shape, mask.dtype)
    part = float((found != mask).mean())
    print(f"{words}: {part:.2f}")
    return part


right = [
    differs("one channel", (61, 75), photometric="minisblack"),
    differs("3 channels as planes", (3, 61, 75), photometric="rgb", planarconfig="separate"),
    differs("3 channels, uint8", (61, 75, 3), np.uint8, photometric="rgb"),
]
wrong = [
    differs("3 channels, photometric rgb", (61, 75, 3), photometric="rgb"),
    differs("3 channels, photometric rgb, deflate", (61, 75, 3), photometric="rgb", compression="deflate"),
    differs("3 channels, OME-TIFF, axes YXS", (61, 75, 3), name="mask.ome.tif", photometric="rgb", metadata={"axes": "YXS"}),
    differs(
        "2 channels, photometric minisblack, planarconfig contig", (61, 75, 2), photometric="minisblack", planarconfig="contig"
    ),
]
if max(right) > 0 or min(wrong) < 0.3 or logged:
    sys.exit("changed: see the head of this script")
PYTHON
