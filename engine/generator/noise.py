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
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from safron.engine.plan.window import Window
from safron.engine.system.native import compiled

_TABLE_BITS = 16


@lru_cache(maxsize=1)
def _normal_table() -> npt.NDArray[np.float32]:
    """Quantiles of the standard normal at the middles of 2**16 equal parts, float32 [65536]."""
    from statistics import NormalDist

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


@lru_cache(maxsize=256)
def _key(seed: int, channel: int, *, is_row: bool) -> npt.NDArray[np.uint32]:
    """What sets the hash of one axis of a channel apart, uint32 [1]."""
    with np.errstate(over="ignore"):
        key = _mix(np.array([seed & 0xFFFFFFFF], np.uint32)) + np.uint32(channel) * np.uint32(0x9E3779B9)
        key = _mix(key ^ np.uint32((seed >> 32) & 0xFFFFFFFF))
        # Columns have a key of their own: with the same one, row and column 0 would cancel and see one value for every seed.
        return key if is_row else _mix(key + np.uint32(0x85EBCA6B))


# Strips of patches below each other have their columns in common, those of neighbouring blocks their rows. A hash keeps 4
# bytes a pixel of its axis, a spline 20: some megabytes in all.
@lru_cache(maxsize=256)
def _hashes(seed: int, channel: int, positions: range, *, is_row: bool) -> npt.NDArray[np.uint32]:
    """What positions along one axis contribute to the hash: uint32 [len(positions)]."""
    with np.errstate(over="ignore"):
        whole = np.arange(positions.start, positions.stop, dtype=np.int64)
        return _mix(whole.astype(np.uint32) + _key(seed, channel, is_row=is_row))


def _white(out: npt.NDArray[np.float32], seed: int, channel: int, rows: range, columns: range) -> None:
    """Put independent standard normals of integer positions into `out`, float32 [len(rows), len(columns)]."""
    by_row = _hashes(seed, channel, rows, is_row=True)
    by_column = _hashes(seed, channel, columns, is_row=False)
    if compiled is not None:
        compiled.white(out, by_row, by_column, _normal_table())
        return
    with np.errstate(over="ignore"):
        mixed = _mix(by_row[:, None] ^ by_column[None, :])
    out[:] = _normal_table()[mixed >> np.uint32(32 - _TABLE_BITS)]


@dataclass(frozen=True)
class _Spline:
    """How pixels along one axis mix the lattice nodes under them.

    Attributes
    ----------
    nodes
        Positions in the lattice.
    first
        Of the four nodes of each pixel, the first's place in `nodes`, int32 [length].
    weights
        Of these four, of unit variance, float32 [4, length].
    """

    nodes: range
    first: npt.NDArray[np.int32]
    weights: npt.NDArray[np.float32]


@lru_cache(maxsize=64)
def _spline(pixels: range, scale: int) -> _Spline:
    """Mix nodes `scale` pixels apart into pixels."""
    cell, t = np.divmod(np.arange(pixels.start, pixels.stop), scale)
    t = (t / scale).astype(np.float64)
    basis = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3])
    basis /= np.sqrt((basis**2).sum(axis=0))
    nodes = range(int(cell[0]) - 1, int(cell[-1]) + 3)
    return _Spline(nodes, (cell - cell[0]).astype(np.int32), basis.astype(np.float32))


def normal_noise(window: Window, *, seed: int, scales: Sequence[int]) -> npt.NDArray[np.float32]:
    """Return the noise of a canvas window.

    Parameters
    ----------
    window
        Canvas pixels; may reach beyond the canvas.
    seed
        Any integer; its low 64 bits count.
    scales
        One per channel, in canvas pixels; 1 is white.

    Returns
    -------
    npt.NDArray[np.float32]
        float32 [len(scales), height, width], each pixel standard normal.

    Examples
    --------
    >>> whole = normal_noise(Window(-8, 0, 32, 40), seed=7, scales=[1, 16])
    >>> part = normal_noise(Window(0, 10, 4, 4), seed=7, scales=[1, 16])
    >>> bool((whole[:, 8:12, 10:14] == part).all())
    True
    """
    noise = np.empty((len(scales), window.height, window.width), np.float32)
    down, across = range(window.y, window.y_stop), range(window.x, window.x_stop)
    for channel, scale in enumerate(scales):
        if scale == 1:
            _white(noise[channel], seed, channel, down, across)
        else:
            _smooth(noise[channel], seed, channel, _spline(down, scale), _spline(across, scale))
    return noise


def _smooth(out: npt.NDArray[np.float32], seed: int, channel: int, rows: _Spline, columns: _Spline) -> None:
    """Put a smooth channel into `out`, summed node by node so that no matrix product's blocking can change a bit."""
    lattice = np.empty((len(rows.nodes), len(columns.nodes)), np.float32)
    _white(lattice, seed, channel, rows.nodes, columns.nodes)
    if compiled is not None:
        compiled.smooth(out, lattice, rows.first, rows.weights, columns.first, columns.weights)
        return
    down = _weighted_sum(rows, lattice)
    out[:] = _weighted_sum(columns, np.ascontiguousarray(down.T)).T


def _weighted_sum(spline: _Spline, lattice: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Mix nodes [n, m] into pixels [length, m], the four of each always added in their order."""
    total = spline.weights[0, :, None] * lattice[spline.first]
    for k in range(1, 4):
        total += spline.weights[k, :, None] * lattice[spline.first + k]
    return total
