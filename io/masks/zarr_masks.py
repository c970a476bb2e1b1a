"""How is the plane of labels found in a Zarr array, an OME-Zarr image, or an array in memory?"""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import zarr
from safron.io.errors import BadInput, SafronError, one_line
from safron.io.files import is_foreign
from zarr.storage import LocalStore, ZipStore

from .array_plane import ArrayPlane
from .ome import multiscales, read_level
from .pixel_size import UNKNOWN, from_attribute
from .plane import ACCEPTED, ZARR_MARKERS

_AXIS = {
    "row": "y", "rows": "y", "height": "y", "lat": "y", "latitude": "y", "northing": "y",
    "col": "x", "cols": "x", "column": "x", "columns": "x", "width": "x", "lon": "x", "longitude": "x", "easting": "x",
}  # fmt: skip
"""Names of the axes y and x that other programs give."""


def is_zarr(folder: Path) -> bool:
    """Whether a folder is a Zarr array or group."""
    return any((folder / marker).is_file() for marker in ZARR_MARKERS)


def open_zarr(where: str, name: str) -> ArrayPlane:
    """Open the labels of a Zarr.

    Parameters
    ----------
    where
        Path of a folder or a zip archive, or a URL.
    name
        How messages call it.

    Raises
    ------
    BadInput
        There is no Zarr, its metadata is damaged, or it does not hold one plane of whole numbers.
    """
    try:
        return plane_of(open_node(where), name)
    except SafronError:
        raise
    except ImportError as error:
        raise BadInput(
            f"mask {name}: this kind of address needs one more package: {one_line(error)}"
        ) from error
    except FileNotFoundError as error:
        if "://" not in where and Path(where).is_file():
            raise BadInput(
                f"mask {name}: this archive holds no Zarr, neither at its root nor in its only folder; {ACCEPTED}"
            ) from error
        raise BadInput(f"mask {name}: no Zarr array or group is there; check the address") from error
    except (ValueError, KeyError) as error:
        raise BadInput(f"mask {name}: its address or Zarr metadata is wrong: {one_line(error)}") from error
    except Exception as error:  # stores raise what their client libraries raise
        raise BadInput(f"mask {name}: cannot open it as Zarr: {one_line(error)}") from error


def open_node(where: str) -> Any:
    """Open an array or group of Zarr; v3 first, so that a v3 mask is never asked for the names of v2.

    Some stores answer 403 (forbidden) for a key that does not exist, which ends a search for all names at once.
    """
    path, store = "", _store(where)
    if isinstance(store, ZipStore):
        path = _root_in_zip(where)
    try:
        return _open_format(store, path, 3)
    except Exception as error:
        # Zarr's own "not found" is a ValueError as well; any other one means damaged metadata.
        if isinstance(error, ValueError | KeyError | TypeError | ImportError) and not isinstance(
            error, FileNotFoundError
        ):
            raise
        try:
            return _open_format(store, path, 2)
        except FileNotFoundError:
            raise error from None


def _store(where: str) -> str | LocalStore | ZipStore:
    """Choose the store of a path or URL; Zarr would take '::' in a path for a chain of stores."""
    if "://" in where:
        return where
    if Path(where).is_file():
        return ZipStore(where, mode="r", read_only=True)
    return LocalStore(where, read_only=True)


def _open_format(store: Any, path: str, zarr_format: Any) -> Any:
    # Consolidated metadata may be older than the groups and arrays that it lists.
    return zarr.open(store, mode="r", path=path, zarr_format=zarr_format, use_consolidated=False)


def _root_in_zip(where: str) -> str:
    """Folder inside a zip archive that holds the Zarr: its root, or the only folder there."""
    with zipfile.ZipFile(where) as archive:
        names = archive.namelist()
    if any(name in ZARR_MARKERS for name in names):
        return ""
    tops = {name.split("/")[0] for name in names if not is_foreign(name.split("/")[0])}
    if len(tops) != 1:
        raise FileNotFoundError(where)
    return tops.pop()


def plane_of(source: Any, name: str, kind: str = "") -> ArrayPlane:
    """Find the label plane in a Zarr array, an OME-Zarr group or an array-like.

    Parameters
    ----------
    source
        Zarr.Group, or anything with ``shape``, ``dtype`` and slicing.
    name
        How messages call it.
    kind
        What it is, for messages; found out where empty.

    Raises
    ------
    BadInput
        It does not hold one plane of whole numbers.
    """
    try:
        if isinstance(source, zarr.Group):
            plane = _ome_plane(source, name)
        elif not all(hasattr(source, part) for part in ("shape", "dtype", "__getitem__")):
            raise BadInput(f"mask {name}: it has no shape, dtype and slices; {ACCEPTED}")
        else:
            axes = _plane_axes(tuple(source.shape), axis_names(source), name)
            size = UNKNOWN
            if isinstance(source, zarr.Array):
                kind = f"Zarr v{source.metadata.zarr_format} array"
                size = from_attribute(source.attrs.get("mpp"))
            plane = ArrayPlane(source, kind or f"{type(source).__module__.split('.')[0]} array", axes, size)
    except SafronError:
        raise
    except Exception as error:  # metadata may have any form
        raise BadInput(f"mask {name}: cannot use it: {one_line(error)}") from error
    if 0 in plane.chunks and 0 not in plane.shape:
        raise BadInput(f"mask {name}: it declares chunks without a pixel; correct its metadata")
    if plane.dtype.kind not in "bui":
        raise BadInput(
            f"mask {name}: it holds {plane.dtype}; labels are whole numbers, 0 to 255, and numbers of nuclei of any size: convert it to uint8, uint16 or uint32"
        )
    return plane


def _ome_plane(group: zarr.Group, name: str) -> ArrayPlane:
    """The full-size level of an OME-Zarr image, or of its label image "class"; with its label image "instance", if it has one."""
    inside = {
        part: found
        for part in ("class", "instance")
        if isinstance(found := _member(group, f"labels/{part}"), zarr.Group)
    }
    plane = _level_plane(inside.get("class", group), name)
    if "instance" in inside:
        plane.beside["instances"] = _level_plane(inside["instance"], name)
    return plane


def _member(group: zarr.Group, path: str) -> Any:
    """A member of a group, or None; a store may forbid what is not there."""
    try:
        return group.get(path)
    except (PermissionError, FileNotFoundError):
        return None


def _level_plane(group: zarr.Group, name: str) -> ArrayPlane:
    """The full-size level of one image."""
    try:
        level = read_level(dict(group.attrs))
    except BadInput as error:
        raise BadInput(f"mask {name}: {error}") from None
    if level is None:
        raise BadInput(f"mask {name}: this Zarr group is not an OME-Zarr image; {_inside(group)}")
    try:
        array: Any = group[level.path]
    except KeyError:
        raise BadInput(f"mask {name}: its level 0, array {level.path!r}, is missing") from None
    own, notes = axis_names(array), level.notes
    y, x = _plane_axes(tuple(array.shape), level.axes or own, name, _labels_hint(group))
    if level.axes and own is not None and is_transposed(own):  # else they would have been refused
        notes += (
            f"its axes are {', '.join(level.axes)}, and its array calls them {', '.join(own)}; the first is taken",
        )
    return ArrayPlane(array, f"OME-Zarr {level.version}", (y, x), level.pixel_size(y, x), notes)


def axis_names(array: Any) -> tuple[str, ...] | None:
    """Names of an array's axes, where they say which is y and which is x; None elsewhere.

    Zarr v3 keeps them as `dimension_names`, xarray in Zarr v2 as the attribute `_ARRAY_DIMENSIONS`, xarray itself as `dims`.
    """
    if isinstance(array, zarr.Array):
        names: Any = getattr(array.metadata, "dimension_names", None) or array.attrs.get("_ARRAY_DIMENSIONS")
    else:
        names = getattr(array, "dims", None)
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        return None
    return tuple(names) if {"y", "x"} & set(map(_axis, names)) else None


def _axis(name: str) -> str:
    return _AXIS.get(name.lower(), name.lower())


def _plane_axes(
    shape: tuple[int, ...], names: Sequence[str] | None, source: str, hint: str = ""
) -> tuple[int, int]:
    """Pick the axes y and x; every other axis must have length one."""
    size = " x ".join(map(str, shape)) or "no axes"
    if not names:
        picked = [axis for axis, length in enumerate(shape) if length != 1]
        spare = [axis for axis, length in enumerate(shape) if length == 1]
        if len(shape) < 2 or len(picked) > 2:
            raise BadInput(f"mask {source}: its shape is {size}; a mask has two axes, rows and columns")
        y, x = sorted(picked + spare[len(spare) - (2 - len(picked)) :])
        return y, x
    axes = [_axis(name) for name in names]
    if len(axes) != len(shape) or axes.count("y") != 1 or axes.count("x") != 1:
        raise BadInput(f"mask {source}: its axes {list(names)} do not fit its shape {size}, or lack y and x")
    long = [axis for axis, length in zip(axes, shape, strict=True) if length != 1 and axis not in ("y", "x")]
    if long:
        which = ", ".join(f"{axis} has {shape[axes.index(axis)]} planes" for axis in long)
        raise BadInput(
            f"mask {source}: axis {which}; a mask has one{hint or '; save the plane that holds the labels as an array of its own'}"
        )
    if is_transposed(names):
        raise BadInput(f"mask {source}: axis x comes before y; a mask's rows come first: transpose it")
    return axes.index("y"), axes.index("x")


def is_transposed(names: Sequence[str]) -> bool:
    """Whether axes of these names have columns before rows."""
    axes = [_axis(name) for name in names]
    return {"y", "x"} <= set(axes) and axes.index("y") > axes.index("x")


def _labels_hint(group: zarr.Group) -> str:
    """List the label images inside an OME-Zarr image, for a user who passed the image itself."""
    try:
        attrs: dict[str, Any] = dict(group["labels"].attrs)
    except Exception:  # no labels, or damaged ones: the message does without
        return ""
    found = attrs.get("ome", attrs).get("labels") or []
    return f"; label images inside: {', '.join(f'labels/{label}' for label in found)}" if found else ""


def _inside(group: zarr.Group) -> str:
    """List the arrays in a group that may be meant, images before arrays."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zarr warns of every foreign file
        members = dict(group.members(max_depth=3))
    images = [key for key, member in members.items() if multiscales(dict(member.attrs))]
    arrays = [
        key for key, member in members.items() if isinstance(member, zarr.Array) and len(member.shape) > 1
    ]
    found = sorted(images) or sorted(arrays)
    if not found:
        return "it holds no array of two axes"
    more = f" and {len(found) - 8} more" if len(found) > 8 else ""
    return f"pass one of those inside: {', '.join(found[:8])}{more}"
