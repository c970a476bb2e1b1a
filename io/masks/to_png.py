"""How does a mask become a picture that is a mask as well?

An indexed PNG holds the labels as they are, and a table of colours by which every viewer shows them. Rows are written as they are read, so
that a mask of any size takes the memory of one band.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from safron.io.errors import BadInput
from safron.io.fields import RGB
from safron.io.files import output
from safron.io.legend import Label

from .mask import LabelMask
from .stored import pieces_of

MOST_SIDE = 1 << 16
"""Larger pictures are opened by no common viewer."""

_ROWS, _COLUMNS = 1 << 10, 1 << 14
"""Pixels of the mask that are read at a time, at most, where more than one of the picture lies in them."""


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
        Read piece by piece; what is not stored is not read.
    legend
        Colours by label, 0 to 255.
    downsample
        Pixels of the mask along one of the picture, which shows the one right below the middle of each such square.
    overwrite
        Replace a file.
    progress
        Called with the number of pixels of the mask that are done.

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
        for lines in _bands(mask, (height, width), downsample, progress):
            if packed := packer.compress(lines.data):
                _chunk(file, b"IDAT", packed)
        _chunk(file, b"IDAT", packer.flush())
        _chunk(file, b"IEND", b"")
    return height, width


def _bands(
    mask: LabelMask, shape: tuple[int, int], downsample: int, progress: Callable[[int], None]
) -> Iterator[npt.NDArray[np.uint8]]:
    """Yield the lines of the picture from above, uint8 [some lines, 1 + width]; each begins with 0, for no filter."""
    height, width = shape
    tall, wide = (max(1, most // downsample) for most in (_ROWS, _COLUMNS))
    pieces = pieces_of(
        mask, (tall * downsample, wide * downsample), remedy="cut it up, or correct its metadata"
    )
    left = pieces.pixels
    progress(math.prod(mask.shape) - left)
    rest = 0 if pieces.beside is None else int(mask[pieces.beside][0, 0])
    found = groupby(pieces.regions, lambda region: region[0].start // downsample)
    first, beside = next(found, (height, ()))
    for y in range(0, height, tall):
        lines = np.full((min(tall, height - y), 1 + width), rest, np.uint8)
        lines[:, 0] = 0
        if y == first:
            for rows, cols in beside:
                _fill(lines, mask, (y, cols.start // downsample), (len(lines), wide), downsample)
                done = (rows.stop - rows.start) * (cols.stop - cols.start)
                left -= done
                progress(done)
            first, beside = next(found, (height, ()))
        yield lines
    progress(left)  # rows below the last one of the picture


def _fill(
    lines: npt.NDArray[np.uint8], mask: LabelMask, place: tuple[int, int], size: tuple[int, int], step: int
) -> None:
    """Put the labels of one piece of a picture into its lines; of rows and columns far apart only those shown are read."""
    ys, xs = (
        np.minimum((first + np.arange(count)) * step + step // 2, side - 1)
        for first, count, side in zip(place, size, mask.shape, strict=True)
    )
    xs = xs[: max(0, lines.shape[1] - 1 - place[1])]
    if len(xs):
        read = mask[int(ys[0]) : int(ys[-1]) + 1, int(xs[0]) : int(xs[-1]) + 1]
        lines[:, 1 + place[1] : 1 + place[1] + len(xs)] = read[np.ix_(ys - ys[0], xs - xs[0])]


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
