"""Small slides to read back: a canvas with texture and glass, its levels, and a writer that shuffles tiles."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from safron.io.slides.pyramid import Pixels, Pyramid, halve
from safron.io.slides.writer import EncodedTile, SlideSpec, SlideWriter, encode_region

GLASS = (242, 241, 243)

CODINGS = {
    "jpeg420": {"compression": "jpeg", "chroma": "420"},
    "jpeg444": {"compression": "jpeg", "chroma": "444"},
    "deflate": {"compression": "deflate"},
    "lzw": {"compression": "lzw"},
    "none": {"compression": "none"},
}
SUFFIXES = {"svs": ".svs", "ome": ".ome.tif", "generic": ".tif"}


def spec_for(height: int, width: int, **options: Any) -> SlideSpec:
    """A spec with small tiles, a scale and some provenance."""
    options = {"mpp": 0.2527, "tile": 128, "software": "safron 0.1", "background": GLASS, **options}
    options.setdefault("metadata", (("Seed", "42"), ("Model", "tiny")))
    options.setdefault("level_count", Pyramid.auto(height, width, options["tile"]).level_count)
    return SlideSpec(height=height, width=width, **options)


def canvas_for(height: int, width: int) -> Pixels:
    """Stained texture with fine grain, and glass in the lower right quarter.

    As in tissue, brightness varies faster than colour: 4:2:0 JPEG keeps only half of colour's detail.
    """
    rng = np.random.default_rng(height * 7919 + width)
    colour = rng.normal((200, 150, 190), 15, (height // 200 + 2, width // 200 + 2, 3))
    light = rng.normal(0, 20, (height // 24 + 2, width // 24 + 2))
    smooth = [
        cv2.resize(field, (width, height), interpolation=cv2.INTER_CUBIC).reshape(height, width, -1)
        for field in (colour, light)
    ]
    grain = rng.normal(0, 2, (height, width, 1))
    canvas = np.rint(smooth[0] + smooth[1] + grain).clip(0, 255).astype(np.uint8)
    canvas[height // 32 * 16 + 16 :, width // 32 * 16 + 16 :] = GLASS  # at JPEG's own blocks: no ringing
    return canvas


def levels_for(canvas: Pixels, spec: SlideSpec) -> list[Pixels]:
    """All levels of a canvas."""
    levels = [canvas]
    for level in spec.pyramid.levels[1:]:
        levels.append(halve(levels[-1])[: level.height, : level.width])
    return levels


def tiles_for(canvas: Pixels, spec: SlideSpec, seed: int = 0) -> list[EncodedTile]:
    """All tiles of all levels, shuffled."""
    tiles = [
        tile
        for index, level in enumerate(levels_for(canvas, spec))
        for tile in encode_region(level, index, 0, 0, spec)
    ]
    random.Random(seed).shuffle(tiles)
    return tiles


def writer_for(out: Path, spec: SlideSpec, **options: Any) -> SlideWriter:
    """A writer on the two files beside `out`."""
    part, index = out.with_name(out.name + ".part"), out.with_name(out.name + ".idx")
    return SlideWriter(part, index, spec, **options)


def write_slide(out: Path, canvas: Pixels, spec: SlideSpec, seed: int = 0) -> str:
    """Write a whole slide; its digest."""
    with writer_for(out, spec) as writer:
        writer.append(tiles_for(canvas, spec, seed))
        return writer.finish(out, levels_for(canvas, spec)[-1], overwrite=False)


def slide_at(
    folder: Path, flavor: str, coding: str, size: tuple[int, int], **options: Any
) -> tuple[Path, SlideSpec]:
    """Write a slide of a flavor and a coding by their names."""
    spec = spec_for(*size, flavor=flavor, **CODINGS[coding], **options)
    out = folder / f"{flavor}-{coding}-{size[0]}x{size[1]}{SUFFIXES[flavor]}"
    write_slide(out, canvas_for(*size), spec)
    return out, spec


def agree(read: Pixels, wanted: Pixels, coding: str) -> None:
    """Equal without loss; near for JPEG: 4 grey levels on the mean, more where there is little to average."""
    assert read.shape == wanted.shape
    if coding.startswith("jpeg"):
        assert np.abs(read.astype(int) - wanted).mean() < (4 if read.size > 1000 else 16)
    else:
        np.testing.assert_array_equal(read, wanted)
