"""How do pixels become the bytes of a tile?

The bytes depend only on the pixels and the spec. Encoding releases the GIL, so threads encode in parallel.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial

import imagecodecs
import numpy as np

from .pyramid import Pixels
from .spec import Chroma, Compression, SlideSpec

DEFLATE_LEVEL = 1
"""Higher levels take 1.5 times as long and save 2 % on tissue."""

_UNIFORM_STRIP = 64
_PROBE = 32


@dataclass(frozen=True, slots=True)
class EncodedTile:
    """One finished tile: its level, row and column in tiles, and its bytes.

    `uniform` says that all its pixels have one colour. Equal uniform tiles are stored once.
    """

    level: int
    row: int
    col: int
    data: bytes
    uniform: bool


def encode_tile(rgb: Pixels, spec: SlideSpec) -> tuple[bytes, bool]:
    """Encode one tile.

    Parameters
    ----------
    rgb
        uint8 [h, w, 3] with 1 <= h, w <= spec.tile. A tile at the slide's edge may be smaller; it is padded by
        repeating its last row and column, which keeps JPEG from ringing.
    spec
        The slide's tile size and compression.

    Returns
    -------
    data, uniform
        The encoded bytes, and whether all pixels have one colour.
    """
    height, width = rgb.shape[:2]
    assert 0 < height <= spec.tile, f"a tile of {height} x {width} pixels"
    assert 0 < width <= spec.tile, f"a tile of {height} x {width} pixels"
    if _is_uniform(rgb):
        red, green, blue = rgb[0, 0].tolist()
        return _encode_uniform(
            (red, green, blue), spec.compression, spec.quality, spec.chroma, spec.tile
        ), True
    if (height, width) != (spec.tile, spec.tile):
        rgb = _pad(rgb, spec.tile)
    return _encode(rgb, spec.compression, spec.quality, spec.chroma), False


def encode_region(rgb: Pixels, level: int, y: int, x: int, spec: SlideSpec) -> Iterator[EncodedTile]:
    """Encode all tiles of a region, row by row.

    Parameters
    ----------
    rgb
        uint8 [h, w, 3]: whole tiles, or fewer pixels at the level's last row and column. It may be empty.
    level
        The level of the slide that the region belongs to.
    y, x
        The region's first row and column on that level, in pixels; multiples of the tile.
    spec
        The slide's levels, tile size and compression.

    Yields
    ------
    EncodedTile
        With row and column on the level.
    """
    size, tile = spec.pyramid.level(level), spec.tile
    bottom, right = y + rgb.shape[0], x + rgb.shape[1]
    assert (y % tile, x % tile) == (0, 0), f"region at {y}, {x} does not begin at a tile"
    assert bottom == size.height or bottom % tile == 0, f"region ends at row {bottom}, inside a tile"
    assert right == size.width or right % tile == 0, f"region ends at column {right}, inside a tile"
    for top in range(0, rgb.shape[0], tile):
        for left in range(0, rgb.shape[1], tile):
            data, uniform = encode_tile(rgb[top : top + tile, left : left + tile], spec)
            yield EncodedTile(level, (y + top) // tile, (x + left) // tile, data, uniform)


def encode_jpeg(rgb: Pixels, quality: int, chroma: Chroma) -> bytes:
    """Encode a picture as one JPEG stream in YCbCr.

    Parameters
    ----------
    rgb
        uint8 [h, w, 3], of any strides.
    quality
        1 to 100.
    chroma
        "420" stores colour at half resolution in both directions, "444" at full resolution.
    """
    subsampling = (2, 2) if chroma == "420" else (1, 1)
    rgb = np.ascontiguousarray(rgb)
    encode = partial(imagecodecs.jpeg8_encode, colorspace="rgb", outcolorspace="ycbcr")
    return bytes(encode(rgb, quality, subsampling=subsampling))


def _encode(rgb: Pixels, compression: Compression, quality: int, chroma: Chroma) -> bytes:
    if compression == "jpeg":
        return encode_jpeg(rgb, quality, chroma)
    if compression == "none":
        return rgb.tobytes()
    # TIFF's predictor 2: each pixel minus its left neighbour, modulo 256.
    differences = rgb.copy()
    differences[:, 1:] -= rgb[:, :-1]
    if compression == "deflate":
        return bytes(imagecodecs.deflate_encode(differences.tobytes(), DEFLATE_LEVEL))
    return bytes(imagecodecs.lzw_encode(differences.tobytes()))


@lru_cache(maxsize=16)
def _encode_uniform(
    colour: tuple[int, int, int], compression: Compression, quality: int, chroma: Chroma, tile: int
) -> bytes:
    """Encode background once. Only few colours are kept, since an uncompressed tile is large."""
    rgb = np.empty((tile, tile, 3), np.uint8)
    rgb[:] = colour
    return _encode(rgb, compression, quality, chroma)


def _is_uniform(rgb: Pixels) -> bool:
    """Whether all pixels are equal. A few pixels or a strip mostly decide it, so the whole tile is rarely compared."""
    if (rgb[0, 0] != rgb[-1, -1]).any() or (rgb[::_PROBE, ::_PROBE] != rgb[0, 0]).any():
        return False
    row = rgb[:1]
    if (row != rgb[0, 0]).any():
        return False
    strips = (rgb[top : top + _UNIFORM_STRIP] for top in range(0, rgb.shape[0], _UNIFORM_STRIP))
    return all(bool((strip == row).all()) for strip in strips)


def _pad(rgb: Pixels, tile: int) -> Pixels:
    height, width = rgb.shape[:2]
    padded = np.empty((tile, tile, 3), np.uint8)
    padded[:height, :width] = rgb
    padded[:height, width:] = rgb[:, -1:]
    padded[height:] = padded[height - 1]
    return padded


def decode_tile(data: bytes, spec: SlideSpec) -> Pixels:
    """Decode what `encode_tile` encoded: uint8 [spec.tile, spec.tile, 3].

    Raises
    ------
    ValueError, RuntimeError
        The bytes are damaged.
    """
    if spec.compression == "jpeg":
        return np.asarray(imagecodecs.jpeg8_decode(data), np.uint8)
    if spec.compression == "deflate":
        data = bytes(imagecodecs.deflate_decode(data))
    elif spec.compression == "lzw":
        data = bytes(imagecodecs.lzw_decode(data))
    pixels = np.frombuffer(data, np.uint8).reshape(spec.tile, spec.tile, 3)
    if spec.compression == "none":
        return pixels
    return np.add.accumulate(pixels, axis=1, dtype=np.uint8)
