"""Which polygons of nuclei does a file hold, and of which class is each?

A `PolygonSet` keeps all of them in a few arrays, so that half a million nuclei take some dozen megabytes. Read are:

- ``.npz`` with the arrays xy, offsets, cls and names, and, if need be, hole (1 for the inner ring of the polygon before it) and
  scale (by which xy is divided)
- GeoJSON of QuPath and of CellViT, also one feature a line: each polygon is a nucleus; of QuPath's cells the nucleus counts, where it is outlined
- JSON of HoVer-Net ({"nuc": {"1": {"contour": ..., "type": 1}}}) and of CellViT ({"cells": [{"contour": ..., "type": 1}]})
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safron.io.errors import BadInput, one_line
from safron.io.files import open_input, parsing
from safron.io.json_texts import each_json

from .geojson import feature_name, features_of, outlines
from .mask import MAX_SIDE

HOVERNET = {0: "no label", 1: "neopla", 2: "inflam", 3: "connec", 4: "necros", 5: "no-neo"}
"""HoVer-Net's names of PanNuke's classes, which its JSON does not hold."""

Points = npt.NDArray[np.float64]


@dataclass(frozen=True)
class PolygonSet:
    """Polygons with classes, in the order in which they are drawn.

    Attributes
    ----------
    xy
        Numbers [points, 2], x and y of the corners of all rings, one after the other.
    scale
        `xy` divided by this is in pixels.
    rings
        int64 [rings + 1]: where each ring begins in `xy`.
    polygons
        int64 [polygons + 1]: where each polygon begins in `rings`; its first ring is the outer one, others are holes.
    classes
        int32 [polygons]: index into `names`.
    names
        Of the classes.
    """

    xy: npt.NDArray[Any]
    scale: float
    rings: npt.NDArray[np.int64]
    polygons: npt.NDArray[np.int64]
    classes: npt.NDArray[np.int32]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.classes)

    @cached_property
    def boxes(self) -> npt.NDArray[np.int64]:
        """Y0, x0, y1, x1 of the pixels that each polygon may hold, half-open: int64 [polygons, 4]."""
        starts = self.rings[self.polygons[:-1]]
        # Holes lie inside, but nothing keeps a file from saying otherwise.
        low = np.minimum.reduceat(self.xy, starts, axis=0) / self.scale
        high = np.maximum.reduceat(self.xy, starts, axis=0) / self.scale
        return np.concatenate([np.floor(low)[:, ::-1], np.ceil(high)[:, ::-1]], axis=1).astype(np.int64)

    @property
    def extent(self) -> tuple[int, int]:
        """Height and width of the smallest canvas that holds all polygons."""
        _, _, y1, x1 = self.boxes.max(axis=0)
        return max(1, int(y1)), max(1, int(x1))

    def count(self) -> dict[str, int]:
        """Number of polygons of each class that has some."""
        counts = np.bincount(self.classes, minlength=len(self.names))
        return {name: int(count) for name, count in zip(self.names, counts, strict=True) if count}


def read_polygons(path: Path) -> PolygonSet:
    """Read the polygons of a file; see the module's text.

    Raises
    ------
    BadInput
        The file is missing, too large (see `safron.io.json_texts`), of no known form, or holds no polygon.
    """
    if path.suffix.lower() == ".npz":
        return _read_npz(path)
    remedy = "give GeoJSON of QuPath, JSON of HoVer-Net or CellViT, or .npz with xy, offsets, cls and names"
    with parsing(path, kind="polygons of nuclei", remedy=remedy):
        texts = each_json(path, lambda document: list(_objects(document)))
        return _collect(path, chain.from_iterable(texts))


def _read_npz(path: Path) -> PolygonSet:
    try:
        with open_input(path) as file, np.load(file, allow_pickle=False) as kept:
            xy, offsets, classes, names = (kept[name] for name in ("xy", "offsets", "cls", "names"))
            hole = kept["hole"] if "hole" in kept.files else np.zeros(len(classes), np.uint8)
            scale = float(kept["scale"]) if "scale" in kept.files else 1.0
    except BadInput:
        raise
    except Exception as error:  # of zip archives, of pickled arrays, of missing names
        raise BadInput(
            f"{path}: cannot be read as polygons ({one_line(error)}); it must hold the arrays xy, offsets, cls and names"
        ) from error
    rings = offsets.astype(np.int64)
    count = len(rings) - 1
    rules = [
        (xy.ndim == 2 and xy.shape[1] == 2 and xy.dtype.kind in "iuf", f"xy {xy.shape} must be [points, 2]"),
        (count > 0 and len(classes) == len(hole) == count, "cls and hole must have an entry for each ring"),
        (
            rings[0] == 0 and rings[-1] == len(xy) and (np.diff(rings) > 0).all(),
            "offsets must rise from 0 to the points",
        ),
        (scale > 0, f"scale {scale:g} must be above 0"),
        (
            int(classes.min(initial=0)) >= 0 and int(classes.max(initial=0)) < len(names),
            "cls must be below the number of names, and not below 0",
        ),
        (count > 0 and not hole[0], "a hole must follow the ring around it"),
    ]
    for holds, text in rules:
        if not holds:
            raise BadInput(f"{path}: {text}; make the file again")
    if xy.dtype.kind == "f" and not np.isfinite(xy).all():
        raise BadInput(f"{path}: xy must be finite; make the file again")
    check_reach(path, xy, scale)
    outer = np.flatnonzero(hole == 0)
    polygons = np.append(outer, count).astype(np.int64)
    return PolygonSet(xy, scale, rings, polygons, classes[outer].astype(np.int32), tuple(map(str, names)))


def check_reach(path: Path, xy: npt.NDArray[Any], scale: float) -> None:
    """Refuse corners that lie beyond the largest canvas there is."""
    far = max(abs(float(xy.min())), abs(float(xy.max()))) / scale
    if far > MAX_SIDE:
        raise BadInput(
            f"{path}: a corner lies {far:g} pixels from the origin, and a mask has at most {MAX_SIDE} a side; "
            "correct the corners, or their scale"
        )


Named = tuple[str, list[Points]]
"""Class and rings of a polygon, the outer one first."""


def _objects(document: Any) -> Iterable[Named]:
    """Find the polygons in the JSON of any of the programs."""
    if isinstance(document, Mapping) and isinstance(document.get("nuc"), Mapping):
        types = {str(number): name for number, name in HOVERNET.items()}
        return _cells(document["nuc"].values(), types)
    if isinstance(document, Mapping) and isinstance(document.get("cells"), list):
        return _cells(document["cells"], dict(document.get("type_map") or {}))
    return _features(features_of(document))


def _cells(cells: Iterable[Mapping[str, Any]], types: Mapping[str, Any]) -> Iterable[Named]:
    for cell in cells:
        kind = str(cell.get("type", "nucleus"))
        yield str(types.get(kind, kind)), [np.asarray(cell["contour"], np.float64)]


def _features(features: Iterable[Mapping[str, Any]]) -> Iterable[Named]:
    for number, feature in enumerate(features):
        try:
            name = feature_name(feature)
            found, _ = outlines(feature.get("nucleusGeometry") or feature["geometry"] or {"type": "none"})
        except ValueError as error:
            raise ValueError(f"feature {number}: {error}") from error
        for rings in found:
            yield name, rings


def _collect(path: Path, objects: Iterable[Named]) -> PolygonSet:
    parts: list[Points] = []
    polygons, classes = [0], list[int]()
    places: dict[str, int] = {}
    for name, rings in objects:
        kept = [ring for ring in rings if len(ring) >= 3]
        if not kept:
            continue
        for ring in kept:
            if ring.shape[1:] != (2,) or not np.isfinite(ring).all():
                raise ValueError(f"polygon {len(classes)} has a corner without finite x, y")
        parts += kept
        polygons.append(len(parts))
        classes.append(places.setdefault(name, len(places)))
    if not parts:
        raise BadInput(f"{path}: it holds no polygon with three corners or more")
    xy = np.concatenate(parts)
    check_reach(path, xy, 1.0)
    rings_at = np.cumsum([0, *(len(ring) for ring in parts)])
    return PolygonSet(
        xy,
        1.0,
        rings_at.astype(np.int64),
        np.array(polygons, np.int64),
        np.array(classes, np.int32),
        tuple(places),
    )
