"""What kind of training data does a folder hold?

A-1-400-003.webp + A-1-400-003.gland.png    frames of EBHI-Seg, with the preparation of `data.prepare`
CASE.svs + CASE.zarr or CASE.geojson        slides with masks or QuPath annotations, cut as they are needed
NAME.png + NAME.mask.png                    images and masks side by side, or in images/ and masks/
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from safron.io.errors import BadInput
from safron.io.palette import Palette
from safron.training.config import Label, TrainConfig
from safron.training.data import Bytes, Pairs, Source, check_values, measure_cues, prepare, read_same_size
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
        It holds none of them, a file is unpaired or unreadable, sizes differ, a label or colour is unknown, everything
        is background, or the images are smaller than a training tile.
    """
    if not folder.is_dir():
        raise BadInput(f"{folder} is not a folder; give the folder that holds the images and their masks")
    if next(folder.rglob("*.gland.png"), None) is not None:
        pairs = prepare(folder, cache)
    elif slides := find_slides(folder):
        return open_slides(slides, config, folder.name)
    else:
        pairs = read_pairs(folder, config.model.labels)
    return _fit(pairs, config, folder)


def _fit(pairs: Pairs, config: TrainConfig, folder: Path) -> Pairs:
    """Bring pairs to the generator's pixel size and drop those that a training tile does not fit into."""
    zoom = config.image_mpp / config.model.mpp
    pairs = _shrink(pairs, zoom) if zoom < 1.0 else replace(pairs, zoom=zoom)
    need = config.canvas_side + 2 * config.model.context
    large = [index for index in range(len(pairs)) if min(pairs.size(index)) >= need]
    if not large:
        height, width = max((pairs.size(index) for index in range(len(pairs))), key=min)
        raise BadInput(
            f"{folder}: its images are at most {width} x {height} px at {config.model.mpp:g} um per pixel, and a training tile "
            f"with its context is {need} px; choose a smaller --size, a finer --mpp, a smaller grid, or give larger images"
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
        There is none, or a file has no counterpart.
    """
    if (folder / "images").is_dir() and (folder / "masks").is_dir():
        images = {_key(path, folder / "images"): path for path in _files(folder / "images")}
        masks = {_key(path, folder / "masks"): path for path in _files(folder / "masks")}
    else:
        files = list(_files(folder))
        masks = {str(path)[: -len(MASK_SUFFIX)]: path for path in files if path.name.endswith(MASK_SUFFIX)}
        images = {str(path.with_suffix("")): path for path in files if not path.name.endswith(MASK_SUFFIX)}
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
    return Pairs(tuple(images), tuple(masks), *measure_cues(images, masks), slides, name=folder.name)


def _as_labels(raw: npt.NDArray[Any], path: Path, labels: Sequence[Label], palette: Palette) -> Bytes:
    if raw.ndim == 3 and raw.shape[2] >= 3:
        try:
            return palette.labels(np.ascontiguousarray(raw[..., 2::-1], np.uint8), 0, 0)
        except BadInput as error:
            raise BadInput(f"{path}: {error}") from None
    flat = raw[..., 0] if raw.ndim == 3 else raw
    return check_values(flat, path, len(labels))
