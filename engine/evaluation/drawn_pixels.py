"""Where do the patches of a slide lie whose pixels are not the generator's?

Patches lie on a grid of the generator's pixels. A slide that was resampled to the mask's pixels is brought back to them,
window by window, before its lines are compared.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from math import ceil, floor
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
from safron.engine.blending.resample import resample
from safron.engine.plan.scale import ONE, Scale
from safron.engine.plan.window import Window
from safron.io.slides.reader import Pixels

from .slide_grid import SlideGrid


class Image(Protocol):
    """Colours of an image, read where they are needed; see `safron.io.slides.reader.Pixels`."""

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        ...

    def read(self, y: int, x: int, height: int, width: int) -> npt.NDArray[np.uint8]:
        """Read uint8 [height, width, 3]."""
        ...


def scale_of(slide: Pixels) -> Scale:
    """Give the generator's pixels for each of the slide's, as the slide says; 1 where it does not."""
    try:
        ratio = Fraction(slide.facts.get("Generator pixels per pixel", "1"))
    except (ValueError, ZeroDivisionError):
        return ONE
    return Scale(ratio.numerator, ratio.denominator) if ratio > 0 else ONE


@dataclass(frozen=True)
class DrawnPixels:
    """A slide in the generator's pixels; those that lie on it wholly.

    Attributes
    ----------
    slide
        In pixels of the mask.
    region
        The part of the mask that it shows.
    scale
        Drawn pixels for each of the mask.
    """

    slide: Pixels
    region: Window
    scale: Scale

    @property
    def window(self) -> Window:
        """Drawn pixels of the whole mask that lie on the slide."""
        ratio, region = self.scale.ratio, self.region
        return Window.from_bounds(
            ceil(region.y * ratio),
            ceil(region.x * ratio),
            floor(region.y_stop * ratio),
            floor(region.x_stop * ratio),
        )

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in drawn pixels."""
        return self.window.height, self.window.width

    @property
    def path(self) -> Path:
        """Of the slide."""
        return self.slide.path

    def read(self, y: int, x: int, height: int, width: int) -> npt.NDArray[np.uint8]:
        """Colours of a region: uint8 [height, width, 3]."""
        back = Scale(self.scale.denominator, self.scale.numerator)
        window = Window(y, x, height, width).shift(self.window.y, self.window.x)
        canvas = Window(0, 0, self.window.y_stop, self.window.x_stop)
        rows = back.reach(window.y, window.y_stop, length=canvas.height)
        columns = back.reach(window.x, window.x_stop, length=canvas.width)
        source = Window.from_bounds(rows[0], columns[0], rows[1], columns[1]).clip(self.region)
        here = source.shift(-self.region.y, -self.region.x)
        image = np.empty((height, width, 3), np.uint8)
        pixels = self.slide.read(here.y, here.x, here.height, here.width)
        resample(pixels, source, image, window, back, canvas=canvas)
        return image


def in_drawn_pixels(slide: Pixels, grid: SlideGrid) -> tuple[Image, SlideGrid]:
    """Give a slide and its grid in the pixels in which its patches were drawn.

    Parameters
    ----------
    slide
        Any slide; its description says how it was resampled.
    grid
        Tile and overlap in drawn pixels, the slide's place on the mask in its own.
    """
    scale = scale_of(slide)
    if scale.is_one:
        return slide, grid
    drawn = DrawnPixels(slide, Window(grid.y, grid.x, *slide.shape), scale)
    return drawn, replace(grid, y=drawn.window.y, x=drawn.window.x)
