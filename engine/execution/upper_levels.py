"""How are the levels above the blocks made? From the thumbnails of the blocks in scratch, a few tiles at a time."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice, product

import numpy as np
import numpy.typing as npt
from safron.engine.plan.render_plan import RenderPlan
from safron.engine.plan.window import Window
from safron.engine.scratch.arrays import Scratch
from safron.engine.system.memory import usable_cores
from safron.io.errors import Failed, one_line
from safron.io.masks.zarr_chunks import assemble
from safron.io.slides.codecs import EncodedTile, encode_region
from safron.io.slides.pyramid import halve
from safron.io.slides.writer import SlideSpec, SlideWriter

# Their tiles must fit into the memory that the blocks have released, for any number of cores.
MOST_THREADS = 8


def finish_levels(plan: RenderPlan, scratch: Scratch, writer: SlideWriter) -> npt.NDArray[np.uint8]:
    """Make the levels above the blocks from the thumbnails in scratch; return the preview: uint8 [h, w, 3]."""
    level, last = plan.thumbnail_level, max(plan.preview_level, plan.slide.level_count - 1)
    step = max(plan.block >> level, 2 * plan.slide.tile)
    while True:
        if plan.block_levels < level < plan.slide.level_count:
            writer.append(_encode_stored(scratch, level, plan.slide))
        if level == last:
            break
        scratch.create_level(plan, level + 1, chunk=step // 2)
        _halve_stored(scratch, level, step)
        level += 1
    # Last, so that the preview is not in memory while the levels are made.
    pixels = scratch.level(plan.preview_level)
    preview = np.empty(pixels.shape, np.uint8)

    def read(y: int) -> None:
        part = preview[y : y + pixels.chunks[0]]
        part[:] = _read(scratch, plan.preview_level, Window(y, 0, *part.shape[:2]))

    with _threads() as threads:
        list(threads.map(read, range(0, pixels.shape[0], pixels.chunks[0])))
    return preview


def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(min(usable_cores(), MOST_THREADS), "safron-levels")


def _halve_stored(scratch: Scratch, level: int, step: int) -> None:
    """Halve a level in scratch into the next one, one chunk of the next at a time."""
    below = scratch.level(level + 1)

    def make(place: tuple[int, int]) -> None:
        y, x = place[0] * step, place[1] * step
        half = halve(_read(scratch, level, Window(y, x, step, step)))
        scratch.write_part(level + 1, place, half[: below.shape[0] - y // 2, : below.shape[1] - x // 2])

    rows, columns = (-(-below.shape[axis] // below.chunks[axis]) for axis in (0, 1))
    with _threads() as threads:
        for _ in threads.map(make, product(range(rows), range(columns))):
            pass  # an exception of one of them is raised here


def _read(scratch: Scratch, level: int, window: Window) -> npt.NDArray[np.uint8]:
    """Read part of a level, as far as it lies inside; a missing chunk was written earlier and has been lost."""
    pixels = scratch.level(level)
    rows, columns = window.clip(Window(0, 0, *pixels.shape[:2])).slices()
    out = np.empty((rows.stop - rows.start, columns.stop - columns.start, 3), np.uint8)
    try:
        return assemble(
            (rows, columns, slice(0, 3)),
            pixels.chunks,
            out,
            lambda index: scratch.read_part(level, (index[0], index[1])),
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise Failed(
            f"{scratch.place(f'levels/{level}')}: a part of it is missing or damaged ({one_line(error)}); "
            "run the same command again"
        ) from error


def _encode_stored(scratch: Scratch, level: int, slide: SlideSpec) -> Iterator[EncodedTile]:
    """Encode a level in scratch, with a few tiles in memory at a time."""
    pixels = scratch.level(level)
    step = slide.tile
    places = iter(product(range(0, pixels.shape[0], step), range(0, pixels.shape[1], step)))

    def encode(place: tuple[int, int]) -> list[EncodedTile]:
        y, x = place
        part = _read(scratch, level, Window(y, x, step, step))
        return list(encode_region(part, level, y, x, slide))

    with _threads() as threads:
        while some := list(islice(places, 2 * MOST_THREADS)):
            for tiles in threads.map(encode, some):
                yield from tiles
