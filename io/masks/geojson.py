"""Which outlines does a GeoJSON file hold, and of which classes?

QuPath's own members are known beside those of RFC 7946: ``classification``, ``isEllipse``, ``plane``, ``nucleusGeometry``. A
collection may have a member ``labels``, which says what the labels of a mask mean: `safron.io.masks.to_geojson` writes it, and other
programs pass over it.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from safron.io.fields import RGB, convert
from safron.io.files import parsing
from safron.io.json_texts import MAX_JSON_BYTES, each_json, object_of, parse_json
from safron.io.legend import Label

UNCLASSIFIED = "unclassified"
"""Name that QuPath's users see for an object without a class or a name."""

MOST_COORDINATE = 1e15
"""Pixels; beyond this they cannot be told apart, and products of coordinates may overflow."""

MAX_GEOJSON_BYTES = 1 << 30
"""Largest GeoJSON text, unpacked; reading its polygons takes about three times as much memory."""

ELLIPSE_SIDES = 720
"""A polygon of so many sides differs from an ellipse of 10,000 px by less than 0.1 px."""

WITHOUT_GEOMETRY = "no geometry"
"""What stands for the kind of an object that has none."""

GEOMETRIES = {
    *("Point", "MultiPoint", "LineString", "MultiLineString", "Polygon", "MultiPolygon", "GeometryCollection")
}

Ring = npt.NDArray[Any]
"""Corners float64 or int32 [n, 2]: x, y."""

_NUMBER = rb"\s*+-?\d++(?:\.\d++)?(?:[eE][-+]?\d++)?\s*+"
_CORNER = rb"\s*+\[" + _NUMBER + rb"," + _NUMBER + rb"\]\s*+"
_PLAIN_RING = re.compile(rb"\s*+\[" + _CORNER + rb"(?:," + _CORNER + rb")*+\]\s*+")


@dataclass(frozen=True)
class Shape:
    """A polygon of a file.

    Attributes
    ----------
    name
        Its class.
    rings
        The outer one first, then holes.
    nucleus
        Whether it is the nucleus of a cell.
    """

    name: str
    rings: list[Ring]
    nucleus: bool = False


@dataclass
class Objects:
    """The objects of a file.

    Attributes
    ----------
    count
        Number of features.
    shapes
        Polygons, in the order of the file.
    skipped
        Number of geometries of each kind that has no inside (points, lines).
    planes
        Number of objects in each plane (z, t) of the image.
    nuclei
        Number of nuclei of cells that are left out.
    colors
        RGB by class, where the file says.
    legend
        What labels mean, where the file says.
    """

    count: int
    shapes: list[Shape] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    planes: Counter[tuple[int, int]] = field(default_factory=Counter)
    nuclei: int = 0
    colors: dict[str, RGB] = field(default_factory=dict)
    legend: tuple[Label, ...] = ()


def read_objects(path: Path, *, ignore: Sequence[str] = (), nuclei: bool = False) -> Objects:
    """Read the objects of a file that are not ignored.

    Parameters
    ----------
    path
        A FeatureCollection, a list of features, a feature or a geometry, or a sequence of these, each on a line or after
        the character RS (RFC 8142); as it is or packed by gzip.
    ignore
        Classes to pass over, in any case.
    nuclei
        Take the nuclei of QuPath's cells, each after its cell, instead of counting them.

    Raises
    ------
    BadInput
        The file is missing, is no GeoJSON, or too large; see `each_json`.
    """
    left_out = {name.lower() for name in ignore}
    objects = Objects(0)

    def add(document: Any) -> None:
        if isinstance(document, dict) and "labels" in document:
            objects.legend += tuple(convert(document["labels"], list[Label], f"{path}, labels", loose=True))
        for number, feature in enumerate(features_of(document)):
            try:
                _add(objects, feature, left_out, nuclei)
            except ValueError as error:
                raise ValueError(f"feature {number}: {error}") from error
            objects.count += 1

    with parsing(path, kind="GeoJSON", remedy="mend it, or export it again from QuPath as GeoJSON"):
        for _ in each_json(path, add, parse=_parsed, max_bytes=MAX_GEOJSON_BYTES):
            pass
    return objects


def _parsed(text: bytes) -> Any:
    """Parse a collection or a feature; coordinates become arrays at once, which takes a tenth of the memory."""
    try:
        members = _members(text)
        if "features" not in members and "geometry" in members:
            return _feature(members)
        features = msgspec.json.decode(members.pop("features"), type=list[msgspec.Raw])
        read = [_feature(_members(feature)) for feature in features]
    except (msgspec.DecodeError, KeyError):
        if len(text) > MAX_JSON_BYTES:
            raise ValueError(
                f"larger than {MAX_JSON_BYTES >> 20} MiB, and no FeatureCollection that keeps to JSON"
            ) from None
        return parse_json(text)
    return {name: parse_json(bytes(raw)) for name, raw in members.items()} | {"features": read}


class _Name:
    """A name of an object, equal to no other, so that one that stands twice is found twice."""

    def __init__(self, kind: type, text: str) -> None:
        self.text = text


def _members(text: bytes | msgspec.Raw) -> dict[str, msgspec.Raw]:
    """Split an object into its members; ValueError where a name stands twice."""
    found = msgspec.json.decode(text, type=dict[_Name, msgspec.Raw], dec_hook=_Name)
    return object_of([(name.text, raw) for name, raw in found.items()])


def _feature(members: dict[str, msgspec.Raw]) -> dict[str, Any]:
    geometries = ("geometry", "nucleusGeometry")
    return {
        name: _geometry(raw) if name in geometries else parse_json(bytes(raw))
        for name, raw in members.items()
    }


def _geometry(raw: msgspec.Raw) -> Any:
    """Parse a geometry; rings of a polygon that are lists of x, y and nothing else become arrays."""
    depth = {b"Polygon": list[msgspec.Raw], b"MultiPolygon": list[list[msgspec.Raw]]}
    try:
        members = _members(raw)
        kind = depth[bytes(members["type"]).strip(b' "')]
        parts = msgspec.json.decode(members.pop("coordinates"), type=kind)
    except (msgspec.DecodeError, KeyError):
        return parse_json(bytes(raw))
    parsed = {name: parse_json(bytes(value)) for name, value in members.items()}
    nested = [
        [_corners(ring) for ring in part] if isinstance(part, list) else _corners(part) for part in parts
    ]
    return parsed | {"coordinates": nested}


def _corners(raw: msgspec.Raw) -> Any:
    """Corners of a ring as an array, or as JSON says them where they are not plain."""
    text = bytes(raw)
    if not _PLAIN_RING.fullmatch(text):
        return parse_json(text)
    ring = np.fromstring(text.translate(None, b"[] \t\r\n").decode(), sep=",").reshape(-1, 2)
    small = ring.astype(np.int32) if np.abs(ring).max() < 1 << 30 else ring
    return small if (small == ring).all() else ring


def features_of(document: Any) -> list[Any]:
    """List the features of a GeoJSON document; a geometry alone is a feature without a class."""
    if isinstance(document, dict) and document.get("type") in GEOMETRIES and "geometry" not in document:
        document = {"geometry": document}
    features = document.get("features", [document]) if isinstance(document, dict) else document
    if not isinstance(features, list) or not all(isinstance(f, dict) and "geometry" in f for f in features):
        held = f"; it holds {', '.join(map(str, document))[:80]}" if isinstance(document, dict) else ""
        raise ValueError(f"no GeoJSON features in it{held}")
    return features


def _add(objects: Objects, feature: Mapping[str, Any], ignore: set[str], nuclei: bool) -> None:
    name = feature_name(feature)
    geometry = feature["geometry"] or {"type": WITHOUT_GEOMETRY}
    found, rest = outlines(geometry)
    nucleus, _ = outlines(feature.get("nucleusGeometry") or {"type": "none"})
    objects.skipped.update(rest)
    if name.lower() in ignore or not found:
        return
    objects.planes[plane_of(geometry)] += 1
    if (color := _color(feature)) is not None:
        objects.colors.setdefault(name, color)
    objects.shapes += [Shape(name, rings) for rings in found]
    if nuclei:
        objects.shapes += [Shape(name, rings, nucleus=True) for rings in nucleus]
    elif nucleus:
        objects.nuclei += 1


def feature_name(feature: Mapping[str, Any]) -> str:
    """Classification, else name, of an object; ValueError where neither can be told."""
    properties = _object(feature.get("properties"), "properties")
    classification = properties.get("classification")
    if not isinstance(classification, str):
        classification = _object(classification, "classification")
        names = classification.get("names")  # of classes within classes
        classification = ": ".join(map(str, names)) if isinstance(names, list) else classification.get("name")
    return str(classification or properties.get("name") or UNCLASSIFIED).strip()


def _object(value: Any, name: str) -> Mapping[str, Any]:
    if value is not None and not isinstance(value, Mapping):
        raise ValueError(f"its {name} must be an object, not {json.dumps(value)[:60]}")
    return value or {}


def _color(feature: Mapping[str, Any]) -> RGB | None:
    """Colour of an object's class, as three bytes or QuPath's former number; None where it is written otherwise."""
    properties = feature.get("properties") or {}
    said = properties.get("classification")
    said = said if isinstance(said, Mapping) else properties
    color, packed = said.get("color"), said.get("colorRGB")
    if color is None and type(packed) is int:
        color = [packed >> shift & 255 for shift in (16, 8, 0)]
    if (
        isinstance(color, list)
        and len(color) == 3
        and all(type(part) is int and 0 <= part <= 255 for part in color)
    ):
        return color[0], color[1], color[2]
    return None


def plane_of(geometry: Mapping[str, Any]) -> tuple[int, int]:
    """Plane (z, t) of an object; ValueError where it is none."""
    plane = _object(geometry.get("plane"), "plane")
    place = plane.get("z", 0), plane.get("t", 0)
    if not all(type(number) is int for number in place):
        raise ValueError("z and t of its plane must be whole numbers")
    return place


def planes_told(planes: Mapping[tuple[int, int], int]) -> list[str]:
    """Say in a line in which planes (z, t) objects lie, where they lie in several."""
    if len(planes) < 2:
        return []
    axes = {"z": sorted({z for z, _ in planes}), "t": sorted({t for _, t in planes})}
    found = "; ".join(f"{axis} {', '.join(map(str, at))}" for axis, at in axes.items() if len(at) > 1)
    return [
        f"objects lie in {len(planes)} planes ({found}), and all are drawn on one canvas; export one plane to draw it alone"
    ]


def kinds_told(kinds: Mapping[str, int]) -> list[str]:
    """Say in a line for each kind how many geometries have no inside, and are left out."""
    return [f"{count} x {kind} left out: only polygons have an inside" for kind, count in kinds.items()]


def outlines(geometry: Any) -> tuple[list[list[Ring]], list[str]]:
    """Split a geometry into the rings of its polygons, and the kinds of everything else in it.

    Raises
    ------
    ValueError
        A part of it is not as GeoJSON asks.
    """
    if not isinstance(geometry, Mapping) or not isinstance(geometry.get("type"), str):
        raise ValueError("its geometry must be an object with a type, as Polygon")
    kind = geometry["type"]
    member = "geometries" if kind == "GeometryCollection" else "coordinates"
    parts = geometry.get(member, [])
    if kind not in ("Polygon", "MultiPolygon", "GeometryCollection"):
        return [], [kind]
    if not isinstance(parts, list) or member not in geometry:
        raise ValueError(f"the {member} of its {kind} must be a list")
    if kind == "GeometryCollection":
        split = [outlines(part) for part in parts]
        return [rings for found, _ in split for rings in found], [name for _, rest in split for name in rest]
    polygons = [
        [_ring(ring) for ring in polygon] for polygon in ([parts] if kind == "Polygon" else parts) if polygon
    ]
    if geometry.get("isEllipse"):  # QuPath's mark: the polygon stands for the ellipse in its bounding box
        polygons = [[_ellipse(rings[0])] for rings in polygons]
    return polygons, []


def _ring(points: Any) -> Ring:
    if isinstance(points, np.ndarray) and (np.abs(points) <= MOST_COORDINATE).all():
        return points
    try:
        given = np.array([point[:2] for point in points])
        ring = given.astype(np.float64) if given.dtype.kind in "iufO" else np.empty(0)
    except (TypeError, ValueError, OverflowError, IndexError, KeyError):
        ring = np.empty(0)
    if ring.shape[1:] != (2,) or not (np.abs(ring) <= MOST_COORDINATE).all():
        raise ValueError(
            "each ring of its polygon must be a list of corners [x, y], which are finite numbers"
            f" (at most {MOST_COORDINATE:g})"
        )
    return ring


def _ellipse(ring: Ring) -> Ring:
    low, high = ring.min(axis=0), ring.max(axis=0)
    angle = np.linspace(0, 2 * np.pi, ELLIPSE_SIDES, endpoint=False)
    points = np.stack([np.cos(angle), np.sin(angle)], axis=1) * (high - low) / 2 + (low + high) / 2
    return np.asarray(points, np.float64)
