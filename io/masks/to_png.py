"""How does a mask become a picture that is a mask as well?

An indexed PNG holds the labels as they are, and a table of colours by which every viewer shows them. Rows are written as they are read, so
that a mask of any size takes the memory of one band.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
from safron.io.errors import BadInput
from safron.io.fields import RGB
from safron.io.files import output
from safron.io.legend import Label

from .mask import LabelMask

MOST_SIDE = 1 << 16
"""Larger pictures are opened by no common viewer."""

_BAND = 256


def write_png(
    out: Path,
    mask: LabelMask,
    *,
    legend: Mapping[int, Label],
    downsample: int = 1,
    overwrite: bool = False,
    progress: Callable[[int], None] = lambda pixels: None,
) -> tuple[int, int]:
    """Write a mask as an indexed PNG.

    Parameters
    ----------
    out
        Ends in .png.
    mask
        Read band by band.
    legend
        Colours by label, 0 to 255.
    downsample
        Pixels of the mask along one of the picture, which shows the one right below the middle of each such square.
    overwrite
        Replace a file.
    progress
        Called with the number of pixels of the mask that were read.

    Returns
    -------
    tuple[int, int]
        Height and width of the picture.

    Raises
    ------
    BadInput
        The picture would be too large, or cannot be written there.
    """
    height, width = (max(1, side // downsample) for side in mask.shape)
    if max(height, width) > MOST_SIDE:
        least = -(-max(mask.shape) // MOST_SIDE)
        raise BadInput(
            f"{out}: would have {width} x {height} pixels, and viewers open at most {MOST_SIDE} a side; pass --downsample {least}"
        )
    with output(out, overwrite=overwrite, endings=(".png",)) as part, part.open("wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        _chunk(file, b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0))
        _chunk(file, b"PLTE", bytes(channel for color in _colors(legend) for channel in color))
        if mask.mpp:
            per_metre = min(round(1e6 / (mask.mpp * downsample)), (1 << 31) - 1)
            _chunk(file, b"pHYs", struct.pack(">IIB", per_metre, per_metre, 1))
        packer = zlib.compressobj(6)
        half = downsample // 2
        for y in range(0, height, _BAND):
            stop = min(y + _BAND, height)
            rows = slice(y * downsample, min(stop * downsample, mask.shape[0]))
            band = mask[rows, 0 : mask.shape[1]]
            progress(band.size)
            at = np.minimum(np.arange(stop - y) * downsample + half, band.shape[0] - 1)
            columns = np.minimum(np.arange(width) * downsample + half, band.shape[1] - 1)
            lines = np.zeros((stop - y, width + 1), np.uint8)  # each begins with 0: no filter
            lines[:, 1:] = band[np.ix_(at, columns)]
            if packed := packer.compress(lines.tobytes()):
                _chunk(file, b"IDAT", packed)
        _chunk(file, b"IDAT", packer.flush())
        _chunk(file, b"IEND", b"")
    return height, width


def _colors(legend: Mapping[int, Label]) -> list[RGB]:
    """Colours of all labels, each another one: readers that look them up must find the label."""
    colors: dict[RGB, int] = {}
    for value in range(256):
        red, green, blue = legend[value].color
        while (red, green, blue) in colors:
            red, green, blue = (blue + 1) % 256, red, green
        colors[red, green, blue] = value
    return [*colors]


def _chunk(file: BinaryIO, kind: bytes, data: bytes) -> None:
    file.write(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)))
