"""Which crops does a mask model learn from?

A slide's mask of nuclei, and, if there is one, a mask of its regions, are turned into three planes once: depth (see
`safron.io.masks.nucleus_code`), type and region. They are kept in one file, which is mapped into memory: crops are read where they lie.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from safron.io.errors import BadInput
from safron.io.files import replacing
from safron.io.mapped import reserve
from safron.io.masks.mask import LabelMask
from safron.io.masks.nucleus_code import REACH, circle, encode, measure_depth
from safron.io.masks.open import open_mask
from safron.io.masks.to_geojson import own_legend

from .settings import EMPTY, TISSUE, LayoutConfig

CELL = 32
"""Side of the squares, in pixels, of which it is known whether they hold nuclei."""

NEAR = 2
"""Pixels of no region are background where no nucleus lies within so many squares."""

ROWS = 1024

MOST_PIXELS = 1 << 36
"""Of a slide that crops are read from: 262,144 x 262,144."""

Bytes = npt.NDArray[np.uint8]


def read_meanings(nuclei: Path, regions: Path | None) -> LayoutConfig:
    """Settings whose types and labels are those that two masks name; see `make_planes`.

    Raises
    ------
    BadInput
        A mask does not say what its labels mean, or the regions do not begin with background and tissue.
    """
    types = tuple(_types_of(open_mask(nuclei)))
    if regions is None:
        return LayoutConfig(types=types)
    legend = own_legend(open_mask(regions))
    if [label.value for label in legend] != [*range(len(legend))] or [label.name for label in legend[:2]] != [
        "background",
        "tissue",
    ]:
        said = ", ".join(f"{label.value} {label.name}" for label in legend) or "nothing"
        raise BadInput(
            f"{regions}: it says of its labels: {said}; they must be 0 background, 1 tissue, then regions without a gap: draw it with "
            "a table for --classes"
        )
    labels = (replace(label, fill=EMPTY if label.value == 0 else None) for label in legend)
    return LayoutConfig(types=types, labels=tuple(labels))


def _types_of(mask: LabelMask) -> dict[str, int]:
    """Labels of nuclei by their names."""
    found = {
        label.name: label.value for label in own_legend(mask) if label.name not in ("background", "tissue")
    }
    if not found:
        raise BadInput(
            f"{mask.source}: it does not name the labels of nuclei; make it with safron-mask from-polygons or from-instances"
        )
    return found


def check_masks(nuclei: Path, regions: Path | None) -> tuple[LabelMask, LabelMask | None]:
    """Open both masks of `make_planes`.

    Raises
    ------
    BadInput
        They have other sizes, no numbers, or more than `MOST_PIXELS`.
    """
    mask, beneath = open_mask(nuclei), None if regions is None else open_mask(regions)
    height, width = mask.shape
    if "instances" not in mask.beside:
        raise BadInput(
            f"{nuclei}: it has no numbers of nuclei; make it with safron-mask from-polygons or from-instances"
        )
    if beneath is not None and beneath.shape != mask.shape:
        raise BadInput(
            f"{regions}: {beneath.shape[1]} x {beneath.shape[0]} pixels, but {nuclei} has {width} x {height}; "
            "draw both with the same --size"
        )
    if height * width > MOST_PIXELS:
        raise BadInput(
            f"{nuclei}: it declares {width} x {height} pixels, and training keeps 3 bytes of each on disk; give a part of at most "
            f"{MOST_PIXELS >> 20} megapixels"
        )
    return mask, beneath


def make_planes(
    nuclei: Path, regions: Path | None, config: LayoutConfig, out: Path, tell: Callable[[str], None]
) -> None:
    """Write depth, type and region, uint8 [3, y, x], as a NumPy file.

    Parameters
    ----------
    nuclei
        A mask with numbers of nuclei, which names the labels of all types of the settings.
    regions
        A mask of the same size with labels of the settings; None where nothing is known.
    config
        Says which labels there are.
    out
        The file.
    tell
        Takes a line now and then.

    Raises
    ------
    BadInput
        Masks of another size, without numbers, or with regions that the settings do not know.
    """
    mask, beneath = check_masks(nuclei, regions)
    height, width = mask.shape
    with replacing(out) as file:
        planes = np.lib.format.open_memmap(file.name, "w+", np.uint8, (3, height, width))
        reserve(file, Path(file.name).stat().st_size)
        for y in range(0, height, ROWS):
            rows = slice(y, min(height, y + ROWS))
            planes[:, rows] = _strip(mask, beneath, config, rows)
            tell(f"prepared {rows.stop} of {height} rows")
        near = cv2.dilate(_cells(planes[1]).astype(np.uint8), np.ones((2 * NEAR + 1, 2 * NEAR + 1)))
        for row, line in enumerate(near):
            part = planes[2, row * CELL : (row + 1) * CELL]
            part[(part == TISSUE) & (np.repeat(line, CELL)[:width] == 0)] = 0
        planes.flush()


def _strip(mask: LabelMask, beneath: LabelMask | None, config: LayoutConfig, rows: slice) -> Bytes:
    """Depth, type and region of some rows, uint8 [3, y, x]."""
    height, width = mask.shape
    around = slice(max(0, rows.start - REACH - 2), min(height, rows.stop + REACH + 2))
    all_columns = slice(0, width)
    numbers = mask.beside["instances"].plane.read(around, all_columns)
    places = np.zeros(256, np.uint8)
    for name, value in _types_of(mask).items():
        places[value] = config.types.index(name) + 1
    within = slice(rows.start - around.start, rows.stop - around.start)
    types = np.where(numbers[within] > 0, places[mask[rows, all_columns]], 0).astype(np.uint8)
    region = (
        np.full_like(types, TISSUE) if beneath is None else np.asarray(beneath[rows, all_columns], np.uint8)
    )
    if (top := int(region.max(initial=0))) >= len(config.labels):
        raise BadInput(f"region {top} is not known; the settings have 0 to {len(config.labels) - 1}")
    depth = measure_depth(numbers.astype(np.uint32))[within]
    return np.stack([depth, types, region])


def _cells(plane: Bytes) -> npt.NDArray[np.bool_]:
    """Whether each square of `CELL` pixels holds something."""
    height, width = plane.shape
    found = [
        np.logical_or.reduceat(plane[y : y + CELL].any(axis=0), np.arange(0, width, CELL))
        for y in range(0, height, CELL)
    ]
    return np.array(found)


@dataclass(frozen=True)
class Crops:
    """What a step of training reads.

    Attributes
    ----------
    pictures
        RGB of `nucleus_code`, uint8 [n, y, x, 3].
    types
        float32 [n, types], 1 where a type is present.
    regions
        Labels, uint8 [n, y, x].
    """

    pictures: Bytes
    types: npt.NDArray[np.float32]
    regions: Bytes


class Layouts:
    """Crops of the planes.

    Parameters
    ----------
    planes
        uint8 [3, y, x], see `make_planes`.
    config
        All settings.
    held_out
        Read the rows that are held out, instead of all others.
    """

    def __init__(self, planes: Bytes, config: LayoutConfig, *, held_out: bool = False) -> None:
        self.planes, self.config, self.codes = planes, config, circle(len(config.types))
        height, width = planes.shape[1:]
        side, low, high = config.crop, *(round(share * planes.shape[1]) for share in config.held_out)
        self.spans = [(low, high)] if held_out else [(0, low), (high, height)]
        self.spans = [(first, last) for first, last in self.spans if last - first >= side]
        if not self.spans or width < side:
            raise BadInput(
                f"a mask of {width} x {height} pixels leaves no crop of {side} pixels on both sides of the rows that are held "
                "out; give a larger one, or a smaller --crop"
            )
        # Places of some nuclei of each type, for crops around them.
        seen = planes[1, :: CELL // 2, :: CELL // 2]
        rows = np.arange(len(seen)) * (CELL // 2)
        allowed = np.zeros(len(seen), bool)
        for first, last in self.spans:
            allowed |= (rows >= first) & (rows < last)
        seen = np.where(allowed[:, None], seen, 0)
        self.places = [np.argwhere(seen == 1 + number) * (CELL // 2) for number in range(len(config.types))]
        self.tissue = np.argwhere(np.where(allowed[:, None], planes[2, :: CELL // 2, :: CELL // 2], 0)) * (
            CELL // 2
        )
        if not len(self.tissue):
            raise BadInput("the mask holds no tissue to train on; give one with nuclei")

    def draw(self, rng: np.random.Generator, count: int, *, turn: bool = True) -> Crops:
        """Draw crops, turned and mirrored."""
        parts = [self._one(rng, turn=turn) for _ in range(count)]
        pictures = np.stack([encode(part[1], part[0], self.codes) for part in parts])
        present = np.stack([self.present(part[1]) for part in parts])
        return Crops(pictures, present, np.stack([part[2] for part in parts]))

    def present(self, types: Bytes) -> npt.NDArray[np.float32]:
        """Which types a crop holds: float32 [types]."""
        counts = np.bincount(types.ravel(), minlength=len(self.config.types) + 1)
        return (counts[1:] > 0).astype(np.float32)

    def _one(self, rng: np.random.Generator, *, turn: bool) -> Bytes:
        """Draw depth, type and region of one crop: uint8 [3, y, x]."""
        config, side = self.config, self.config.crop
        places = self.tissue
        if rng.random() < config.rare:
            some = [found for found in self.places if len(found)] or [places]
            places = some[int(rng.integers(len(some)))]
        y, x = places[int(rng.integers(len(places)))] - rng.integers(0, side, 2)
        first, last = min(self.spans, key=lambda span: max(span[0] - y, y + side - span[1], 0))
        y = int(np.clip(y, first, last - side))
        x = int(np.clip(x, 0, self.planes.shape[2] - side))
        crop = np.array(self.planes[:, y : y + side, x : x + side])
        if rng.random() < config.hidden:
            crop[2][crop[2] > 0] = TISSUE
        if turn:
            crop = np.rot90(crop, int(rng.integers(4)), axes=(1, 2))
            crop = crop[:, :, ::-1] if rng.integers(2) else crop
        return np.ascontiguousarray(crop)
