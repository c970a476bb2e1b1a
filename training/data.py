"""How do images and masks become training batches?

A `Source` is anything that windows of image and labels can be read from; `sources.open_source` finds out which
kind a folder holds. `Pairs` is the one in memory. Frames of EBHI-Seg, ``A-1-400-003.webp`` with the gland mask
``A-1-400-003.gland.png`` (0 or 255), are prepared once by `prepare`: unsqueezed, white-balanced, brought to one
reference stain, labelled, and measured for the cues that tell the generator how dark a gland or a stretch of
stroma is. A batch is then a pure function of the source, a seed and a step number, so a resumed run sees what an
uninterrupted one would have seen.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import cv2
import numpy as np
import numpy.typing as npt
from safron.io.errors import BadInput
from safron.training.config import GLASS, TrainConfig
from safron.training.files import whole

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

SIZE = (224, 299)
"""Height and width of a prepared pair: the published frames are squeezed to 224 x 224."""

EBHI = "EBHI-Seg"
"""Name of the published frames, whatever the folder is called that they are in."""

REFERENCE_MEAN = np.array([62.0, 22.0, -14.0], np.float32)
REFERENCE_STD = np.array([17.0, 9.0, 8.0], np.float32)
"""CIELAB mean and standard deviation of tissue that every image is brought to (Reinhard's method)."""

WHITE_MEAN = 220.0
"""Mean RGB above which a white-balanced pixel outside glands counts as glass."""

LEAST_TISSUE = 0.6
"""Images with a smaller share of tissue are left out: they teach little but glass."""

CUE_SIGMA = 18.0
"""Blur of the cues in pixels: smooth noise of scale 32, which takes their place, correlates as far."""

CUED = (2, 1)
"""Labels whose darkness is a cue, in the order of the noise channels that they go into: gland, stroma."""

SEEN_DEPTH = 20
"""Depth in pixels up to which a generator with 20 pixels of context can tell how far inside a class it is."""


@dataclass(frozen=True)
class Sample:
    """One window: `labels` uint8 [y, x], `image` uint8 [y, x, 3] RGB, `cues` and `trust` float32 [2, y, x] (see `Pairs`)."""

    labels: Bytes
    image: Bytes
    cues: Floats
    trust: Floats


class Source(Protocol):
    """Where windows come from: items that belong to slides, at the generator's pixel size."""

    @property
    def name(self) -> str:
        """Name of the data set, for the card."""

    @property
    def slides(self) -> tuple[str, ...]:
        """Slide of each item; the items of a slide are never split between training and held-out data."""

    def __len__(self) -> int:
        """Count the items: an epoch takes one window of each."""

    def take(self, indices: Sequence[int]) -> Self:
        """Return the items at `indices`."""

    def place(self, rng: np.random.Generator, index: int, side: int) -> tuple[int, int]:
        """Choose where a window of `side` pixels lies in an item: its upper row and left column."""

    def read(self, index: int, place: tuple[int, int], side: int) -> Sample:
        """Read the window at `place`."""

    def counts(self, labels: int) -> npt.NDArray[np.int64]:
        """Count the pixels of each label, or those of a fair sample of pixels."""


S = TypeVar("S", bound=Source)


@dataclass(frozen=True)
class Pairs:
    """Pairs of image and labels in memory.

    Attributes
    ----------
    images
        uint8 [y, x, 3] each, RGB.
    labels
        uint8 [y, x] each; in EBHI-Seg 0 background, 1 stroma, 2 gland.
    cues
        float16 [2, y, x] each: darkness of gland and of stroma, standard normal over the data set.
    trust
        float16 [2, y, x] each, in 0..1: 0 where no pixel of the class is near and the cue means nothing.
    slides
        Slide of each pair.
    zoom
        Pixels of the generator along one pixel of the pairs; they are enlarged as they are read.
    name
        Name of the data set.
    """

    images: tuple[Bytes, ...]
    labels: tuple[Bytes, ...]
    cues: tuple[npt.NDArray[np.float16], ...]
    trust: tuple[npt.NDArray[np.float16], ...]
    slides: tuple[str, ...]
    zoom: float = 1.0
    name: str = ""

    def __len__(self) -> int:
        return len(self.slides)

    def take(self, indices: Sequence[int]) -> Self:
        """Return the pairs at `indices`."""
        return replace(
            self,
            images=tuple(self.images[i] for i in indices),
            labels=tuple(self.labels[i] for i in indices),
            cues=tuple(self.cues[i] for i in indices),
            trust=tuple(self.trust[i] for i in indices),
            slides=tuple(self.slides[i] for i in indices),
        )

    def size(self, index: int) -> tuple[int, int]:
        """Height and width of a pair, in the generator's pixels."""
        height, width = self.labels[index].shape
        return int(height * self.zoom), int(width * self.zoom)

    def place(self, rng: np.random.Generator, index: int, side: int) -> tuple[int, int]:
        """Choose any place that lies inside the pair."""
        height, width = self.size(index)
        return int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))

    def read(self, index: int, place: tuple[int, int], side: int) -> Sample:
        """Read the window at `place`, enlarged where `zoom` says so."""
        labels, image = self.labels[index], self.images[index]
        planes = [part[index].astype(np.float32) for part in (self.cues, self.trust)]
        if self.zoom == 1.0:
            y, x = place
            window = np.s_[y : y + side, x : x + side]
            return Sample(labels[window], image[window], planes[0][:, *window], planes[1][:, *window])
        cues, trust = (
            np.stack([_enlarge(plane, place, side, self.zoom, cv2.INTER_LINEAR) for plane in part])
            for part in planes
        )
        return Sample(
            _enlarge_labels(labels, place, side, self.zoom),
            _enlarge(image, place, side, self.zoom, cv2.INTER_CUBIC),
            cues,
            trust,
        )

    def counts(self, labels: int) -> npt.NDArray[np.int64]:
        """Count the pixels of each label."""
        total = np.zeros(labels, np.int64)
        for array in self.labels:
            total += np.bincount(array.ravel(), minlength=labels)
        return total


def _enlarge(
    array: npt.NDArray[Any], place: tuple[int, int], side: int, zoom: float, how: int
) -> npt.NDArray[Any]:
    """Read a window of an array as if it had been resized by `zoom`."""
    # Pixel centres: (i + 0.5) of the result lies at (i + 0.5) / zoom of the array.
    shift = [(start + 0.5) / zoom - 0.5 for start in place]
    matrix = np.array([[1 / zoom, 0, shift[1]], [0, 1 / zoom, shift[0]]])
    flags = how | cv2.WARP_INVERSE_MAP
    return np.asarray(
        cv2.warpAffine(array, matrix, (side, side), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    )


def _enlarge_labels(labels: Bytes, place: tuple[int, int], side: int, zoom: float) -> Bytes:
    """Give each pixel the label that most of its surroundings have: outlines come out smooth, not as steps."""
    values = np.unique(labels)
    shares = [
        _enlarge((labels == value).astype(np.float32), place, side, zoom, cv2.INTER_LINEAR)
        for value in values
    ]
    return np.asarray(values[np.argmax(shares, axis=0)], np.uint8)


@dataclass(frozen=True)
class Batch:
    """One step's input.

    `labels` uint8 [n, y, x] and `noise` float32 [n, k, y, x] cover what is generated, with its context; `images`
    float32 [n, 3, y, x] in [-1, 1] covers the training tile, which begins at `phase` (row, column) of what is generated.
    """

    labels: Bytes
    noise: Floats
    images: Floats
    phase: tuple[int, int] = (0, 0)


def find_pairs(folder: Path) -> list[tuple[Path, Path]]:
    """List (image, mask) pairs below `folder`, sorted by file name.

    Raises
    ------
    BadInput
        The folder is missing or holds no image, or an image has no mask, or a mask two images.
    """
    if not folder.is_dir():
        raise BadInput(
            f"{folder} is not a folder; give the folder that holds the images and their *.gland.png masks"
        )
    images = sorted(
        (p for p in folder.rglob("*") if p.suffix in {".webp", ".png"} and not p.name.endswith(".gland.png")),
        key=lambda path: path.name,
    )
    if not images:
        raise BadInput(f"{folder} holds no .webp or .png image; put pairs NAME.webp and NAME.gland.png there")
    pairs = [(image, image.with_name(image.stem + ".gland.png")) for image in images]
    known: dict[Path, Path] = {}
    for image, mask in pairs:
        if not mask.exists():
            raise BadInput(f"{image} has no mask; put its gland mask at {mask.name} beside it")
        if mask in known:
            raise BadInput(f"{known[mask]} and {image} have one mask, {mask.name}; remove one of them")
        known[mask] = image
    for mask in sorted(folder.rglob("*.gland.png")):
        if mask not in known:
            raise BadInput(
                f"{mask} has no image; put {mask.name.removesuffix('.gland.png')}.webp or .png beside it"
            )
    return pairs


def slide_of(image: Path) -> str:
    """Return the slide an image was taken from: its name up to the second-last hyphen.

    >>> slide_of(Path("GT2012173-1-400-001.webp"))
    'gt2012173-1'
    """
    return image.stem.rsplit("-", 2)[0].lower()


def read_pair(image_path: Path, mask_path: Path) -> tuple[Bytes, npt.NDArray[np.bool_]]:
    """Read one pair, unsqueezed: uint8 [y, x, 3] RGB and bool [y, x], true on glands.

    Raises
    ------
    BadInput
        See `read_same_size`; or the mask has values beside 0 and 255.
    """
    image, mask = read_same_size(image_path, mask_path, cv2.IMREAD_GRAYSCALE)
    if (wrong := ~np.isin(mask, (0, 255))).any():
        row, column = np.unravel_index(int(wrong.argmax()), mask.shape)
        raise BadInput(
            f"{mask_path}: value {mask[row, column]} at row {row}, column {column}; a gland mask is 255 on glands and 0 "
            "elsewhere: write it so"
        )
    size = (SIZE[1], SIZE[0])
    large = cv2.resize(image, size, interpolation=cv2.INTER_LANCZOS4)
    # Smoothing before the threshold takes the saw teeth off the drawn edges.
    soft = cv2.GaussianBlur(cv2.resize(mask, size, interpolation=cv2.INTER_LINEAR), (0, 0), 1.5)
    return np.asarray(large, np.uint8), np.asarray(soft > 127)


def read_same_size(image_path: Path, mask_path: Path, mask_flags: int) -> tuple[Bytes, npt.NDArray[Any]]:
    """Read an image as RGB and its mask by OpenCV's `mask_flags`.

    Raises
    ------
    BadInput
        One of them cannot be read or breaks off, or their sizes differ.
    """
    for path in (image_path, mask_path):
        _check_whole(path)
    image = cv2.imread(str(image_path), cv2.IMREAD_COLOR_RGB)
    mask = cv2.imread(str(mask_path), mask_flags)
    for path, read in ((image_path, image), (mask_path, mask)):
        if read is None:
            raise BadInput(f"{path} cannot be read as an image; restore the file or remove the pair")
    assert image is not None
    assert mask is not None
    if image.shape[:2] != mask.shape[:2]:
        raise BadInput(
            f"{mask_path} is {mask.shape[1]} x {mask.shape[0]} but its image is "
            f"{image.shape[1]} x {image.shape[0]}; a mask must have its image's size"
        )
    return np.asarray(image, np.uint8), np.asarray(mask)


def _check_whole(path: Path) -> None:
    """Refuse a JPEG that breaks off: OpenCV fills the rest with grey. What breaks off in other formats it does not read."""
    try:
        with path.open("rb") as file:
            if file.read(2) != b"\xff\xd8":
                return
            kept = file.read()
    except OSError as error:
        raise BadInput(
            f"{path} cannot be read ({error.strerror}); restore the file or remove the pair"
        ) from error
    # In what follows the last start of a scan only its end looks like an end; a thumbnail's comes before.
    if kept.rfind(b"\xff\xd9") < kept.rfind(b"\xff\xda"):
        raise BadInput(f"{path} breaks off before its end; restore the file or remove the pair")


def check_values(values: npt.NDArray[Any], path: Path, count: int) -> Bytes:
    """Return label values as uint8.

    Raises
    ------
    BadInput
        One of them is none of 0, 1, ... up to `count` - 1.
    """
    if (wrong := ~np.isin(values, np.arange(count))).any():
        row, column = np.unravel_index(int(wrong.argmax()), values.shape)
        raise BadInput(
            f"{path}: value {values[row, column]} at row {row}, column {column} is no label; labels are 0 to {count - 1} "
            "in whole numbers, and model.labels in a --config file names others"
        )
    return np.ascontiguousarray(values, np.uint8)


def balance_white(rgb: Bytes) -> Bytes:
    """Scale each channel so that the brightest percent of the image becomes neutral white."""
    white = np.maximum(np.percentile(rgb, 99, axis=(0, 1)), 100.0)
    return np.clip(rgb * (245.0 / white), 0, 255).astype(np.uint8)


def label_pixels(rgb: Bytes, gland: npt.NDArray[np.bool_]) -> Bytes:
    """Label each pixel 0 (glass: near white and not gland), 1 (stroma) or 2 (gland); uint8 [y, x]."""
    smooth = cv2.GaussianBlur(rgb, (0, 0), 1.0)
    white = (np.asarray(smooth).mean(axis=2) > WHITE_MEAN) & ~gland
    ellipse = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3))
    opened = cv2.morphologyEx(white.astype(np.uint8), cv2.MORPH_OPEN, ellipse)
    # Specks of fewer than 30 pixels are gaps between fibres, which belong to the texture of stroma.
    count, parts, stats, _ = cv2.connectedComponentsWithStats(opened, connectivity=4)
    kept = np.asarray(stats)[:, cv2.CC_STAT_AREA] >= 30
    kept[0] = False
    assert count == len(kept)
    glass = kept[np.asarray(parts)]
    return np.where(gland, 2, np.where(glass, 0, 1)).astype(np.uint8)


def stained(rgb: Bytes, glass: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Find tissue that took up stain; bool [y, x]."""
    return np.asarray((rgb.mean(axis=2) <= WHITE_MEAN) & ~glass)


def normalize_stain(rgb: Bytes, glass: npt.NDArray[np.bool_]) -> Bytes:
    """Bring tissue to the reference stain and glass to one clean white; uint8 [y, x, 3].

    Reinhard's method: mean and standard deviation in CIELAB, measured over tissue only, so that an image with
    much glass is not darkened for it.
    """
    lab = np.asarray(cv2.cvtColor(rgb.astype(np.float32) / 255.0, cv2.COLOR_RGB2LAB))
    tissue = stained(rgb, glass)
    mean, std = lab[tissue].mean(axis=0), lab[tissue].std(axis=0)
    lab = (lab - mean) / np.maximum(std, 1.0) * REFERENCE_STD + REFERENCE_MEAN
    lab[..., 0] = np.clip(lab[..., 0], 0, 97)
    out = np.clip(np.asarray(cv2.cvtColor(lab.astype(np.float32), cv2.COLOR_LAB2RGB)), 0, 1) * 255.0
    # The stain's shift would tint glass, also the glass inside glands, which keeps the gland's label.
    bright = np.clip((rgb.mean(axis=2) - (WHITE_MEAN - 15)) / 20.0, 0, 1)
    veil = np.asarray(cv2.GaussianBlur(np.maximum(bright, glass).astype(np.float32), (0, 0), 0.7))[..., None]
    return np.asarray(np.rint(out * (1 - veil) + np.array(GLASS, np.float32) * veil), np.uint8)


def optical_density(rgb: Bytes) -> Floats:
    """Return the mean optical density of the three channels, float32 [y, x]: 0 is white."""
    return np.asarray(-np.log((rgb.astype(np.float32) + 1.0) / 256.0).mean(axis=2), np.float32)


def depth_inside(member: npt.NDArray[np.bool_]) -> npt.NDArray[np.intp]:
    """Return how deep each pixel lies in its class, in whole pixels, at most `SEEN_DEPTH`."""
    distance = cv2.distanceTransform(member.astype(np.uint8), cv2.DIST_L2, 5)
    return np.minimum(np.asarray(distance), SEEN_DEPTH).astype(np.intp)


def measure_cue(residual: Floats, member: npt.NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Average a residual over one class around each pixel.

    Returns the mean under a Gaussian window (float32 [y, x], extended smoothly beyond the class), and the
    trust in it (0..1).
    """
    weight = member.astype(np.float32)
    total = np.asarray(cv2.GaussianBlur(residual * weight, (0, 0), CUE_SIGMA, borderType=cv2.BORDER_REFLECT))
    share = np.asarray(cv2.GaussianBlur(weight, (0, 0), CUE_SIGMA, borderType=cv2.BORDER_REFLECT))
    mean = total / np.maximum(share, 1e-4)
    return mean.astype(np.float32), np.clip(share / 0.1, 0, 1).astype(np.float32)


def to_normal(cues: Floats, sample: Floats) -> Floats:
    """Map measured values to standard normal ones by their rank in a sorted sample."""
    from scipy.special import ndtri

    if sample.size < 2:
        return np.zeros_like(cues)
    knots = np.linspace(0, sample.size - 1, 513).astype(int)
    quantile = (knots + 0.5) / sample.size
    values, first = np.unique(sample[knots], return_index=True)
    return np.asarray(np.interp(cues, values, ndtri(quantile)[first]), np.float32)


def prepare(folder: Path, cache: Path | None = None) -> Pairs:
    """Prepare all pairs below `folder`; `cache` names a folder where the result is kept for the next run.

    Raises
    ------
    BadInput
        See `find_pairs` and `read_pair`; or an image is blank, or none has enough tissue.
    """
    found = find_pairs(folder)
    kept_at = cache / f"pairs-{_cache_key(found)}.npz" if cache else None
    if kept_at and kept_at.exists():
        return _load_pairs(kept_at)
    images, labels, slides = [], [], []
    for image_path, mask_path in found:
        rgb, gland = read_pair(image_path, mask_path)
        balanced = balance_white(rgb)
        label = label_pixels(balanced, gland)
        if (label != 0).mean() < LEAST_TISSUE:
            continue
        if not stained(balanced, label == 0).any():
            raise BadInput(
                f"{image_path} is as white as glass where {mask_path.name} has glands; check both, or remove the pair"
            )
        images.append(normalize_stain(balanced, label == 0))
        labels.append(label)
        slides.append(slide_of(image_path))
    if not images:
        raise BadInput(
            f"{folder} holds no image with at least {LEAST_TISSUE:.0%} tissue; nothing to train on"
        )
    cues, trust = measure_cues(images, labels)
    pairs = Pairs(tuple(images), tuple(labels), cues, trust, tuple(slides), name=EBHI)
    if kept_at:
        _save_pairs(kept_at, pairs)
    return pairs


@dataclass(frozen=True)
class CueScale:
    """What the darkness of a class is measured against: that of a whole data set.

    Attributes
    ----------
    expected
        float32 [2, `SEEN_DEPTH` + 1]: mean optical density of each of `CUED` at each depth.
    samples
        Of each of `CUED` measured darkness from all over the data set, sorted, float32: what is standard normal.
    """

    expected: Floats
    samples: tuple[Floats, ...]

    def measure(self, image: Bytes, labels: Bytes) -> tuple[Floats, Floats]:
        """Measure one image [y, x, 3] under its labels [y, x]: cues and trust, float32 [2, y, x] (see `Pairs`)."""
        means, trust = _darkness(image, labels, self.expected)
        return self.normal(means), trust

    def normal(self, means: Floats) -> Floats:
        """Map darkness [2, y, x] to standard normal cues."""
        return np.stack([to_normal(mean, sample) for mean, sample in zip(means, self.samples, strict=True)])


def _darkness(image: Bytes, labels: Bytes, expected: Floats) -> tuple[Floats, Floats]:
    """Optical density beyond what depth explains, averaged around each pixel, and the trust in it: [2, y, x] each."""
    density, found = optical_density(image), []
    for value, usual in zip(CUED, expected, strict=True):
        member = labels == value
        found.append(measure_cue(density - usual[depth_inside(member)], member))
    means, trusts = zip(*found, strict=True)
    return np.stack(means), np.stack(trusts)


def fit_cues(
    images: Sequence[Bytes], labels: Sequence[Bytes]
) -> tuple[CueScale, list[tuple[Floats, Floats]]]:
    """Find the scale of a data set's cues; return it, and the darkness and trust measured on the way, [2, y, x] each."""
    # A rim is dark and a lumen pale wherever they are, and the generator sees the depth as far as its
    # context reaches. Only what depth does not explain is left to the cue.
    count, total = np.zeros((2, SEEN_DEPTH + 1)), np.zeros((2, SEEN_DEPTH + 1))
    for rgb, label in zip(images, labels, strict=True):
        density = optical_density(rgb)
        for row, value in enumerate(CUED):
            member = label == value
            depth = depth_inside(member)[member]
            count[row] += np.bincount(depth, minlength=SEEN_DEPTH + 1)
            total[row] += np.bincount(depth, density[member], SEEN_DEPTH + 1)
    expected = (total / np.maximum(count, 1)).astype(np.float32)
    measured = [_darkness(rgb, label, expected) for rgb, label in zip(images, labels, strict=True)]
    samples = (
        np.sort(np.concatenate([means[row][trust[row] >= 1.0] for means, trust in measured])[::97])
        for row in range(len(CUED))
    )
    return CueScale(expected, tuple(samples)), measured


def measure_cues(
    images: Sequence[Bytes], labels: Sequence[Bytes]
) -> tuple[tuple[npt.NDArray[np.float16], ...], tuple[npt.NDArray[np.float16], ...]]:
    """Measure the cues of a whole data set, and the trust in them, as `Pairs` holds them."""
    scale, measured = fit_cues(images, labels)
    cues = tuple(scale.normal(means).astype(np.float16) for means, _ in measured)
    return cues, tuple(trust.astype(np.float16) for _, trust in measured)


def _cache_key(found: list[tuple[Path, Path]]) -> str:
    # The preparation itself is part of the key: a cache made by an older version of this file is not used.
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for pair in found:
        for path in pair:
            digest.update(f"{path.name} {path.stat().st_size}\n".encode())
    return digest.hexdigest()[:16]


def _save_pairs(path: Path, pairs: Pairs) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as file:
        np.savez(
            file,
            images=np.stack(pairs.images),
            labels=np.stack(pairs.labels),
            cues=np.stack(pairs.cues),
            trust=np.stack(pairs.trust),
            slides=np.array(pairs.slides),
        )


def _load_pairs(path: Path) -> Pairs:
    with np.load(path) as kept:
        slides = tuple(str(slide) for slide in kept["slides"])
        images, labels, cues, trust = (tuple(kept[name]) for name in ("images", "labels", "cues", "trust"))
        return Pairs(images, labels, cues, trust, slides, name=EBHI)


def split(source: S, held_out: float) -> tuple[S, S]:
    """Split by slide into training and held-out items. One slide alone is both.

    Raises
    ------
    BadInput
        Nothing is left to train on.
    """
    if held_out <= 0 or len(set(source.slides)) < 2:
        return source, source
    names = sorted(set(source.slides), key=lambda slide: hashlib.sha256(slide.encode()).hexdigest())
    aside = set(names[: max(1, round(held_out * len(names)))])
    if len(aside) == len(names):
        raise BadInput(
            f"held_out is {held_out:g}, which of {len(names)} slides leaves none to train on; give less"
        )
    inside = np.array([slide in aside for slide in source.slides])
    return source.take(np.flatnonzero(~inside).tolist()), source.take(np.flatnonzero(inside).tolist())


def smooth_field(rng: np.random.Generator, height: int, width: int, scale: int) -> Floats:
    """Draw noise of one scale: float32 [height, width], standard normal at each pixel.

    Scale 1 is independent at each pixel. A larger scale is a lattice of normals `scale` pixels apart,
    interpolated by the uniform cubic B-spline and divided by the root of the sum of squared weights.
    """
    if scale == 1:
        return rng.standard_normal((height, width), np.float32)
    rows = _spline_weights(height, scale, int(rng.integers(scale)))
    columns = _spline_weights(width, scale, int(rng.integers(scale)))
    lattice = rng.standard_normal((rows.shape[1], columns.shape[1]), np.float32)
    return np.asarray(rows @ lattice @ columns.T, np.float32)


def _spline_weights(length: int, scale: int, phase: int) -> Floats:
    """Return [length, nodes]: in each row a pixel's four B-spline weights, their squares summing to 1."""
    position = (np.arange(length) + phase) / scale
    node = np.floor(position).astype(int)
    t = position - node
    basis = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], axis=1)
    basis /= np.sqrt((basis**2).sum(axis=1, keepdims=True))
    weights = np.zeros((length, int(node[-1]) + 4), np.float32)
    for k in range(4):
        weights[np.arange(length), node + k] = basis[:, k]
    return weights


def draw_noise(rng: np.random.Generator, height: int, width: int, scales: tuple[int, ...]) -> Floats:
    """Draw one patch's noise, float32 [k, height, width]."""
    if not scales:
        return np.zeros((0, height, width), np.float32)
    return np.stack([smooth_field(rng, height, width, scale) for scale in scales])


def draw_batch(source: Source, config: TrainConfig, step: int, part: slice = slice(None)) -> Batch:
    """Draw the batch of one step: random items, windows and symmetries, noise with the measured cues in it.

    The last two noise channels are the cues where the class is near, and smooth noise elsewhere, joined so
    that the variance stays 1. `part` is the share of the batch that one of several processes wants: random numbers
    are drawn for all of it, so that the whole is the same however it is shared, but only that part is read.
    """
    rng = np.random.default_rng([config.seed, step])
    context, side = config.model.context, config.canvas_side
    read = side + 2 * context
    wanted = range(config.batch)[part]
    phase = _draw_phase(config, step)
    labels, noises, images = [], [], []
    for number, index in enumerate(rng.integers(len(source), size=config.batch)):
        place = source.place(rng, int(index), read)
        turns, mirror = int(rng.integers(4)), bool(rng.integers(2))
        noise = draw_noise(rng, read, read, config.model.noise_scales)
        if number not in wanted:
            continue
        sample = source.read(int(index), place, read)
        if noise.shape[0] >= 2:
            cue, trust = _symmetry(sample.cues, turns, mirror), _symmetry(sample.trust, turns, mirror)
            noise[-2:] = trust * cue + np.sqrt(1 - trust**2) * noise[-2:]
        image = _symmetry(np.moveaxis(sample.image, -1, 0).astype(np.float32) / 127.5 - 1.0, turns, mirror)
        y, x = context + phase[0], context + phase[1]
        labels.append(_symmetry(sample.labels, turns, mirror))
        images.append(image[:, y : y + config.tile_side, x : x + config.tile_side])
        noises.append(noise)
    return Batch(np.stack(labels), np.stack(noises), np.stack(images), phase)


def _draw_phase(config: TrainConfig, step: int) -> tuple[int, int]:
    """Choose where the training tile begins in what is generated."""
    if not config.grid_phase:
        return 0, 0
    row, column = np.random.default_rng([config.seed, step, 2]).integers(config.stride, size=2)
    return int(row), int(column)


def _symmetry(array: npt.NDArray[Any], turns: int, mirror: bool) -> npt.NDArray[Any]:
    turned = np.rot90(array, turns, axes=(-2, -1))
    return np.ascontiguousarray(turned[..., ::-1] if mirror else turned)
