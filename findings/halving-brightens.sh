#!/usr/bin/env bash
# Halving an 8-bit image with Pillow's BOX or libvips' shrink brightens it by half a grey level each time.
#
# Both round up twice, after the columns and again after the rows. A pyramid of seven levels ends three grey levels too
# bright, while glass of one value stays as it is: stain and density measured at a low level are another slide's. libvips'
# tiffsave with region_shrink="median" takes the third of four pixels, 2.5 levels too bright at once on noise of 25.
# Safe: Pillow's reduce(2) and LANCZOS, libvips' resize or tiffsave's mean (at most 0.12 a level), or each level from the
# first.
#
# Seen on 2026-11-30 with pillow 13.0.0 and libvips 8.18.7, noise around 180, mean less that of the first level:
#   Pillow, BOX: +0.50 +1.00 +1.50 +2.00 +2.50 +2.99
#   Pillow, reduce: +0.12 +0.25 +0.37 +0.50 +0.62 +0.73
#   libvips, shrink: +0.50 +1.00 +1.50 +2.00 +2.50 +2.99
#   libvips, resize: +0.00 +0.00 +0.00 +0.00 +0.00 +0.01
#   libvips, tiffsave of means: +0.12 +0.25 +0.37 +0.50 +0.62 +0.73
#   libvips, tiffsave of medians: +2.48 +4.15 +5.29 +6.03 +6.52 +6.84
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check pillow==13.0.0 pyvips==3.2.0 pyvips-binary==8.18.7 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import sys

import numpy as np
import PIL
import pyvips
from PIL import Image

print(f"pillow {PIL.__version__}, libvips {'.'.join(str(pyvips.version(part)) for part in range(3))}")
LEVELS = 6
pixels = np.clip(np.random.default_rng(0).normal(180, 25, (4096, 4096)), 0, 255).astype(np.uint8)
first = pixels.mean()


def chain(words, image, halve, mean):
    """How much brighter each level is than the first."""
    brighter = []
    for _ in range(LEVELS):
        image = halve(image)
        brighter.append(float(mean(image) - first))
    print(f"{words}: {' '.join(f'{value:+.2f}' for value in brighter)}")
    return brighter


def saved(words, how):
    vips.tiffsave(
        f"{how}.tif", pyramid=True, tile=True, tile_width=64, tile_height=64, compression="deflate", region_shrink=how, depth="onetile"
    )
    pages = [pyvips.Image.new_from_file(f"{how}.tif", page=page).avg() for page in range(LEVELS + 1)]
    print(f"{words}: {' '.join(f'{page - pages[0]:+.2f}' for page in pages[1:])}")
    return [page - pages[0] for page in pages[1:]]


pillow, vips = Image.fromarray(pixels), pyvips.Image.new_from_array(pixels)


def half(image, how):
    return image.resize((image.width // 2, image.height // 2), how)


box = chain("Pillow, BOX", pillow, lambda image: half(image, Image.Resampling.BOX), np.mean)
reduced = chain("Pillow, reduce", pillow, lambda image: image.reduce(2), np.mean)
shrunk = chain("libvips, shrink", vips, lambda image: image.shrink(2, 2).copy_memory(), lambda image: image.avg())
resized = chain("libvips, resize", vips, lambda image: image.resize(0.5).copy_memory(), lambda image: image.avg())
means = saved("libvips, tiffsave of means", "mean")
medians = saved("libvips, tiffsave of medians", "median")
if min(box[-1], shrunk[-1]) < 2.5 or max(reduced[-1], means[-1]) > 1 or abs(resized[-1]) > 0.1 or medians[0] < 2:
    sys.exit("changed: see the head of this script")
PYTHON
