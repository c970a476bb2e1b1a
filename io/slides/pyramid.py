"""Which smaller copies of the canvas does a slide hold, and how are they made?

Level ``k`` has ``max(1, size >> k)`` pixels a side: the floor, as libvips and QuPath write it, so that an odd
last row or column is left out of the next level.

    level 0   #########   9 x 9        a pixel of level k is the rounded mean of 2 x 2 pixels of level k - 1
    level 1   ####        4 x 4        (of 2 x 1 or 1 x 2 where that level is one pixel wide)
    level 2   ##          2 x 2
    level 3   #           1 x 1

Each level is made from the one above it, not from level 0. The mean is taken in integers, so the result does
not depend on where the canvas is cut, as long as every cut lies on a multiple of ``2 ** last_level``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt
from safron.io.errors import BadInput

Pixels = npt.NDArray[np.uint8]

MAX_LEVELS = 32
"""More than any file needs: 2 ** 31 pixels a side reach one pixel in 32 levels."""


@dataclass(frozen=True)
class Level:
    """One level of a pyramid: its size in pixels and in tiles."""

    index: int
    height: int
    width: int
    tile: int

    @property
    def downsample(self) -> int:
        """Nominal pixels of level 0 along one pixel of this level."""
        return 1 << self.index

    @property
    def rows(self) -> int:
        """Rows of tiles; the last may reach beyond the level."""
        return -(-self.height // self.tile)

    @property
    def cols(self) -> int:
        """Columns of tiles; the last may reach beyond the level."""
        return -(-self.width // self.tile)

    @property
    def tiles(self) -> int:
        """Tiles of the level."""
        return self.rows * self.cols


@dataclass(frozen=True)
class Pyramid:
    """The levels of a canvas of ``height`` x ``width`` pixels.

    Raises
    ------
    BadInput
        If a size is not positive, or there are more levels than the canvas can be halved into.
    """

    height: int
    width: int
    tile: int
    level_count: int

    def __post_init__(self) -> None:
        if min(self.height, self.width, self.tile) < 1:
            raise BadInput(
                f"a pyramid of {self.height} x {self.width} pixels in tiles of {self.tile}: "
                "every size must be at least 1"
            )
        most = max(self.height, self.width).bit_length()
        if not 1 <= self.level_count <= min(most, MAX_LEVELS):
            raise BadInput(
                f"{self.level_count} levels for {self.height} x {self.width} pixels: halving allows 1 to "
                f"{min(most, MAX_LEVELS)}; ask for fewer, or for auto"
            )

    @classmethod
    def auto(cls, height: int, width: int, tile: int, level_count: int | Literal["auto"] = "auto") -> Pyramid:
        """Choose the number of levels: halve until the last level fits into one tile.

        Examples
        --------
        >>> Pyramid.auto(4096, 9000, 512).level_count
        6
        >>> [(level.height, level.width) for level in Pyramid.auto(9, 9, 4).levels]
        [(9, 9), (4, 4)]
        """
        if level_count == "auto":
            level_count = 1
            while max(height, width) >> (level_count - 1) > max(tile, 1):
                level_count += 1
        return cls(height, width, tile, level_count)

    @property
    def levels(self) -> tuple[Level, ...]:
        """All levels, largest first."""
        return tuple(self.level(index) for index in range(self.level_count))

    def level(self, index: int) -> Level:
        """Give the level ``index``."""
        return Level(index, max(1, self.height >> index), max(1, self.width >> index), self.tile)


def halve(rgb: Pixels) -> Pixels:
    """Halve an image: each pixel is the mean of a 2 x 2 box, halves rounded up.

    Parameters
    ----------
    rgb
        uint8 [h, w, 3], of any strides. An odd last row or column is dropped; a side of one pixel stays.

    Returns
    -------
    uint8 [max(1, h // 2), max(1, w // 2), 3]

    Examples
    --------
    >>> halve(np.array([[[0, 0, 0], [1, 1, 1]], [[1, 2, 3], [0, 0, 0]]], np.uint8)).tolist()
    [[[1, 1, 1]]]
    """
    height, width = rgb.shape[:2]
    if min(height, width) == 1:
        return _halve_line(rgb)
    even = rgb[: height & ~1, : width & ~1]
    # cv2 takes rows of any distance, but pixels that lie side by side.
    even = even if even.strides[1:] == (3, 1) else np.ascontiguousarray(even)
    # INTER_AREA at exactly 2 is (a + b + c + d + 2) >> 2 in integers (a test holds it to that).
    halved = cv2.resize(even, (width >> 1, height >> 1), interpolation=cv2.INTER_AREA)
    return np.asarray(halved, np.uint8)


def _halve_line(rgb: Pixels) -> Pixels:
    """Halve an image of one row or one column, where cv2 has no 2 x 2 box to take."""
    wide: npt.NDArray[np.unsignedinteger] = rgb.astype(np.uint16)
    for axis in (0, 1):
        if wide.shape[axis] > 1:
            even = wide.shape[axis] & ~1
            pairs = np.take(wide, range(0, even, 2), axis) + np.take(wide, range(1, even, 2), axis)
            wide = (pairs + np.uint16(1)) >> np.uint16(1)
    return wide.astype(np.uint8)


def reduce_region(
    rgb: Pixels, y: int, x: int, pyramid: Pyramid, last_level: int
) -> Iterator[tuple[int, int, int, Pixels]]:
    """Give a region of level 0 at every level from 0 to ``last_level``.

    Parameters
    ----------
    rgb
        uint8 [h, w, 3]: the region. It ends on a multiple of ``2 ** last_level``, or at the canvas's edge.
    y, x
        Its first row and column at level 0, multiples of ``2 ** last_level``.
    pyramid
        The levels of the whole canvas.
    last_level
        The last level to make, itself included.

    Yields
    ------
    level, y, x, uint8 [h', w', 3]
        The region at that level, its origin there, clipped to that level: empty where only an odd last row or
        column was left.

    >>> region = np.zeros((3, 4, 3), np.uint8)
    >>> [(k, y, x, part.shape[:2]) for k, y, x, part in reduce_region(region, 4, 8, Pyramid(7, 12, 4, 3), 2)]
    [(0, 4, 8, (3, 4)), (1, 2, 4, (1, 2)), (2, 1, 2, (0, 1))]
    """
    step = 1 << last_level
    assert last_level < pyramid.level_count, f"the pyramid has no level {last_level}"
    assert (y | x) % step == 0, f"region at {y}, {x} is not aligned to {step}"
    part = rgb
    for index in range(last_level + 1):
        level = pyramid.level(index)
        if index:
            part = halve(part) if part.size else part
        top, left = y >> index, x >> index
        part = part[: max(0, level.height - top), : max(0, level.width - left)]
        yield index, top, left, part
