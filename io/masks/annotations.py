"""How do the polygons that a pathologist drew become labels?

QuPath exports annotations as GeoJSON. The class of an object decides its label, and the order of the file, or its size, which object
covers another. `safron.io.masks.geojson` reads the file, `safron.io.masks.drawing` says which pixels a polygon holds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from safron.io.errors import BadInput
from safron.io.legend import DEFAULT_LABELS, Label

from .drawing import Drawing, Polygon, edges_of
from .geojson import Objects, Ring, Shape, read_objects

_NUMBERED = {f"label {value}": value for value in range(256)}
"""Names of labels that have none, as `safron-mask to-geojson` writes them."""


@dataclass(frozen=True)
class DrawingRules:
    """How polygons are drawn.

    Attributes
    ----------
    height, width
        Canvas pixels; polygons are cut at the edges.
    labels
        Label value by classification (or name, where there is none), in any case; added to the names of
        `legend`, of the file, and of `DEFAULT_LABELS`.
    legend
        What labels mean, as the mask or the slide says to which the drawing belongs.
    ignore
        Classifications that are not drawn.
    background
        Label of all other pixels.
    downsample
        Pixels of the annotated image along one pixel of the mask.
    order
        "file": later polygons cover earlier ones; "area": smaller ones cover larger ones.
    nuclei
        Label of the nuclei of QuPath's cells, drawn upon their cells; None leaves them out, and they are
        counted.
    remedy
        Ends the message on unknown classifications; the caller knows by which option they can be added.
    """

    height: int
    width: int
    labels: Mapping[str, int] = field(default_factory=dict)
    legend: Sequence[Label] = ()
    ignore: Sequence[str] = ()
    background: int = 0
    downsample: float = 1.0
    order: Literal["file", "area"] = "file"
    nuclei: int | None = None
    remedy: str = "add them to the labels, or ignore them"


def read_geojson(path: Path, rules: DrawingRules) -> Drawing:
    """Read annotations that QuPath exported.

    Parameters
    ----------
    path
        See `safron.io.masks.geojson.read_objects`.
    rules
        How they are drawn.

    Raises
    ------
    BadInput
        The file cannot be read; it holds no polygon, or one whose classification has no label.
    """
    found = read_objects(path, ignore=rules.ignore, nuclei=rules.nuclei is not None)
    values = _values(found, rules)
    unknown = Counter(
        shape.name for shape in found.shapes if not shape.nucleus and shape.name.lower() not in values
    )
    if unknown:
        raise BadInput(_explain(path, unknown, values, rules.remedy))
    if not found.shapes:
        raise BadInput(f"{path}: none of its {found.count} objects is a polygon to draw")
    polygons = [_polygon(shape, values, rules) for shape in found.shapes]
    here = [polygon for polygon in polygons if _box_area(polygon.box)]
    if not here:
        raise BadInput(
            f"{path}: all its polygons lie beyond a canvas of {rules.width} x {rules.height} pixels; "
            "check the size, or pass --downsample where the mask is smaller than the annotated image"
        )
    if rules.order == "area":
        here.sort(key=lambda polygon: -polygon.area)
    return Drawing(
        tuple(here),
        rules.background,
        len(polygons) - len(here),
        dict(found.skipped),
        dict(found.planes),
        found.nuclei,
        _legend(found, values, rules),
    )


def _values(found: Objects, rules: DrawingRules) -> dict[str, int]:
    """Label by name in lower case; what the user says goes before the mask, the file, and what is usual."""
    named = _NUMBERED.copy()
    for legend in (DEFAULT_LABELS, found.legend, rules.legend):
        named |= {label.name.lower(): label.value for label in legend}
    return named | {name.lower(): value for name, value in rules.labels.items()}


def _legend(found: Objects, values: Mapping[str, int], rules: DrawingRules) -> tuple[Label, ...]:
    """Names and colours of the classes of a file; the first class of each label counts."""
    meanings: dict[int, Label] = {}
    for shape in found.shapes:
        color = found.colors.get(shape.name)
        if not shape.nucleus and color is not None:
            value = values[shape.name.lower()]
            meanings.setdefault(value, Label(value, shape.name, color))
    said = {label.value: label for label in (*found.legend, *rules.legend)}
    usual = {} if said or rules.labels else {label.value: label for label in DEFAULT_LABELS}
    all_of_them = usual | said | meanings
    return tuple(all_of_them[value] for value in sorted(all_of_them))


def _polygon(shape: Shape, values: Mapping[str, int], rules: DrawingRules) -> Polygon:
    value = (rules.nuclei or 0) if shape.nucleus else values[shape.name.lower()]
    rings = shape.rings if rules.downsample == 1 else [ring / rules.downsample for ring in shape.rings]
    size = (rules.width, rules.height)
    first = np.floor(rings[0].min(axis=0))
    # A line along pixels' edges has no extent, and still lies on the canvas.
    last = np.maximum(np.ceil(rings[0].max(axis=0)), first + 1)
    x0, y0 = np.clip(first, 0, size).astype(int).tolist()
    x1, y1 = np.clip(last, 0, size).astype(int).tolist()
    areas = [_ring_area(ring) for ring in rings]
    return Polygon(value, edges_of(rings), (y0, x0, y1, x1), shape.name, areas[0] - sum(areas[1:]))


def _ring_area(ring: Ring) -> float:
    x, y = (ring - ring[0]).T.astype(np.float64)
    return abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2


def _box_area(box: tuple[int, int, int, int]) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])


def _explain(path: Path, unknown: Counter[str], values: Mapping[str, int], remedy: str) -> str:
    found = ", ".join(f"{name!r} ({count})" for name, count in unknown.most_common(12))
    known = ", ".join(f"{name}={value}" for name, value in values.items() if name not in _NUMBERED)
    return f"{path}: no label is known for {found}; known are {known}; {remedy}"
