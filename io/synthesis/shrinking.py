"""How is a picture of nuclei made smaller by a whole number, window by window?"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from .draw import Picture
from .stains import UInt8


def shrink_picture(picture: Picture, factor: int) -> Picture:
    """Make a drawn window smaller by `factor`; its corner should lie on a multiple of that.

    Parameters
    ----------
    picture
        Colours, classes and numbers.
    factor
        1 and above.

    Returns
    -------
    Picture
        Colours are means of squares; classes and numbers are those at the middle of each square.
    """
    if factor == 1:
        return picture
    return Picture(
        shrink_image(picture.rgb, factor),
        shrink_numbers(picture.classes, factor),
        shrink_numbers(picture.instances, factor),
    )


def shrink_image(rgb: UInt8, factor: int) -> UInt8:
    """Make an image, uint8 [y, x, 3], smaller by a whole number: means of squares; a rest at the end is left out."""
    height, width = (length // factor for length in rgb.shape[:2])
    kept = rgb[: height * factor, : width * factor]
    return np.asarray(cv2.resize(kept, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def shrink_numbers(numbers: npt.NDArray[Any], factor: int) -> npt.NDArray[Any]:
    """Make numbers of nuclei, [y, x], smaller by a whole number: of each square the one at its middle."""
    height, width = (length // factor for length in numbers.shape)
    middle = numbers[factor // 2 :: factor, factor // 2 :: factor]
    return np.ascontiguousarray(middle[:height, :width])
