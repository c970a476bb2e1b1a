"""How is a small image read whole, as RGB?

OpenCV reads it, which knows every common format. Pixels come as they are stored: an orientation in EXIF turns nothing, as
it turns no mask.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from safron.io.errors import BadInput
from safron.io.image_files import check_image_file

RGBPixels = npt.NDArray[np.uint8]


def read_image(path: Path) -> RGBPixels:
    """Read an image: uint8 [y, x, 3], RGB, as it is stored; transparent pixels, which were not scanned, are white.

    Raises
    ------
    BadInput
        It cannot be read or is truncated, or has neither 8 nor 16 bits a channel.
    """
    check_image_file(path)
    try:
        image: Any = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)  # the only mode that keeps alpha
    except cv2.error as error:  # of more than 2^30 pixels, or no memory
        raise BadInput(f"{path}: has too many pixels to be read whole; cut it into smaller images") from error
    if image is None:
        raise BadInput(f"{path} cannot be read as an image; restore the file or remove it")
    if image.dtype == np.uint16:
        image = (image >> 8).astype(np.uint8)
    if image.dtype != np.uint8:
        raise BadInput(f"{path} has pixels of {image.dtype}; convert it to 8 bits a channel")
    if image.ndim == 2:
        image = np.repeat(image[..., None], 3, axis=2)
    if image.shape[2] == 4:
        alpha = image[..., 3:] / np.float32(255)
        image = np.rint(image[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)
    return np.ascontiguousarray(image[..., 2::-1])


def orientation(path: Path) -> int:
    """Orientation of an image according to its EXIF tags, 1 to 8; 1 is upright, and where nothing is said."""
    import pyvips

    try:
        image = pyvips.Image.new_from_file(str(path), revalidate=True)
    except pyvips.Error:  # bitmaps, which libvips does not read
        return 1
    return int(image.get("orientation")) if "orientation" in image.get_fields() else 1
