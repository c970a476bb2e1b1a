"""What kind of training data does a folder hold?

A-1-400-003.webp + A-1-400-003.gland.png    frames of EBHI-Seg, prepared by `ebhi.prepare`
CASE.svs + CASE.zarr or CASE.geojson        slides with masks or QuPath annotations, read window by window
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
from safron.io.legend import Label
from safron.io.masks.palette import Palette
from safron.training.config import TrainConfig
from safron.training.data.cues import CUED, measure_cues
from safron.training.data.ebhi import EBHI, prepare
from safron.training.data.images import check_values, match_pairs, read_same_size
from safron.training.data.slide_tiles import find_slides, open_slides
from safron.training.data.source import Bytes, Pairs, Source

IMAGES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}

MASK_SUFFIX = ".mask.png"


def open_source(folder: Path, config: TrainConfig, cache: Path | None = None) -> Source:
    """Find out what `folder` holds, check it, and make it ready to draw batches from.

    Parameters
    ----------
    folder
        Frames, slides or pairs; see the module's table.
    cache
        Where prepared frames are kept for the next run.

    Raises
    ------
    BadInput
        It holds none of them or two kinds, a file is unpaired or unreadable, sizes differ, a label or colour is unknown,
        all is background, or the images are smaller than a training tile.
    """
    if not folder.is_dir():
        raise BadInput(f"{folder} is not a folder; give the folder that holds the images and their masks")
    frame = next(folder.rglob("*.gland.png"), None)
    slides = find_slides(folder)
    if slides and (other := frame or _first_mask(folder)):
        raise BadInput(
            f"{folder} holds slides ({slides[0][0].name}) and pairs ({other.name}); training takes one kind: "
            "move the others to a folder of their own"
        )
    if slides:
        return open_slides(slides, config, _name(folder))
    if frame is None:
        return _fit(read_pairs(folder, config.model.labels), config, folder)
    if len(config.model.labels) <= max(CUED):
        raise BadInput(
            f"{folder} holds frames of {EBHI}, labelled background, stroma and gland; model.labels must be three or more"
        )
    return _fit(prepare(folder, cache), config, folder)


def _first_mask(folder: Path) -> Path | None:
    """Find the mask of one pair, in the places where `list_pairs` looks."""
    beside = (path for path in _files(folder) if path.name.endswith(MASK_SUFFIX))
    return next(beside, None) or (next(_files(folder / "masks"), None) if _is_apart(folder) else None)


def _fit(pairs: Pairs, config: TrainConfig, folder: Path) -> Pairs:
    """Bring pairs to the generator's pixel size, measure its cues, and drop pairs that are too small for a training tile."""
    zoom = config.image_mpp / config.model.mpp
    pairs = _shrink(pairs, zoom) if zoom < 1.0 else replace(pairs, zoom=zoom)
    if len(config.model.noise_scales) < 2:
        pairs = replace(pairs, cues=(), trust=())
    elif not pairs.cues:
        cues, trust = measure_cues(pairs.images, pairs.labels)
        pairs = replace(pairs, cues=cues, trust=trust)
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
    """Resize the pairs once, which takes less memory than doing it at each read. They have no cues yet."""

    def resize(array: Bytes, how: int) -> Bytes:
        size = (max(1, int(array.shape[1] * zoom)), max(1, int(array.shape[0] * zoom)))
        return np.asarray(cv2.resize(array, size, interpolation=how))

    images = tuple(resize(image, cv2.INTER_AREA) for image in pairs.images)
    labels = tuple(resize(label, cv2.INTER_NEAREST) for label in pairs.labels)
    return Pairs(images, labels, (), (), pairs.slides, name=pairs.name)


def list_pairs(folder: Path) -> list[tuple[Path, Path]]:
    """List (image, mask) pairs below `folder`, sorted by path.

    Raises
    ------
    BadInput
        There is none, or a file has no counterpart, or two.
    """
    files = list(_files(folder))
    masks = [path for path in files if path.name.endswith(MASK_SUFFIX)]
    images = [path for path in files if not path.name.endswith(MASK_SUFFIX)]
    roots = folder, folder
    if _is_apart(folder):
        roots = folder / "images", folder / "masks"
        if others := [path for path in masks if not any(root in path.parents for root in roots)]:
            raise BadInput(
                f"{others[0]} lies outside {roots[0]} and {roots[1]}, the folders of the pairs; move it there, or out of {folder}"
            )
        images, masks = (list(_files(root)) for root in roots)
    if not images and not masks:
        raise BadInput(
            f"{folder} holds no training data; put pairs NAME.png and NAME{MASK_SUFFIX} there, or images/ and masks/, "
            "or slides with NAME.zarr or NAME.geojson"
        )
    return match_pairs(images, masks, roots, MASK_SUFFIX)


def _is_apart(folder: Path) -> bool:
    return (folder / "images").is_dir() and (folder / "masks").is_dir()


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.suffix.lower() in IMAGES)


def slide_name(image: Path, folder: Path) -> str:
    """Guess the slide that an image comes from: its sub-folder, or else its name up to the last - or _.

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
    """Read all pairs below `folder`; their colours stay as they are, and cues are not measured yet.

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
    background = [label.value for label in labels if label.fill]
    if all(np.isin(mask, background).all() for mask in masks):
        raise BadInput(f"{folder}: every pixel of its masks is background; check how the masks were made")
    slides = tuple(slide_name(image, folder) for image, _ in found)
    return Pairs(tuple(images), tuple(masks), (), (), slides, name=_name(folder))


def _name(folder: Path) -> str:
    # "." and ".." are folders with names, too.
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
