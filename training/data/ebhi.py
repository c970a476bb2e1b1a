"""How are the frames of EBHI-Seg prepared for training?

Frames ``A-1-400-003.webp`` have gland masks ``A-1-400-003.gland.png`` (0 or 255). Each is unsqueezed to its true
proportions, white-balanced, brought to one reference stain and labelled; then the cues of the whole set are measured.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from safron.io.errors import BadInput
from safron.io.files import replacing
from safron.io.measures.guides import Guides
from safron.training.config.data_sets import DATA_SETS
from safron.training.config.settings import GLASS
from safron.training.data.cues import measure_cues
from safron.training.data.images import BLACK_AND_WHITE, check_values, list_pairs, read_pair
from safron.training.data.source import Bytes, Pairs

PREPARATION = 2
"""Version of the preparation and its cues, part of the cache key: raise it whenever `prepare` would return other values."""

SIZE = (224, 299)
"""Height and width of a prepared pair: the published frames are squeezed to 224 x 224."""

MPP = 1.0
"""Pixel size of prepared pairs in micrometres, as measured on crypts."""

REFERENCE_MEAN = np.array([62.0, 22.0, -14.0], np.float32)
REFERENCE_STD = np.array([17.0, 9.0, 8.0], np.float32)
"""CIELAB mean and standard deviation of tissue that every image is brought to (Reinhard's method)."""

WHITE_MEAN = 220.0
"""Mean RGB above which a white-balanced pixel outside glands counts as background."""

LEAST_TISSUE_IN_FRAME = 0.6
"""Frames with a smaller share of tissue are left out: they teach little but background."""

ARRAYS = ("images", "labels", "cues", "trust")
"""Fields of `Pairs` that are kept in the cache, beside the slides' names."""


def slide_of(image: Path) -> str:
    """Return the slide that a frame was taken from: its name up to the second-last hyphen.

    >>> slide_of(Path("GT2012173-1-400-001.webp"))
    'gt2012173-1'
    """
    return image.stem.rsplit("-", 2)[0].lower()


def read_frame(image_path: Path, mask_path: Path) -> tuple[Bytes, npt.NDArray[np.bool_]]:
    """Read one pair in its true proportions: uint8 [y, x, 3] RGB, and bool [y, x], true on glands; see `read_pair`."""
    image, labels = read_pair(image_path, mask_path, BLACK_AND_WHITE)
    mask = check_values(
        labels[:, :],
        mask_path,
        (0, 255),
        "gland masks of EBHI-Seg have no other; else choose --data-set glands",
    )
    size = (SIZE[1], SIZE[0])
    large = cv2.resize(image, size, interpolation=cv2.INTER_LANCZOS4)
    # Smoothing before the threshold takes the steps off the drawn edges.
    soft = cv2.GaussianBlur(cv2.resize(mask, size, interpolation=cv2.INTER_LINEAR), (0, 0), 1.5)
    return np.asarray(large, np.uint8), np.asarray(soft > 127)


def balance_white(rgb: Bytes) -> Bytes:
    """Scale each channel so that the brightest percent of the image becomes neutral white."""
    white = np.maximum(np.percentile(rgb, 99, axis=(0, 1)), 100.0)
    return np.clip(rgb * (245.0 / white), 0, 255).astype(np.uint8)


def label_pixels(rgb: Bytes, gland: npt.NDArray[np.bool_]) -> Bytes:
    """Label each pixel 0 (background: near white and not gland), 1 (stroma) or 2 (gland); uint8 [y, x]."""
    smooth = cv2.GaussianBlur(rgb, (0, 0), 1.0)
    white = (np.asarray(smooth).mean(axis=2) > WHITE_MEAN) & ~gland
    ellipse = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3))
    opened = cv2.morphologyEx(white.astype(np.uint8), cv2.MORPH_OPEN, ellipse)
    # Specks of fewer than 30 pixels are gaps between fibres and belong to the texture of stroma.
    count, parts, stats, _ = cv2.connectedComponentsWithStats(opened, connectivity=4)
    kept = np.asarray(stats)[:, cv2.CC_STAT_AREA] >= 30
    kept[0] = False
    assert count == len(kept)
    return np.where(gland, 2, np.where(kept[np.asarray(parts)], 0, 1)).astype(np.uint8)


def stained(rgb: Bytes, background: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Find tissue that took up stain; bool [y, x]."""
    return np.asarray((rgb.mean(axis=2) <= WHITE_MEAN) & ~background)


def normalize_stain(rgb: Bytes, background: npt.NDArray[np.bool_]) -> Bytes:
    """Bring tissue to the reference stain and background to `GLASS`; uint8 [y, x, 3].

    Reinhard's method: mean and standard deviation in CIELAB, measured over tissue only, so that an image with
    much background is not darkened for it.
    """
    lab = np.asarray(cv2.cvtColor(rgb.astype(np.float32) / 255.0, cv2.COLOR_RGB2LAB))
    tissue = stained(rgb, background)
    mean, std = lab[tissue].mean(axis=0), lab[tissue].std(axis=0)
    lab = (lab - mean) / np.maximum(std, 1.0) * REFERENCE_STD + REFERENCE_MEAN
    lab[..., 0] = np.clip(lab[..., 0], 0, 97)
    out = np.clip(np.asarray(cv2.cvtColor(lab.astype(np.float32), cv2.COLOR_LAB2RGB)), 0, 1) * 255.0
    # The shift would tint white pixels too, and those inside glands keep the label of the gland.
    bright = np.clip((rgb.mean(axis=2) - (WHITE_MEAN - 15)) / 20.0, 0, 1)
    white = np.maximum(bright, background).astype(np.float32)
    veil = np.asarray(cv2.GaussianBlur(white, (0, 0), 0.7))[..., None]
    return np.asarray(np.rint(out * (1 - veil) + np.array(GLASS, np.float32) * veil), np.uint8)


def prepare(
    folder: Path, cache: Path | None = None, *, guides: Guides | None = None, own: bool = False
) -> Pairs:
    """Prepare all frames below `folder`; the result is kept in the folder `cache` for the next run.

    Parameters
    ----------
    guides
        What the generator reads beside labels, for its cues.
    own
        Keep each frame in the stain that it has. Cues are those of the normalized frame all the same.

    Raises
    ------
    BadInput
        See `list_pairs` and `read_frame`; or an image is blank, or no image has enough tissue.
    """
    found = sorted(
        ((image, mask) for _, image, mask in list_pairs(folder, "ebhi")), key=lambda pair: pair[0].name
    )
    name = DATA_SETS["ebhi"].name
    key = _cache_key(found, *([repr((guides, own))] if guides or own else []))
    kept_at = cache / f"pairs-{key}.npz" if cache else None
    if kept_at and kept_at.exists():
        with np.load(kept_at) as kept:
            arrays: dict[str, Any] = {name: tuple(kept[name]) for name in ARRAYS}
            return Pairs(**arrays, slides=tuple(map(str, kept["slides"])), name=name)
    images, labels, slides, frames = [], [], [], []
    for image_path, mask_path in found:
        rgb, gland = read_frame(image_path, mask_path)
        balanced = balance_white(rgb)
        label = label_pixels(balanced, gland)
        if (label != 0).mean() < LEAST_TISSUE_IN_FRAME:
            continue
        if not stained(balanced, label == 0).any():
            raise BadInput(
                f"{image_path} is as white as background where {mask_path.name} has glands; check both, or remove them"
            )
        images.append(normalize_stain(balanced, label == 0))
        frames.append(rgb)
        labels.append(label)
        slides.append(slide_of(image_path))
    if not images:
        raise BadInput(f"{folder} holds no image with {LEAST_TISSUE_IN_FRAME:.0%} tissue or more to train on")
    cues, trust = measure_cues(images, labels, guides=guides)
    shown = frames if own else images
    pairs = Pairs(tuple(shown), tuple(labels), cues, trust, tuple(slides), name=name)
    if kept_at:
        kept_at.parent.mkdir(parents=True, exist_ok=True)
        with replacing(kept_at) as file:
            arrays = {name: np.stack(getattr(pairs, name)) for name in ARRAYS}
            np.savez(file, slides=np.array(pairs.slides), **arrays)
    return pairs


def _cache_key(found: list[tuple[Path, Path]], *others: str) -> str:
    digest = hashlib.sha256("\n".join([str(PREPARATION), *others, ""]).encode())
    for path in (path for pair in found for path in pair):
        digest.update(f"{path.name} {path.stat().st_size}\n".encode())
    return digest.hexdigest()[:16]
