"""How is the preview of a slide written, and how does one say that it is not finished?"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safron.io.errors import BadInput
from safron.io.files import replacing, waiting_name

_BEGIN = b"\x89PNG\r\n\x1a\n"
_UNFINISHED = b"Comment\0unfinished: "
_TEXT_AT = len(_BEGIN) + 25 + 4  # after the header, which is the first chunk, and the length of the next


def check_png_name(path: Path, name: str = "") -> None:
    """Check that a file name says what the file is.

    Parameters
    ----------
    path
        Where the picture is to be written.
    name
        What messages begin with, such as an option's name and a space.

    Raises
    ------
    BadInput
        If the name does not end in .png, in either case.
    """
    if path.suffix.lower() != ".png":
        raise BadInput(f"{name}{path}: a preview is a PNG file; use {path.with_suffix('.png').name}")


def write_png(path: Path, pixels: npt.NDArray[np.uint8]) -> Path:
    """Write a picture as PNG beside `path`, for the caller to rename.

    Parameters
    ----------
    path
        The picture's final name. Nothing is written there.
    pixels
        uint8 RGB [h, w, 3].

    Returns
    -------
    Path
        The file with the picture, in the same folder.

    Raises
    ------
    OSError
        If the disk is full or broken; no file is left.
    """
    import imagecodecs

    part = waiting_name(path)
    try:
        part.write_bytes(imagecodecs.png_encode(np.ascontiguousarray(pixels)))
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    return part


def write_unfinished_png(path: Path, pixels: npt.NDArray[np.uint8], what: str) -> None:
    """Write a picture of something unfinished, which says so, as PNG that takes the place of `path`.

    It is stored without compression: noise has next to nothing to compress, and trying would take ten times as long.

    Parameters
    ----------
    path
        The picture.
    pixels
        uint8 RGB [h, w, 3].
    what
        What it shows, in ASCII; the comment in the file.

    Raises
    ------
    OSError
        The disk is full or broken; what was at `path` is still there.
    """
    height, width = pixels.shape[:2]
    rows = np.zeros((height, 1 + 3 * width), np.uint8)  # each begins with its filter: none
    rows[:, 1:] = pixels.reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    with replacing(path) as file:
        file.write(_BEGIN)
        for kind, data in (
            (b"IHDR", header),
            (b"tEXt", _UNFINISHED + what.encode("ascii")),
            (b"IDAT", zlib.compress(rows.tobytes(), level=0)),
            (b"IEND", b""),
        ):
            file.write(struct.pack(">I", len(data)) + kind + data)
            file.write(struct.pack(">I", zlib.crc32(data, zlib.crc32(kind))))


def is_unfinished_png(path: Path) -> bool:
    """Whether this is a picture that `write_unfinished_png` wrote: it may be replaced without loss."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        begins = file.read(_TEXT_AT + 4 + len(_UNFINISHED))
    return begins.startswith(_BEGIN) and begins[_TEXT_AT:] == b"tEXt" + _UNFINISHED
