"""How do the levels above the blocks come about? From what the blocks left in scratch, a few tiles at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safron.io.codecs import EncodedTile, encode_region
from safron.io.pyramid import halve
from safron.io.slides import SlideSpec, SlideWriter

from .plan import RenderPlan
from .scratch import Scratch


def finish_levels(plan: RenderPlan, scratch: Scratch, writer: SlideWriter) -> npt.NDArray[np.uint8]:
    """Make the levels above the blocks from what the blocks left in scratch; return the preview."""
    level, last = plan.thumbnail_level, max(plan.preview_level, plan.slide.level_count - 1)
    step = max(plan.block >> level, 2 * plan.slide.tile)
    while True:
        pixels = scratch.level(level)
        if plan.block_levels < level < plan.slide.level_count:
            writer.append(_encode_stored(pixels, level, plan.slide))
        if level == last:
            break
        scratch.create_level(plan, level + 1, chunk=step // 2)
        _halve_stored(pixels, scratch.level(level + 1), step)
        level += 1
    # Last, so that the preview does not stand in memory beside the levels that are being made.
    pixels = scratch.level(plan.preview_level)
    preview = np.empty(pixels.shape, np.uint8)
    for y in range(0, pixels.shape[0], pixels.chunks[0]):
        preview[y : y + pixels.chunks[0]] = pixels[y : y + pixels.chunks[0]]
    return preview


def _halve_stored(above: Any, below: Any, step: int) -> None:
    """Halve a level that lies in scratch into the next, one chunk of that at a time."""
    for y in range(0, above.shape[0], step):
        for x in range(0, above.shape[1], step):
            half = halve(np.asarray(above[y : y + step, x : x + step], np.uint8))
            half = half[: max(0, below.shape[0] - y // 2), : max(0, below.shape[1] - x // 2)]
            if half.size:
                below[y // 2 : y // 2 + half.shape[0], x // 2 : x // 2 + half.shape[1]] = half


def _encode_stored(pixels: Any, level: int, slide: SlideSpec) -> Iterator[EncodedTile]:
    """Encode a level that lies in scratch, a few tiles in memory at a time."""
    step = slide.tile
    for y in range(0, pixels.shape[0], step):
        for x in range(0, pixels.shape[1], step):
            yield from encode_region(
                np.asarray(pixels[y : y + step, x : x + step], np.uint8), level, y, x, slide
            )


def write_png(path: Path, pixels: npt.NDArray[np.uint8]) -> Path:
    """Write uint8 RGB [h, w, 3] as PNG beside `path`; the file that is returned waits to be given that name."""
    import imagecodecs

    # A name that only we use: what the user has beside it stays.
    part = path.with_name(f".{path.name}.safron.part")
    part.write_bytes(imagecodecs.png_encode(np.ascontiguousarray(pixels)))
    return part
