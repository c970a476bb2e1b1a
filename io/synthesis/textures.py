"""What does a real tile give to synthetic ones: tissue without nuclei, the colour of nuclei, and a texture?

All of it is computed once for each tile, so that the cost does not grow with the canvas and no window depends on where
another one begins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from safron.io.errors import BadInput

from .stains import (
    Bool,
    Rule,
    UInt8,
    densities,
    foreign,
    nuclear_shares,
    segment,
    stain_densities,
    stands_out,
    tissue_share,
    wider,
)

CELL = 256
"""Side in pixels of the square parts that pictures are put together from."""

SMALLEST = 64
"""Least side of a tile in pixels."""

LEAST_TISSUE = 0.2
"""Share of a tile that must be tissue."""

INPAINT_RADIUS = 3
COVER_BLUR = 1.0
DETAIL_SCALE = 40.0
"""Steps of the texture per standard deviation; it is cut off at three."""


@dataclass(frozen=True)
class Texture:
    """What is taken from one tile.

    Attributes
    ----------
    background
        uint8 [y, x, 3]: the tile with its nuclei inpainted; a side below `CELL` goes on as its mirror image.
    mean
        float32 [3]: its mean colour.
    nucleus
        float32 [3]: mean optical density of nuclei in red, green and blue.
    detail
        int8 [y, x]: eosin, smoothed background taken away, in `DETAIL_SCALE` steps per standard deviation; 0 in foreign matter.
    cover
        uint8 [y, x]: 255 in foreign matter, which the background keeps and which hides nuclei; else 0, less sharply.
    """

    background: UInt8
    mean: npt.NDArray[np.float32]
    nucleus: npt.NDArray[np.float32]
    detail: npt.NDArray[np.int8]
    cover: UInt8


def make_texture(rgb: UInt8, *, rule: Rule = "otsu") -> Texture:
    """Take a tile apart (Hou et al. 2017, sections 2.1 and 2.2).

    Parameters
    ----------
    rgb
        uint8 [y, x, 3], each side at least `SMALLEST`.
    rule
        See `safron.io.synthesis.stains`.

    Returns
    -------
    Texture
        What the tile gives.

    Raises
    ------
    BadInput
        The tile is too small, holds too little tissue, or nothing that stands out as nuclei.
    """
    if min(rgb.shape[:2]) < SMALLEST:
        raise BadInput(
            f"a tile of {rgb.shape[1]} x {rgb.shape[0]} px gives no texture; tiles have at least {SMALLEST} px a side"
        )
    if (share := tissue_share(rgb)) < LEAST_TISSUE:
        raise BadInput(
            f"only {100 * share:.0f} % of it is tissue; give tiles with {100 * LEAST_TISSUE:.0f} % or more"
        )
    alien = foreign(rgb)
    counted = ~alien
    more, less = nuclear_shares(rgb, rule, counted)
    nuclei = wider(segment(rgb, share=more, counted=counted)) & ~alien
    background = np.asarray(
        cv2.inpaint(rgb, nuclei.view(np.uint8), INPAINT_RADIUS, cv2.INPAINT_TELEA), np.uint8
    )
    density = densities(rgb)
    inside = segment(rgb, share=less, counted=counted)
    if not inside.any():  # the darkest percent
        mean = density.mean(axis=2)
        inside = counted & (mean >= np.quantile(mean[counted], 0.99))
    if not stands_out(stain_densities(rgb)[..., 0], inside, counted & ~inside):
        # Drawn nuclei of its own colour would not be seen, while the mask would call them nuclei.
        raise BadInput(
            "nothing in it stands out by haematoxylin, so that nuclei in its colours would not be seen; give tiles with nuclei"
        )
    cover = cv2.GaussianBlur(np.where(alien, np.uint8(255), np.uint8(0)), (5, 5), COVER_BLUR)
    return Texture(
        _at_least_a_cell(background),
        background.reshape(-1, 3).mean(axis=0, dtype=np.float64).astype(np.float32),
        density[inside].mean(axis=0, dtype=np.float64).astype(np.float32),
        _at_least_a_cell(_detail(rgb, counted)),
        _at_least_a_cell(np.asarray(cover, np.uint8)),
    )


def _at_least_a_cell(image: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Continue a small tile by its mirror image."""
    short = [max(0, CELL - side) for side in image.shape[:2]]
    margins = [(0, more) for more in short] + [(0, 0)] * (image.ndim - 2)
    return np.pad(image, margins, mode="symmetric") if any(short) else image


def _detail(rgb: UInt8, counted: Bool) -> npt.NDArray[np.int8]:
    """Texture of eosin, of mean 0 and standard deviation 1 before it is put into steps; nothing where pixels are not counted."""
    eosin = np.ascontiguousarray(stain_densities(rgb)[..., 1])
    eosin[~counted] = eosin[counted].mean()
    fine = eosin - np.asarray(cv2.GaussianBlur(eosin, (0, 0), 8.0))
    fine /= max(1e-6, float(fine[counted].std()))
    fine[~counted] = 0
    return np.asarray(np.rint(fine.clip(-3, 3) * DETAIL_SCALE), np.int8)


def make_textures(
    tiles: Sequence[tuple[str, UInt8]], *, rule: Rule = "otsu"
) -> tuple[list[Texture], list[str]]:
    """Take apart all tiles that can be used.

    Parameters
    ----------
    tiles
        Names and pixels, uint8 [y, x, 3].
    rule
        See `safron.io.synthesis.stains`.

    Returns
    -------
    tuple[list[Texture], list[str]]
        What they give, and why each of the others was left out.

    Raises
    ------
    BadInput
        No tile can be used.
    """
    found, left = [], []
    for name, rgb in tiles:
        try:
            found.append(make_texture(rgb, rule=rule))
        except BadInput as error:
            left.append(f"{name}: {error}")
    if not found:
        raise BadInput(f"no tile gives a texture; the first: {left[0]}" if left else "no tile is given")
    return found, left
