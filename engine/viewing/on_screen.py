"""In which order is a mask rendered while one looks at it?

From the middle of the screen outwards, tile by tile, and nothing beyond it. Who zooms or moves changes the order at once;
what is being generated is finished first. Nobody looking, nothing is rendered.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
from safron.engine.plan.window import Window
from safron.engine.virtual.cache import Key
from safron.engine.virtual.slide import VirtualSlide
from safron.engine.virtual.tiles import TILE
from safron.io.errors import one_line

from .pictures import Shown

MOST_TILES = 1024
"""Tiles of level 0 that are rendered for one view, nearest to its middle: 67 megapixels."""
TILE_BYTES = 1 << 20
"""bytes of the cache that a tile of level 0 takes, with its patches."""
ALONE_SECONDS = 20.0
"""Without a look for so long, nobody looks."""


class MaskPicture:
    """A mask as the slide that would be made of it.

    Parameters
    ----------
    slide
        It is closed with the picture.
    threads
        Tiles rendered at a time.
    clock
        Seconds, for telling whether anybody looks.

    Attributes
    ----------
    height, width, mpp, version, epoch
        See `safron.engine.viewing.pictures.Picture`.
    """

    def __init__(
        self, slide: VirtualSlide, *, threads: int = 2, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.slide = slide
        self.width, self.height = slide.dimensions
        self.mpp = slide.plan.slide.mpp
        self.version = self.epoch = 0
        self._clock, self._looked = clock, clock()
        self._most = max(1, min(MOST_TILES, slide.cache_bytes // TILE_BYTES // 2))
        self._wanted: deque[Key] = deque()
        self._view: tuple[int, Window] | None = None
        self._changed = threading.Condition()
        self._closed, self._paused, self._error = False, False, ""
        self._threads = [
            threading.Thread(target=self._work, name=f"safron-view-{index}", daemon=True)
            for index in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def tile(self, level: int, row: int, column: int) -> Shown | None:
        """See `safron.engine.viewing.pictures.Picture`."""
        if level >= self.slide.plan.working_pyramid.level_count:
            return None
        try:
            found = self.slide.peek(level, row, column)
        except ValueError:  # another seed has just taken its place
            return None
        if found is None:
            return None
        rgb, there = found
        return Shown(rgb, None if there.all() else there)

    def look(self, level: int, window: Window) -> None:
        """Render what is on screen next."""
        with self._changed:
            self._looked = self._clock()
            if self._view != (level, window):
                self._view, self._error = (level, window), ""
                self._wanted = deque(self._missing())
            self._changed.notify_all()

    def pause(self, paused: bool) -> None:
        """Stop rendering after the tiles in flight, or go on."""
        with self._changed:
            self._paused = paused
            self._changed.notify_all()

    def restain(self, stain: str) -> None:
        """Show the tissue in another stain."""
        self.slide.restain(stain)
        self._begin_again()

    def again(self, window: Window) -> None:
        """Labels of a part of the mask have changed."""
        self.slide.forget(window)
        self._begin_again()

    def _begin_again(self) -> None:
        with self._changed:
            self.version, self.epoch, self._view = self.version + 1, self.epoch + 1, None

    def progress(self) -> dict[str, Any]:
        """Say how much of the view is rendered, in tiles of level 0."""
        with self._changed:
            total = 0 if self._view is None else self._tiles()[0]
            missing = 0 if self._view is None else len(self._missing())
            return {
                "total": total,
                "done": max(0, min(total, self._most) - missing),
                "most": self._most,
                "paused": self._paused,
                "error": self._error,
            }

    def close(self) -> None:
        """End the threads, and close the slide."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        self.slide.close()

    def _tiles(self) -> tuple[int, list[Key]]:
        """Count the tiles of level 0 in the view, and give those nearest to its middle, from there outwards."""
        assert self._view is not None
        _, window = self._view
        window = window.clip(Window(0, 0, self.height, self.width))
        if window.empty:
            return 0, []
        rows = np.arange(window.y // TILE, -(-window.y_stop // TILE))
        columns = np.arange(window.x // TILE, -(-window.x_stop // TILE))
        down = (rows + 0.5) * TILE - (window.y + window.height / 2)
        across = (columns + 0.5) * TILE - (window.x + window.width / 2)
        order = np.argsort(np.add.outer(down**2, across**2), axis=None, kind="stable")
        row, column = np.divmod(order[: self._most], len(columns))
        near = zip(rows[row].tolist(), columns[column].tolist(), strict=True)
        return len(order), [(0, *place) for place in near]

    def _missing(self) -> list[Key]:
        """Tiles that are not rendered, of those nearest to the middle."""
        assert self._view is not None
        level = self._view[0]

        def rendered(key: Key) -> bool:
            _, row, column = key
            return self.slide.is_kept(0, row, column) or (
                level > 0 and self.slide.is_kept(level, row >> level, column >> level)
            )

        return [key for key in self._tiles()[1] if not rendered(key)]

    def _next(self) -> Key | None:
        """Wait for a tile to render; None at the end."""
        with self._changed:
            while not self._closed:
                alone = self._clock() - self._looked > ALONE_SECONDS
                if self._wanted and not self._paused and not alone:
                    return self._wanted.popleft()
                self._changed.wait()
            return None

    def _work(self) -> None:
        while (key := self._next()) is not None:
            if self.slide.is_kept(*key):
                continue
            try:
                self.slide.tile(*key)
            except Exception as error:  # an unknown label, a damaged chunk, a generator that fails
                if self._closed:
                    return
                self._error = one_line(error)
            with self._changed:
                self.version += 1
