"""What determines the bytes of a slide?

Only a :class:`SlideSpec` and the pixels: two slides with the same spec and the same pixels have the same tiles and
tags, in whichever order and by however many workers they were written.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

from safron.io.errors import BadInput
from safron.io.fields import LEAST_MPP, MOST_MPP

from .pyramid import Pyramid

Flavor = Literal["svs", "ome", "generic"]
Compression = Literal["jpeg", "deflate", "lzw", "none"]
Chroma = Literal["420", "444"]

COMMON_POWERS = (1.25, 2.5, 5.0, 10.0, 20.0, 40.0, 60.0, 80.0, 100.0)
MAX_TILE = 8192
TILE_STEP = 16
"""TIFF asks for tile sides that are multiples of this."""
RAW_TILE_STEP = 32
"""The same for uncompressed tiles: OpenSlide 4.0.1 fails at odd multiples of 16, whichever program wrote them."""


@dataclass(frozen=True, kw_only=True)
class SlideSpec:
    """A slide's size, pixel size, flavor and compression.

    Attributes
    ----------
    height, width
        Size of level 0 in pixels.
    mpp
        Micrometres per pixel of level 0 in both directions; None writes a slide without a pixel size.
    objective
        Magnification of the objective. None derives it from `mpp`: 10 / mpp, rounded to the nearest power of
        common objectives (0.25 um is 40x).
    flavor
        TIFF layout: "svs" (Aperio's layout, most widely read), "ome" (OME-TIFF) or "generic" (a plain pyramid).
    compression
        "jpeg", or lossless: "deflate" and "lzw" (with the horizontal predictor), "none".
    quality
        JPEG quality, 1 to 100.
    chroma
        JPEG colour resolution: "420" stores colour at half resolution in both directions, "444" at full resolution.
    tile
        Side of a tile in pixels, a multiple of 16; `choose_pyramid` may take a smaller one for a small slide.
    level_count
        Number of levels; see `choose_pyramid`.
    background
        Background colour, RGB in 0..255; recorded with the metadata.
    software
        Name and version of the writing program.
    metadata
        Provenance as pairs of key and value, written in this order.
    mask_content
        Hash of the files of the mask, written behind the metadata; empty where it is not known. The slide's digest
        leaves it out: one mask in two formats gives the same slide.

    Raises
    ------
    BadInput
        If the format or its common readers do not support a value.
    """

    height: int
    width: int
    mpp: float | None
    level_count: int
    objective: float | None = None
    flavor: Flavor = "svs"
    compression: Compression = "jpeg"
    quality: int = 90
    chroma: Chroma = "420"
    tile: int = 512
    background: tuple[int, int, int] = (242, 242, 242)
    software: str = "safron"
    metadata: tuple[tuple[str, str], ...] = ()
    mask_content: str = ""

    def __post_init__(self) -> None:
        for name, value, kind in (
            ("flavor", self.flavor, Flavor),
            ("compression", self.compression, Compression),
            ("chroma", self.chroma, Chroma),
        ):
            if value not in get_args(kind):
                raise BadInput(f"{name} {value!r}: choose one of {', '.join(get_args(kind))}")
        check_tile(self.tile)
        if self.compression == "none" and self.tile % RAW_TILE_STEP:
            raise BadInput(
                f"tile {self.tile}: OpenSlide reads uncompressed tiles only if their side is a multiple of "
                f"{RAW_TILE_STEP}; use {self.tile + TILE_STEP}, or compression deflate"
            )
        if not 1 <= self.quality <= 100:
            raise BadInput(f"quality {self.quality}: JPEG quality must be 1 to 100; try 90")
        check_mpp(self.mpp)
        if self.objective is not None and not 0.1 <= self.objective <= 1000:
            raise BadInput(f"objective {self.objective}: a magnification must be 0.1 to 1000; try 20")
        if len(self.background) != 3 or not all(0 <= value <= 255 for value in self.background):
            raise BadInput(f"background {self.background}: a colour must be three values of 0 to 255")
        _ = self.pyramid

    @cached_property
    def pyramid(self) -> Pyramid:
        """The slide's levels."""
        return Pyramid(self.height, self.width, self.tile, self.level_count)

    @property
    def objective_power(self) -> float | None:
        """The objective's magnification, given or derived from `mpp`; None if neither is known.

        Examples
        --------
        >>> SlideSpec(height=9, width=9, mpp=0.2527, level_count=1).objective_power
        40.0
        """
        if self.objective is not None or self.mpp is None:
            return self.objective
        wanted = math.log(10 / self.mpp)
        return min(COMMON_POWERS, key=lambda power: abs(math.log(power) - wanted))


def check_tile(tile: int, name: str = "tile") -> None:
    """Check the side of a TIFF tile.

    Parameters
    ----------
    tile
        Side in pixels.
    name
        What the message calls it, such as the option's name.

    Raises
    ------
    BadInput
        If it is not a multiple of 16 from 16 to 8192.
    """
    if tile % TILE_STEP or not TILE_STEP <= tile <= MAX_TILE:
        raise BadInput(
            f"{name} {tile}: must be a multiple of {TILE_STEP}, {TILE_STEP} to {MAX_TILE}; try 512"
        )


MOST_SIDE = 2**32 - 1
"""Pixels along a side that the tags of a TIFF can say."""


def check_mpp(mpp: float | None) -> None:
    """Check micrometres per pixel; None, for an unknown size, is allowed.

    Raises
    ------
    BadInput
        If it is not 0.001 to 10,000.
    """
    if mpp is not None and not LEAST_MPP <= mpp <= MOST_MPP:
        raise BadInput(f"mpp {mpp}: micrometres per pixel must be 0.001 to 10000; try 0.5")


def choose_pyramid(
    height: int,
    width: int,
    *,
    tile: int,
    level_count: int | Literal["auto"],
    flavor: Flavor,
    compression: Compression,
) -> Pyramid:
    """Choose the levels of a slide, and tiles of `tile` pixels a side or, for some small slides, less.

    Two readers show a level wrong that is smaller than its tile. slideio does with OME-TIFF (2.10.0). OpenSlide does
    with all compressions but JPEG where its libtiff refuses to read beyond the image (4.7.1 in openslide-bin 4.0.0.9
    to 4.0.0.11, and Debian's 4.5.0-6+deb12u4 with OpenSlide 3.4.1). A given number of levels is kept.

    Examples
    --------
    >>> options = dict(tile=512, level_count="auto", compression="jpeg")
    >>> [choose_pyramid(2500, 3000, flavor=flavor, **options).level_count for flavor in ("svs", "ome")]
    [4, 3]
    """
    if level_count != "auto" or (flavor != "ome" and compression == "jpeg"):
        return Pyramid.auto(height, width, tile, level_count)
    step = RAW_TILE_STEP if compression == "none" else TILE_STEP
    return Pyramid.with_whole_tiles(height, width, tile, step=step)
