#!/usr/bin/env bash
# dask.array.percentile of a slide can be off by 90 % of its pixels, and depends on which others are asked for.
#
# It asks each chunk for the same percentiles and its extremes, and merges these few numbers. The documentation calls it
# approximate. It is good where all chunks are alike. On a slide they are not: some are glass and some are tissue, and the
# 1st percentile comes out as the value of glass. The error does not shrink with larger chunks. Black and white points, and
# the strengths of stains, are such percentiles.
# Safe: a histogram (`dask.array.histogram` of uint8 is exact), or percentiles of a random sample.
#
# Seen on 2026-11-30 with dask 2026.8.0, 64 chunks of 100,000 pixels, 6 of them glass (240), the others tissue (150 +- 30):
#   asked for 1: exact 81.3, dask 237.7, above which only 9 % of the pixels lie
#   asked for 1 and 99: exact 81.3, dask 89.3
#   from a histogram: 81
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check dask==2026.8.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import sys

import dask
import dask.array
import numpy as np

print(f"dask {dask.__version__}")
CHUNKS, PIXELS, GLASS = 64, 100_000, 6
random = np.random.default_rng(0)
slide = np.concatenate(
    [random.normal(240, 1, PIXELS) if number < GLASS else random.normal(150, 30, PIXELS) for number in range(CHUNKS)]
)
lazy = dask.array.from_array(slide, chunks=PIXELS)
exact = float(np.percentile(slide, 1))
alone = float(dask.array.percentile(lazy, [1]).compute()[0])
beside = float(dask.array.percentile(lazy, [1, 99]).compute()[0])
above = float((slide > alone).mean())
print(f"asked for 1: exact {exact:.1f}, dask {alone:.1f}, above which only {above:.0%} of the pixels lie")
print(f"asked for 1 and 99: exact {exact:.1f}, dask {beside:.1f}")
grey = dask.array.rint(lazy.clip(0, 255)).astype(np.uint8)
counts = dask.array.histogram(grey, bins=256, range=(-0.5, 255.5))[0].compute()
print(f"from a histogram: {int(np.searchsorted(np.cumsum(counts), 0.01 * slide.size))}")
if above > 0.2 or abs(beside - exact) < 1:
    sys.exit("changed: see the head of this script")
PYTHON
