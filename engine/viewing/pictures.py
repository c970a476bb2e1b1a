"""Where do the pixels on screen come from?

A `Picture` gives tiles of 256 pixels of levels 0, 1, 2 ..., each half the size of the last, and says which parts of them are
not there yet. A mask is rendered where one looks (`safron.engine.viewing.on_screen`), a slide is read from its file, and of a
render in progress the finished blocks are shown.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
import numpy.typing as npt
from safron.engine.plan.window import Window
from safron.engine.virtual.tiles import TILE
from safron.io.slides.pyramid import halve
from safron.io.slides.reader import Pixels

UInt8 = npt.NDArray[np.uint8]
TILES_BYTES = 192 << 20
"""Memory for finished tiles of a file."""


class Shown(NamedTuple):
    """A tile.

    Attributes
    ----------
    rgb
        uint8 [h, w, 3].
    there
        uint8 [h, w], 255 where the pixel is known and 0 elsewhere; None where all are.
    """

    rgb: UInt8
    there: UInt8 | None


class Picture(Protocol):
    """What is shown.

    Attributes
    ----------
    height, width
        Pixels of level 0.
    mpp
        Micrometres per pixel, or None.
    version
        Rises when more is there.
    epoch
        Rises when tiles that were complete are no longer valid.
    """

    height: int
    width: int
    mpp: float | None
    version: int
    epoch: int

    def tile(self, level: int, row: int, column: int) -> Shown | None:
        """Return what is there of a tile of `bounds`; None if nothing is."""

    def look(self, level: int, window: Window) -> None:
        """Be told what is on screen: `window` in pixels of level 0, shown at `level`."""

    def progress(self) -> dict[str, Any]:
        """Say how far it is, as JSON values."""

    def close(self) -> None:
        """Stop, and close files."""


def bounds(height: int, width: int, level: int, row: int, column: int) -> Window:
    """Return the pixels of a tile of a level whose sides are rounded up; it may be empty."""
    whole = Window(0, 0, -(-height >> level), -(-width >> level))
    return Window(row * TILE, column * TILE, TILE, TILE).clip(whole)


@dataclass
class Still:
    """A picture that does not change by itself."""

    height: int
    width: int
    mpp: float | None
    version: int = 0
    epoch: int = 0

    def look(self, level: int, window: Window) -> None:
        """Do nothing."""

    def progress(self) -> dict[str, Any]:
        """Return nothing."""
        return {}


class TileTree(Still, ABC):
    """Tiles of coarse levels made from finer ones, which come from a file; complete tiles are kept."""

    def __init__(self, height: int, width: int, mpp: float | None) -> None:
        super().__init__(height, width, mpp)
        self._kept: OrderedDict[tuple[int, int, int], Shown] = OrderedDict()
        self._nbytes, self._guard = 0, threading.Lock()

    @abstractmethod
    def read(self, level: int, row: int, column: int) -> Shown | None:
        """Read a tile of a stored level."""

    @property
    def stored(self) -> int:
        """The last level that `read` can read."""
        return 0

    def tile(self, level: int, row: int, column: int) -> Shown | None:
        """See `Picture`."""
        return self.finished(level, row, column)

    def finished(self, level: int, row: int, column: int) -> Shown | None:
        """Give a tile, or what the file has of it."""
        key = level, row, column
        with self._guard:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        window = bounds(self.height, self.width, *key)
        if window.empty:
            return None
        shown = self.read(*key) if level <= self.stored else self._join(window, *key)
        if shown is not None and shown.there is None:
            with self._guard:
                if key not in self._kept:
                    self._kept[key] = shown
                    self._nbytes += shown.rgb.nbytes
                while self._nbytes > TILES_BYTES:
                    self._nbytes -= self._kept.popitem(last=False)[1].rgb.nbytes
        return shown

    def _join(self, window: Window, level: int, row: int, column: int) -> Shown | None:
        """Make a tile of four of the level below it."""
        rgb = np.zeros((2 * TILE, 2 * TILE, 3), np.uint8)
        there, lacking, some = np.zeros((2 * TILE, 2 * TILE), np.uint8), False, False
        for down in (0, 1):
            for right in (0, 1):
                key = level - 1, 2 * row + down, 2 * column + right
                if bounds(self.height, self.width, *key).empty:
                    continue
                part = self.finished(*key)
                if part is None:
                    lacking = True
                    continue
                y, x, (height, width) = down * TILE, right * TILE, part.rgb.shape[:2]
                rgb[y : y + height, x : x + width] = part.rgb
                there[y : y + height, x : x + width] = 255 if part.there is None else part.there
                lacking, some = lacking or part.there is not None, True
        if not some:
            return None
        height = min(2 * TILE, (-(-self.height >> (level - 1))) - 2 * row * TILE)
        width = min(2 * TILE, (-(-self.width >> (level - 1))) - 2 * column * TILE)
        small = halve(rgb[:height, :width])
        if not lacking:
            return Shown(small, None)
        known = halve(np.repeat(there[:height, :width, None], 3, axis=2))[..., 0]
        return Shown(small, (known == 255).astype(np.uint8) * 255)

    def close(self) -> None:
        """Forget all tiles."""
        self._kept.clear()


class ImagePicture(TileTree):
    """An image that libvips reads, without smaller copies of it."""

    def __init__(self, pixels: Pixels) -> None:
        super().__init__(*pixels.shape, pixels.mpp)
        self._pixels = pixels

    def read(self, level: int, row: int, column: int) -> Shown | None:
        """Read a tile of level 0."""
        window = bounds(self.height, self.width, level, row, column)
        return Shown(self._pixels.read(window.y, window.x, window.height, window.width), None)


class SlidePicture(Still):
    """A slide that OpenSlide reads."""

    def __init__(self, pixels: Pixels) -> None:
        super().__init__(*pixels.shape, pixels.mpp)
        self._slide = pixels.slide

    def tile(self, level: int, row: int, column: int) -> Shown | None:
        """Read a tile from the level of the slide that is as fine, or finer, and shrink it."""
        window, slide = bounds(self.height, self.width, level, row, column), self._slide
        if window.empty:
            return None
        step = 1 << level
        best = slide.get_best_level_for_downsample(step * 1.01)
        ratio = step / slide.level_downsamples[best]
        size = max(1, round(window.width * ratio)), max(1, round(window.height * ratio))
        rgba = np.asarray(slide.read_region((window.x * step, window.y * step), best, size))
        rgb = np.ascontiguousarray(rgba[..., :3])
        rgb[rgba[..., 3] == 0] = 255
        if size != (window.width, window.height):
            rgb = np.asarray(
                cv2.resize(rgb, (window.width, window.height), interpolation=cv2.INTER_AREA), np.uint8
            )
        return Shown(rgb, None)

    def close(self) -> None:
        """Close the file."""
        self._slide.close()


def open_picture(path: Path) -> tuple[Picture, dict[str, str]]:
    """Open a finished slide or an image; also return the facts in its description.

    Raises
    ------
    BadInput
        It cannot be read.
    """
    pixels = Pixels(path)
    return (ImagePicture if pixels.slide is None else SlidePicture)(pixels), pixels.facts
