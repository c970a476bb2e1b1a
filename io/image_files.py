"""Is an image file whole, so that OpenCV reads all of it, and prints nothing?"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import cv2

from .errors import BadInput
from .files import open_input

PNG = b"\x89PNG\r\n\x1a\n"
MOST_PNG_SIDE = 1_000_000
"""Pixels a side that libpng reads, unless a program asks for more."""

# What is wrong with a file is said by us, once.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def check_image_file(path: Path) -> None:
    """Refuse a truncated JPEG, of which OpenCV fills the rest with grey, and a damaged PNG, of which libpng prints lines of its own."""
    with open_input(path) as file:
        start = file.read(8)
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
