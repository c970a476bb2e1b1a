"""Is an image file whole, so that OpenCV reads all of it, and prints nothing?"""

from __future__ import annotations

import logging
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2

from .errors import BadInput
from .files import open_input

PNG = b"\x89PNG\r\n\x1a\n"
MOST_PNG_SIDE = 1_000_000
"""Pixels a side that libpng reads, unless a program asks for more."""
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
TIFF_READ = {1, 2, 3, 4, 5, 6, 7, 8, 32773, 32946}
"""Compressions of TIFF that OpenCV's libtiff decodes: none, CCITT, LZW, JPEG, deflate and PackBits."""
TIFF_CHECKED = {5, 8, 32946}
"""Of these, the ones whose damaged tiles come out black: LZW and deflate."""
MOST_PIXELS = 1 << 30
"""OpenCV reads no larger image."""

# What is wrong with a file is said by us, once.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


@contextmanager
def silent(logger: logging.Logger) -> Iterator[None]:
    """Keep a library from logging a fault that it also raises as an exception."""
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def check_image_file(path: Path) -> None:
    """Refuse files that OpenCV would read without a word, or with words of a library's own.

    It fills the rest of a truncated JPEG with grey, and libpng prints lines about a damaged PNG. Tiles of a TIFF that are damaged, or
    compressed as libtiff does not know (JPEG 2000 in exports of slides), come out black.

    Raises
    ------
    BadInput
        The file is one of these, or is no regular file.
    """
    with open_input(path) as file:
        start = file.read(8)
        if start[:4] in TIFF:
            _check_tiff(path)
            return
        if start != PNG and not start.startswith(b"\xff\xd8"):
            return
        kept = start + file.read()
    if start == PNG:
        size = struct.unpack_from(">II", kept.ljust(24, b"\0"), 16)
        if max(size) > MOST_PNG_SIDE:
            raise BadInput(
                f"{path}: declares {size[0]} x {size[1]} pixels, and at most {MOST_PNG_SIDE} a side are read; cut it up"
            )
        if not _is_whole_png(kept):
            raise BadInput(f"{path}: is damaged, or breaks off before its end; restore the file or remove it")
        return
    # After the last start of a scan only the image's own end looks like an end; a thumbnail's comes before.
    if kept.rfind(b"\xff\xd9") < kept.rfind(b"\xff\xda"):
        raise BadInput(f"{path} breaks off before its end; restore the file or remove it")


def _check_tiff(path: Path) -> None:
    import tifffile

    try:
        with silent(logging.getLogger("tifffile")), tifffile.TiffFile(path) as file:
            page = file.pages.first
            compression, pixels = page.compression, page.imagewidth * page.imagelength
            whole = compression not in TIFF_CHECKED or pixels > MOST_PIXELS or _decodes(page)
    except Exception:  # a broken header raises errors of many kinds, and OpenCV refuses such a file
        return
    if compression not in TIFF_READ:
        name = getattr(compression, "name", str(compression))
        raise BadInput(f"{path}: is a TIFF compressed as {name}, which is not read here; save it as PNG")
    if not whole:
        raise BadInput(f"{path}: is damaged, or breaks off before its end; restore the file or remove it")


def _decodes(page: Any) -> bool:
    """Whether all tiles or strips of a page of a TIFF can be decoded."""
    try:
        for _ in page.segments():
            pass
    except Exception:  # each codec has errors of its own
        return False
    return True


def _is_whole_png(data: bytes) -> bool:
    """Whether all chunks of a PNG up to its end have their checksums."""
    at, view = len(PNG), memoryview(data)
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        end = at + 12 + length
        if (
            end > len(data)
            or zlib.crc32(view[at + 4 : end - 4]) != struct.unpack_from(">I", data, end - 4)[0]
        ):
            return False
        if data[at + 4 : at + 8] == b"IEND":
            return True
        at = end
    return False
