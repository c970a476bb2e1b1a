"""How are training windows read from whole-slide files?

Beside a slide lies a mask (``CASE.zarr``, of any size in the slide's proportions) or QuPath annotations
(``CASE.geojson``, in pixels of the slide). OpenSlide reads a window from the level just finer than the pixel size asked
for, and it is resized to that size. Places are drawn at random until one is not all background. Cues are measured window
by window, on a scale found from a few windows of each slide.

    canvas of the slide at the generator's pixel size --- x factor ---> level 0 of the slide
                                                      --- x scale  ---> rows and columns of the mask
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import cv2
import numpy as np
from safron.io.console import warn
from safron.io.errors import BadInput, Failed, one_line
from safron.io.files import is_foreign
from safron.io.masks.annotations import DrawingRules, read_geojson
from safron.io.masks.drawing import Drawing
from safron.io.masks.image_kinds import shown_area
from safron.io.masks.mask import LabelMask
from safron.io.masks.open import open_mask
from safron.io.masks.pixel_size import from_slide
from safron.io.masks.relabel import Relabel
from safron.io.measures.guides import Guides
from safron.io.measures.style import measure_style
from safron.training.config import TrainConfig
from safron.training.data.cues import CueScale, cue_count, fit_cues
from safron.training.data.images import check_values
from safron.training.data.source import Bytes, Sample, count_tiles, guides_at

ALWAYS_SLIDES = {".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".vmu"}
"""Suffixes that only slides have; a TIFF counts as a slide if a mask or annotations of its name lie beside it."""
SLIDES = ALWAYS_SLIDES | {".tif", ".tiff"}
MASKS = (".zarr", ".geojson", ".geojsonl")

TRIES = 100
"""Places tried before a window of background is accepted: where 95 % are background, 6 windows in 1000."""

LEAST_TISSUE_IN_WINDOW = 0.1
"""Smallest share of a window that is not background."""

CUE_WINDOWS = 64
"""Windows from which the scale of the cues is found, divided among the slides, at least one of each."""

SEAMLESS_MPP = 1.0
"""Pixel size of the seamless network, whose 20 px of context are little at a finer one, unless the user chooses it."""

PROPORTION = 0.01
"""Largest difference between the proportions of mask and slide."""


def find_slides(folder: Path) -> list[tuple[Path, Path]]:
    """List (slide, mask or annotations) below `folder`, sorted by path; empty where it holds no slide.

    Raises
    ------
    BadInput
        A slide has no mask, or a mask no slide.
    """
    found: list[tuple[Path, Path]] = []
    files = [
        path
        for path in sorted(folder.rglob("*"))
        if not (is_foreign(path.name) or any(p.suffix == ".zarr" for p in path.parents))
    ]
    for path in (path for path in files if path.suffix.lower() in SLIDES):
        masks = [path.with_suffix(suffix) for suffix in MASKS if path.with_suffix(suffix).exists()]
        if masks:
            found.append((path, masks[0]))
        elif path.suffix.lower() in ALWAYS_SLIDES:
            raise BadInput(f"{path} has no mask; put {path.stem}.zarr or {path.stem}.geojson beside it")
    paired = {mask for _, mask in found}
    for path in (path for path in files if path.suffix in MASKS):
        if path not in paired and path.with_suffix(".zarr") not in paired:
            raise BadInput(f"{path} has no slide of its name beside it; add the slide or remove it")
    return found


@dataclass(frozen=True)
class Slide:
    """A slide and its labels, both at the generator's pixel size: the canvas."""

    path: Path
    labels: LabelMask | Drawing  # a mask, which is resampled, or polygons at the canvas's scale
    height: int  # of the canvas, in pixels
    width: int
    factor: float  # level-0 pixels along one canvas pixel
    origin: tuple[int, int]  # level-0 row and column where the canvas begins
    scale: tuple[float, float] = (1.0, 1.0)  # rows and columns of a mask along one canvas pixel

    @cached_property
    def handle(self) -> Any:
        """The slide in OpenSlide, opened on first use."""
        import openslide

        return openslide.OpenSlide(self.path)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the canvas."""
        return self.height, self.width

    def __getitem__(self, region: tuple[slice, slice]) -> Bytes:
        """Read labels of a region of the canvas, uint8 [y, x]."""
        if isinstance(self.labels, Drawing):
            return self.labels.paint(*region)
        rows, columns = (
            np.clip(((np.arange(part.start, part.stop) + 0.5) * scale).astype(int), 0, theirs - 1)
            for part, scale, theirs in zip(region, self.scale, self.labels.shape, strict=True)
        )
        part = self.labels[int(rows[0]) : int(rows[-1]) + 1, int(columns[0]) : int(columns[-1]) + 1]
        return part[np.ix_(rows - rows[0], columns - columns[0])]

    def read_labels(self, y: int, x: int, side: int) -> Bytes:
        """Read labels, uint8 [side, side], from canvas row `y` and column `x` on."""
        return self[y : y + side, x : x + side]

    def read_image(self, y: int, x: int, side: int) -> Bytes:
        """Read RGB, uint8 [side, side, 3], from canvas row `y` and column `x` on; what was not scanned is white."""
        level = self.handle.get_best_level_for_downsample(self.factor * 1.01)
        size = max(1, round(side * self.factor / self.handle.level_downsamples[level]))
        top, left = self.origin
        origin = (left + round(x * self.factor), top + round(y * self.factor))
        try:
            rgba = np.asarray(self.handle.read_region(origin, level, (size, size)))
        except Exception as error:  # OpenSlide has one exception, the file system others
            raise Failed(
                f"{self.path}: cannot read row {origin[1]}, column {origin[0]}: {one_line(error)}"
            ) from error
        opaque = rgba[..., 3:].astype(np.float32) / 255.0
        rgb = np.rint(rgba[..., :3] * opaque + 255.0 * (1.0 - opaque)).astype(np.uint8)
        how = cv2.INTER_AREA if size >= side else cv2.INTER_CUBIC
        return np.asarray(cv2.resize(rgb, (side, side), interpolation=how), np.uint8)


@dataclass(frozen=True)
class SlideTiles:
    """Windows of slides as a `Source`: each slide has as many items as windows fit into it side by side."""

    files: tuple[Slide, ...]
    items: tuple[int, ...]  # index into `files`
    background: tuple[int, ...]  # values of the background labels
    labels: int  # their number
    name: str
    mpp: float | None
    cues: CueScale | None = None  # None for a generator without cues
    aside: tuple[str, ...] = ()
    told: str = "slides"
    guides: Guides | None = None
    styled: bool = False  # windows have a style of their own

    @property
    def slides(self) -> tuple[str, ...]:
        """Slide of each item."""
        return tuple(self.files[number].path.stem for number in self.items)

    def __len__(self) -> int:
        return len(self.items)

    def take(self, indices: Sequence[int]) -> Self:
        """Return the items at `indices`."""
        return replace(self, items=tuple(self.items[index] for index in indices))

    def place(self, rng: np.random.Generator, index: int, side: int) -> tuple[int, int]:
        """Choose a place in the item's slide that is not all background."""
        slide = self.files[self.items[index]]
        for _ in range(TRIES):
            y, x = int(rng.integers(slide.height - side + 1)), int(rng.integers(slide.width - side + 1))
            background = np.isin(slide.read_labels(y, x, side)[::4, ::4], self.background).mean()
            if 1.0 - float(background) >= LEAST_TISSUE_IN_WINDOW:
                break
        return y, x

    def read(self, index: int, place: tuple[int, int], side: int) -> Sample:
        """Read the window at `place`; its cues are measured within it, as in an image of that size."""
        slide = self.files[self.items[index]]
        labels = check_values(slide.read_labels(*place, side), slide.path, range(self.labels))
        image = slide.read_image(*place, side)
        guides = guides_at(slide, place, (side, side), self.guides)
        style = measure_style(image) if self.styled else np.zeros(0, np.float32)
        nothing = np.zeros((2, side, side), np.float32)
        cues, trust = (nothing, nothing) if self.cues is None else self.cues.measure(image, labels)
        return Sample(labels, image, cues, trust, guides, style)

    def tiles(self, side: int, stride: int) -> int:
        """Count the windows of all slides, background included."""
        slides = [self.files[number] for number in set(self.items)]
        return sum(count_tiles(slide.height, slide.width, side, stride) for slide in slides)


def open_slides(
    found: Sequence[tuple[Path, Path]],
    config: TrainConfig,
    name: str,
    known: float | None = None,
    relabel: Relabel | None = None,
) -> SlideTiles:
    """Open slides with their masks, and check all that can be checked before training.

    Parameters
    ----------
    known
        Pixel size of slides that do not say theirs.
    relabel
        What the numbers in masks become.

    Raises
    ------
    BadInput
        A slide cannot be read, has no pixel size, or is smaller than a training tile or a window of the sample
        sheets; its mask has other proportions or unknown labels; or nothing but background was found.
    """
    model, need = config.model, config.least_side
    side = config.tile_side + 2 * model.context
    seen = [_look(path, known) for path, _ in found]
    mpp = model.mpp or (SEAMLESS_MPP if model.network == "seamless" else max(own for *_, own in seen))
    slides = tuple(_open(*pair, config, mpp, seen[number], relabel) for number, pair in enumerate(found))
    for slide in slides:
        if min(slide.height, slide.width) < need:
            raise BadInput(
                f"{slide.path} is {slide.width} x {slide.height} px at {mpp:g} um per pixel, and a training tile or a window "
                f"of the sample sheets is {need} px with its context; train on smaller tiles or at a finer --mpp"
            )
    items = [
        number
        for number, slide in enumerate(slides)
        for _ in range(max(1, slide.height * slide.width // side**2))
    ]
    background = tuple(label.value for label in model.labels if label.fill)
    tiles = SlideTiles(slides, tuple(items), background, len(model.labels), name, mpp)
    tiles = replace(tiles, guides=model.guide, styled=model.style)
    for number, (path, mask) in enumerate(found):
        place = tiles.place(np.random.default_rng(0), items.index(number), side)
        window = slides[number].read_labels(*place, side)
        check_values(window, mask, range(len(model.labels)))
        if np.isin(window, background).all():
            raise BadInput(
                f"{mask}: {TRIES} places of {side} px in {path.name} hold nothing but background; check the mask, or remove "
                "the slide"
            )
    wanted = len(model.noise_scales) >= cue_count(model.guide)
    return replace(tiles, cues=_find_cues(tiles, side)) if wanted else tiles


def _find_cues(tiles: SlideTiles, side: int) -> CueScale:
    """Find the scale of the cues from windows of `side` pixels, drawn as in training, the same every time."""
    rng, samples = np.random.default_rng(0), []
    for number in range(len(tiles.files)):
        index = tiles.items.index(number)
        for _ in range(max(1, CUE_WINDOWS // len(tiles.files))):
            samples.append(tiles.read(index, tiles.place(rng, index, side), side))
    return fit_cues([sample.image for sample in samples], [sample.labels for sample in samples], tiles.guides)


Area = tuple[int, int, int, int]  # row, column, height and width in pixels of level 0
Seen = tuple[Area, Area, float]  # whole area, area that QuPath shows, micrometres per pixel


def _look(path: Path, known: float | None) -> Seen:
    """Find out what a slide says of itself."""
    import openslide

    try:
        with openslide.OpenSlide(path) as handle:
            whole, shown, size = (0, 0, *handle.dimensions[::-1]), shown_area(handle), from_slide(handle)
    except Exception as error:  # OpenSlide has one exception, the file system others
        raise BadInput(
            f"{path} cannot be read as a slide ({one_line(error)}); restore it or remove it"
        ) from error
    if not (mpp := size.mpp or known):
        why = f" ({size.notes[0].partition(';')[0]})" if size.notes else ""
        raise BadInput(
            f"{path} does not say its pixel size{why}; give it as mpp in a dataset.json of the data"
        )
    return whole, shown, mpp


def _open(
    path: Path, mask_path: Path, config: TrainConfig, mpp: float, seen: Seen, relabel: Relabel | None
) -> Slide:
    """Find the area of a slide that its labels cover, and bring both to the generator's pixel size, `mpp`."""
    whole, shown, own = seen
    factor = mpp / own
    if mask_path.suffix != ".zarr":
        names = {label.name: label.value for label in config.model.labels}
        height, width = (math.floor(side / factor) for side in shown[2:])
        remedy = "name them by model.labels in --config, or draw a mask with safron-mask from-geojson"
        rules = DrawingRules(height, width, labels=names, downsample=factor, remedy=remedy)
        drawing = read_geojson(mask_path, rules)
        for loss in drawing.losses():
            warn("safron-train", f"{mask_path}: {loss}")
        return Slide(path, drawing, height, width, factor, shown[:2])
    mask = open_mask(mask_path, relabel=relabel)
    for note in mask.label_notes:
        warn("safron-train", f"{mask_path}: {note}")
    area = min((whole, shown), key=lambda area: _misfit(mask, area, own))
    if _misfit(mask, area, None) > PROPORTION:
        raise BadInput(
            f"{mask_path} is {mask.shape[1]} x {mask.shape[0]} but its slide is {whole[3]} x {whole[2]}; a mask covers its "
            "whole slide, at any scale"
        )
    height, width = (math.floor(side / factor) for side in area[2:])
    scale = (factor * mask.shape[0] / area[2], factor * mask.shape[1] / area[3])
    return Slide(path, mask, height, width, factor, area[:2], scale)


def _misfit(mask: LabelMask, area: Area, mpp: float | None) -> float:
    """How far the proportions of a mask are from those of an area, and its size where both pixel sizes are known."""
    rows, columns = mask.shape[0] / area[2], mask.shape[1] / area[3]
    misfit = abs(rows - columns) / rows
    return misfit if mpp is None or mask.mpp is None else misfit + abs(rows - mpp / mask.mpp)
