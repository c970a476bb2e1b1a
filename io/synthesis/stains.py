"""Which pixels of an H&E image are nuclei, as far as their colour says?

Haematoxylin is separated from eosin by colour deconvolution (Ruifrok and Johnston, Anal Quant Cytol Histol 23:291, 2001).
Two conventions are in use, and a threshold belongs to one of them:

    density    optical density -ln((value + 1) / 256), times the inverse of the stain matrix whose rows have length 1;
               0 on white, rising with the stain
    skimage    -ln(value / 255 + 2), times the inverse of the matrix as printed: what scikit-image computed until 0.16;
               -1.33 on white, rising with the stain. The table of Hou et al., "Unsupervised Histopathology Image
               Synthesis" (2017), section 2.1, has bounds of this kind.

A super-segmentation holds more than the nuclei, so that what remains is free of them. A sub-segmentation holds less, so
that its colour is that of nuclei alone. How many pixels each takes is decided by one of two rules:

    otsu       Otsu's threshold on the density; 1.08 times and 0.92 times the share of pixels above it. So does the later
               code of the paper's authors.
    table      the paper's table: by the mean of haematoxylin (skimage), 15 to 35 % and 10 to 32 % of the pixels

Ink, soot and dirt have more haematoxylin than any nucleus, if one asks for that channel alone, and would be all that either
segmentation finds. Their hue gives them away: no mixture of haematoxylin and eosin is black, brown or blue. Such foreign matter
is counted neither as nuclei nor as what nuclei are compared with.

Grey light is no soot: where a camera's white is grey, glass has haematoxylin, too, and what counts as dark begins above it. And
where there is blood, which has less haematoxylin than glass, Otsu's threshold may part it from all the rest.
"""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

UInt8 = npt.NDArray[np.uint8]
Float32 = npt.NDArray[np.float32]
Bool = npt.NDArray[np.bool_]
Rule = Literal["otsu", "table"]

STAINS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
"""Optical density in red, green and blue of haematoxylin, eosin and DAB, as printed."""

UNMIX = np.linalg.inv(STAINS / np.linalg.norm(STAINS, axis=1, keepdims=True)).astype(np.float32)
"""From densities in red, green and blue to densities of haematoxylin, eosin and DAB."""

UPRIGHT = (UNMIX[:, 2] / np.linalg.norm(UNMIX[:, 2])).astype(np.float32)
"""Direction of density, of length 1, that haematoxylin and eosin have nothing of."""

FOREIGN_FROM = 0.3
"""Density of haematoxylin from which a pixel would compete with nuclei, so that its hue is looked at; twice that of the light, if
this is more."""

MOST_FOREIGN_FROM = 0.5
"""The same at most: in a tile without a bright place the light is not known."""

LIGHT_PERCENTILE = 95
"""Of each channel: where nothing, or least, is in the way of the light."""

MOST_APART = 0.24
"""Share of a pixel's density that may stand upright on the plane of haematoxylin and eosin (14 degrees); black has 0.30, nuclei
at most 0.2."""

MOST_RED = 1.3
"""Density in red for each in green; haematoxylin has 0.93, blue and green ink more."""

SPECK = 5
"""Pixels across, below which foreign matter is not believed."""

RIM = 2
"""Pixels that nuclei and foreign matter are widened by: the blur of the optics carries their colour beyond their border."""

BOUNDS = (-1.25, -1.20, -1.15, -1.10)
SUPER_SHARES, SUB_SHARES = (0.15, 0.20, 0.25, 0.30, 0.35), (0.10, 0.16, 0.21, 0.27, 0.32)
"""The paper's table: shares of nuclear pixels for a mean below, between and above the bounds."""

SUPER_FACTOR, SUB_FACTOR = 1.08, 0.92
"""What the share above Otsu's threshold is multiplied by."""

LEAST = -0.2
"""Density of haematoxylin below which there is only more eosin: blood has down to -0.7, pink tissue seldom less than this."""

MOST_NUCLEAR = 0.5
"""Share above Otsu's threshold from which it parts something else from tissue, such as blood, and is taken again above that."""

LEAST_CONTRAST = 0.1
"""Density of haematoxylin by which nuclei must stand out from the rest of a tile; of 47 real tiles they do by 0.24 at least."""

SMOOTHING = 1.5
"""Standard deviation in pixels that a segmentation is smoothed with, against single pixels."""

TISSUE_DENSITY = 0.12
"""Mean optical density above which a pixel is tissue and not glass."""


def densities(rgb: UInt8) -> Float32:
    """Optical density of each channel.

    Parameters
    ----------
    rgb
        uint8 [y, x, 3].

    Returns
    -------
    Float32
        float32 [y, x, 3], 0 on white, at most 5.5.
    """
    table = -np.log((np.arange(256, dtype=np.float32) + 1) / 256)
    return np.asarray(table[rgb], np.float32)


def stain_densities(rgb: UInt8) -> Float32:
    """Density of haematoxylin, eosin and DAB, convention "density".

    Parameters
    ----------
    rgb
        uint8 [y, x, 3].

    Returns
    -------
    Float32
        float32 [y, x, 3].
    """
    return densities(rgb) @ UNMIX


def skimage_haematoxylin(rgb: UInt8) -> Float32:
    """Haematoxylin, convention "skimage".

    Parameters
    ----------
    rgb
        uint8 [y, x, 3].

    Returns
    -------
    Float32
        float32 [y, x], -1.33 on white.
    """
    column = np.linalg.inv(STAINS)[:, 0].astype(np.float32)
    table = -np.log(np.arange(256, dtype=np.float32) / 255 + 2)
    return np.asarray(table[rgb] @ column, np.float32)


def foreign(rgb: UInt8) -> Bool:
    """Find what is as dark in haematoxylin's channel as nuclei are, in a hue that no stain has: ink, soot, dirt.

    Parameters
    ----------
    rgb
        uint8 [y, x, 3].

    Returns
    -------
    Bool
        bool [y, x].
    """
    density = np.asarray(cv2.GaussianBlur(densities(rgb), (0, 0), SMOOTHING))
    apart = density @ UPRIGHT > MOST_APART * np.linalg.norm(density, axis=2)
    blue = density[..., 0] > MOST_RED * density[..., 1]
    found = ((density @ UNMIX[:, 0] > _dark_from(rgb)) & (apart | blue)).astype(np.uint8)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (SPECK, SPECK))
    return wider(np.asarray(cv2.morphologyEx(found, cv2.MORPH_OPEN, disc)) > 0)


def _dark_from(rgb: UInt8) -> float:
    """Density of haematoxylin from which a pixel of this tile is dark."""
    light = np.percentile(rgb.reshape(-1, 3), LIGHT_PERCENTILE, axis=0).astype(np.uint8)
    return float(np.clip(2 * stain_densities(light)[0], FOREIGN_FROM, MOST_FOREIGN_FROM))


def wider(mask: Bool) -> Bool:
    """Widen a mask, bool [y, x], by `RIM`."""
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * RIM + 1, 2 * RIM + 1))
    return np.asarray(cv2.dilate(mask.view(np.uint8), disc)) > 0


def nuclear_shares(rgb: UInt8, rule: Rule, counted: Bool) -> tuple[float, float]:
    """Decide which shares of the pixels are taken for nuclei.

    Parameters
    ----------
    rgb
        uint8 [y, x, 3].
    rule
        "otsu" or "table".
    counted
        bool [y, x]: pixels that are looked at, at least one.

    Returns
    -------
    tuple[float, float]
        Of the super- and of the sub-segmentation, 0..1, of the pixels that are counted.
    """
    if rule == "table":
        place = int(np.searchsorted(BOUNDS, float(skimage_haematoxylin(rgb)[counted].mean()), side="right"))
        return SUPER_SHARES[place], SUB_SHARES[place]
    haematoxylin = np.maximum(stain_densities(rgb)[..., 0][counted], LEAST)
    more = _above_otsu(haematoxylin)
    above = float(more.mean())
    if above > MOST_NUCLEAR:
        rest = haematoxylin[more]
        darker = _above_otsu(rest)
        if stands_out(rest, darker, ~darker):  # else these are nuclei, crowded
            above *= float(darker.mean())
    return min(1.0, SUPER_FACTOR * above), SUB_FACTOR * above


def stands_out(haematoxylin: Float32, inside: Bool, outside: Bool) -> bool:
    """Whether some pixels have clearly more haematoxylin than the usual one of some others; both are masks of the densities."""
    if not inside.any() or not outside.any():
        return False
    return bool(haematoxylin[inside].mean() - np.median(haematoxylin[outside]) >= LEAST_CONTRAST)


def _above_otsu(haematoxylin: Float32) -> Bool:
    """Which of some densities [n] lie above their threshold."""
    levels = _in_levels(haematoxylin)
    threshold, _ = cv2.threshold(levels, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    return np.asarray(levels > threshold).reshape(-1)


def _in_levels(haematoxylin: Float32) -> UInt8:
    """Haematoxylin as 256 levels; OpenCV finds Otsu's threshold in bytes."""
    low, high = np.percentile(haematoxylin, (0.5, 99.5))
    scaled = (haematoxylin - low) * (255 / max(1e-6, float(high - low)))
    return np.asarray(scaled.clip(0, 255), np.uint8)


def segment(rgb: UInt8, *, share: float, counted: Bool) -> Bool:
    """Take the pixels with most haematoxylin, without very small regions.

    Parameters
    ----------
    rgb
        uint8 [y, x, 3].
    share
        Of the pixels that are counted, 0..1.
    counted
        bool [y, x]: pixels that are looked at, at least one.

    Returns
    -------
    Bool
        bool [y, x]: taken, and counted.
    """
    haematoxylin = stain_densities(rgb)[..., 0]
    most = counted & (haematoxylin > np.quantile(haematoxylin[counted], 1 - share))
    return counted & (np.asarray(cv2.GaussianBlur(most.astype(np.float32), (0, 0), SMOOTHING)) > 0.5)


def tissue_share(rgb: UInt8) -> float:
    """Share of the pixels that are neither glass nor foreign matter.

    Parameters
    ----------
    rgb
        uint8 [y, x, 3].
    """
    return float(((densities(rgb).mean(axis=2) > TISSUE_DENSITY) & ~foreign(rgb)).mean())
