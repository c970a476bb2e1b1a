#!/usr/bin/env bash
# large_image has no tile for the last column or row of a level whose size was rounded down.
#
# It takes each level of a TIFF pyramid for the level above halved and rounded up. Most writers round down (libvips for
# one). Where the upper size is just above a whole number of tiles, it expects one tile more than the level has, and that
# tile raises an error instead of being left empty.
# Safe: sizes that are a multiple of 2^(levels - 1), or levels rounded up.
#
# Seen on 2026-11-29 with large-image 1.35.6, a TIFF of 2049 x 1537 pixels, tiles of 256:
#   levels of 2049 x 1537, 1024 x 768, 512 x 384, 256 x 192: 12 of 92 tiles are missing
#   the first: TileSourceError: Tile x=1, y=0 does not exist
#   levels of 2048 x 1536, 1024 x 768, 512 x 384, 256 x 192: 0 of 65 tiles are missing
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check large-image==1.35.6 large-image-source-tiff==1.35.6 tifffile==2026.3.3 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import sys
from importlib.metadata import version

import numpy as np
import tifffile
from large_image.exceptions import TileSourceError
from large_image_source_tiff import TiffFileTileSource

print(f"large-image {version('large-image')}")
TILE = 256


def missing(width, height):
    """Write a pyramid of that size, ask for each tile; return the errors and the number of tiles."""
    name, sizes = f"{width}.tiff", []
    level = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    with tifffile.TiffWriter(name, bigtiff=True) as tiff:
        while True:
            tiff.write(level, tile=(TILE, TILE), photometric="rgb", compression="deflate", subfiletype=int(bool(sizes)))
            sizes.append(f"{level.shape[1]} x {level.shape[0]}")
            if max(level.shape) <= TILE:
                break
            level = np.ascontiguousarray(level[: level.shape[0] // 2 * 2 : 2, : level.shape[1] // 2 * 2 : 2])
    source, errors, count = TiffFileTileSource(name), [], 0
    levels = source.getMetadata()["levels"]
    for z in range(levels):
        scale = 2 ** (levels - 1 - z) * TILE
        for y in range(-(-height // scale)):
            for x in range(-(-width // scale)):
                count += 1
                try:
                    source.getTile(x, y, z, numpyAllowed=True)
                except TileSourceError as error:
                    errors.append(f"{type(error).__name__}: {error}")
    print(f"levels of {', '.join(sizes)}: {len(errors)} of {count} tiles are missing")
    return errors


odd = missing(2049, 1537)
even = missing(2048, 1536)
if odd:
    print(f"the first: {odd[0]}")
if not odd or even:
    sys.exit("changed: see the head of this script")
PYTHON
