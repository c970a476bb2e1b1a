"""Which image and mask belong together, and can they be read?"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from safron.io.errors import BadInput
from safron.training.data.source import Bytes


def match_pairs(
    images: Iterable[Path], masks: Iterable[Path], roots: tuple[Path, Path], suffix: str
) -> list[tuple[Path, Path]]:
    """Pair images with masks, sorted by path: those whose paths below their roots differ only in `suffix` or the file's type.

    Raises
    ------
    BadInput
        A file has no counterpart, or two.
    """
    named: list[dict[str, Path]] = [{}, {}]
    for files, root, found in zip((images, masks), roots, named, strict=True):
        for path in files:
            name = str(path.relative_to(root))
            name = name.removesuffix(suffix) if name.endswith(suffix) else str(Path(name).with_suffix(""))
            if (other := found.setdefault(name, path)) != path:
                raise BadInput(
                    f"{other} and {path} have one name, but a pair is one image and one mask; rename one of them"
                )
    image_of, mask_of = named
    for name, path in image_of.items():
        if name not in mask_of:
            raise BadInput(f"{path} has no mask; put it at {path.stem}{suffix} beside it, or in masks/")
    for name, path in mask_of.items():
        if name not in image_of:
            raise BadInput(f"{path} has no image of its name; add the image or remove the mask")
    return [(image_of[name], mask_of[name]) for name in sorted(image_of)]


def read_same_size(image_path: Path, mask_path: Path, mask_flags: int) -> tuple[Bytes, npt.NDArray[Any]]:
    """Read an image as RGB, and its mask with OpenCV's `mask_flags`.

    Raises
    ------
    BadInput
        One of them cannot be read or is truncated, or their sizes differ.
    """
    for path in (image_path, mask_path):
        _check_complete(path)
    image = cv2.imread(str(image_path), cv2.IMREAD_COLOR_RGB)
    mask = cv2.imread(str(mask_path), mask_flags)
    for path, read in ((image_path, image), (mask_path, mask)):
        if read is None:
            raise BadInput(f"{path} cannot be read as an image; restore the file or remove the pair")
    assert image is not None
    assert mask is not None
    if image.shape[:2] != mask.shape[:2]:
        raise BadInput(
            f"{mask_path} is {mask.shape[1]} x {mask.shape[0]} but its image is {image.shape[1]} x {image.shape[0]}; "
            "a mask must have its image's size"
        )
    return np.asarray(image, np.uint8), np.asarray(mask)


def _check_complete(path: Path) -> None:
    """Refuse a truncated JPEG: OpenCV fills the rest with grey. Other formats it does not read when truncated."""
    try:
        with path.open("rb") as file:
            if file.read(2) != b"\xff\xd8":
                return
            kept = file.read()
    except OSError as error:
        raise BadInput(
            f"{path} cannot be read ({error.strerror}); restore the file or remove the pair"
        ) from error
    # After the last start of a scan only the image's own end looks like an end; a thumbnail's comes before.
    if kept.rfind(b"\xff\xd9") < kept.rfind(b"\xff\xda"):
        raise BadInput(f"{path} breaks off before its end; restore the file or remove the pair")


def check_values(values: npt.NDArray[Any], path: Path, count: int) -> Bytes:
    """Return label values as uint8.

    Raises
    ------
    BadInput
        A value is not one of 0, 1, ... up to `count` - 1.
    """
    if (wrong := ~np.isin(values, np.arange(count))).any():
        row, column = np.unravel_index(int(wrong.argmax()), values.shape)
        raise BadInput(
            f"{path}: value {values[row, column]} at row {row}, column {column} is not a label; labels are 0 to "
            f"{count - 1} in whole numbers; name others by model.labels in a --config file"
        )
    return np.ascontiguousarray(values, np.uint8)
