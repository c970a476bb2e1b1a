"""Where does a nucleus lie, and what is its outline?

Every nucleus is a function of the seed and of the nuclei around it, so a window can be computed from its neighbourhood
alone. The plane is divided into cells. Each cell proposes a few nuclei, each with a rank. A nucleus is kept if no nucleus
that it would overlap has a higher rank; then those that it would overlap are dropped, and this is repeated `ROUNDS` times.
A round carries two cells far, so nothing further than `MARGIN` cells matters.

Outlines are irregular polygons whose radii and angles are random (Hou et al. 2017, section 2.3). The paper distorts all
polygons of a patch by one random quadrilateral transform, so that nuclei nearby have a similar shape; here smooth fields
over the plane give each nucleus the linear part of such a transform at its centre.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import ceil
from typing import Any

import numpy as np
import numpy.typing as npt
from safron.io.errors import BadInput
from safron.io.hashed_noise import normal, smooth_field, uniform

Array = npt.NDArray[np.float64]

PROPOSALS = 6
"""Nuclei that a cell proposes."""

ROUNDS = 3
MARGIN = 2 * ROUNDS + 1
"""Cells around a window that can decide which nuclei lie in it."""

CORNERS = 14
STRETCH = 0.22
"""Standard deviation of the logarithm of how much a region's nuclei are stretched."""

LARGEST_FACTOR, MOST_STRETCH, MOST_SPIKE = 1.3, 1.6, 1.35
"""Bounds on what multiplies a nucleus's radius: by region, by stretching, and at one corner."""

SPIKINESS, IRREGULARITY = (0.04, 0.24), (0.2, 0.9)
"""Standard deviation of the radii, and largest shift of the corners' angles, in steps; from the paper's later code."""


@dataclass(frozen=True)
class Nuclei:
    """Nuclei that may touch a window, later ones upon earlier ones.

    Attributes
    ----------
    numbers
        int64 [n]: 1 and above, each once on the canvas.
    outlines
        float64 [n, corners, 2]: x and y in canvas pixels.
    centres
        float64 [n, 2]: x and y.
    places
        int64 [n, 3]: row and column of the cell, and place in it, which further random numbers are drawn for.
    """

    numbers: npt.NDArray[np.int64]
    outlines: Array
    centres: Array
    places: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Layout:
    """A plane of nuclei.

    Attributes
    ----------
    seed
        Any whole number.
    width
        Of the canvas in pixels, which numbers of nuclei depend on.
    radius
        Smallest and largest mean radius in pixels.
    cellularity
        0..1: how crowded nuclei are.
    pleomorphism
        0..1: how much nuclei differ in size and shape.

    Raises
    ------
    BadInput
        A number is out of its range.
    """

    seed: int
    width: int
    radius: tuple[float, float] = (4.0, 17.0)
    cellularity: float = 0.5
    pleomorphism: float = 0.5

    def __post_init__(self) -> None:
        low, high = self.radius
        if not 2 <= low <= high <= 64:
            raise BadInput(
                f"radius {low:g},{high:g}: must be two numbers of pixels from 2 to 64, the smaller one first"
            )
        for name in ("cellularity", "pleomorphism"):
            if not 0 <= getattr(self, name) <= 1:
                raise BadInput(f"{name} {getattr(self, name):g}: must be a number from 0 to 1")

    @property
    def largest(self) -> float:
        """Largest mean radius in pixels."""
        return LARGEST_FACTOR * self.radius[1]

    @cached_property
    def cell(self) -> int:
        """Side of a cell in pixels: nuclei that overlap lie in the same one or in neighbours."""
        return ceil(2 * self.largest)

    @property
    def reach(self) -> int:
        """Pixels that an outline can lie away from its centre."""
        return ceil(self.largest * MOST_STRETCH * MOST_SPIKE) + 1

    def near(self, y0: int, x0: int, y1: int, x1: int) -> Nuclei:
        """Give all nuclei whose centre lies in a window or within `reach` of it.

        Parameters
        ----------
        y0, x0, y1, x1
            The window, in canvas pixels; it may reach beyond the canvas.

        Returns
        -------
        Nuclei
            In ascending rank.
        """
        more, cell = self.reach, self.cell
        first_row, last_row = (y0 - more) // cell - MARGIN, (y1 + more) // cell + MARGIN
        first_col, last_col = (x0 - more) // cell - MARGIN, (x1 + more) // cell + MARGIN
        rows, cols = np.arange(first_row, last_row + 1), np.arange(first_col, last_col + 1)
        place = tuple(np.broadcast_arrays(rows[:, None, None], cols[None, :, None], np.arange(PROPOSALS)))
        x = (place[1] + uniform(self.seed, 100, *place)) * cell
        y = (place[0] + uniform(self.seed, 101, *place)) * cell
        radius, rank = self._radii(place, y, x), uniform(self.seed, 102, *place)
        kept = _kept(y, x, radius, rank, self._proposed(place, y, x))
        kept &= (y >= y0 - more) & (y < y1 + more) & (x >= x0 - more) & (x < x1 + more)
        chosen = np.flatnonzero(kept)[np.argsort(rank[kept], kind="stable")]
        places = np.stack([part.reshape(-1)[chosen] for part in place], axis=1)
        centres = np.stack([x.reshape(-1)[chosen], y.reshape(-1)[chosen]], axis=1)
        across = self.width // cell + 2 * MARGIN + 4
        row, col = places[:, 0] + MARGIN + 1, places[:, 1] + MARGIN + 1
        numbers = 1 + (row * across + col) * PROPOSALS + places[:, 2]
        return Nuclei(numbers, self._outlines(places, centres, radius.reshape(-1)[chosen]), centres, places)

    def _radii(self, place: tuple[npt.NDArray[np.int64], ...], y: Array, x: Array) -> Array:
        """Mean radius of each proposal: pleomorphic nuclei take the whole range, others its middle."""
        low, high = self.radius
        share = 0.5 + (uniform(self.seed, 103, *place) - 0.5) * (0.3 + 0.7 * self.pleomorphism)
        region = smooth_field(self.seed, 60, y.reshape(-1), x.reshape(-1), 12.0 * self.cell, grid=False)
        factor = np.clip(1 + 0.12 * region, 0.75, LARGEST_FACTOR).reshape(y.shape)
        radius: Array = (low + (high - low) * share) * factor
        return radius

    def _proposed(
        self, place: tuple[npt.NDArray[np.int64], ...], y: Array, x: Array
    ) -> npt.NDArray[np.bool_]:
        """Which proposals there are: more of them in crowded regions."""
        crowd = smooth_field(self.seed, 61, y.reshape(-1), x.reshape(-1), 8.0 * self.cell, grid=False)
        share = np.clip(self.cellularity * (0.6 + 0.5 * crowd), 0.02 * self.cellularity, 1).reshape(y.shape)
        return uniform(self.seed, 104, *place) < share

    def _outlines(self, places: npt.NDArray[np.int64], centres: Array, radius: Array) -> Array:
        """Corners [n, 2 * CORNERS, 2] of the outlines."""
        place = places[:, 0, None], places[:, 1, None], places[:, 2, None] * CORNERS + np.arange(CORNERS)
        one = tuple(places.T)
        rough = 0.4 + 1.2 * self.pleomorphism
        spike, shift = (
            rough * (ends[0] + (ends[1] - ends[0]) * uniform(self.seed, stream, *one))
            for stream, ends in ((110, SPIKINESS), (111, IRREGULARITY))
        )
        turns = np.arange(CORNERS) + np.minimum(shift, 0.95)[:, None] * (
            uniform(self.seed, 112, *place) - 0.5
        )
        factor = np.clip(1 + spike[:, None] * normal(self.seed, 60, *place), 0.6, MOST_SPIKE)
        angles = (2 * np.pi / CORNERS) * turns
        corners = np.stack([np.cos(angles), np.sin(angles)], axis=2) * (radius[:, None] * factor)[:, :, None]
        return self._stretched(one, centres, _rounded(corners)) + centres[:, None]

    def _stretched(self, one: tuple[npt.NDArray[np.int64], ...], centres: Array, corners: Array) -> Array:
        """Stretch each outline in the direction of its region, and a little in one of its own."""
        x, y = centres.T
        size, across, along = (
            smooth_field(self.seed, stream, y, x, 10.0 * self.cell, grid=False) for stream in (62, 63, 64)
        )
        angle = np.arctan2(along, across) / 2 + 0.5 * (uniform(self.seed, 113, *one) - 0.5)
        own = 0.3 * self.pleomorphism * uniform(self.seed, 114, *one)
        factor = np.clip(np.exp(STRETCH * np.abs(size) + own), 1, MOST_STRETCH)
        cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
        u = (corners[..., 0] * cos + corners[..., 1] * sin) * factor[:, None]
        v = (corners[..., 1] * cos - corners[..., 0] * sin) / factor[:, None]
        return np.stack([u * cos - v * sin, u * sin + v * cos], axis=2)


def _rounded(corners: Array) -> Array:
    """Cut each corner once, a quarter of the way to its neighbours (Chaikin): [n, 2 * corners, 2]."""
    after = np.roll(corners, -1, axis=1)
    both = np.stack([0.75 * corners + 0.25 * after, 0.25 * corners + 0.75 * after], axis=2)
    return both.reshape(len(corners), 2 * corners.shape[1], 2)


def _kept(
    y: Array, x: Array, radius: Array, rank: Array, proposed: npt.NDArray[np.bool_]
) -> npt.NDArray[np.bool_]:
    """Choose nuclei that do not overlap: bool [rows, columns, proposals], true one `MARGIN` from the edge."""
    rows, cols, count = y.shape
    neighbours = [(dy, dx, k) for dy in (-1, 0, 1) for dx in (-1, 0, 1) for k in range(count)]
    inner = np.s_[1 : rows - 1, 1 : cols - 1]

    def beside(values: npt.NDArray[Any], step: tuple[int, int, int]) -> npt.NDArray[Any]:
        dy, dx, k = step
        return values[1 + dy : rows - 1 + dy, 1 + dx : cols - 1 + dx, k, None]

    overlaps = np.zeros((len(neighbours), rows - 2, cols - 2, count), bool)
    for number, step in enumerate(neighbours):
        apart = (y[inner] - beside(y, step)) ** 2 + (x[inner] - beside(x, step)) ** 2
        overlaps[number] = apart < (radius[inner] + beside(radius, step)) ** 2
        if step[:2] == (0, 0):
            overlaps[number][..., step[2]] = False
    kept, open_ = np.zeros_like(proposed), proposed.copy()
    for _ in range(ROUNDS):
        beaten = np.zeros((rows - 2, cols - 2, count), bool)
        for number, step in enumerate(neighbours):
            beaten |= overlaps[number] & beside(open_, step) & (beside(rank, step) > rank[inner])
        won = np.zeros_like(open_)
        won[inner] = open_[inner] & ~beaten
        kept |= won
        open_ &= ~won
        for number, step in enumerate(neighbours):
            open_[inner] &= ~(overlaps[number] & beside(won, step))
    return kept
