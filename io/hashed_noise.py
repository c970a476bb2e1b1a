"""How are random numbers made for places, so that any part of a plane can be computed alone?

Every number is a pure function of a seed, a stream and whole-number coordinates.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

IN_CACHE = 1 << 14
"""Points of a grid that are summed at a time: what lies in a processor's cache takes half the time."""


def smooth_field(seed: int, stream: int, y: Array, x: Array, scale: float, *, grid: bool) -> Array:
    """Smooth noise, standard normal at each point, with features about `scale` pixels wide.

    A lattice of independent normals every `scale` pixels, interpolated by the cubic B-spline. The four terms of
    each axis are summed one by one: a matrix product would round differently in blocks of different shape.

    Parameters
    ----------
    y, x
        Positions; with `grid`, of rows and columns [h] and [w], else of points [n].

    Returns
    -------
    Array
        [h, w] or [n].
    """
    row, weights_y = _spline(y, scale)
    col, weights_x = _spline(x, scale)
    if not grid:
        total = np.zeros(len(y))
        for i in range(4):
            for j in range(4):
                total += weights_y[i] * weights_x[j] * normal(seed, stream, row + i, col + j)
        return total
    lattice_y, lattice_x = np.arange(row[0], row[-1] + 4), np.arange(col[0], col[-1] + 4)
    lattice = normal(seed, stream, lattice_y[:, None], lattice_x[None, :])
    across = np.zeros((len(lattice_y), len(x)))
    for j in range(4):
        across += weights_x[j] * lattice.take(col - col[0] + j, axis=1)
    total = np.zeros((len(y), len(x)))
    rows = max(1, IN_CACHE // len(x))
    for start in range(0, len(y), rows):
        band = slice(start, start + rows)
        for i in range(4):
            total[band] += weights_y[i][band, None] * across.take(row[band] - row[0] + i, axis=0)
    return total


def _spline(at: Array, scale: float) -> tuple[npt.NDArray[np.int64], Array]:
    """First lattice point [n], and four weights [4, n] of the uniform cubic B-spline, of squared sum one."""
    place = (at + 0.5) / scale
    first = np.floor(place)
    t = place - first
    weights: Array = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3])
    # Written out: NumPy may sum over an axis in another order for another number of positions.
    squares = weights[0] ** 2 + weights[1] ** 2 + weights[2] ** 2 + weights[3] ** 2
    return first.astype(np.int64) - 1, weights / np.sqrt(squares)


def normal(seed: int, stream: int, *place: npt.NDArray[np.int64]) -> Array:
    """Independent standard normal numbers, by the Box-Muller transform."""
    radius: Array = np.sqrt(-2 * np.log1p(-uniform(seed, 2 * stream, *place)))
    return radius * np.cos(2 * np.pi * uniform(seed, 2 * stream + 1, *place))


def uniform(seed: int, stream: int, *place: npt.NDArray[np.int64]) -> Array:
    """Independent uniform numbers in [0, 1) for integer positions, broadcast together.

    The finalizer of SplitMix64 after each coordinate; every output bit depends on every input bit.
    """
    state = _mix(np.array([(seed * 0x9E3779B97F4A7C15 + stream) % 2**64], np.uint64))
    for coordinate in place:
        state = _mix(state ^ np.asarray(coordinate).astype(np.uint64))
    return (state >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(state: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    state = state + np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))
