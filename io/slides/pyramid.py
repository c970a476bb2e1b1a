"""Which smaller copies of the canvas does a slide hold, and how are they made?

Each level has half the height and width of the level above, rounded down as libvips and QuPath do it::

    level 0   #########   9 x 9        a pixel of level k is the rounded mean of 2 x 2 pixels of level k - 1
    level 1   ####        4 x 4        (of 2 x 1 or 1 x 2 where that level is one pixel wide)
    level 2   ##          2 x 2
    level 3   #           1 x 1

A side is rounded up where rounding down would lose a row or column of tiles: large_image derives the number of tiles
from the size of level 0, and asks for that tile. With tiles of 512, a side of 1025 pixels becomes 513.

Each level is made from the one above it, not from level 0. The mean is taken in integers, so the result does
not depend on where the canvas is cut, as long as every cut lies on a multiple of ``2 ** last_level``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
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
    """The levels of a canvas.

    Attributes
    ----------
    height, width
        Size of level 0 in pixels.
    tile
        Side of a tile in pixels.
    level_count
        Number of levels, level 0 included.

    Raises
    ------
    BadInput
        If a size is not positive, or there are more levels than the canvas can be halved into.

    Examples
    --------
    >>> [(level.height, level.width) for level in Pyramid(1025, 600, 512, 3).levels]
    [(1025, 600), (513, 300), (256, 150)]
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
                f"--level-count {self.level_count}: {self.width} x {self.height} pixels can be halved to 1 to "
                f"{min(most, MAX_LEVELS)} levels; give one of these, or auto"
            )

    @classmethod
    def auto(cls, height: int, width: int, tile: int, level_count: int | Literal["auto"] = "auto") -> Pyramid:
        """Choose the number of levels: halve until the last level fits into one tile of side `tile`.

        Examples
        --------
        >>> Pyramid.auto(4096, 9000, 512).level_count
        6
        >>> [(level.height, level.width) for level in Pyramid.auto(9, 9, 4).levels]
        [(9, 9), (5, 5), (2, 2)]
        """
        if level_count == "auto":
            level_count = 1
            while _level_side(max(height, width), level_count - 1, max(tile, 1)) > max(tile, 1):
                level_count += 1
        return cls(height, width, tile, level_count)

    @classmethod
    def with_whole_tiles(cls, height: int, width: int, tile: int, *, step: int) -> Pyramid:
        """Choose levels that are at least as high and as wide as a tile, for readers that fail at smaller ones.

        `auto` is stopped before a level would be too small. Where level 0 or 1 is too small already, tiles are
        smaller: large_image opens a long slide only if it has two levels. All levels have the same tiles, as
        wsidicom demands. A slide less than `step` high or wide cannot be helped.

        Parameters
        ----------
        height, width
            Size of level 0 in pixels.
        tile
            Largest side of a tile in pixels. The chosen one divides it, so blocks of whole tiles stay aligned.
        step
            Smallest side of a tile; all sides are multiples of it.

        Examples
        --------
        >>> small = Pyramid.with_whole_tiles(300, 5000, 512, step=16)
        >>> small.tile, [(level.height, level.width) for level in small.levels]
        (128, [(300, 5000), (150, 2500)])
        """
        most = cls.auto(height, width, tile).level_count
        short = min(height, width)
        sizes = [size for size in range(step, tile + 1, step) if tile % size == 0] or [tile]
        tile = max((size for size in sizes if size <= short >> (most > 1)), default=sizes[0])
        count = 1
        while count < most and _level_side(short, count, tile) >= tile:
            count += 1
        return cls(height, width, tile, count)

    @cached_property
    def levels(self) -> tuple[Level, ...]:
        """All levels, largest first."""
        return tuple(
            Level(
                index,
                _level_side(self.height, index, self.tile),
                _level_side(self.width, index, self.tile),
                self.tile,
            )
            for index in range(self.level_count)
        )

    def level(self, index: int) -> Level:
        """Return the level `index`."""
        return self.levels[index]


def _level_side(side: int, index: int, tile: int) -> int:
    """Halve a side `index` times: rounded down, or up where that would lose a tile. At least 1 remains."""
    halved = side >> index
    return halved + (halved % tile == 0 and side > halved << index)


def halve(rgb: Pixels) -> Pixels:
    """Halve an image: each pixel is the mean of a 2 x 2 box, halves rounded up.

    Parameters
    ----------
    rgb
        uint8 [h, w, 3], of any strides.

    Returns
    -------
    Pixels
        [ceil(h / 2), ceil(w / 2), 3]. A box at an odd last row or column is the mean of the pixels that exist;
        callers whose level is rounded down drop it.

    Examples
    --------
    >>> halve(np.array([[[0, 0, 0], [1, 1, 1]], [[1, 2, 3], [0, 0, 0]]], np.uint8)).tolist()
    [[[1, 1, 1]]]
    """
    height, width = rgb.shape[:2]
    if height % 2 or width % 2:
        return _halve_odd(rgb)
    # cv2 takes rows at any distance, but pixels must lie side by side.
    even = rgb if rgb.strides[1:] == (3, 1) else np.ascontiguousarray(rgb)
    # INTER_AREA at exactly 2 is (a + b + c + d + 2) >> 2 in integers (a test holds it to that).
    halved = cv2.resize(even, (width >> 1, height >> 1), interpolation=cv2.INTER_AREA)
    return np.asarray(halved, np.uint8)


def _halve_odd(rgb: Pixels) -> Pixels:
    """Halve an image with an odd side: its even part, and the last row or column repeated to make boxes of two."""
    height, width = rgb.shape[:2]
    below, right = height % 2, width % 2
    out = np.empty((-(-height // 2), -(-width // 2), 3), np.uint8)
    if min(height, width) > 1:
        out[: height >> 1, : width >> 1] = halve(rgb[: height - below, : width - right])
    if below:
        out[-1:] = halve(np.pad(rgb[-1:], ((0, 1), (0, right), (0, 0)), "edge"))
    if right:
        out[:, -1:] = halve(np.pad(rgb[:, -1:], ((0, below), (0, 1), (0, 0)), "edge"))
    return out


def reduce_region(
    rgb: Pixels, y: int, x: int, pyramid: Pyramid, last_level: int
) -> Iterator[tuple[int, int, int, Pixels]]:
    """Compute a region of level 0 at every level from 0 to `last_level`.

    Parameters
    ----------
    rgb
        uint8 [h, w, 3]: the region. It ends on a multiple of ``2 ** last_level``, or at the canvas's edge.
    y, x
        Its first row and column at level 0, multiples of ``2 ** last_level``.
    pyramid
        The levels of the whole canvas.
    last_level
        The last level to compute, itself included.

    Yields
    ------
    level, y, x, uint8 [h', w', 3]
        The region at that level, its origin there, clipped to that level: empty if only an odd last row or
        column remained, which the level leaves out.

    Examples
    --------
    >>> region = np.zeros((3, 4, 3), np.uint8)
    >>> [(k, y, x, part.shape[:2]) for k, y, x, part in reduce_region(region, 4, 8, Pyramid(7, 12, 16, 3), 2)]
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
