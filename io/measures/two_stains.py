"""Which stains does a picture have?

After M. Macenko et al., A method for normalizing histology slides for quantitative analysis, ISBI 2009, 1107-1110: in the plane of
the two main directions of optical density, the stains are the outermost directions that are not outliers. Changes: a pixel is
tissue by its summed density, since a threshold for each channel drops pale stroma; and strengths follow from the mean amounts over tissue,
not from the largest, since a few folds and dark spots would make the whole slide dark. Ink of pens is left out.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from safron.io.errors import BadInput, counted

Vector = tuple[float, float, float]

MIN_DENSITY = 0.45
"""Of a pixel of tissue, summed over the channels; 0.15 each, as in the paper."""

OUTLIERS = 1.0
"""Percent of directions on each side that are not looked at."""

MOST_RED = 1.3
"""Density in red for each in green, of what is taken for tissue: blue and green ink have more."""

STRENGTH_OF_MEAN = (2.5, 1.65)
"""Strength for a mean amount of one, of haematoxylin and eosin: the ratio that the shipped generator's tissue has."""

MIN_TISSUE = 1000
_MOST_PIXELS = 1 << 20
_USUAL_WHITE = 240.0


def measure_stains(
    rgb: npt.NDArray[np.uint8], name: str = "picture"
) -> tuple[Vector, Vector, tuple[float, float], Vector]:
    """Measure the stains of a picture.

    Parameters
    ----------
    rgb
        uint8 [..., 3].
    name
        How messages call it.

    Returns
    -------
    tuple[Vector, Vector, tuple[float, float], Vector]
        Optical density of haematoxylin and of eosin in red, green and blue, of length one; how much of both there is; and RGB of the
        empty slide, 1 to 255.

    Raises
    ------
    BadInput
        It has too little tissue, or one stain alone.
    """
    every = rgb.reshape(-1, 3)
    pixels = every[:: -(-len(every) // _MOST_PIXELS)].astype(np.float64)
    white = _white(pixels)
    density = -np.log(np.maximum(pixels, 1) / white)
    tissue = density[(density.sum(axis=1) > MIN_DENSITY) & (density[:, 0] <= MOST_RED * density[:, 1])]
    if len(tissue) < MIN_TISSUE:
        raise BadInput(
            f"{name}: has {counted(len(tissue), 'pixel')} of stained tissue; {MIN_TISSUE} are needed to see its stains"
        )
    _, directions = np.linalg.eigh(np.cov(tissue.T))
    plane = directions[:, :0:-1] * np.where(directions[:, :0:-1].sum(axis=0) < 0, -1, 1)
    angles = np.arctan2(*(tissue @ plane).T[::-1])
    low, high = np.percentile(angles, [OUTLIERS, 100 - OUTLIERS])
    found = np.array([plane @ (np.cos(angle), np.sin(angle)) for angle in (low, high)])
    found = np.maximum(found, 1e-3)
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    found = found[np.argsort(-found[:, 0])]  # haematoxylin absorbs more red
    if np.dot(*found) > 0.9995:
        raise BadInput(f"{name}: shows one stain alone; give a picture with haematoxylin and eosin")
    amounts = tissue @ np.linalg.pinv(found)
    strength = np.maximum(amounts, 0).mean(axis=0) * STRENGTH_OF_MEAN
    if strength.min() < 0.05:
        raise BadInput(
            f"{name}: one of its stains is hardly there; give a picture with haematoxylin and eosin"
        )
    return _three(found[0]), _three(found[1]), (float(strength[0]), float(strength[1])), _three(white)


def _white(pixels: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Colour of the empty slide: the brightest pixels where they are nearly white, else the usual one.

    Pixels that are wholly white are what scanners write where they did not look; they count where little else is there.
    """
    seen = pixels[(pixels < 255).any(axis=1)]
    if len(seen) >= MIN_TISSUE:
        pixels = seen
    light = pixels.mean(axis=1)
    bright = pixels[light >= np.percentile(light, 99.5)]
    white = np.median(bright, axis=0)
    usual = white.min() < 200 or white.max() - white.min() > 30
    return np.full(3, _USUAL_WHITE) if usual else white


def _three(values: npt.NDArray[np.float64]) -> Vector:
    red, green, blue = (round(float(value), 5) for value in values)
    return red, green, blue
