"""Does a TIFF hold more images than the one that is read?"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .files import open_input
from .image_files import TIFF, silent

log = logging.getLogger("safron")

_REDUCED, _MASK = 1, 4
"""Bits of NewSubfileType: a smaller copy of another page, and its transparency."""
_ROUNDING = 2
"""Pixels by which the sides of a level differ from the first page's shape, as levels are rounded."""


def warn_of_pages(files: Iterable[Path]) -> None:
    """Warn once of TIFFs that hold several images, of each of which the first is read.

    Parameters
    ----------
    files
        Images of any kind. What cannot be opened is passed over; its reader says why.
    """
    pages = {path: count for path in files if (count := count_images(path)) > 1}
    if not pages:
        return
    first, count = next(iter(pages.items()))
    holds = f"{first} holds {count} images, of which"
    if len(pages) > 1:
        holds = f"{len(pages)} TIFFs hold several images, as {first}, which has {count};"
    log.warning("%s the first is read; save the others as files of their own", holds)


def count_images(path: Path) -> int:
    """Count the images in a file: pages of a TIFF without the levels and thumbnails of the first, else 1.

    Levels in SubIFDs are no pages. One in the chain is marked as reduced or has the first page's shape in small.
    """
    import tifffile

    try:
        with open_input(path) as file:
            if file.read(4) not in TIFF:
                return 1
        with silent(logging.getLogger("tifffile")), tifffile.TiffFile(path) as tiff:
            pages: list[Any] = [*tiff.pages]
            first, *others = pages
            return 1 + sum(
                not (page.subfiletype & (_REDUCED | _MASK) or _is_small(page, first)) for page in others
            )
    except Exception:  # what is broken raises errors of many kinds
        return 1


def _is_small(page: Any, first: Any) -> bool:
    """Whether a page has the shape of the first in small."""
    scale = first.imagelength / page.imagelength
    return bool(scale > 1 and abs(first.imagewidth / scale - page.imagewidth) <= _ROUNDING)
