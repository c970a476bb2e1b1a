"""What kind of training data does a folder hold?

A-1-400-003.webp + A-1-400-003.gland.png    frames of EBHI-Seg, with the preparation of `data.prepare`
CASE.svs + CASE.zarr or CASE.geojson        slides with masks or QuPath annotations, cut as they are needed
NAME.png + NAME.mask.png                    images and masks side by side, or in images/ and masks/
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from safron.io.errors import BadInput
from safron.io.masks.palette import Palette
from safron.training.config import Label, TrainConfig
from safron.training.data import (
    CUED,
    EBHI,
    Bytes,
    Pairs,
    Source,
    check_values,
    measure_cues,
    prepare,
    read_same_size,
)
from safron.training.slides import find_slides, open_slides

IMAGES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}

MASK_SUFFIX = ".mask.png"


def open_source(folder: Path, config: TrainConfig, cache: Path | None = None) -> Source:
    """Find out what `folder` holds and make it ready to draw batches from.

    Parameters
    ----------
    folder
        Frames, slides or pairs; see the module's drawing.
    cache
        Where prepared frames are kept for the next run.

    Raises
    ------
    BadInput
        It holds none of them or two kinds, a file is unpaired or unreadable, sizes differ, a label or colour is unknown,
        everything is background, or the images are smaller than a training tile.
    """
    if not folder.is_dir():
        raise BadInput(f"{folder} is not a folder; give the folder that holds the images and their masks")
    frame = next(folder.rglob("*.gland.png"), None)
    slides = find_slides(folder)
    if slides and (other := frame or _first_mask(folder)):
        raise BadInput(
            f"{folder} holds slides ({slides[0][0].name}) and pairs ({other.name}), and only one kind can be trained on; "
            "put the others into a folder of their own"
        )
    if slides:
        return open_slides(slides, config, _name(folder))
    if frame is None:
        return _fit(read_pairs(folder, config.model.labels), config, folder)
    if len(config.model.labels) <= max(CUED):
        raise BadInput(
            f"{folder} holds frames of {EBHI}, which have background, stroma and gland; model.labels must be three or more"
        )
    return _fit(prepare(folder, cache), config, folder)


def _first_mask(folder: Path) -> Path | None:
    """Find the mask of a pair, wherever `list_pairs` would find it."""
    beside = (path for path in _files(folder) if path.name.endswith(MASK_SUFFIX))
    return next(beside, None) or (next(_files(folder / "masks"), None) if _is_apart(folder) else None)


def _fit(pairs: Pairs, config: TrainConfig, folder: Path) -> Pairs:
    """Bring pairs to the generator's pixel size and drop those that a training tile does not fit into."""
    zoom = config.image_mpp / config.model.mpp
    pairs = _shrink(pairs, zoom) if zoom < 1.0 else replace(pairs, zoom=zoom)
    need = config.least_side
    large = [index for index in range(len(pairs)) if min(pairs.size(index)) >= need]
    if not large:
        height, width = max((pairs.size(index) for index in range(len(pairs))), key=min)
        raise BadInput(
            f"{folder}: its images are at most {width} x {height} px at {config.model.mpp:g} um per pixel, and a training tile "
            f"or a window of the sample sheets is {need} px with its context; choose a smaller --size, a finer --mpp, a smaller "
            "grid, or give larger images"
        )
    return pairs.take(large)


def _shrink(pairs: Pairs, zoom: float) -> Pairs:
    """Resize once, which takes less memory; cues are measured anew."""

    def resize(array: Bytes, how: int) -> Bytes:
        size = (max(1, int(array.shape[1] * zoom)), max(1, int(array.shape[0] * zoom)))
        return np.asarray(cv2.resize(array, size, interpolation=how))

    images = tuple(resize(image, cv2.INTER_AREA) for image in pairs.images)
    labels = tuple(resize(label, cv2.INTER_NEAREST) for label in pairs.labels)
    return Pairs(images, labels, *measure_cues(images, labels), pairs.slides, name=pairs.name)


def list_pairs(folder: Path) -> list[tuple[Path, Path]]:
    """List (image, mask) pairs below `folder`, sorted by path.

    Raises
    ------
    BadInput
        There is none, or a file has no counterpart or two.
    """
    files = list(_files(folder))
    beside = [path for path in files if path.name.endswith(MASK_SUFFIX)]
    if _is_apart(folder):
        roots = folder / "images", folder / "masks"
        if others := [path for path in beside if not any(root in path.parents for root in roots)]:
            raise BadInput(
                f"{others[0]} lies outside {roots[0]} and {roots[1]}, where pairs are looked for; move it there, or elsewhere"
            )
        images, masks = (_by_name(_files(root), root) for root in roots)
    else:
        images = _by_name((path for path in files if not path.name.endswith(MASK_SUFFIX)), folder)
        masks = _by_name(beside, folder)
    for key, path in images.items():
        if key not in masks:
            raise BadInput(f"{path} has no mask; put it at {path.stem}{MASK_SUFFIX} beside it, or in masks/")
    for key, path in masks.items():
        if key not in images:
            raise BadInput(f"{path} has no image of its name; add the image or remove the mask")
    if not images:
        raise BadInput(
            f"{folder} holds no training data; put pairs NAME.png and NAME{MASK_SUFFIX} there, or images/ and masks/, "
            "or slides with NAME.zarr or NAME.geojson"
        )
    return [(images[key], masks[key]) for key in sorted(images)]


def _is_apart(folder: Path) -> bool:
    return (folder / "images").is_dir() and (folder / "masks").is_dir()


def _by_name(files: Iterable[Path], root: Path) -> dict[str, Path]:
    """Find files by the name that image and mask have in common; two of one name are refused."""
    found: dict[str, Path] = {}
    for path in files:
        if (other := found.setdefault(_key(path, root), path)) != path:
            raise BadInput(
                f"{other} and {path} have one name, and a pair has one image and one mask; rename one of them"
            )
    return found


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.suffix.lower() in IMAGES)


def _key(path: Path, root: Path) -> str:
    name = str(path.relative_to(root))
    return name.removesuffix(MASK_SUFFIX) if name.endswith(MASK_SUFFIX) else str(Path(name).with_suffix(""))


def slide_name(image: Path, folder: Path) -> str:
    """Return the slide that an image is taken to come from: its sub-folder, or else its name up to the last - or _.

    >>> slide_name(Path("data/case7/0001.png"), Path("data"))
    'case7'
    >>> slide_name(Path("data/images/case7_0001.png"), Path("data"))
    'case7'
    """
    parts = image.relative_to(folder).parts[:-1]
    if parts and parts[0] == "images":
        parts = parts[1:]
    if parts:
        return "/".join(parts)
    cut = max(image.stem.rfind("-"), image.stem.rfind("_"))
    return image.stem[:cut] if cut > 0 else image.stem


def read_pairs(folder: Path, labels: Sequence[Label]) -> Pairs:
    """Read all pairs below `folder` as they are: no stain or white is changed.

    A mask has one channel of label values, or the labels' colours.

    Raises
    ------
    BadInput
        See `open_source`.
    """
    palette = Palette({label.value: label.color for label in labels})
    found = list_pairs(folder)
    images, masks = [], []
    for image_path, mask_path in found:
        image, raw = read_same_size(image_path, mask_path, cv2.IMREAD_UNCHANGED)
        images.append(image)
        masks.append(_as_labels(raw, mask_path, labels, palette))
    glass = [label.value for label in labels if label.fill]
    if all(np.isin(mask, glass).all() for mask in masks):
        raise BadInput(f"{folder}: every pixel of its masks is background; check how the masks were made")
    slides = tuple(slide_name(image, folder) for image, _ in found)
    return Pairs(tuple(images), tuple(masks), *measure_cues(images, masks), slides, name=_name(folder))


def _name(folder: Path) -> str:
    # "." and ".." have names, too.
    return folder.name if folder.name.strip(".") else folder.resolve().name


def _as_labels(raw: npt.NDArray[Any], path: Path, labels: Sequence[Label], palette: Palette) -> Bytes:
    if raw.ndim == 3 and raw.shape[2] >= 3:
        if raw.dtype != np.uint8:
            raise BadInput(f"{path} has colours of {raw.dtype}; a mask of colours has 8 bits a channel")
        try:
            return palette.labels(np.ascontiguousarray(raw[..., 2::-1]), 0, 0)
        except BadInput as error:
            raise BadInput(f"{path}: {error}") from None
    flat = raw[..., 0] if raw.ndim == 3 else raw
    return check_values(flat, path, len(labels))
