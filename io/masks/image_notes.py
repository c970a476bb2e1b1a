"""What should a user know of the way an image file stores a mask?

Each function gives a note, empty where there is nothing to tell.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

LOSSY_TIFF = (
    {6: "JPEG", 7: "JPEG", 33007: "JPEG", 34892: "JPEG", 34934: "JPEG XR", 22610: "JPEG XR"}
    | dict.fromkeys((33003, 33004, 33005, 34712), "JPEG 2000")
    | {34927: "WebP", 50001: "WebP", 50002: "JPEG XL", 52546: "JPEG XL"}
)
LOSSY_VIPS = {
    "jpeg": "JPEG",
    "webp": "WebP",
    "heif": "HEIF",
    "jp2k": "JPEG 2000",
    "jxl": "JPEG XL",
    "uhdr": "JPEG",
}


def lossy_note(name: str | None) -> str:
    """Note on a compression that changes pixels, or may; empty for the others."""
    if name is None:
        return ""
    surely = "is" if name == "JPEG" else "may be"
    return (
        f"it is stored as {name}, which {surely} lossy, so that labels may be wrong, most of all along their borders; "
        "export it as PNG, TIFF with deflate, or Zarr"
    )


def turned_note(orientation: Any) -> str:
    """Note on an orientation that other programs may apply; empty where there is nothing to apply."""
    if orientation in (None, 1):
        return ""
    return f"its orientation is {orientation}, which is not applied: rows and columns are read as they are stored"


def larger_note(page: Any, others: Iterable[Any]) -> str:
    """Note on the largest of further images in a TIFF, where it is larger than the first, which is read."""
    sizes = [(series.keyframe.imagewidth, series.keyframe.imagelength) for series in others]
    width, height = max(sizes, key=lambda size: size[0] * size[1], default=(0, 0))
    if width * height <= page.imagewidth * page.imagelength:
        return ""
    return f"its first image is read, and a later one is larger ({width} x {height}); to take that, save it alone"


def filled_note(fill: int, nodata: Any) -> str:
    """Say what absent tiles hold, and why."""
    if nodata is None:
        return str(fill)
    return (
        f"{fill}, from its nodata value"
        if fill == _number(nodata)
        else f"{fill}: its nodata value {nodata} is not a label"
    )


def fill_of(nodata: Any, dtype: np.dtype[Any]) -> int:
    """Value of absent tiles: GDAL's nodata value where the pixels can hold it, else 0."""
    value = _number(nodata)
    return value if value is not None and value == np.array(value).astype(dtype) else 0


def _number(text: Any) -> int | None:
    """Whole number that a tag holds as text."""
    try:
        value = float(text)
        return int(value) if value == int(value) else None
    except (TypeError, ValueError, OverflowError):
        return None
