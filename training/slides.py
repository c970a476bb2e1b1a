"""How are training windows cut from slides, as they are needed?

A slide lies beside a mask (``CASE.zarr``, of any size that has the slide's proportions) or QuPath annotations
(``CASE.geojson``, in pixels of the slide). Windows are read through OpenSlide from the level that is just finer than
the pixel size asked for, and resized to it. Places are drawn at random and kept where there is something but
background. Cues are measured window by window, on a scale that is found from a few windows of each slide.

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
import numpy.typing as npt
from safron.io.errors import BadInput, Failed, one_line
from safron.io.masks.annotations import Drawing, read_geojson
from safron.io.masks.image_planes import shown_area
from safron.io.masks.mask import LabelMask
from safron.io.masks.open import open_mask
from safron.training.config import TrainConfig
from safron.training.data import Bytes, CueScale, Sample, check_values, fit_cues

SLIDES = {".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".vmu", ".tif", ".tiff"}

ALWAYS_SLIDES = SLIDES - {".tif", ".tiff"}
"""Endings that only slides have; a TIFF is a slide where a mask or annotations of its name say so."""

NOTES = (".zarr", ".geojson")

TRIES = 100
"""How many places are tried before a window of background is taken: glass on 95 of 100 leaves 6 in 1000."""

LEAST_TISSUE = 0.1
"""Smallest share of a window that is not background."""

CUE_WINDOWS = 64
"""Windows that the scale of the cues is found from, shared out over the slides, at least one of each."""

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
    files = [path for path in sorted(folder.rglob("*")) if not any(p.suffix == ".zarr" for p in path.parents)]
    for path in (path for path in files if path.suffix.lower() in SLIDES):
        notes = [path.with_suffix(suffix) for suffix in NOTES if path.with_suffix(suffix).exists()]
        if notes:
            found.append((path, notes[0]))
        elif path.suffix.lower() in ALWAYS_SLIDES:
            raise BadInput(f"{path} has no mask; put {path.stem}.zarr or {path.stem}.geojson beside it")
    paired = {notes for _, notes in found}
    for path in (path for path in files if path.suffix in NOTES):
        if path not in paired and path.with_suffix(".zarr") not in paired:
            raise BadInput(f"{path} has no slide of its name beside it; add the slide or remove it")
    return found


@dataclass(frozen=True)
class Slide:
    """A slide and its labels, both at the generator's pixel size.

    Attributes
    ----------
    path
        The slide.
    labels
        A mask, which is resampled, or polygons that already have the generator's scale.
    height, width
        Canvas pixels at the generator's pixel size.
    factor
        Level-0 pixels along one canvas pixel.
    origin
        Level-0 row and column where the canvas begins.
    scale
        Rows and columns of a mask along one canvas pixel; polygons have none.
    """

    path: Path
    labels: LabelMask | Drawing
    height: int
    width: int
    factor: float
    origin: tuple[int, int]
    scale: tuple[float, float] = (1.0, 1.0)

    @cached_property
    def handle(self) -> Any:
        """The slide in OpenSlide, opened on first use."""
        import openslide

        return openslide.OpenSlide(self.path)

    def read_labels(self, y: int, x: int, side: int) -> Bytes:
        """Labels uint8 [side, side] from canvas row `y` and column `x` on."""
        if isinstance(self.labels, Drawing):
            return self.labels.paint(slice(y, y + side), slice(x, x + side))
        rows, columns = (
            np.clip(((np.arange(start, start + side) + 0.5) * scale).astype(int), 0, theirs - 1)
            for start, scale, theirs in zip((y, x), self.scale, self.labels.shape, strict=True)
        )
        part = self.labels[int(rows[0]) : int(rows[-1]) + 1, int(columns[0]) : int(columns[-1]) + 1]
        return part[np.ix_(rows - rows[0], columns - columns[0])]

    def read_image(self, y: int, x: int, side: int) -> Bytes:
        """RGB uint8 [side, side, 3] from canvas row `y` and column `x` on; what was not scanned is white."""
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
    """Windows of slides as a `data.Source`: each slide has as many items as windows fit into it side by side.

    Attributes
    ----------
    sheets
        The slides.
    items
        Index into `sheets` of each item.
    background
        Label values that are glass.
    labels
        Number of labels.
    name
        Name of the data set.
    cues
        Scale of the cues; None for a generator that takes none.
    """

    sheets: tuple[Slide, ...]
    items: tuple[int, ...]
    background: tuple[int, ...]
    labels: int
    name: str
    cues: CueScale | None = None

    @property
    def slides(self) -> tuple[str, ...]:
        """Slide of each item."""
        return tuple(self.sheets[sheet].path.stem for sheet in self.items)

    def __len__(self) -> int:
        return len(self.items)

    def take(self, indices: Sequence[int]) -> Self:
        """Return the items at `indices`."""
        return replace(self, items=tuple(self.items[index] for index in indices))

    def place(self, rng: np.random.Generator, index: int, side: int) -> tuple[int, int]:
        """Choose a place in the item's slide that is not all background."""
        sheet = self.sheets[self.items[index]]
        for _ in range(TRIES):
            y, x = int(rng.integers(sheet.height - side + 1)), int(rng.integers(sheet.width - side + 1))
            if self.tissue(sheet, y, x, side) >= LEAST_TISSUE:
                break
        return y, x

    def tissue(self, sheet: Slide, y: int, x: int, side: int) -> float:
        """Share of a window that is not background, 0..1."""
        return 1.0 - float(np.isin(sheet.read_labels(y, x, side)[::4, ::4], self.background).mean())

    def read(self, index: int, place: tuple[int, int], side: int) -> Sample:
        """Read the window at `place`; its cues are measured within it, as those of an image are."""
        sheet = self.sheets[self.items[index]]
        labels = check_values(sheet.read_labels(*place, side), sheet.path, self.labels)
        image = sheet.read_image(*place, side)
        if self.cues is None:
            nothing = np.zeros((2, side, side), np.float32)
            return Sample(labels, image, nothing, nothing)
        return Sample(labels, image, *self.cues.measure(image, labels))

    def counts(self, labels: int) -> npt.NDArray[np.int64]:
        """Count the labels of windows drawn as training draws them, four from each slide."""
        rng, total = np.random.default_rng(0), np.zeros(labels, np.int64)
        for index in sorted({self.items.index(sheet) for sheet in self.items}):
            sheet = self.sheets[self.items[index]]
            side = min(512, sheet.height, sheet.width)
            for _ in range(4):
                window = sheet.read_labels(*self.place(rng, index, side), side)
                total += np.bincount(window.ravel(), minlength=labels)[:labels]
        return total


def open_slides(found: Sequence[tuple[Path, Path]], config: TrainConfig, name: str) -> SlideTiles:
    """Open slides with their masks and check what can be checked before training.

    Raises
    ------
    BadInput
        A slide cannot be read, has no pixel size, or is smaller than a training tile or a window of the sample
        sheets; its mask has other proportions or unknown labels; or nothing but background was found.
    """
    model, need = config.model, config.least_side
    side = config.canvas_side + 2 * model.context
    sheets = tuple(_open(path, notes, config) for path, notes in found)
    for sheet in sheets:
        if min(sheet.height, sheet.width) < need:
            raise BadInput(
                f"{sheet.path} is {sheet.width} x {sheet.height} px at {model.mpp:g} um per pixel, and a training tile or a window "
                f"of the sample sheets is {need} px with its context; choose a finer --mpp or a smaller --size"
            )
    items = [
        number
        for number, sheet in enumerate(sheets)
        for _ in range(max(1, sheet.height * sheet.width // side**2))
    ]
    background = tuple(label.value for label in model.labels if label.fill)
    tiles = SlideTiles(sheets, tuple(items), background, len(model.labels), name)
    for number, sheet in enumerate(sheets):
        window = _first_tissue(tiles, items.index(number), side)
        check_values(window, found[number][1], len(model.labels))
        if np.isin(window, background).all():
            raise BadInput(
                f"{found[number][1]}: {TRIES} places of {side} px in {sheet.path.name} hold nothing but background; check "
                "the mask, or remove the slide"
            )
    return replace(tiles, cues=_find_cues(tiles, side)) if len(model.noise_scales) >= 2 else tiles


def _find_cues(tiles: SlideTiles, side: int) -> CueScale:
    """Find the scale of the cues from windows of `side` pixels, drawn as training draws them and always the same."""
    rng, samples = np.random.default_rng(0), []
    for number in range(len(tiles.sheets)):
        index = tiles.items.index(number)
        for _ in range(max(1, CUE_WINDOWS // len(tiles.sheets))):
            samples.append(tiles.read(index, tiles.place(rng, index, side), side))
    return fit_cues([sample.image for sample in samples], [sample.labels for sample in samples])[0]


def _first_tissue(tiles: SlideTiles, index: int, side: int) -> Bytes:
    sheet = tiles.sheets[tiles.items[index]]
    return sheet.read_labels(*tiles.place(np.random.default_rng(0), index, side), side)


def _open(path: Path, notes: Path, config: TrainConfig) -> Slide:
    import openslide

    model = config.model
    try:
        with openslide.OpenSlide(path) as handle:
            whole, shown = (0, 0, *handle.dimensions[::-1]), shown_area(handle)
            mpp = handle.properties.get(openslide.PROPERTY_NAME_MPP_Y)
    except Exception as error:  # OpenSlide has one exception, the file system others
        raise BadInput(
            f"{path} cannot be read as a slide ({one_line(error)}); restore it or remove it"
        ) from error
    if mpp is None:
        raise BadInput(
            f"{path} does not say its pixel size; give a copy that does, such as a file with resolution tags"
        )
    factor = model.mpp / float(mpp)
    if notes.suffix == ".geojson":
        names = {label.name: label.value for label in model.labels}
        height, width = (math.floor(side / factor) for side in shown[2:])
        drawing = read_geojson(notes, height=height, width=width, labels=names, downsample=factor)
        return Slide(path, drawing, height, width, factor, shown[:2])
    mask = open_mask(notes)
    area = min((whole, shown), key=lambda area: _misfit(mask, area, float(mpp)))
    if _misfit(mask, area, None) > PROPORTION:
        raise BadInput(
            f"{notes} is {mask.shape[1]} x {mask.shape[0]} but its slide is {whole[3]} x {whole[2]}; a mask covers its "
            "whole slide, at any scale"
        )
    height, width = (math.floor(side / factor) for side in area[2:])
    scale = (factor * mask.shape[0] / area[2], factor * mask.shape[1] / area[3])
    return Slide(path, mask, height, width, factor, area[:2], scale)


def _misfit(mask: LabelMask, area: tuple[int, int, int, int], mpp: float | None) -> float:
    """By how much the proportions of a mask differ from those of an area, and its size where both scales are known."""
    rows, columns = mask.shape[0] / area[2], mask.shape[1] / area[3]
    misfit = abs(rows - columns) / rows
    return misfit if mpp is None or mask.mpp is None else misfit + abs(rows - mpp / mask.mpp)
