#!/usr/bin/env bash
# ome-zarr's pyramid of a Dask array lies beside the image, by up to 1.7 pixels of a level, and depends on the chunks.
#
# write_image makes each level of a NumPy array by one resize. Of a Dask array it resizes chunk by chunk: each is rounded up to
# whole pixels, the pieces are put side by side, and what is too much is cut off at the right and at the bottom. Where a size is
# odd, the shift grows from left to right and from level to level, though the file says the same scale and translation for
# both. Annotations made at a low level then miss the nuclei of the first.
# Safe: sizes that are a multiple of 2^(levels - 1); or write_multiscale with levels made by dask.array.coarsen.
#
# Seen on 2026-11-30 with ome-zarr 0.18.0, a ramp that rises by 1 a pixel, largest difference of each level to NumPy's, in
# pixels of the full image:
#   2048 pixels, chunks of 256: 0.1, 0.3, 0.5, 0.2
#   2047 pixels, chunks of 2047: 0.0, 0.0, 0.0, 0.0
#   2047 pixels, chunks of 512: 2.0, 5.9, 5.9, 5.9
#   2047 pixels, chunks of 256: 2.0, 5.9, 13.7, 13.5
#   1999 pixels, chunks of 100: 1.9, 5.8, 13.3, 27.5
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check ome-zarr==0.18.0 dask==2026.8.0 zarr==3.1.6 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import sys
import warnings
from importlib.metadata import version

warnings.filterwarnings("ignore")  # of its dependencies
import dask.array
import numpy as np
import zarr
from ome_zarr.writer import write_image

print(f"ome-zarr {version('ome-zarr')}, dask {version('dask')}, zarr {version('zarr')}")


def written(image, name):
    """Write an image; return its levels and what the file says of their places."""
    group = zarr.open_group(name, mode="w")
    write_image(image, group, axes="yx")
    levels = group.attrs["ome"]["multiscales"][0]["datasets"]
    return [group[level["path"]][:] for level in levels], [level["coordinateTransformations"] for level in levels]


def apart(size, chunk):
    """Return by how much the levels of the same ramp differ, in pixels of the full image."""
    ramp = np.broadcast_to(np.arange(size, dtype=np.float32), (200, size)).copy()
    whole, places = written(ramp, f"whole-{size}.zarr")
    parts, same = written(dask.array.from_array(ramp, chunks=(200, chunk)), f"parts-{size}-{chunk}.zarr")
    if places != same or [level.shape for level in whole] != [level.shape for level in parts]:
        sys.exit("changed: shapes or places of the levels differ")
    most = [float(np.abs(one - other).max()) for one, other in zip(whole[1:], parts[1:], strict=True)]
    print(f"{size} pixels, chunks of {chunk}: {', '.join(f'{value:.1f}' for value in most)}")
    return max(most)


right = apart(2048, 256), apart(2047, 2047)
wrong = apart(2047, 512), apart(2047, 256), apart(1999, 100)
if max(right) > 1 or min(wrong) < 5:
    sys.exit("changed: see the head of this script")
PYTHON
