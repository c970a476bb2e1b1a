"""How do polygons of nuclei, with tissue beneath them, become a mask of labels and instances?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
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
    held, seen
        bool [nuclei]: which have a pixel, and which have one that no later one covers; complete when all is painted.
    """

    nuclei: Layer
    regions: Layer | None
    background: int
    held: npt.NDArray[np.bool_] = field(init=False)
    seen: npt.NDArray[np.bool_] = field(init=False)

    def __post_init__(self) -> None:
        self.held = np.zeros(len(self.nuclei.polygons), bool)
        self.seen = np.zeros(len(self.nuclei.polygons) + 1, bool)

    def paint(self, rows: slice, cols: slice) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint32]]:
        """Give labels and numbers [y, x] of a region; safe to call from many threads."""
        shape = (rows.stop - rows.start, cols.stop - cols.start)
        labels, numbers = np.full(shape, self.background, np.uint8), np.zeros(shape, np.uint32)
        if self.regions is not None:
            self.regions.paint(rows, cols, labels, numbers)
        # Threads set the same flags to the same value.
        self.held[self.nuclei.paint(rows, cols, labels, numbers)] = True
        self.seen[numbers] = True
        return labels, numbers

    def lost(self, height: int, width: int) -> dict[str, int]:
        """Count nuclei that have no pixel of their own, by the reason; all must be painted."""
        boxes = self.nuclei.polygons.boxes
        beyond = (boxes[:, 0] >= height) | (boxes[:, 1] >= width) | (boxes[:, 2] <= 0) | (boxes[:, 3] <= 0)
        return {
            "beyond the canvas": int(beyond.sum()),
            "smaller than a pixel or between pixel centres": int((~self.held & ~beyond).sum()),
            "covered wholly by later ones": int((self.held & ~self.seen[1:]).sum()),
        }


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
    values = dict(zip(wanted, table.values(wanted, source=source), strict=True))
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


def describe(layer: Layer, table: ClassTable) -> list[str]:
    """Say of each class how many polygons it has and which label stands for it, the most frequent first."""
    counts: Counter[tuple[str, int]] = Counter()
    for name, count in layer.polygons.count().items():
        value = int(layer.labels[int((layer.polygons.classes == layer.polygons.names.index(name)).argmax())])
        counts[name, value] = count
    return [
        f"{count:8d} {name} -> {value} {table.name(value)}" for (name, value), count in counts.most_common()
    ]


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
    found = {"nuclei": mask.nuclei.polygons.count()}
    if mask.regions is not None:
        found["regions"] = mask.regions.polygons.count()
    write_nuclei(
        out,
        mask.paint,
        height=height,
        width=width,
        labels=table.labels,
        fill=mask.background,
        about=about | {"polygons": found, "classes": dict(table.classes)},
        progress=progress,
        **options,
    )
