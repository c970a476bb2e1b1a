"""What fixes the bytes of a slide?

A :class:`SlideSpec` and the pixels, and nothing else: two slides of one spec and the same pixels have the
same tiles and the same tags, whoever wrote them, in whatever order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

from safron.io.errors import BadInput

from .pyramid import Pyramid

Flavor = Literal["svs", "ome", "generic"]
Compression = Literal["jpeg", "deflate", "lzw", "none"]
Chroma = Literal["420", "444"]

COMMON_POWERS = (1.25, 2.5, 5.0, 10.0, 20.0, 40.0, 60.0, 80.0, 100.0)
MAX_TILE = 8192


@dataclass(frozen=True, kw_only=True)
class SlideSpec:
    """A slide's size, scale, flavor and coding.

    Parameters
    ----------
    height, width
        Size of level 0 in pixels.
    mpp
        Micrometres a pixel of level 0, both ways; None writes a slide without a scale.
    objective
        Magnification of the objective. None derives it from `mpp`: 10 / mpp, taken to the nearest power that
        is built (0.25 um is 40x).
    flavor
        What the file looks like to a reader: "svs" (Aperio's layout, most widely read), "ome" (OME-TIFF) or
        "generic" (a plain pyramid).
    compression
        "jpeg", or without loss: "deflate" and "lzw" (with the horizontal predictor), "none".
    quality
        JPEG quality, 1 to 100.
    chroma
        JPEG colour resolution: "420" stores colour at half resolution both ways, "444" in full.
    tile
        Side of a tile in pixels, a multiple of 16.
    level_count
        Number of levels; `Pyramid.auto` chooses one.
    background
        Colour of glass, 0..255; recorded with the metadata.
    software
        Name and version of the writing program.
    metadata
        Provenance as pairs of key and value, written in this order.

    Raises
    ------
    BadInput
        If a value is outside of what the format or its readers take.
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

    def __post_init__(self) -> None:
        for name, value, kind in (
            ("flavor", self.flavor, Flavor),
            ("compression", self.compression, Compression),
            ("chroma", self.chroma, Chroma),
        ):
            if value not in get_args(kind):
                raise BadInput(f"{name} {value!r}: choose one of {', '.join(get_args(kind))}")
        check_tile(self.tile)
        if self.compression == "none" and self.tile % 32:  # seen with OpenSlide 4.0.1, whoever wrote the file
            raise BadInput(
                f"tile {self.tile}: OpenSlide reads tiles without compression only where they are a multiple of 32; "
                f"take {self.tile + 16}, or compression deflate"
            )
        if not 1 <= self.quality <= 100:
            raise BadInput(f"quality {self.quality}: JPEG quality is 1 to 100; try 90")
        check_mpp(self.mpp)
        if self.objective is not None and not 0.1 <= self.objective <= 1000:
            raise BadInput(f"objective {self.objective}: a magnification is 0.1 to 1000; try 20")
        if len(self.background) != 3 or not all(0 <= value <= 255 for value in self.background):
            raise BadInput(f"background {self.background}: a colour is three values of 0 to 255")
        _ = self.pyramid

    @cached_property
    def pyramid(self) -> Pyramid:
        """The slide's levels."""
        return Pyramid(self.height, self.width, self.tile, self.level_count)

    @property
    def objective_power(self) -> float | None:
        """The objective's magnification, given or derived from `mpp`; None where neither is known.

        >>> SlideSpec(height=9, width=9, mpp=0.2527, level_count=1).objective_power
        40.0
        """
        if self.objective is not None or self.mpp is None:
            return self.objective
        wanted = math.log(10 / self.mpp)
        return min(COMMON_POWERS, key=lambda power: abs(math.log(power) - wanted))


def check_tile(tile: int, name: str = "tile") -> None:
    """Raise `BadInput`, with the option's name, unless this can be the side of a TIFF's tiles in pixels."""
    if tile % 16 or not 16 <= tile <= MAX_TILE:
        raise BadInput(f"{name} {tile}: must be a multiple of 16, 16 to {MAX_TILE}; try 512")


def check_mpp(mpp: float | None) -> None:
    """Raise `BadInput` unless a pixel size in micrometres makes sense; None is no size, and allowed."""
    if mpp is not None and not 0.001 <= mpp <= 10_000:
        raise BadInput(f"mpp {mpp}: micrometres a pixel are 0.001 to 10000; try 0.5")
