"""How do polygons of nuclei, with tissue beneath them, become a mask of labels and instances?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safron.io.errors import BadInput

from .classes import ClassTable
from .polygons import PolygonSet
from .raster import Layer
from .write_nuclei import write_nuclei


@dataclass
class PolygonMask:
    """Regions of tissue, if there are any, and nuclei upon them.

    Nuclei are numbered from 1 in the order of their file; numbers of nuclei of which no pixel is left are not used.

    Attributes
    ----------
    nuclei, regions
        What is drawn.
    background
        Label of all other pixels.
    held, seen, covered
        bool [nuclei]: which hold a pixel, which have one that no later one covers, and which hold one that a later one
        covers; complete when all is painted.
    """

    nuclei: Layer
    regions: Layer | None
    background: int
    held: npt.NDArray[np.bool_] = field(init=False)
    seen: npt.NDArray[np.bool_] = field(init=False)
    covered: npt.NDArray[np.bool_] = field(init=False)

    def __post_init__(self) -> None:
        count = len(self.nuclei.polygons)
        # Number 0 is none.
        self._numbers = np.zeros(count + 1, bool)
        self.held, self.seen, self.covered = np.zeros(count, bool), self._numbers[1:], np.zeros(count, bool)

    def paint(self, rows: slice, cols: slice) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint32]]:
        """Give labels and numbers [y, x] of a region; safe to call from many threads."""
        shape = (rows.stop - rows.start, cols.stop - cols.start)
        labels, numbers = np.full(shape, self.background, np.uint8), np.zeros(shape, np.uint32)
        if self.regions is not None:
            self.regions.paint(rows, cols, labels, numbers)
        # Threads set the same flags to the same value.
        held, covered = self.nuclei.paint(rows, cols, labels, numbers)
        self.held[held] = True
        self.covered[covered] = True
        self._numbers[numbers] = True
        return labels, numbers

    def lost(self, height: int, width: int) -> Lost:
        """Find the nuclei that are not in the mask, or not wholly; all must be painted."""
        beyond = _beyond(self.nuclei, height, width)
        return Lost(
            beyond=np.flatnonzero(beyond) + 1,
            between=np.flatnonzero(~self.held & ~beyond) + 1,
            covered=np.flatnonzero(self.held & ~self.seen) + 1,
            partly=int((self.covered & self.seen).sum()),
        )

    @property
    def count(self) -> dict[str, int]:
        """Number of nuclei of each class that have a pixel; all must be painted."""
        polygons = self.nuclei.polygons
        counts = np.bincount(polygons.classes[self.seen], minlength=len(polygons.names))
        return {name: int(counts[polygons.names.index(name)]) for name in polygons.count()}


def _beyond(layer: Layer, height: int, width: int) -> npt.NDArray[np.bool_]:
    """Which polygons lie beyond a canvas: bool [polygons]."""
    boxes = layer.polygons.boxes
    return np.asarray(
        (boxes[:, 0] >= height) | (boxes[:, 1] >= width) | (boxes[:, 2] <= 0) | (boxes[:, 3] <= 0)
    )


def check_canvas(source: Path, layer: Layer, height: int, width: int) -> None:
    """Raise `BadInput` if all polygons of a file lie beyond the canvas."""
    if _beyond(layer, height, width).all():
        raise BadInput(
            f"{source}: all its polygons lie beyond a canvas of {width} x {height} pixels; check the size, or pass --downsample where "
            "the mask is smaller than the image with these polygons"
        )


@dataclass(frozen=True)
class Lost:
    """Nuclei of a file of which nothing, or not all, is in the mask.

    Attributes
    ----------
    beyond, between, covered
        Numbers of those that lie beyond the canvas, hold no pixel's centre, or lie wholly under later ones.
    partly
        How many lie partly under later ones.
    """

    beyond: npt.NDArray[np.int64]
    between: npt.NDArray[np.int64]
    covered: npt.NDArray[np.int64]
    partly: int

    def to_json(self) -> dict[str, int]:
        """Count them by the reason."""
        return {
            "beyond the canvas": len(self.beyond),
            "between pixel centres": len(self.between),
            "wholly under later ones": len(self.covered),
            "partly under later ones": self.partly,
        }

    def told(self) -> list[str]:
        """Say it in a line for each reason that there is."""
        lines = [
            f"{len(numbers)} {'nuclei are' if len(numbers) > 1 else 'nucleus is'} {reason}, and not in the mask: {_first(numbers)}"
            for numbers, reason in (
                (self.beyond, "beyond the canvas"),
                (self.between, "smaller than a pixel or between pixel centres"),
            )
            if len(numbers)
        ]
        if count := self.partly + len(self.covered):
            line = (
                f"{count} {'nuclei lie' if count > 1 else 'nucleus lies'} under later ones of the file, which keep the pixels that "
                "both hold"
            )
            gone = len(self.covered)
            rest = f"; {gone} of them {'are' if gone > 1 else 'is'} covered wholly, and not in the mask: {_first(self.covered)}"
            lines.append(line + rest * bool(gone))
        return lines


MOST_TOLD = 10
"""Numbers of nuclei that one line names."""


def _first(numbers: npt.NDArray[np.int64]) -> str:
    """Name the first of some nuclei by their numbers."""
    named = ", ".join(map(str, numbers[:MOST_TOLD].tolist()))
    more = len(numbers) - MOST_TOLD
    return f"number {named}" if len(numbers) == 1 else f"numbers {named}" + f" and {more} more" * (more > 0)


def layer_of(
    polygons: PolygonSet, table: ClassTable, ignore: Sequence[str], *, source: str, numbered: bool
) -> Layer:
    """Choose the polygons to draw, and their labels.

    Parameters
    ----------
    polygons
        All of a file.
    table
        Label of each class.
    ignore
        Classes that are left out, in any case.
    source
        The file, for messages.
    numbered
        Whether each is an instance.

    Raises
    ------
    BadInput
        A class has no label, or nothing is left to draw.
    """
    left_out = {name.lower() for name in ignore}
    counts = polygons.count()
    wanted = [name for name in counts if name.lower() not in left_out]
    if not wanted:
        raise BadInput(
            f"{source}: no polygon is left; its classes are {', '.join(counts)}, and all are ignored"
        )
    values = dict(
        zip(
            wanted,
            table.values(wanted, source=source, remedy=", or leave them out with --ignore"),
            strict=True,
        )
    )
    if len(wanted) < len(counts):
        polygons = _some(polygons, np.isin(polygons.classes, [polygons.names.index(name) for name in wanted]))
    by_class = np.array([values.get(name, 0) for name in polygons.names], np.uint8)
    numbers = np.arange(1, len(polygons) + 1) if numbered else np.zeros(len(polygons))
    return Layer(polygons, by_class[polygons.classes], numbers.astype(np.uint32))


def _some(polygons: PolygonSet, kept: npt.NDArray[np.bool_]) -> PolygonSet:
    """Some of the polygons, in their order."""
    ring_kept = np.repeat(kept, np.diff(polygons.polygons))
    point_kept = np.repeat(ring_kept, np.diff(polygons.rings))
    rings = np.cumsum(np.append(0, np.diff(polygons.rings)[ring_kept]))
    starts = np.cumsum(np.append(0, np.diff(polygons.polygons)[kept]))
    return replace(
        polygons, xy=polygons.xy[point_kept], rings=rings, polygons=starts, classes=polygons.classes[kept]
    )


def describe(layer: Layer, table: ClassTable, drawn: Mapping[str, int]) -> list[str]:
    """Say of each class how many polygons it has and which label stands for it, the most frequent first.

    Parameters
    ----------
    layer
        The polygons.
    table
        Names of the labels.
    drawn
        How many of each class have a pixel, or are taken for it.
    """
    counts: Counter[tuple[str, int]] = Counter()
    for name, count in layer.polygons.count().items():
        value = int(layer.labels[int((layer.polygons.classes == layer.polygons.names.index(name)).argmax())])
        counts[name, value] = count
    lines = []
    for (name, value), count in counts.most_common():
        lacking = count - drawn[name]
        lines.append(
            f"{count:8d} {name} -> {value} {table.name(value)}"
            + f" ({lacking} without a pixel)" * bool(lacking)
        )
    return lines


def write_polygon_mask(
    out: Path,
    mask: PolygonMask,
    table: ClassTable,
    *,
    height: int,
    width: int,
    about: dict[str, Any],
    progress: Callable[[int], None],
    **options: Any,
) -> None:
    """Draw the mask and write it; see `write_nuclei` for the rest."""
    polygons = {"nuclei": mask.nuclei.polygons.count()}
    if mask.regions is not None:
        polygons["regions"] = mask.regions.polygons.count()
    said = about | {"polygons": polygons, "classes": dict(table.classes)}

    def count() -> dict[str, Any]:
        return said | {"nuclei": mask.count, "lost": mask.lost(height, width).to_json()}

    write_nuclei(
        out,
        mask.paint,
        height=height,
        width=width,
        most=len(mask.nuclei.polygons),
        labels=table.labels,
        fill=mask.background,
        about=count,
        progress=progress,
        **options,
    )
