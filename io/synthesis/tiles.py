"""Which real tiles does a user give, and what do they hold?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from safron.io.errors import BadInput
from safron.io.files import is_foreign
from safron.io.image_pages import warn_of_pages
from safron.io.pair_names import find_masks
from safron.io.whole_image import read_image

from .stains import UInt8

ENDINGS = (".png", ".webp", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".jp2")
MAX_PIXELS = 1 << 25
"""Larger images are refused: a tile is held in memory."""


def read_tiles(paths: Sequence[Path]) -> list[tuple[str, UInt8]]:
    """Read all images that are named, or lie in folders that are named; of a TIFF with several images the first, with a warning.

    Parameters
    ----------
    paths
        Images, and folders of images; masks beside these are passed over.

    Returns
    -------
    list[tuple[str, UInt8]]
        Names and pixels, RGB uint8 [y, x, 3], transparent ones white, in order of name within each folder.

    Raises
    ------
    BadInput
        One is missing, or no colour image; or there is none.
    """
    files = [*_files(paths)]
    found = [(path.name, _read(path)) for path in files]
    if not found:
        raise BadInput(f"{paths[0]}: holds no image ({', '.join(ENDINGS)}); give tiles, or a folder of them")
    warn_of_pages(files)
    return found


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            files = [file for file in path.iterdir() if file.suffix.lower() in ENDINGS]
            masks = find_masks(files)
            yield from sorted(file for file in files if not is_foreign(file.name) and file not in masks)
        elif path.is_file():
            yield path
        elif path.exists():
            raise BadInput(f"{path}: is neither a file nor a folder; give tiles, or a folder of them")
        else:
            raise BadInput(f"{path}: there is no such file; give tiles, or a folder of them")


def _read(path: Path) -> UInt8:
    """Pixels of one image."""
    try:
        image = read_image(path)
    except BadInput as error:
        raise BadInput(f"{error}, or cut tiles from a slide") from error
    height, width = image.shape[:2]
    if height * width > MAX_PIXELS:
        raise BadInput(
            f"{path}: has {width} x {height} px; cut it into tiles of at most {MAX_PIXELS >> 20} million px"
        )
    return image
