"""How is the preview of a slide written?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from safron.io.errors import BadInput
from safron.io.files import waiting_name


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
