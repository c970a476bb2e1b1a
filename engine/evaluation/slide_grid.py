"""Where do the patches of a slide lie?

::

    phase     ... s-2  s-1 | 0   1  ...  overlap-1 | overlap ...     s = stride = tile - overlap
                        ^^^^^ a patch begins      ^^^^^ the patch before it ends
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from safron.engine.generator.card import Card
from safron.io.errors import BadInput
from safron.io.slides.reader import Pixels


@dataclass(frozen=True)
class SlideGrid:
    """Patch grid of a slide.

    Attributes
    ----------
    tile, overlap
        Pixels.
    y, x
        Canvas position of the slide's first pixel; patches start at multiples of the stride of the canvas.
    """

    tile: int
    overlap: int
    y: int = 0
    x: int = 0

    @property
    def stride(self) -> int:
        """Pixels from patch to patch."""
        return self.tile - self.overlap

    @property
    def own_phases(self) -> tuple[int, ...]:
        """Phases p whose step, from pixel p to pixel p + 1, leads into a patch or out of one.

        >>> SlideGrid(256, 20).own_phases, SlideGrid(256, 0).own_phases
        ((235, 19), (255,))
        """
        enters, leaves = self.stride - 1, (self.tile - 1) % self.stride
        return (enters,) if enters == leaves else (enters, leaves)

    @property
    def overlap_phases(self) -> tuple[int, ...]:
        """Phases of steps inside the overlap."""
        return tuple(range(min(self.overlap, self.stride) - 1)) if self.overlap else ()

    @property
    def inner(self) -> npt.NDArray[np.bool_]:
        """Which phases are neither own phases nor in the overlap: bool [stride]; all of them where none is left."""
        inner = np.ones(self.stride, bool)
        inner[[*self.own_phases, *self.overlap_phases]] = False
        return inner if inner.any() else ~inner


def grid_of(slide: Pixels, *, tile: int | None, overlap: int | None, cards: Sequence[Card] = ()) -> SlideGrid:
    """Take the grid from the options, or else from the slide's description.

    Parameters
    ----------
    slide
        Its description holds the facts of its render.
    tile, overlap
        Pixels; None where they were not given.
    cards
        Cards of its generator; their tile is used where neither option nor slide gives one.

    Raises
    ------
    BadInput
        Tile or overlap is not known, or the overlap is not below the tile.
    """
    numbers = [
        int(fact) if given is None and fact and fact.isdecimal() else given
        for given, fact in zip(
            (tile, overlap), (slide.facts.get("Patch tile"), slide.facts.get("Patch overlap")), strict=True
        )
    ]
    if numbers[0] is None and cards:
        numbers[0] = cards[0].tile
    if numbers[0] is None or numbers[1] is None:
        raise BadInput(
            f"{slide.path}: tile and overlap of its patches are not known; give --tile and --overlap"
        )
    if not 0 <= numbers[1] < numbers[0]:
        raise BadInput(
            f"--tile {numbers[0]} --overlap {numbers[1]}: the overlap must be at least 0 and below the tile"
        )
    y, x, _, _ = mask_region(slide) or (0, 0, 0, 0)
    return SlideGrid(numbers[0], numbers[1], y, x)


def mask_region(slide: Pixels) -> tuple[int, int, int, int] | None:
    """Part of the mask that the slide says it shows: y, x, height and width; None where it does not say."""
    place = slide.facts.get("Mask region XYWH", "").split()
    if len(place) != 4 or not all(number.isdecimal() for number in place):
        return None
    x, y, width, height = map(int, place)
    return y, x, height, width
