#!/usr/bin/env bash
# dask.array.to_zarr loses pixels without a word when it creates a sharded array.
#
# Dask writes one task a Dask chunk. Where shards are given for a new array, it does not merge chunks to whole shards
# first, as it does for an array that exists already. So several tasks write one shard at the same time; each reads the
# shard, changes its part and writes it back, and the last one wins. What is lost varies from run to run.
# Safe: chunks of the Dask array that are whole shards (`array.rechunk(shard)`), or an array made with zarr first.
#
# Seen on 2026-11-29 with dask 2026.8.0, zarr 3.1.6, on two cores:
#   new array, chunks 256, shards 512: 43.8 % of the pixels are lost
#   rechunked to 512 first: 0.0 %
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check dask==2026.8.0 zarr==3.1.6 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import sys
from importlib.metadata import version

import dask
import dask.array
import numpy as np
import zarr

print(f"dask {version('dask')}, zarr {version('zarr')}")
dask.config.set(scheduler="threads", num_workers=4)
pixels = np.random.default_rng(0).integers(1, 255, (1024, 1024), dtype=np.uint8)


def lost(name, chunk):
    dask.array.to_zarr(dask.array.from_array(pixels, chunks=chunk), name, chunks=(256, 256), shards=(512, 512))
    return float((zarr.open_array(name, mode="r")[:] != pixels).mean())


raced = [lost(f"raced-{number}.zarr", 256) for number in range(5)]
safe = [lost(f"safe-{number}.zarr", 512) for number in range(5)]
print("new array, chunks 256, shards 512: " + ", ".join(f"{part:.1%}" for part in raced) + " of the pixels are lost")
print("rechunked to 512 first: " + ", ".join(f"{part:.1%}" for part in safe))
if max(raced) == 0 or max(safe) > 0:
    sys.exit("changed: see the head of this script")
PYTHON
