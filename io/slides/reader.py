"""Colours of a slide or image, region by region, and the facts in its description.

OpenSlide reads slides, libvips all other images. Only the requested region is in memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safron.io.errors import BadInput, Failed, counted, one_line
from safron.io.files import what_is_there

RGBPixels = npt.NDArray[np.uint8]

_PAIR = re.compile(r"(?:^|[|\n])\s*([^=|\n]+?) = ([^|\n]*)")
_OME_PAIR = re.compile(r'<M K="([^"]*)">([^<]*)</M>')


class Pixels:
    """Level 0 of a slide or image.

    Parameters
    ----------
    path
        Any file that OpenSlide or libvips reads as 8-bit colours.

    Attributes
    ----------
    shape
        Height and width in pixels.
    mpp
        Micrometres per pixel; None where it is not known.
    grey
        Whether it is an image of one channel, which stands for all three colours.
    facts
        Values in the description by key; slides of safron-render have tile, overlap, seed and more.

    Raises
    ------
    BadInput
        The file is missing, cannot be read, or has no 8-bit colours.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise BadInput(f"{path}: {what_is_there(self.path)}; give a slide or an image")
        self.mpp: float | None = None
        self.grey = False
        try:
            self._open()
        except BadInput:
            raise
        except Exception as error:  # each library has exceptions of its own
            raise BadInput(f"{path}: cannot read it as a slide or image ({one_line(error)})") from error

    def _open(self) -> None:
        import openslide

        self._slide: Any = None
        self._image: Any = None
        if openslide.OpenSlide.detect_format(self.path) is not None:
            self._slide = openslide.OpenSlide(self.path)
            width, height = self._slide.dimensions
            self.shape = (height, width)
            mpp = self._slide.properties.get(openslide.PROPERTY_NAME_MPP_Y)
            self.mpp = float(mpp) if mpp else None
            self.facts = facts_of(self._slide.properties.get("tiff.ImageDescription", ""))
            return
        import pyvips

        image = pyvips.Image.new_from_file(str(self.path), fail_on="truncated", revalidate=True)
        if image.hasalpha() and image.format == "uchar":
            image = image.flatten(background=255)
        self.grey = image.bands == 1
        if image.bands not in (1, 3) or image.format != "uchar":
            count = "one channel" if self.grey else counted(image.bands, "channel")
            raise BadInput(f"{self.path}: has {count} of {image.format}; colours of 8 bits are needed")
        if self.grey:
            image = image.bandjoin([image, image])
        self._image = image
        self.shape = (image.height, image.width)
        self.facts = {}

    def read(self, y: int, x: int, height: int, width: int) -> RGBPixels:
        """Colours of a region inside the image: uint8 [height, width, 3]; transparent pixels, not scanned, are white."""
        try:
            if self._image is not None:
                region = self._image.crop(x, y, width, height).numpy()
                return np.ascontiguousarray(region, np.uint8)
            rgba = np.asarray(self._slide.read_region((x, y), 0, (width, height)))
        except Exception as error:  # as above
            raise Failed(
                f"{self.path}: cannot read {width} x {height} pixels at {x},{y}: {one_line(error)}"
            ) from error
        rgb = rgba[:, :, :3].copy()
        rgb[rgba[:, :, 3] == 0] = 255
        return rgb

    @property
    def slide(self) -> Any:
        """The `openslide.OpenSlide`; None of an image that libvips reads."""
        return self._slide

    def close(self) -> None:
        """Close the file."""
        if self._slide is not None:
            self._slide.close()

    def __enter__(self) -> Pixels:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def facts_of(description: str) -> dict[str, str]:
    """Keys and values in a slide's description, in the form of any of our output flavors.

    >>> facts_of("Aperio Image|Patch tile = 256|Patch overlap = 20")["Patch overlap"]
    '20'
    >>> facts_of('<OME><M K="Patch tile">256</M></OME>')
    {'Patch tile': '256'}
    """
    pattern = _OME_PAIR if "<OME" in description else _PAIR
    return {unescape(key): unescape(value).strip() for key, value in pattern.findall(description)}


def windows(
    shape: tuple[int, int], *, height: int = 1024, width: int = 4096
) -> Iterator[tuple[int, int, int, int]]:
    """Cut an image of `shape` into regions (y, x, height, width), row by row."""
    for y in range(0, shape[0], height):
        for x in range(0, shape[1], width):
            yield y, x, min(height, shape[0] - y), min(width, shape[1] - x)
