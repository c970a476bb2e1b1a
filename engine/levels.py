"""How do the levels above the blocks come about? From what the blocks left in scratch, a few tiles at a time."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice, product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safron.io.chunks import ChunkFiles
from safron.io.codecs import EncodedTile, encode_region
from safron.io.errors import Failed
from safron.io.labels import one_line
from safron.io.pyramid import halve
from safron.io.slides import SlideSpec, SlideWriter

from .memory import usable_cores
from .plan import RenderPlan
from .scratch import Scratch

# Their tiles must fit into what the blocks leave free, whatever the number of cores.
MOST_ENCODERS = 8


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
        _halve_stored(scratch, level, step)
        level += 1
    # Last, so that the preview does not stand in memory beside the levels that are being made.
    pixels = scratch.level(plan.preview_level)
    preview = np.empty(pixels.shape, np.uint8)
    for y in range(0, pixels.shape[0], pixels.chunks[0]):
        preview[y : y + pixels.chunks[0]] = _read(pixels, slice(y, y + pixels.chunks[0]), slice(None))
    return preview


def _halve_stored(scratch: Scratch, level: int, step: int) -> None:
    """Halve a level that lies in scratch into the next, one chunk of that at a time."""
    above, below = scratch.level(level), scratch.level(level + 1)
    for row in range(-(-below.shape[0] // below.chunks[0])):
        for column in range(-(-below.shape[1] // below.chunks[1])):
            y, x = row * step, column * step
            half = halve(_read(above, slice(y, y + step), slice(x, x + step)))
            scratch.write_part(
                level + 1, (row, column), half[: below.shape[0] - y // 2, : below.shape[1] - x // 2]
            )


def _read(pixels: Any, rows: slice, columns: slice) -> npt.NDArray[np.uint8]:
    """Read part of a level; what is missing in it was written once, and is lost."""
    files = ChunkFiles.of(pixels, sparse=False)
    if files is None:
        return np.asarray(pixels[rows, columns], np.uint8)
    bounds = (part.indices(length) for part, length in zip((rows, columns), pixels.shape[:2], strict=True))
    region = (*(slice(lo, hi) for lo, hi, _ in bounds), slice(0, pixels.shape[2]))
    try:
        return files.read_region(region)
    except (OSError, ValueError, RuntimeError) as error:
        raise Failed(
            f"{files.folder}: a part of it is missing or damaged ({one_line(error)}); run the same command again"
        ) from error


def _encode_stored(pixels: Any, level: int, slide: SlideSpec) -> Iterator[EncodedTile]:
    """Encode a level that lies in scratch, a few tiles in memory at a time."""
    step, cores = slide.tile, min(usable_cores(), MOST_ENCODERS)
    places = iter(product(range(0, pixels.shape[0], step), range(0, pixels.shape[1], step)))

    def encode(place: tuple[int, int]) -> list[EncodedTile]:
        y, x = place
        part = _read(pixels, slice(y, y + step), slice(x, x + step))
        return list(encode_region(part, level, y, x, slide))

    with ThreadPoolExecutor(cores) as threads:
        while some := list(islice(places, 2 * cores)):
            for tiles in threads.map(encode, some):
                yield from tiles


def write_png(path: Path, pixels: npt.NDArray[np.uint8]) -> Path:
    """Write uint8 RGB [h, w, 3] as PNG beside `path`; the file that is returned waits to be given that name."""
    import imagecodecs

    # A name that only we use: what the user has beside it stays.
    part = path.with_name(f".{path.name}.safron.part")
    part.write_bytes(imagecodecs.png_encode(np.ascontiguousarray(pixels)))
    return part
