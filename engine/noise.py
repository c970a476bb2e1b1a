"""What noise does a pixel see? A pure function of seed, channel and canvas position.

Patches that overlap must see the same noise, on any machine and in any order, so noise is computed
from the position by an integer hash: no generator state, no libm call whose last bit may differ.

Scale 1 gives independent standard normals per pixel. Scale ``s`` gives a smooth field: independent
normals on a lattice every ``s`` pixels, interpolated by the uniform cubic B-spline and divided by the
root of the summed squared weights, so that every pixel is again standard normal. Generators use such
channels for what varies slowly over a slide.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from .window import Window

_TABLE_BITS = 16


@lru_cache(maxsize=1)
def _normal_table() -> npt.NDArray[np.float32]:
    """Quantiles of the standard normal at the middles of 2**16 equal parts, float32 [65536]."""
    half = 1 << (_TABLE_BITS - 1)
    quantile = NormalDist().inv_cdf
    upper = np.array([quantile(0.5 + (k + 0.5) / (2 * half)) for k in range(half)], np.float32)
    return np.concatenate([-upper[::-1], upper])


def _mix(values: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """Scramble uint32 values in place (Wang/Mueller style integer hash, a bijection)."""
    for _ in range(2):
        values ^= values >> np.uint32(16)
        values *= np.uint32(0x45D9F3B)
    values ^= values >> np.uint32(16)
    return values


def _lattice(
    seed: int, channel: int, rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64]
) -> npt.NDArray[np.float32]:
    """Independent standard normals at integer positions: float32 [len(rows), len(columns)]."""
    with np.errstate(over="ignore"):
        key = _mix(np.array([seed & 0xFFFFFFFF], np.uint32)) + np.uint32(channel) * np.uint32(0x9E3779B9)
        key = _mix(key ^ np.uint32((seed >> 32) & 0xFFFFFFFF))
        by_row = _mix(rows.astype(np.uint32) + key)
        # A key of its own: with the same one, row and column 0 would cancel and see one value for every seed.
        by_column = _mix(columns.astype(np.uint32) + _mix(key + np.uint32(0x85EBCA6B)))
        mixed = _mix(by_row[:, None] ^ by_column[None, :])
    normals: npt.NDArray[np.float32] = _normal_table()[mixed >> np.uint32(32 - _TABLE_BITS)]
    return normals


def _spline(start: int, length: int, scale: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Lattice indices [n] under ``[start, start + length)`` and unit-variance weights [length, n]."""
    position = np.arange(start, start + length)
    cell, t = np.divmod(position, scale)
    t = (t / scale).astype(np.float64)
    basis = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], axis=1)
    basis /= np.sqrt((basis**2).sum(axis=1, keepdims=True))
    first = int(cell[0]) - 1
    nodes = np.arange(first, int(cell[-1]) + 3)
    weights = np.zeros((length, len(nodes)), np.float32)
    for k in range(4):
        weights[np.arange(length), cell - 1 + k - first] = basis[:, k]
    return nodes, weights


def normal_noise(window: Window, *, seed: int, scales: Sequence[int]) -> npt.NDArray[np.float32]:
    """Return the noise of a canvas window.

    Parameters
    ----------
    window : canvas pixels; may reach beyond the canvas.
    seed : any integer; its low 64 bits count.
    scales : one per channel, in canvas pixels; 1 is white.

    Returns
    -------
    float32 [len(scales), height, width], each pixel standard normal.

    Examples
    --------
    >>> whole = normal_noise(Window(-8, 0, 32, 40), seed=7, scales=[1, 16])
    >>> part = normal_noise(Window(0, 10, 4, 4), seed=7, scales=[1, 16])
    >>> bool((whole[:, 8:12, 10:14] == part).all())
    True
    """
    noise = np.empty((len(scales), window.height, window.width), np.float32)
    for channel, scale in enumerate(scales):
        if scale == 1:
            rows = np.arange(window.y, window.y_stop, dtype=np.int64)
            columns = np.arange(window.x, window.x_stop, dtype=np.int64)
            noise[channel] = _lattice(seed, channel, rows, columns)
        else:
            noise[channel] = _smooth(seed, channel, window, scale)
    return noise


def _smooth(seed: int, channel: int, window: Window, scale: int) -> npt.NDArray[np.float32]:
    """One smooth channel, summed node by node so that no matrix product's blocking can change a bit."""
    rows, row_weights = _spline(window.y, window.height, scale)
    columns, column_weights = _spline(window.x, window.width, scale)
    lattice = _lattice(seed, channel, rows, columns)
    down = _weighted_sum(row_weights, lattice)
    return np.ascontiguousarray(_weighted_sum(column_weights, np.ascontiguousarray(down.T)).T)


def _weighted_sum(
    weights: npt.NDArray[np.float32], nodes: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """``weights [length, n] @ nodes [n, m]``, always added in node order."""
    total = np.zeros((weights.shape[0], nodes.shape[1]), np.float32)
    for k in range(weights.shape[1]):
        used = np.flatnonzero(weights[:, k])
        if used.size:
            lo, hi = used[0], used[-1] + 1
            total[lo:hi] += weights[lo:hi, k, None] * nodes[k]
    return total
