"""What does the metadata of an OME-Zarr image say about its full-size level?

OME-Zarr 0.4 and 0.5 list the axes in the multiscale, and scales both of each level and of the whole image. From 0.6 on the
axes stand in coordinate systems, a level's transformation names the one that it leads to, and scales may be nested in
sequences and in transformations of single axes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from safron.io.errors import BadInput

from .pixel_size import REMEDY, UNKNOWN, PixelSize, pixel_size

KNOWN_VERSIONS = ("0.1", "0.2", "0.3", "0.4", "0.5", "0.6")


@dataclass(frozen=True)
class Level:
    """The full-size level of an OME-Zarr image.

    Attributes
    ----------
    version
        As the metadata says, "?" where it does not.
    path
        Of the array, below the group.
    axes
        Names in lower case, in the order of the array's axes; none where the metadata does not say.
    notes
        What the user should know.
    """

    version: str
    path: str
    axes: tuple[str, ...]
    notes: tuple[str, ...]
    _units: tuple[Any, ...]
    _scale: tuple[float, ...] | None
    _unread: bool

    def pixel_size(self, y: int, x: int) -> PixelSize:
        """Judge the size of a pixel along two of the axes."""
        units = [self._units[axis] if axis < len(self._units) else None for axis in (y, x)]
        if self._unread:
            return PixelSize(None, (f"the scale of its full-size level is not one that is read; {REMEDY}",))
        if self._scale is None:
            if not any(units):
                return UNKNOWN
            return PixelSize(None, (f"its axes are in {units[0]}, but no scale is given; {REMEDY}",))
        high, wide = self._scale[y], self._scale[x]
        if not any(units) and high == wide == 1:  # pixels, as of a file without a size
            return UNKNOWN
        return pixel_size(high, wide, units[0] or "", units[1] or "")


def multiscales(attributes: Mapping[str, Any]) -> list[Any]:
    """Images that a group's attributes describe; none where it is not an OME-Zarr image.

    Examples
    --------
    >>> multiscales({"ome": {"multiscales": [{"datasets": []}]}})
    [{'datasets': []}]
    """
    ome = attributes.get("ome", attributes)
    found = ome.get("multiscales") if isinstance(ome, Mapping) else None
    return found if isinstance(found, list) else []


def read_level(attributes: Mapping[str, Any]) -> Level | None:
    """Read what the attributes of a group say of its first image; None where it is not an OME-Zarr image.

    Raises
    ------
    BadInput
        The level is turned or sheared by its transformation, so that its rows and columns are not its axes.
    Exception
        Of any other kind, where the metadata breaks the specification so that no level is found.
    """
    images = multiscales(attributes)
    if not images:
        return None
    image = images[0]
    level = image["datasets"][0]
    version = str(image.get("version") or attributes.get("ome", {}).get("version") or "?")
    notes = []
    if version != "?" and not re.match(rf"({'|'.join(map(re.escape, KNOWN_VERSIONS))})(\D|$)", version):
        notes.append(f"OME-Zarr {version} is not known; it is read like {KNOWN_VERSIONS[-1]}")
    steps = list(level.get("coordinateTransformations") or ())
    systems = image.get("coordinateSystems")
    if systems:
        axes = _system(systems, steps)
    else:
        axes = image.get("axes") or ()
        steps += image.get("coordinateTransformations") or ()
    described = [axis if isinstance(axis, Mapping) else {"name": axis} for axis in axes]
    names = tuple(str(axis["name"]).lower() for axis in described)
    scale, unread = None, False
    try:
        scale = _combine(steps, names)
    except BadInput:
        raise
    except (
        AttributeError,
        IndexError,
        KeyError,
        TypeError,
        ValueError,
    ):  # damaged, or a scale in a file of its own
        unread = True
    units = tuple(axis.get("unit") for axis in described)
    return Level(version, str(level["path"]), names, tuple(notes), units, scale, unread)


def _system(systems: Sequence[Any], steps: Sequence[Any]) -> Sequence[Any]:
    """Axes of the coordinate system that the level's transformation leads to."""
    target = steps[0].get("output") if steps else None
    name = target.get("name") if isinstance(target, Mapping) else target
    chosen = next((system for system in systems if system.get("name") == name), systems[0])
    axes: Sequence[Any] = chosen["axes"]
    return axes


def _combine(steps: Iterable[Any], names: Sequence[str]) -> tuple[float, ...] | None:
    """Multiply the scales of transformations, axis by axis; None where there is none."""
    total: list[float] | None = None
    for step in steps:
        factors = _scale(step, names)
        if factors is not None:
            if len(factors) != len(names):
                raise ValueError("a scale of another number of axes")
            total = [a * b for a, b in zip(total or [1.0] * len(names), factors, strict=True)]
    return None if total is None else tuple(total)


def _scale(step: Mapping[str, Any], names: Sequence[str]) -> Sequence[float] | None:
    """Scale of one transformation, axis by axis; None of one that leaves sizes alone."""
    kind = step.get("type")
    if kind == "scale":
        return [float(factor) for factor in step["scale"]]
    if kind in ("identity", "translation"):
        return None
    if kind == "sequence":
        return _combine(step["transformations"], names)
    if kind == "byDimension":
        factors = [1.0] * len(names)
        for part in step["transformations"]:
            axes = [str(axis).lower() for axis in part.get("output_axes") or part["output"]]
            for axis, factor in zip(axes, _scale(part.get("transformation", part), axes) or (), strict=False):
                factors[names.index(axis)] *= factor
        return factors
    if kind == "bijection":
        return _scale(step["forward"], names)
    if kind == "mapAxis" and step[kind] in ([*range(len(names))], {name: name for name in names}):
        return None
    if kind in ("affine", "rotation") and (factors := _diagonal(step[kind], len(names))):
        return factors
    raise BadInput(
        f"its full-size level has a transformation of type {str(kind)[:40]!r}; only scales and translations are read: "
        "save it with these"
    )


def _diagonal(rows: Sequence[Sequence[float]], count: int) -> list[float]:
    """Scale of a matrix that neither turns, mirrors nor shears; empty for any other."""
    matrix = [[float(value) for value in row[:count]] for row in rows[:count]]
    upright = len(matrix) == count and all(
        (value > 0) if row == col else value == 0
        for row, line in enumerate(matrix)
        for col, value in enumerate(line)
    )
    return [matrix[axis][axis] for axis in range(count)] if upright else []
