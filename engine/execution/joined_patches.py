"""Which patches go through the generator together, in one larger window, and how do they come out of it?

Patches overlap, and so do their contexts: 296 x 296 pixels are read for 236 x 236 new ones. A window of 2 x 2 patches reads
532 x 532 for 472 x 472, a fifth less for each. Every patch is then cut out of the window and blended as if it had been generated
alone. This changes nothing only if each has the same bits in the window, which the warm-up tests::

    +---------+--+---------+
    | patch   |  |         |      filled patches are not part of a window,
    |         |  |         |      nor those that do not make up a whole square
    +---------+--+---------+
    +---------+--+---------+
    |         |  | patch   |
    +---------+--+---------+
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from safron.engine.plan.grid import PatchGrid
from safron.engine.plan.window import Window

State = bool | None
"""Of a patch: it is filled; it is to be generated; None where it is part of a window."""


class Target(Protocol):
    """Takes patches; see `safron.engine.blending.accumulator.Accumulator`."""

    def add(self, patches: npt.NDArray[Any], first: Window) -> None:
        """Add patches that lie side by side."""


def take_squares(patches: list[list[State]], side: int) -> Iterator[tuple[int, int, int]]:
    """Find squares of patches that are to be generated, and mark these as taken.

    Parameters
    ----------
    patches
        By row and column; changed.
    side
        Patches of a square along an axis.

    Yields
    ------
    row, column : int
        The first patch.
    count : int
        Squares side by side.
    """
    for row in range(0, len(patches) - side + 1, side):
        band, column = patches[row : row + side], 0
        free = [all(state is False for state in states) for states in zip(*band, strict=True)]
        for is_free, alike in groupby(free):
            width = len(list(alike))
            count = width // side if is_free else 0
            if count:
                for line in band:
                    line[column : column + count * side] = [None] * (count * side)
                yield row, column, count
            column += width


def joined(first: Window, grid: PatchGrid, side: int) -> Window:
    """Return what a square of patches writes, of which the first writes `first`."""
    down, across = (side - 1) * grid.rows.stride, (side - 1) * grid.columns.stride
    return Window(first.y, first.x, first.height + down, first.width + across)


@dataclass(frozen=True)
class Parts:
    """Takes generated windows, and adds the patches in them.

    Attributes
    ----------
    target
        Where the patches go.
    grid
        Of the canvas.
    side
        Patches of a window along an axis.
    """

    target: Target
    grid: PatchGrid
    side: int

    def __call__(self, values: npt.NDArray[Any], first: Window) -> None:
        """Add the patches of windows [n, height, width, 3] that lie side by side, the first at `first`."""
        tile, down, across = self.grid.tile, self.grid.rows.stride, self.grid.columns.stride
        for index, window in enumerate(values):
            for row in range(self.side):
                y, x = row * down, index * self.side * across
                strip = window[y : y + tile]
                patches = [strip[:, column * across :][:, :tile] for column in range(self.side)]
                self.target.add(np.stack(patches), Window(first.y + y, first.x + x, tile, tile))
