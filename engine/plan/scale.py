"""Where does a pixel of the slide lie among the pixels that the generator draws?

A mask has m micrometres a pixel and a generator g. The slide has the mask's pixels; the generator draws on a *drawing* of
its own pixels, ``scale = m / g`` of them for each of the slide's. Pixel i covers ``[i, i + 1)``, so its centre lies at
i + 0.5, and both start at the same corner::

    slide, 0.5 um      |   0   |   1   |   2   |   3   |        scale 1/2
    drawing, 1 um      |       0       |       1       |

Labels are taken from the slide pixel under the centre of each drawn pixel (nearest). Slide pixels are means of the drawn
pixels around their centre, with weights that fall linearly to zero at a distance of one drawn pixel, or of one slide
pixel where that is larger: bilinear interpolation when enlarging, with antialiasing when reducing. The weights are whole
numbers, so that a slide pixel has the same value however the slide is cut into blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor

import numpy as np
import numpy.typing as npt
from safron.io.errors import BadInput

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]

WEIGHT_BITS = 11
"""Weights of one axis sum to 2 ** 11: grey levels times the weights of both axes fit 31 bits."""


@dataclass(frozen=True)
class Scale:
    """Drawn pixels for each pixel of the slide along one axis, as an exact fraction.

    Examples
    --------
    >>> half = Scale(1, 2)
    >>> half.drawn(9), half.slide_index(np.arange(5)).tolist(), half.reach(2, 4, length=9)
    (5, [1, 3, 5, 7, 9], (0, 3))
    >>> first, weights = half.weights(0, 4, length=9)
    >>> first.tolist(), weights.tolist()
    ([-1, 0, 0, 1], [[512, 1536], [1536, 512], [512, 1536], [1536, 512]])
    """

    numerator: int = 1
    denominator: int = 1

    @classmethod
    def of(cls, slide_mpp: float, drawn_mpp: float) -> Scale:
        """Scale between two pixel sizes in micrometres; it holds six significant digits of each."""
        ratio = Fraction(f"{slide_mpp:.6g}") / Fraction(f"{drawn_mpp:.6g}")
        return cls(ratio.numerator, ratio.denominator)

    @property
    def ratio(self) -> Fraction:
        """Drawn pixels for each pixel of the slide."""
        return Fraction(self.numerator, self.denominator)

    @property
    def is_one(self) -> bool:
        """Whether slide and drawing are the same pixels."""
        return self.numerator == self.denominator

    def drawn(self, length: int) -> int:
        """Drawn pixels that cover `length` pixels of the slide."""
        return ceil(length * self.ratio)

    def slide_index(self, drawn: Int64) -> Int64:
        """Return the slide pixels under the centres of drawn pixels: int64, as `drawn`."""
        return (2 * drawn + 1) * self.denominator // (2 * self.numerator)

    def first_slide_index(self, drawn: Int64) -> Int64:
        """Return the first slide pixels whose centres do not lie before drawn pixels: int64, as `drawn`."""
        return -((self.numerator - 2 * drawn * self.denominator) // (2 * self.numerator))

    @property
    def _radius(self) -> Fraction:
        """Distance in drawn pixels at which weights reach zero."""
        return max(Fraction(1), self.ratio)

    @property
    def margin(self) -> int:
        """Drawn pixels beyond its own that a block needs along one side, at most."""
        return 0 if self.is_one else ceil(self._radius + self.ratio) + 1

    def reach(self, start: int, stop: int, *, length: int) -> tuple[int, int]:
        """Drawn pixels ``[lo, hi)`` that slide pixels ``[start, stop)`` of a slide of `length` pixels are made of."""
        if self.is_one or stop <= start:
            return start, stop
        half, most = Fraction(1, 2), self.drawn(length)
        first = (start + half) * self.ratio - self._radius
        last = (stop - half) * self.ratio + self._radius
        # Pixel i counts where its centre i + 1/2 lies strictly between.
        return max(0, floor(first + half)), min(most, ceil(last - half))

    def weights(self, start: int, stop: int, *, length: int) -> tuple[Int64, Int32]:
        """Return what slide pixels are made of.

        Parameters
        ----------
        start, stop
            Slide pixels ``[start, stop)`` along the axis.
        length
            Slide pixels along the whole axis. Weights of drawn pixels beyond the ends of the drawing go to its
            first or last pixel.

        Returns
        -------
        first : int64 [n]
            The first drawn pixel of each; may be -1 and less, where its weight is 0 or belongs to pixel 0.
        weights : int32 [n, taps]
            Weights of `first` and the pixels after it; each row sums to ``2 ** WEIGHT_BITS``.
        """
        # In units of 1 / (2 * denominator) drawn pixels all centres are whole numbers.
        unit = 2 * self.denominator
        radius = int(self._radius * unit)
        centre = (2 * np.arange(start, stop, dtype=np.int64) + 1) * self.numerator
        first = (centre - radius + self.denominator) // unit
        taps = 2 * ceil(self._radius)
        distance = np.abs((first[:, None] + np.arange(taps)) * unit + self.denominator - centre[:, None])
        share = np.maximum(0, radius - distance)
        # Rounded down; the rest goes to the pixel that counts most.
        weights = share * (1 << WEIGHT_BITS) // share.sum(axis=1, keepdims=True)
        rows = np.arange(len(weights))
        weights[rows, share.argmax(axis=1)] += (1 << WEIGHT_BITS) - weights.sum(axis=1)
        return first, weights.astype(np.int32)


ONE = Scale()
"""Slide and drawing have the same pixels."""

LEAST, MOST = Fraction(1, 8), Fraction(8)


def choose_scale(slide_mpp: float | None, drawn_mpp: float | None) -> Scale:
    """Return the scale between two pixel sizes; 1 where one is unknown, or where they differ by less than 2 %.

    Raises
    ------
    BadInput
        When one is more than eight times the other.
    """
    if slide_mpp is None or drawn_mpp is None or abs(slide_mpp / drawn_mpp - 1) < 0.02:
        return ONE
    scale = Scale.of(slide_mpp, drawn_mpp)
    if not LEAST <= scale.ratio <= MOST:
        raise BadInput(
            f"the mask has {slide_mpp:g} um per pixel and the generator {drawn_mpp:g}: one may be 8 times the other at most; "
            "give the mask's own with --mpp, or --scale 1 to draw pixel by pixel"
        )
    return scale
