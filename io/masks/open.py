"""Which kind of mask is this, and how is it opened?"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from safron.io.errors import BadInput, SafronError, one_line
from safron.io.fields import RGB

from .array_plane import ArrayPlane
from .mask import LabelMask
from .plane import ACCEPTED, UM_PER_UNIT, ZARR_MARKERS


def open_mask(
    source: str | Path | Any, *, palette: Mapping[int, RGB] | None = None, palette_tolerance: int = 0
) -> LabelMask:
    """Open a mask, check what can be checked without reading pixels, and read nothing more.

    Parameters
    ----------
    source : path of a Zarr array, OME-Zarr image or image file; URL of a Zarr (``s3://``,
        ``memory://``, ...); or anything with ``shape``, ``dtype`` and slicing: NumPy, zarr.Array, dask.array.
    palette : label value to RGB; needed by colour-coded images, ignored by all others.
    palette_tolerance : largest difference, 0..255, in any channel to the nearest palette colour.

    Returns
    -------
    mask : LabelMask

    Raises
    ------
    BadInput
        The source is missing, damaged, or no 2-D array of whole numbers.
    """
    colours = dict(palette or {})
    if not isinstance(source, str | Path):
        name = f"<{type(source).__name__} in memory>"
        return LabelMask(_plane_of(source, name), name)
    name = str(source)
    if "://" not in name:
        name = str(Path(name).absolute())  # a worker that reopens the mask may stand in another folder
    return _open_named(str(source), name, tuple(colours.items()), palette_tolerance)


def _open_named(name: str, where: str, colours: tuple[tuple[int, RGB], ...], tolerance: int) -> LabelMask:
    reopen = _open_named, (name, where, colours, tolerance)
    if "://" in where:
        return LabelMask(_plane_of(_open_zarr(where, name), name), name, reopen)
    path = Path(where)
    if not path.exists():
        raise BadInput(f"mask {name}: there is no such file or folder; check the path")
    if not (path.is_file() or path.is_dir()):
        raise BadInput(f"mask {name}: it is neither a file nor a folder; save it as one first")
    if not os.access(path, os.R_OK):
        raise BadInput(f"mask {name}: it may not be read; ask its owner for the right to")
    if path.is_file() and path.name in ZARR_MARKERS:
        path = path.parent
    if path.is_dir():
        if not any((path / marker).exists() for marker in ZARR_MARKERS):
            raise BadInput(
                f"mask {name}: this folder is no Zarr (no zarr.json, .zarray or .zgroup in it; was it "
                f"copied completely?); {ACCEPTED}"
            )
        return LabelMask(_plane_of(_open_zarr(str(path), name), name), name, reopen)
    from .image_planes import open_image  # image libraries load slowly and a Zarr mask needs none

    return LabelMask(open_image(path, name, dict(colours), tolerance), name, reopen)


def _plane_of(source: Any, name: str) -> ArrayPlane:
    """Find the label plane in a Zarr array, an OME-Zarr group or an array-like."""
    try:
        if isinstance(source, zarr.Group):
            return _ome_plane(source, name)
        if not all(hasattr(source, part) for part in ("shape", "dtype", "__getitem__")):
            raise BadInput(f"mask {name}: it has no shape, dtype and slices; {ACCEPTED}")
        axes = _plane_axes(tuple(source.shape), None, name)
        mpp = None
        kind = f"{type(source).__module__.split('.')[0]} array"
        if isinstance(source, zarr.Array):
            kind = f"Zarr v{source.metadata.zarr_format} array"
            mpp = _positive(source.attrs.get("mpp"))
        return _checked(ArrayPlane(source, kind, axes, mpp, ()), name)
    except SafronError:
        raise
    except Exception as error:  # metadata of any shape may be met here
        raise BadInput(f"mask {name}: cannot use it: {one_line(error)}") from error


def _checked(plane: ArrayPlane, name: str) -> ArrayPlane:
    if plane.dtype.kind not in "bui":
        raise BadInput(
            f"mask {name}: it holds {plane.dtype}; labels are whole numbers, 0 to 255: convert it to uint8"
        )
    return plane


def _open_zarr(where: str, name: str) -> Any:
    try:
        return zarr.open(where, mode="r")
    except ImportError as error:
        raise BadInput(
            f"mask {name}: this kind of address needs one more package: {one_line(error)}"
        ) from error
    except FileNotFoundError as error:
        raise BadInput(f"mask {name}: no Zarr array or group stands there; check the address") from error
    except (ValueError, KeyError) as error:
        raise BadInput(f"mask {name}: its address or Zarr metadata is wrong: {one_line(error)}") from error
    except Exception as error:  # stores raise what their client libraries raise
        raise BadInput(f"mask {name}: cannot open it as Zarr: {one_line(error)}") from error


def _ome_plane(group: zarr.Group, name: str) -> ArrayPlane:
    """Level 0 of an OME-Zarr 0.4 or 0.5 image."""
    attrs: dict[str, Any] = dict(group.attrs)
    image: Any = (attrs.get("ome", attrs).get("multiscales") or [None])[0]
    if image is None:
        raise BadInput(f"mask {name}: this Zarr group is no OME-Zarr image; {_inside(group)}")
    level = image["datasets"][0]
    try:
        array: Any = group[level["path"]]
    except KeyError:
        raise BadInput(f"mask {name}: its level 0, array {level['path']!r}, is missing") from None
    axes = [axis if isinstance(axis, dict) else {"name": axis} for axis in image.get("axes", [])]
    names = [str(axis["name"]).lower() for axis in axes] or None
    picked = _plane_axes(tuple(array.shape), names, name, _labels_hint(group))
    mpp, notes = _pixel_size(image, level, axes, picked)
    version = image.get("version") or attrs.get("ome", {}).get("version") or "?"
    return _checked(ArrayPlane(array, f"OME-Zarr {version}", picked, mpp, notes), name)


def _plane_axes(
    shape: tuple[int, ...], names: list[str] | None, source: str, hint: str = ""
) -> tuple[int, int]:
    """Pick the axes y and x; every other axis must have length one."""
    size = " x ".join(map(str, shape)) or "no axes"
    if names is None:
        picked = [axis for axis, length in enumerate(shape) if length != 1]
        spare = [axis for axis, length in enumerate(shape) if length == 1]
        if len(shape) < 2 or len(picked) > 2:
            raise BadInput(f"mask {source}: its shape is {size}; a mask has two axes, rows and columns")
        y, x = sorted(picked + spare[len(spare) - (2 - len(picked)) :])
        return y, x
    if len(names) != len(shape) or "y" not in names or "x" not in names:
        raise BadInput(f"mask {source}: its axes {names} do not fit its shape {size}, or lack y and x")
    long = [n for n, length in zip(names, shape, strict=True) if length != 1 and n not in ("y", "x")]
    if long:
        which = ", ".join(f"{n} has {shape[names.index(n)]} planes" for n in long)
        raise BadInput(f"mask {source}: axis {which}; a mask has one{hint}")
    if names.index("y") > names.index("x"):
        raise BadInput(f"mask {source}: axis x comes before y; a mask's rows come first: transpose it")
    return names.index("y"), names.index("x")


def _pixel_size(
    image: Mapping[str, Any], level: Mapping[str, Any], axes: list[dict[str, Any]], picked: tuple[int, int]
) -> tuple[float | None, tuple[str, ...]]:
    """Micrometres along one pixel, from the scales of the level and of the whole image."""
    scale = np.ones(max(len(axes), 2))
    for holder in (level, image):
        for step in holder.get("coordinateTransformations", ()):
            if step.get("type") == "scale":
                scale = scale * np.asarray(step["scale"], float)
    if not axes:
        return None, ()
    y, x = (
        _positive(scale[axis] * UM_PER_UNIT.get(str(axes[axis].get("unit", "")).lower(), 0.0))
        for axis in picked
    )
    if y and x and abs(y - x) > 0.01 * y:
        return y, (f"its pixels are {y:g} um high and {x:g} um wide; {y:g} um per pixel is taken for both",)
    return y, ()


def _positive(value: Any) -> float | None:
    """Pixel size, or None where a file says nothing usable."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if 0 < number < float("inf") else None


def _labels_hint(group: zarr.Group) -> str:
    """Say which label images stand inside an OME-Zarr image, for those who passed the image itself."""
    try:
        attrs: dict[str, Any] = dict(group["labels"].attrs)
    except Exception:  # no labels, or damaged ones: the message does without
        return ""
    found = attrs.get("ome", attrs).get("labels") or []
    return f"; label images inside: {', '.join(f'labels/{label}' for label in found)}" if found else ""


def _inside(group: zarr.Group) -> str:
    """List what a group holds, images before arrays."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zarr warns of every stray file
        members = dict(group.members(max_depth=3))
    images = [key for key, member in members.items() if _is_image(dict(member.attrs))]
    arrays = [key for key, member in members.items() if isinstance(member, zarr.Array)]
    found = sorted(images) or sorted(arrays)
    if not found:
        return "it holds no array"
    more = f" and {len(found) - 8} more" if len(found) > 8 else ""
    return f"pass one of those inside: {', '.join(found[:8])}{more}"


def _is_image(attrs: dict[str, Any]) -> bool:
    return "multiscales" in attrs or "multiscales" in attrs.get("ome", {})
