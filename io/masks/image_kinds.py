"""Of which kind, and how large, is an image file?"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from safron.io.image_files import silent

from .pixel_size import PixelSize, from_tiff


def shown_area(slide: Any) -> tuple[int, int, int, int]:
    """Area that QuPath shows of a slide that OpenSlide has opened: y, x, height, width in pixels of level 0.

    Some scanners (MRXS, SCN) scan parts of a large canvas. QuPath crops it to the bounds of these parts, and counts
    coordinates from there.
    """
    names = (f"openslide.bounds-{name}" for name in ("y", "x", "height", "width"))
    try:
        y, x, height, width = (int(slide.properties[name]) for name in names)
    except (KeyError, ValueError):
        return 0, 0, slide.dimensions[1], slide.dimensions[0]
    return y, x, height, width


def slide_vendor(path: Path) -> str | None:
    """Name the format by which OpenSlide knows a file; None where it does not."""
    import openslide

    vendor: str | None = openslide.OpenSlide.detect_format(path)
    return vendor


def is_tiff(path: Path) -> bool:
    """Whether a file begins as a TIFF or BigTIFF does."""
    return starts(path, b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def tiff_size(path: Path) -> tuple[int, int, PixelSize]:
    """Height, width and pixel size of the first image of a TIFF."""
    import tifffile

    with silent(logging.getLogger("tifffile")), tifffile.TiffFile(path) as tif:
        page = tif.pages.first
        return page.imagelength, page.imagewidth, from_tiff(tif)


def starts(path: Path, *signatures: bytes) -> bool:
    """Whether a file begins with one of these signatures, of up to 4 bytes."""
    with path.open("rb") as file:
        return file.read(4).startswith(signatures)
