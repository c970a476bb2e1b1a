"""How is a mask of any size made from a seed alone?

Ellipses stand for glands, in stroma surrounded by background. Every pixel is a pure function of the seed and its position,
so chunks can be made in any order and in parallel, and a smaller canvas is a corner of a larger one.

    speckle    section III-C of the SAFRON paper: 3 to 7 ellipses per 100 x 100 pixels, at random places; each other
               pixel is stroma with probability 0.9, else background
    tissue     ellipses with gaps between them, like crypts, in tissue with background beside it and slits in it
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from safron.io.errors import BadInput
from safron.io.hashed_noise import smooth_field as _field
from safron.io.hashed_noise import uniform as _uniform

Array = npt.NDArray[np.float64]

BACKGROUND, STROMA, GLAND = 0, 1, 2

SMALLEST, LARGEST = 0.08, 0.18
"""Range of the half axes of the ellipses of "speckle", in units of the cell."""

PITCH = 0.48
"""Distance between ellipses of "tissue", in units of the cell: about five fit in a cell."""

OUTSIDE, BARE = 0.55, 1.5
"""Thresholds on standard normal fields: above them lie background (29 % of the canvas) and stroma without ellipses (7 %)."""


@dataclass(frozen=True)
class Phantom:
    """A procedural mask.

    Attributes
    ----------
    seed
        Any integer.
    style
        "tissue" or "speckle".
    cell
        Side in pixels, at least 16, of the square that holds 3 to 7 ellipses (in "tissue", about five).

    Raises
    ------
    BadInput
        The cell is smaller.
    """

    seed: int
    style: Literal["tissue", "speckle"]
    cell: int

    def __post_init__(self) -> None:
        if self.cell < 16:
            raise BadInput(
                f"cell of {self.cell} pixels: its ellipses would be single pixels; give at least 16"
            )

    def paint(self, rows: slice, cols: slice) -> npt.NDArray[np.uint8]:
        """Labels of a region.

        Parameters
        ----------
        rows, cols
            The region, in canvas pixels.

        Returns
        -------
        npt.NDArray[np.uint8]
            uint8 [y, x].
        """
        ys, xs = np.arange(rows.start, rows.stop, dtype=float), np.arange(cols.start, cols.stop, dtype=float)
        if self.style == "speckle":
            grain = _uniform(self.seed, 0, ys[:, None], xs[None, :])
            labels = np.where(grain < 0.9, STROMA, BACKGROUND).astype(np.uint8)
        else:
            labels = np.where(self._open(ys, xs), BACKGROUND, STROMA).astype(np.uint8)
        for cy, cx, long, short, angle in self._ellipses(rows, cols):
            y0, y1 = max(int(cy - long), rows.start), min(int(cy + long) + 2, rows.stop)
            x0, x1 = max(int(cx - long), cols.start), min(int(cx + long) + 2, cols.stop)
            if y0 >= y1 or x0 >= x1:
                continue
            dy, dx = np.arange(y0, y1)[:, None] + 0.5 - cy, np.arange(x0, x1)[None, :] + 0.5 - cx
            along, across = dx * np.cos(angle) + dy * np.sin(angle), dy * np.cos(angle) - dx * np.sin(angle)
            part = labels[y0 - rows.start : y1 - rows.start, x0 - cols.start : x1 - cols.start]
            part[(along / long) ** 2 + (across / short) ** 2 <= 1] = GLAND
        return labels

    def _ellipses(self, rows: slice, cols: slice) -> Array:
        """Ellipses that may overlap a region: [n, 5] of y, x, half axes and angle in radians."""
        if self.style == "speckle":
            return self._scattered(rows, cols)
        return self._packed(rows, cols)

    def _scattered(self, rows: slice, cols: slice) -> Array:
        """Three to seven ellipses in each cell of the region and of its surroundings."""
        cell_y, cell_x = _span(rows, self.cell, 1)[:, None, None], _span(cols, self.cell, 1)[None, :, None]
        place = cell_y, cell_x, np.arange(7)
        u = [_uniform(self.seed, 1 + draw, *place) for draw in range(5)]
        long = self.cell * (SMALLEST + (LARGEST - SMALLEST) * u[2])
        ellipses = [(cell_y + u[0]) * self.cell, (cell_x + u[1]) * self.cell, long, long * (0.6 + 0.4 * u[3])]
        count = 3 + np.floor(5 * _uniform(self.seed, 6, cell_y, cell_x))
        return np.stack([*ellipses, np.pi * u[4]], axis=-1)[np.arange(7) < count]

    def _packed(self, rows: slice, cols: slice) -> Array:
        """One ellipse at each point of a jittered triangular lattice, as wide as its nearest neighbour allows."""
        pitch = PITCH * self.cell
        row, col = _span(rows, pitch * 0.75**0.5, 4), _span(cols, pitch, 4)
        place = row[:, None], col[None, :]
        u = [_uniform(self.seed, 10 + draw, *place) for draw in range(4)]
        y = (place[0] + 0.45 * (u[0] - 0.5)) * pitch * 0.75**0.5
        x = (place[1] + 0.5 * (place[0] % 2) + 0.45 * (u[1] - 0.5)) * pitch
        nearest, direction = _nearest(y, x)
        y, x, u = y[2:-2, 2:-2], x[2:-2, 2:-2], [draw[2:-2, 2:-2] for draw in u]
        short = nearest / 2 - 0.03 * pitch * (1 + u[3])
        long = short * (1 + 0.3 * u[2])
        found = np.stack([y, x, long, short, direction + np.pi / 2], axis=-1).reshape(-1, 5)
        return found[self._in_tissue(found)]

    def _in_tissue(self, found: Array) -> npt.NDArray[np.bool_]:
        """Select the ellipses that are clear of background and of bare stroma."""
        y, x, long = found[:, 0], found[:, 1], 1.2 * found[:, 2]
        kept = _field(self.seed, 24, y, x, 5.0 * self.cell, grid=False) < BARE
        for dy, dx in ((-1, 0), (1, 0), (0, -1), (0, 1)):
            kept &= self._tissue(y + dy * long, x + dx * long, grid=False) < OUTSIDE
        return kept

    def _tissue(self, y: Array, x: Array, *, grid: bool) -> Array:
        """Field that is standard normal at each pixel; background lies where it is high."""
        coarse = _field(self.seed, 20, y, x, 10.0 * self.cell, grid=grid)
        fine = _field(self.seed, 21, y, x, 2.0 * self.cell, grid=grid)
        return 0.95 * coarse + 0.31 * fine

    def _open(self, ys: Array, xs: Array) -> npt.NDArray[np.bool_]:
        """Background beside the tissue, and slits in it, along the zero line of one field where another is high."""
        line = np.abs(_field(self.seed, 22, ys, xs, 2.5 * self.cell, grid=True))
        opening = _field(self.seed, 23, ys, xs, 3.0 * self.cell, grid=True) - 0.9
        return (line < 0.06 * opening) | (self._tissue(ys, xs, grid=True) > OUTSIDE)


def _span(part: slice, pitch: float, more: int) -> npt.NDArray[np.int64]:
    """Lattice points within `more` steps of a range of pixels."""
    return np.arange(int(part.start // pitch) - more, int((part.stop - 1) // pitch) + more + 1)


def _nearest(y: Array, x: Array) -> tuple[Array, Array]:
    """Distance and direction to the nearest neighbour, for all points but the two outer rows and columns."""
    rows, cols = y.shape[0] - 4, y.shape[1] - 4
    nearest, direction = np.full((rows, cols), np.inf), np.zeros((rows, cols))
    for down in range(5):
        for right in range(5):
            if (down, right) == (2, 2):
                continue
            window = slice(down, down + rows), slice(right, right + cols)
            dy, dx = y[window] - y[2:-2, 2:-2], x[window] - x[2:-2, 2:-2]
            apart = np.hypot(dy, dx)
            direction = np.where(apart < nearest, np.arctan2(dy, dx), direction)
            nearest = np.minimum(apart, nearest)
    return nearest, direction
