"""Which image and mask belong together, and how are they read?

Masks are read by `safron.io.masks.open.open_mask`, which safron-mask and safron-render use as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safron.io.errors import BadInput, one_line
from safron.io.fields import RGB
from safron.io.image_pages import warn_of_pages
from safron.io.masks.mask import LabelMask
from safron.io.masks.open import open_mask
from safron.io.masks.pair_files import list_images, match_files
from safron.io.masks.relabel import Relabel
from safron.io.pair_names import find_masks, holds_numbers
from safron.io.whole_image import read_image
from safron.training.config.data_sets import DATA_SETS
from safron.training.data.source import Bytes

BLACK_AND_WHITE: dict[int, RGB] = {0: (0, 0, 0), 255: (255, 255, 255)}

WHITEST_TISSUE = 230
"""Mean RGB above which a pixel outside glands is background, as in the SAFRON authors' code."""

OTHER_LABELS = (
    "name others by model.labels in a --config file, or choose --data-set glands for masks of glands"
)

Pair = tuple[str, Path, Path]
"""Name below the folder of the data, image, and mask."""


def mask_folders(folder: Path, data_set: str) -> list[tuple[Path, Path]]:
    """Find each folder of images of a data set below `folder`, and that of their masks beside it."""
    images, *masks = DATA_SETS[data_set].folders or ("",)
    roots = sorted(folder.rglob(images)) if masks else []
    return [(root, other) for root in roots for name in masks if (other := root.with_name(name)).is_dir()]


def list_pairs(folder: Path, data_set: str) -> list[Pair]:
    """List the pairs of a data set below `folder`, sorted by name.

    Raises
    ------
    BadInput
        The folder is missing or holds none, a file has no counterpart or two, or a mask is of another layout.
    """
    if not folder.is_dir():
        raise BadInput(f"{folder} is not a folder; give the folder that holds the images and their masks")
    kind, apart = DATA_SETS[data_set], mask_folders(folder, data_set)
    files = [path for path in list_images(folder) if not holds_numbers(path)]
    stems = kind.stems
    if apart:
        own = {path for path in files if any(masks in path.parents for _, masks in apart)}
    else:
        own = {path for path in files if stems and path.stem.endswith(stems)}
    if strange := sorted(find_masks(files) - own):
        others = [name for name, other in DATA_SETS.items() if strange[0].stem.endswith(other.stems or "/")]
        raise BadInput(
            f"{strange[0]} is named as a mask, but not as one of {kind.layout}; move it out of {folder}, or say what the data are: "
            f"--data-set {' or '.join(others or DATA_SETS)}"
        )
    found: list[Pair] = []
    for root, masks in apart or [(folder, folder)]:
        inside = [path for path in files if root in path.parents and path not in own]
        pairs = match_files(
            inside, sorted(path for path in own if masks in path.parents), (root, masks), stems
        )
        where = root.parent.relative_to(folder) if apart else Path()
        found += [((where / name).as_posix(), image, mask) for name, image, mask in pairs]
    if not found:
        raise BadInput(
            f"{folder} holds no training data; put {kind.layout} there, or slides with NAME.zarr or NAME.geojson, or choose "
            "another --data-set"
        )
    warn_of_pages(image for _, image, _ in sorted(found))
    return sorted(found)


def name_slides(names: Iterable[str], pattern: str) -> tuple[str, ...]:
    """Find the slide of each image by a regular expression: its group, or all of its match; without one each is its own.

    Raises `BadInput` if it is not a regular expression or finds nothing in a name.

    Examples
    --------
    >>> name_slides(["case7/0001", "case7/0002"], "[^/]+")
    ('case7', 'case7')
    """
    try:
        found = [(name, re.search(pattern or ".+", name)) for name in names]
    except re.error as error:
        raise BadInput(f"--slide-of {pattern}: {error}; give a regular expression of Python") from error
    slides = tuple((match[match.lastindex or 0] or "") if match else "" for _, match in found)
    if "" in slides:
        raise BadInput(
            f"--slide-of {pattern}: it finds no slide in {found[slides.index('')][0]!r}; change it"
        )
    return slides


def read_pair(
    image_path: Path,
    mask_path: Path,
    palette: dict[int, RGB],
    tolerance: int = 0,
    relabel: Relabel | None = None,
    *,
    use_palette: bool = False,
) -> tuple[Bytes, LabelMask]:
    """Read an image and open its mask; raise `BadInput` if one cannot be read or their sizes differ."""
    image = read_image(image_path)
    mask = open_mask(
        mask_path, palette=palette, palette_tolerance=tolerance, use_palette=use_palette, relabel=relabel
    )
    if image.shape[:2] != mask.shape:
        raise BadInput(
            f"{mask_path} is {mask.shape[1]} x {mask.shape[0]} but its image is {image.shape[1]} x {image.shape[0]}; "
            "a mask must have its image's size"
        )
    return image, mask


def read_labels(mask: LabelMask, count: int) -> Bytes:
    """Read a whole mask of labels, uint8 [y, x]; see `check_values`."""
    try:
        values = mask[:, :]
    except BadInput as error:  # whose advice is for commands that have such an option
        text, unknown, more = str(error).partition("; give a palette with it")
        text += " of a table, as its file is indexed" if "indexed" in more else ""
        text += (
            "; save labels as grey values, or name the colours by model.labels in --config" if unknown else ""
        )
        raise BadInput(text) from None
    return check_values(values, Path(mask.source), range(count))


def label_glands(image: Bytes, mask: LabelMask) -> Bytes:
    """Label pixels 0 (background: bright, and not gland), 1 (stroma) or 2 (gland), as the SAFRON paper does; uint8 [y, x].

    A gland mask is above 0 on glands; in a JPEG, which blurs edges, above 127.
    """
    try:  # the plane itself: numbers of glands go beyond 255
        values = mask.plane.read(slice(0, mask.shape[0]), slice(0, mask.shape[1]))
    except Exception as error:  # of any library
        raise BadInput(f"mask {mask.source}: cannot be read: {one_line(error)}") from error
    blurred = any("which is lossy" in note for note in mask.notes)
    red, green, blue = np.moveaxis(image, -1, 0)
    # A sum along an axis of three goes pixel by pixel, which takes ten times as long.
    bright = np.add(red, green, dtype=np.uint16) + blue > 3 * WHITEST_TISSUE
    return np.where(values > (127 if blurred else 0), 2, np.where(bright, 0, 1)).astype(np.uint8)


def check_values(
    values: npt.NDArray[Any], path: Path, allowed: Sequence[int], then: str = OTHER_LABELS
) -> Bytes:
    """Return label values as uint8; raise `BadInput`, which says what to do `then`, if one is not allowed."""
    if (wrong := ~np.isin(values, allowed)).any():
        row, column = np.unravel_index(int(wrong.argmax()), values.shape)
        known = f"{allowed[0]} {'to' if isinstance(allowed, range) else 'and'} {allowed[-1]}"
        raise BadInput(
            f"{path}: value {values[row, column]} at row {row}, column {column} is not a label; labels are {known}; {then}"
        )
    return np.ascontiguousarray(values, np.uint8)
