"""Which stains does a slide or an image have? See `safron.io.measures.two_stains`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from safron.io.errors import BadInput, one_line
from safron.io.measures.two_stains import measure_stains

from .stain import Stain


def estimate(rgb: npt.NDArray[np.uint8], name: str = "picture") -> Stain:
    """Estimate the stains of a picture; see `measure_stains`."""
    return Stain(*measure_stains(rgb, name))


def estimate_file(path: Path) -> Stain:
    """Estimate the stains of a slide or image, from at most 4 million pixels.

    Raises
    ------
    BadInput
        It cannot be read, or does not show two stains.
    """
    from safron.io.files import check_regular

    check_regular(path)
    try:
        pixels = _read(path)
    except Exception as error:  # each library has exceptions of its own
        raise BadInput(f"{path}: cannot read it as a slide or image ({one_line(error)})") from error
    return estimate(pixels, str(path))


def _read(path: Path) -> npt.NDArray[np.uint8]:
    """Pixels of the first level that has at most 4 million, else of a middle part."""
    import openslide
    import pyvips

    if openslide.OpenSlide.detect_format(path) is not None:
        with openslide.OpenSlide(path) as slide:
            level = next(
                (k for k, (w, h) in enumerate(slide.level_dimensions) if w * h <= 1 << 22),
                slide.level_count - 1,
            )
            width, height = slide.level_dimensions[level]
            scale, side = slide.level_downsamples[level], 2048
            x, y = max(0, width - side) // 2, max(0, height - side) // 2
            region = slide.read_region(
                (int(x * scale), int(y * scale)), level, (min(side, width), min(side, height))
            )
            rgba = np.asarray(region)
            return np.asarray(np.where(rgba[..., 3:] == 0, 255, rgba[..., :3]), np.uint8)
    image = pyvips.Image.thumbnail(str(path), 2048, size="down").colourspace("srgb")
    if image.hasalpha():
        image = image.flatten(background=255)
    return np.asarray(image.cast("uchar").numpy(), np.uint8)
