"""Distances between two sets of tiles that need no network.

Each tile is described by 50 numbers: optical densities, local binary patterns at three scales, and its power spectrum.
The distances between the two sets of numbers have the formulas of FID and KID, but are neither: **they are only
comparable with themselves**, at the same tile size, number of tiles, pixel size and compression.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

SCALES = 3
BANDS = 8
SUBSETS = 100
DENSITY = -np.log((np.arange(256) + 1.0) / 256.0)
"""Optical density of a byte."""


def texture_features(tiles: Iterable[npt.NDArray[np.uint8]]) -> Floats:
    """Describe each tile by 50 numbers.

    Parameters
    ----------
    tiles
        uint8 [y, x, 3], RGB, of any size.

    Returns
    -------
    Floats
        float64 [n, 50]: 12 for colours, 30 for local binary patterns, 8 for the power spectrum.
    """
    return np.stack([np.concatenate([_colors(tile), _patterns(tile), _spectrum(tile)]) for tile in tiles])


def _colors(tile: npt.NDArray[np.uint8]) -> Floats:
    """Optical density by channel: mean, deviation and skew; and the channels' correlations."""
    # Each channel by itself: sums along a first axis of three columns take several times as long.
    density = DENSITY[tile.reshape(-1, 3).T]
    mean, deviation = density.mean(axis=1), density.std(axis=1) + 1e-6
    standard = (density - mean[:, None]) / deviation[:, None]
    skew = np.cbrt((standard * standard * standard).mean(axis=1))
    correlation = standard @ standard.T / density.shape[1]
    return np.concatenate([mean, deviation, skew, correlation[np.triu_indices(3, 1)]])


def _patterns(tile: npt.NDArray[np.uint8]) -> Floats:
    """Shares of rotation-invariant uniform local binary patterns (Ojala et al., 2002), at full, half and quarter scale."""
    grey = cv2.cvtColor(tile, cv2.COLOR_RGB2GRAY)
    shares = []
    for _ in range(SCALES):
        image = np.asarray(grey)
        inner = image[1:-1, 1:-1]
        height, width = inner.shape
        ring = [(0, 0), (0, 1), (0, 2), (1, 2), (2, 2), (2, 1), (2, 0), (1, 0)]
        bits = np.stack([image[y : y + height, x : x + width] >= inner for y, x in ring])
        # In bytes: a sum of truth values is one of 64-bit integers.
        changes = (bits != np.roll(bits, 1, axis=0)).sum(axis=0, dtype=np.uint8)
        code = np.where(changes <= 2, bits.sum(axis=0, dtype=np.uint8), 9)
        shares.append(np.bincount(code.ravel(), minlength=10) / code.size)
        grey = cv2.resize(
            image, (max(3, image.shape[1] // 2), max(3, image.shape[0] // 2)), interpolation=cv2.INTER_AREA
        )
    return np.concatenate(shares)


def _spectrum(tile: npt.NDArray[np.uint8]) -> Floats:
    """Log power of the grey image in eight rings of spatial frequency, evenly spaced in octaves."""
    grey = np.asarray(cv2.cvtColor(tile, cv2.COLOR_RGB2GRAY), np.float64)
    window, ring, counts = _rings(*grey.shape)
    power = np.abs(np.fft.rfft2((grey - grey.mean()) * window)) ** 2 / window.sum()
    sums = np.bincount(ring, power.ravel(), BANDS) / counts
    return np.asarray(np.log(sums + 1e-3), np.float64)


@lru_cache(maxsize=4)
def _rings(height: int, width: int) -> tuple[Floats, npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Window [y, x] of a tile of this size, the ring of each of its frequencies [n], and how many are in a ring, at least 1."""
    window = np.hanning(height)[:, None] * np.hanning(width)
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    ring = np.clip(np.floor(BANDS + 2 * np.log2(np.maximum(radius, 1e-9) / 0.5)), 0, BANDS - 1)
    ring = ring.astype(np.intp).ravel()
    return window, ring, np.maximum(np.bincount(ring, minlength=BANDS), 1)


def standardize(real: Floats, fake: Floats) -> tuple[Floats, Floats]:
    """Scale both sets, [n, d], so that each number of the real set has mean 0 and deviation 1."""
    mean, deviation = real.mean(axis=0), np.maximum(real.std(axis=0), 1e-3)
    return (real - mean) / deviation, (fake - mean) / deviation


def frechet_distance(real: Floats, fake: Floats) -> float:
    """Frechet distance between normals fitted to two sets of features (Heusel et al., 2017, eq. 6).

    Parameters
    ----------
    real, fake
        float64 [n, d], at least two rows each.

    Returns
    -------
    float
        Squared, at least 0; biased upwards for few rows.
    """
    apart = ((real.mean(axis=0) - fake.mean(axis=0)) ** 2).sum()
    first, second = ((part - part.mean(axis=0)) / np.sqrt(len(part) - 1) for part in (real, fake))
    cross = _cross_by_rows(first, second) if len(real) < real.shape[1] else _cross(first, second)
    return float(max(0.0, apart + (first**2).sum() + (second**2).sum() - 2 * cross))


def _cross(first: Floats, second: Floats) -> float:
    """Trace of the root of the product of two covariances, from centred rows that are divided by sqrt(n - 1)."""
    covariances = first.T @ first, second.T @ second
    values, vectors = np.linalg.eigh(covariances[0])
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    return float(np.sqrt(np.maximum(np.linalg.eigvalsh(root @ covariances[1] @ root), 0)).sum())


def _cross_by_rows(first: Floats, second: Floats) -> float:
    """The same for fewer rows than features: the sum of the singular values of the rows' products."""
    return float(np.linalg.svd(first @ second.T, compute_uv=False).sum())


def kernel_distance(real: Floats, fake: Floats, *, seed: int = 0) -> tuple[float, float]:
    """Unbiased squared maximum mean discrepancy under a cubic kernel (Binkowski et al., 2018).

    Parameters
    ----------
    real, fake
        float64 [n, d], at least two rows each.
    seed
        Seed of the choice of subsets.

    Returns
    -------
    tuple[float, float]
        Mean, deviation : over 100 random subsets of half of the smaller set, 1000 rows at most.
    """
    size, rng = subset_size(len(real), len(fake)), np.random.default_rng(seed)
    made = []
    for _ in range(SUBSETS):
        x, y = real[rng.permutation(len(real))[:size]], fake[rng.permutation(len(fake))[:size]]
        alike = sum(kernel.sum() - np.trace(kernel) for kernel in (_cubic(x, x), _cubic(y, y)))
        made.append(alike / (size * (size - 1)) - 2 * _cubic(x, y).mean())
    return float(np.mean(made)), float(np.std(made))


def subset_size(real: int, fake: int) -> int:
    """Tiles of a subset for the kernel distance.

    >>> subset_size(5000, 3000), subset_size(100, 90)
    (1000, 45)
    """
    return max(2, min(1000, min(real, fake) // 2))


def _cubic(x: Floats, y: Floats) -> Floats:
    return np.asarray((x @ y.T / x.shape[1] + 1.0) ** 3, np.float64)
