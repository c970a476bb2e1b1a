"""Which polygons of nuclei does a file hold, and of which class is each?

A `PolygonSet` keeps all of them in a few arrays, so that half a million nuclei take some dozen megabytes. Read are:

- ``.npz`` with the arrays xy, offsets, cls and names, and, if need be, hole (1 for the inner ring of the polygon before it) and
  scale (by which xy is divided)
- GeoJSON of QuPath and of CellViT, also one feature a line: each polygon is a nucleus, and all polygons of a QuPath cell or detection are one;
  of cells the nucleus counts, where it is outlined
- JSON of HoVer-Net ({"nuc": {"1": {"contour": ..., "type": 1}}}) and of CellViT ({"cells": [{"contour": ..., "type": 1}]}), whose contours
  name pixels (see `safron.io.masks.contours`)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safron.io.errors import BadInput, counted, one_line
from safron.io.files import open_input, parsing
from safron.io.json_texts import each_json

from .contours import sides_of_pixels
from .geojson import WITHOUT_GEOMETRY, feature_name, features_of, kinds_told, outlines, plane_of, planes_told
from .mask import MAX_SIDE

HOVERNET = {0: "no label", 1: "neopla", 2: "inflam", 3: "connec", 4: "necros", 5: "no-neo"}
"""HoVer-Net's names of PanNuke's classes, which its JSON does not hold."""

NUCLEI = ("cell", "detection")
"""QuPath's types of objects that programs find; beside them, annotations say where they looked."""

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
    notes
        What else the file holds, a line for each kind.
    """

    xy: npt.NDArray[Any]
    scale: float
    rings: npt.NDArray[np.int64]
    polygons: npt.NDArray[np.int64]
    classes: npt.NDArray[np.int32]
    names: tuple[str, ...]
    notes: tuple[str, ...] = ()

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


def read_polygons(path: Path, *, regions: bool = False) -> PolygonSet:
    """Read the polygons of a file; see the module's text.

    Parameters
    ----------
    path
        The file.
    regions
        Where a file of QuPath has annotations and cells or detections, take the annotations and not the others.

    Raises
    ------
    BadInput
        The file is missing, too large (see `safron.io.json_texts`), of no known form, or holds no polygon.
    """
    if path.suffix.lower() == ".npz":
        return _read_npz(path)
    remedy = "give GeoJSON of QuPath, JSON of HoVer-Net or CellViT, or .npz with xy, offsets, cls and names"
    with parsing(path, kind="polygons of nuclei", remedy=remedy):
        texts = each_json(path, lambda document: list(_objects(document, regions)))
        return _collect(path, list(chain.from_iterable(texts)), regions)


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
    for name, array in (("offsets", offsets), ("cls", classes), ("hole", hole)):
        whole = array.dtype.kind in "biu" or (array.dtype.kind == "f" and (array == np.rint(array)).all())
        if array.ndim != 1 or not whole:
            raise BadInput(
                f"{path}: {name}, {array.dtype} {array.shape}, must be a list of whole numbers; make the file again"
            )
    if names.ndim != 1:
        raise BadInput(
            f"{path}: names, {names.dtype} {names.shape}, must be a list of texts; make the file again"
        )
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
    texts = [name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name) for name in names]
    # A name may stand there twice.
    places = {name: place for place, name in enumerate(dict.fromkeys(texts))}
    of = np.array([places[name] for name in texts], np.int32)
    return PolygonSet(xy, scale, rings, polygons, of[classes[outer].astype(np.int64)], tuple(places))


def check_reach(path: Path, xy: npt.NDArray[Any], scale: float) -> None:
    """Refuse corners that lie beyond the largest canvas there is."""
    far = max(abs(float(xy.min())), abs(float(xy.max()))) / scale
    if far > MAX_SIDE:
        raise BadInput(
            f"{path}: a corner lies {far:g} pixels from the origin, and a mask has at most {MAX_SIDE} a side; "
            "correct the corners, or their scale"
        )


@dataclass(frozen=True)
class _Object:
    """An object of a file: its class, rings (the outer one first), QuPath's type, what else it has, plane; if it is a cell without a nucleus."""

    name: str
    rings: list[Points]
    kind: str = ""
    others: tuple[str, ...] = ()
    plane: tuple[int, int] = (0, 0)
    whole_cell: bool = False


def _objects(document: Any, regions: bool) -> Iterable[_Object]:
    """Find the polygons in the JSON of any of the programs."""
    if isinstance(document, Mapping) and isinstance(document.get("nuc"), Mapping):
        types = {str(number): name for number, name in HOVERNET.items()}
        return _cells(document["nuc"], types)
    if isinstance(document, Mapping) and isinstance(document.get("cells"), list):
        return _cells(dict(enumerate(document["cells"])), dict(document.get("type_map") or {}))
    return _features(features_of(document), regions)


def _cells(cells: Mapping[Any, Any], types: Mapping[str, Any]) -> Iterable[_Object]:
    contours, names = [], []
    for number, cell in cells.items():
        if not isinstance(cell, Mapping) or "contour" not in cell:
            raise ValueError(f"nucleus {number} has no contour")
        contours.append(np.asarray(cell["contour"], np.float64))
        kind = cell.get("type")
        kind = "nucleus" if kind is None else str(kind)
        names.append(str(types.get(kind, kind)))
    for name, rings in zip(names, sides_of_pixels(contours), strict=True):
        yield _Object(name, rings)


def _features(features: Iterable[Mapping[str, Any]], regions: bool) -> Iterable[_Object]:
    for number, feature in enumerate(features):
        try:
            name, kind = feature_name(feature), str((feature.get("properties") or {}).get("objectType", ""))
            nucleus = None if regions else feature.get("nucleusGeometry")
            whole = kind == "cell" and not nucleus
            geometry = nucleus or feature["geometry"] or {"type": WITHOUT_GEOMETRY}
            found, others = outlines(geometry)
            plane = plane_of(geometry)
        except ValueError as error:
            raise ValueError(f"feature {number}: {error}") from error
        if found and kind in NUCLEI:  # parts of one nucleus
            found = [[ring for rings in found for ring in rings]]
        for rings in found:
            yield _Object(name, rings, kind, (), plane, whole)
        if others:
            yield _Object(name, [], kind, tuple(others), plane)


def _choose(objects: list[_Object], regions: bool) -> tuple[list[_Object], list[str]]:
    """Choose the polygons that are meant, and say what else there is."""
    notes = kinds_told(Counter(kind for found in objects for kind in found.others))
    chosen = [found for found in objects if found.rings]
    nuclei = [found for found in chosen if found.kind in NUCLEI]
    others = [found for found in chosen if found.kind not in NUCLEI]
    if nuclei and any(found.kind for found in others):
        chosen, left = (others, nuclei) if regions else (nuclei, others)
        many = (
            counted(len(left), "cell or detection", "cells and detections")
            if regions
            else counted(len(left), "annotation")
        )
        way_out = "give them as NUCLEI" if regions else "draw them beneath the nuclei with --regions"
        notes.append(
            f"{many} beside {'annotations' if regions else 'cells or detections'} left out; {way_out}"
        )
    whole = [found for found in chosen if len(found.rings[0]) >= 3]
    if few := len(chosen) - len(whole):
        notes.append(f"{counted(few, 'outline')} of fewer than three corners left out")
    if not regions and (cells := sum(found.whole_cell for found in whole)):
        lack = (
            "cells have no outline of their nuclei and are"
            if cells > 1
            else "cell has no outline of its nucleus and is"
        )
        notes.append(f"{cells} {lack} drawn whole")
    return whole, notes + planes_told(Counter(found.plane for found in whole))


def _collect(path: Path, objects: list[_Object], regions: bool) -> PolygonSet:
    """Put the polygons of a file into a few arrays."""
    chosen, notes = _choose(objects, regions)
    parts: list[Points] = []
    polygons, classes = [0], list[int]()
    places: dict[str, int] = {}
    for found in chosen:
        kept = [ring for ring in found.rings if len(ring) >= 3]
        for ring in kept:
            if ring.shape[1:] != (2,) or not np.isfinite(ring).all():
                raise ValueError(f"polygon {len(classes)} has a corner without finite x, y")
        parts += kept
        polygons.append(len(parts))
        classes.append(places.setdefault(found.name, len(places)))
    if not parts:
        raise BadInput("; ".join([f"{path}: it holds no polygon with three corners or more", *notes]))
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
        tuple(notes),
    )
