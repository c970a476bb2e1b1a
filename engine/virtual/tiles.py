"""How do tiles of every level come from patches, and what is kept of them?

Each level is cut into tiles; a tile is the mean of 2 x 2 tiles of the level below it::

    level 2   tile  <- 4 tiles of level 1  <- 16 tiles of level 0  <- the patches that write into them

Patches and tiles are kept as long as there is memory, so a coarse level comes from what was seen in detail before.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import numpy.typing as npt
from safron.engine.blending.accumulator import Accumulator
from safron.engine.blending.resample import resample
from safron.engine.execution.patch_pool import open_pool
from safron.engine.generator.model import PatchModel
from safron.engine.plan.window import Window
from safron.engine.preparation.budget import LATE_BYTES, batch_bytes
from safron.engine.system.memory import resident_bytes
from safron.io.errors import BadInput
from safron.io.slides.pyramid import halve

from .cache import Cache, Key
from .patches import ViewJob, generate, patch_bytes

UInt8 = npt.NDArray[np.uint8]
TILE = 256
"""Side of a tile, in pixels."""
_AHEAD = 2
"""Patches of a tile of this level are generated together: 1024 pixels a side."""
_PATCH = -1
"""Level of patches among the keys of the cache: below all tiles."""
_LEAST_BYTES = 64 << 20
_THREADS = 8
"""Threads that are expected to read at a time; each needs memory for the patches of some tiles."""


class RenderedTiles:
    """Pixels of all levels of a slide that is not rendered, and what was rendered of it.

    Parameters
    ----------
    job
        Plan, mask and what is known of the generator.
    model
        The generator.
    memory
        bytes that the process may take.

    Raises
    ------
    BadInput
        `memory` is too small.
    """

    def __init__(self, job: ViewJob, model: PatchModel, memory: int) -> None:
        self.job, self.model, self.plan, self.mask = job, model, job.plan, job.mask
        self._each = patch_bytes(self.plan.blend)
        self._cache: Cache[Accumulator | UInt8] = Cache(
            self._cache_bytes(memory), self._size, self._count_kept
        )
        self._kept: Counter[Key] = Counter()
        self._closed = threading.Event()
        self._pool = open_pool(model, job.model, job.plan)
        self.job = replace(job, pool=self._pool)

    def close(self) -> None:
        """End the threads that generate patches; nothing can be read afterwards."""
        if not self._closed.is_set():
            self._closed.set()
            self._pool.close()

    def _cache_bytes(self, memory: int) -> int:
        """Return what is left for patches and tiles after the process, mask chunks, and what is being made."""
        side = TILE << _AHEAD
        in_work = _THREADS * ((side // self.plan.grid.rows.stride + 2) ** 2 * self._each + 8 * side * side)
        taken = resident_bytes() + LATE_BYTES + batch_bytes(self.job, _THREADS) + in_work
        taken += self.mask.keep_chunks(
            block=side, workers=_THREADS, max_bytes=max(_LEAST_BYTES, memory - taken) // 4
        )
        if memory - taken < _LEAST_BYTES:
            raise BadInput(
                f"--memory {memory / 2**20:.0f} MiB: a view needs {(taken + _LEAST_BYTES) / 2**20:.0f} MiB at least, "
                f"{_LEAST_BYTES >> 20} of them for what was seen"
            )
        return memory - taken

    def bounds(self, level: int) -> Window:
        """Return all pixels of a level; levels go down to one pixel, beyond those of the slide."""
        size = self.plan.working_pyramid.level(level)
        return Window(0, 0, size.height, size.width)

    def read(self, level: int, window: Window) -> UInt8:
        """Render pixels of a level.

        Parameters
        ----------
        level
            Of `bounds`.
        window
            Pixels of the level, all inside.

        Returns
        -------
        UInt8
            RGB, uint8 [window.height, window.width, 3].
        """
        if self._closed.is_set():
            raise ValueError("the slide is closed")
        out = np.empty((window.height, window.width, 3), np.uint8)
        step = TILE << _AHEAD if level == 0 else TILE
        for y in range(window.y // step, -(-window.y_stop // step)):
            for x in range(window.x // step, -(-window.x_stop // step)):
                part = window.clip(Window(y * step, x * step, step, step))
                target = out[part.slices(window)]
                if level == 0:
                    target[:] = self._pixels(part)
                else:
                    target[:] = self.tile(level, y, x)[part.slices(Window(y * step, x * step, step, step))]
        return out

    def tile(self, level: int, row: int, column: int) -> UInt8:
        """Render a tile of a level, or return the one that is kept: uint8 [h, w, 3], less than `TILE` at the far edges."""
        return self._tiles([(level, row, column)])[level, row, column]

    def is_kept(self, level: int, row: int, column: int) -> bool:
        """Whether a tile is rendered and kept."""
        return self._cache.get((level, row, column)) is not None

    @property
    def cache_bytes(self) -> int:
        """Memory for patches and tiles, in bytes."""
        return self._cache.max_bytes

    def peek(self, level: int, row: int, column: int) -> tuple[UInt8, UInt8] | None:
        """Return what is there of a tile, without rendering any more of it.

        Returns
        -------
        tuple[UInt8, UInt8] | None
            RGB [h, w, 3], and 255 where it is rendered, else 0 [h, w]; None if none of it is.
        """
        if not self._kept[level, row, column]:
            return None
        found = self._cache.get((level, row, column))
        if found is not None:
            tile = cast(UInt8, found)
            return tile, np.full(tile.shape[:2], 255, np.uint8)
        if level == 0:
            return None
        pixels, there = self._joined(level, row, column), None
        covered = np.zeros(pixels.shape[:2], np.uint8)
        for key in self._children(level, row, column):
            part = self.peek(*key)
            if part is not None:
                there = self._quarter(key)
                pixels[there], covered[there] = part
        if there is None:
            return None
        size = self._window(level, row, column)
        if covered.all():
            return self.tile(level, row, column), np.full((size.height, size.width), 255, np.uint8)
        area = slice(0, size.height), slice(0, size.width)
        return halve(pixels)[area], halve(np.repeat(covered[..., None], 3, axis=2))[area][..., 0]

    def forget(self, window: Window) -> None:
        """Render again what depends on some labels of the mask, which have changed, when it is next read.

        Parameters
        ----------
        window
            Pixels of the canvas.
        """
        plan, grid = self.plan, self.plan.grid
        # One pixel more, whose labels may be taken from a changed pixel if the generator draws at another scale.
        drawn = plan.drawn_for(window.expand(1).clip(plan.canvas)).expand(1)
        # Inputs beside labels may be computed from labels further away.
        drawn = drawn.expand(max((getattr(source, "radius", 1) for source in self.job.sources), default=0))
        reach = drawn.expand(grid.context + grid.tile)
        ratio = plan.scale.ratio
        y0, x0 = (int(end / ratio) - 2 for end in (reach.y, reach.x))
        y1, x1 = (int(end / ratio) + 3 for end in (reach.y_stop, reach.x_stop))
        changed = Window.from_bounds(y0, x0, y1, x1).shift(-plan.region.y, -plan.region.x)

        def depends(key: Key) -> bool:
            level, row, column = key
            if level == _PATCH:
                return not grid[row, column].read.clip(drawn).empty
            side = TILE << level
            return not Window(row * side, column * side, side, side).clip(changed).empty

        self._cache.drop(depends)

    def forget_tiles(self) -> None:
        """Make all tiles again from patches when they are next read."""
        self._cache.drop(lambda key: key[0] != _PATCH)

    # Tiles.

    def _window(self, level: int, row: int, column: int) -> Window:
        return Window(row * TILE, column * TILE, TILE, TILE).clip(self.bounds(level))

    def _tiles(self, keys: Iterable[Key]) -> dict[Key, UInt8]:
        if self._closed.is_set():
            raise ValueError("the slide is closed")
        return cast(dict[Key, UInt8], self._cache.many(keys, self._make_tiles))

    def _make_tiles(self, keys: Sequence[Key]) -> Iterable[tuple[Key, UInt8]]:
        for key in keys:
            level, row, column = key
            window = self._window(*key)
            if level == 0:
                yield key, self._pixels(window)
                continue
            if level == _AHEAD:
                side = TILE << level
                whole = Window(row * side, column * side, side, side).clip(self.bounds(0))
                self._patches(self._drawn(whole))  # so that they are generated side by side
            pixels = self._joined(*key)
            for child, part in self._tiles(self._children(*key)).items():
                pixels[self._quarter(child)] = part
            yield key, np.ascontiguousarray(halve(pixels)[: window.height, : window.width])

    def _joined(self, level: int, row: int, column: int) -> UInt8:
        """Return memory for the pixels of the level below that a tile is made of: uint8 [h, w, 3]."""
        bounds = self.bounds(level - 1)
        window = Window(2 * row * TILE, 2 * column * TILE, 2 * TILE, 2 * TILE).clip(bounds)
        return np.zeros((window.height, window.width, 3), np.uint8)

    def _children(self, level: int, row: int, column: int) -> list[Key]:
        """Return the tiles that a tile is made of: four, or fewer at the far edges."""
        around = [(level - 1, 2 * row + down, 2 * column + right) for down in (0, 1) for right in (0, 1)]
        return [key for key in around if not self._window(*key).empty]

    def _quarter(self, key: Key) -> tuple[slice, slice]:
        """Return where a tile lies in the pixels of the tile above it."""
        window = self._window(*key)
        return window.slices(Window(key[1] // 2 * 2 * TILE, key[2] // 2 * 2 * TILE, 0, 0))

    # Patches.

    def _drawn(self, window: Window) -> Window:
        """Return the drawn pixels of a part of the slide."""
        region = self.plan.region
        return self.plan.drawn_for(window.shift(region.y, region.x).clip(region))

    def _patches(self, drawn: Window) -> list[Accumulator]:
        """Return all patches that write some drawn pixels."""
        grid = self.plan.grid
        keys = [
            (_PATCH, row, column)
            for row in grid.rows.touching(drawn.y, drawn.y_stop)
            for column in grid.columns.touching(drawn.x, drawn.x_stop)
        ]
        return cast(list[Accumulator], list(self._cache.many(keys, self._make_patches).values()))

    def _make_patches(self, keys: Sequence[Key]) -> Iterable[tuple[Key, Accumulator]]:
        for (row, column), patch in generate(self.job, [(row, column) for _, row, column in keys]):
            yield (_PATCH, row, column), patch

    def _pixels(self, window: Window) -> UInt8:
        """Make the pixels of level 0: uint8 [h, w, 3]."""
        plan = self.plan
        canvas = window.shift(plan.region.y, plan.region.x)
        pixels = self._drawn_pixels(window, canvas)
        if plan.stain is not None:
            plan.stain.apply(pixels, canvas.y, canvas.x)
        return pixels

    def _drawn_pixels(self, window: Window, canvas: Window) -> UInt8:
        """Put pixels together from patches, as the generator draws them."""
        plan = self.plan
        rendered, drawn = canvas.clip(plan.region), self._drawn(window)
        if rendered.empty:
            return self._background(window)
        accumulator = Accumulator(drawn, plan.blend)
        for patch in self._patches(drawn):
            accumulator.merge(patch)
        pixels = accumulator.finalize()
        if not plan.scale.is_one:
            drawing, pixels = pixels, np.empty((rendered.height, rendered.width, 3), np.uint8)
            resample(drawing, drawn, pixels, rendered, plan.scale, canvas=plan.canvas)
        if rendered == canvas:
            return pixels
        out = self._background(window)
        out[rendered.slices(canvas)] = pixels
        return out

    def _background(self, window: Window) -> UInt8:
        out = np.empty((window.height, window.width, 3), np.uint8)
        out[:] = self.job.model.card.background
        return out

    # The cache.

    def _size(self, value: Accumulator | UInt8) -> int:
        return value.nbytes if isinstance(value, np.ndarray) else self._each

    def _count_kept(self, key: Key, change: int) -> None:
        """Count what is kept at or below each tile, so that `peek` need not look where nothing is."""
        level, row, column = key
        while 0 <= level < self.plan.working_pyramid.level_count:
            self._kept[level, row, column] += change
            if not self._kept[level, row, column]:
                del self._kept[level, row, column]
            level, row, column = level + 1, row // 2, column // 2
