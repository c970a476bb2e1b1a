"""What is the look of a stain in a few numbers?

A style is nine numbers that anyone can read and change, measured on an image without knowing what it shows:

    0..2   background: red, green and blue of the brightest percent, whole numbers 0..255
    3..5   mean optical density of tissue in haematoxylin, eosin and what neither explains
    6..8   their standard deviations over tissue

Densities are relative to the background and are split into stains by the vectors of Ruifrok and Johnston (Anal Quant Cytol
Histol 23:291, 2001). Generators with a `style` input take such a vector, and are trained on those of real images.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from safron.io.synthesis.stains import STAINS

BACKGROUND = ("background red", "background green", "background blue")
STYLE_NAMES = (
    *BACKGROUND,
    *("haematoxylin", "eosin", "residual"),
    *("haematoxylin spread", "eosin spread", "residual spread"),
)
"""What each number of a style is."""

LEAST_DENSITY = 0.12
"""Mean optical density above which a pixel is tissue."""

SAMPLED = 1 << 14
"""About as many pixels are looked at, on a regular grid."""


def measure_style(rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Measure the style of an image.

    Parameters
    ----------
    rgb
        uint8 [y, x, 3].

    Returns
    -------
    NDArray
        float32 [9]; see `STYLE_NAMES`. An image without tissue has no density and no spread.
    """
    step = max(1, int((rgb.shape[0] * rgb.shape[1] / SAMPLED) ** 0.5))
    pixels = rgb[::step, ::step].reshape(-1, 3)
    background = np.rint(np.percentile(pixels, 99, axis=0))
    density = np.log((background + 1.0) / (pixels + 1.0)).clip(0.0)
    tissue = density[density.mean(axis=1) > LEAST_DENSITY]
    stains = (tissue if len(tissue) else np.zeros((1, 3))) @ np.linalg.inv(STAINS / norm(STAINS))
    return np.concatenate([background, stains.mean(axis=0), stains.std(axis=0)]).astype(np.float32)


def norm(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Length of each row, [n, 1]."""
    return np.asarray(np.linalg.norm(rows, axis=1, keepdims=True))
