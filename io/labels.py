"""Which label does each canvas pixel have?

A `LabelMask` is a checked, lazy view of a mask: nothing is read before it is sliced, every slice is uint8,
and a value that is no label stops the read with its value and its place. `open_mask` makes one from a Zarr
array, an OME-Zarr image, any image file that tifffile, libvips or OpenSlide reads, or an array in memory.

    Zarr v2, v3     ArrayPlane  \
    array in memory ArrayPlane   \
    TIFF            TiffPlane     >  read(rows, cols) -> integers  ->  LabelMask: bounds, values, messages
    slide           SlidePlane   /
    other image     VipsPlane   /
"""

from __future__ import annotations

import hashlib
import operator
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import fsspec
import numpy as np
import numpy.typing as npt
import zarr
from fsspec.implementations.local import LocalFileSystem

from .chunk_cache import ChunkCache, ReadChunk
from .chunks import ChunkFiles
from .errors import BadInput, Failed, SafronError
from .fields import RGB
from .zarr_here import read_here

Labels = npt.NDArray[np.uint8]

ZARR_MARKERS = ("zarr.json", ".zarray", ".zgroup")
"""A folder that holds one of these is a Zarr array or group."""

UM_PER_UNIT = {
    "angstrom": 1e-4,
    "nanometer": 1e-3,
    "micrometer": 1.0,
    "millimeter": 1e3,
    "centimeter": 1e4,
    "meter": 1e6,
    "inch": 25400.0,
}
"""Units of length that OME-Zarr writers use, in micrometres."""

ACCEPTED = "a mask is a Zarr array, an OME-Zarr image, or a PNG, TIFF or other image"


class Plane(Protocol):
    """What `LabelMask` needs of a source of pixels."""

    kind: str
    shape: tuple[int, int]
    dtype: np.dtype[Any]
    chunks: tuple[int, int]
    mpp: float | None
    notes: tuple[str, ...]
    keep_chunks: bool  # whether decoding takes so long that decoded chunks are worth keeping
    read_chunk: ReadChunk | None  # decodes one whole chunk, where that costs less than `read` of it

    def read(self, rows: slice, cols: slice) -> npt.NDArray[Any]:
        """Integers [y, x] of an in-bounds region; safe to call from many threads."""

    def blame(self, rows: slice, cols: slice) -> str:
        """Name the file or chunk that makes reading this region fail."""


class LabelMask:
    """Lazy uint8 labels of a whole canvas.

    Masks opened from a path or URL are pickled by reopening them; reads from many threads are safe.

    Parameters
    ----------
    plane : where the pixels come from.
    source : how messages call the mask.
    reopen : arguments of `open_mask` that make this mask again; None for an array in memory.

    Examples
    --------
    >>> mask = open_mask(np.eye(4, dtype="uint16"))
    >>> mask[1:3, 1:3]
    array([[1, 0],
           [0, 1]], dtype=uint8)
    """

    def __init__(self, plane: Plane, source: str, reopen: tuple[Any, ...] | None = None) -> None:
        if 0 in plane.shape:
            raise BadInput(
                f"mask {source}: it is empty ({plane.shape[0]} x {plane.shape[1]} pixels); it needs a pixel at least"
            )
        self.plane = plane
        self.source = source
        self.shape = plane.shape
        self.mpp = plane.mpp
        self.chunks = plane.chunks
        self.notes = plane.notes
        self._reopen = reopen
        self._cache: ChunkCache | None = None

    def __getitem__(self, region: tuple[slice, slice]) -> Labels:
        """Labels of a region.

        Parameters
        ----------
        region : two slices (y, x) without steps, inside the canvas.

        Returns
        -------
        labels : uint8 [y, x]

        Raises
        ------
        BadInput
            A value in the region is not a label.
        Failed
            The file is damaged, or its storage does not answer.
        """
        rows, cols = (_bounded(part, size) for part, size in zip(region, self.shape, strict=True))
        shape = (rows.stop - rows.start, cols.stop - cols.start)
        if 0 in shape:
            return np.zeros(shape, np.uint8)
        try:
            values = (self._cache or self.plane).read(rows, cols)
        except BadInput as error:
            raise BadInput(f"mask {self.source}: {error}") from None
        except (SafronError, MemoryError):
            raise
        except Exception as error:  # zarr, its codecs and stores, tifffile and libvips share no base class
            place = self.plane.blame(rows, cols)
            raise Failed(f"mask {self.source}: cannot read {place}: {one_line(error)}") from error
        return self._as_labels(values, rows.start, cols.start)

    def _as_labels(self, values: npt.NDArray[Any], y: int, x: int) -> Labels:
        if values.dtype == np.uint8:
            return np.ascontiguousarray(values)
        if values.dtype != np.bool_:
            bad = values > 255
            if values.dtype.kind == "i":
                bad |= values < 0
            if bad.any():
                row, col = np.unravel_index(int(bad.argmax()), bad.shape)
                raise BadInput(
                    f"mask {self.source}: value {values[row, col]} at row {y + row}, column {x + col}; "
                    "labels are whole numbers from 0 to 255"
                )
        return np.ascontiguousarray(values, np.uint8)

    def keep_chunks(self, *, block: int, workers: int) -> int:
        """From now on keep decoded chunks for `workers` that read about `block` x `block` pixels at a time.

        Returns
        -------
        nbytes : the most memory that they will take.
        """
        if not self.plane.keep_chunks:
            return 0
        self._cache = ChunkCache(self.plane, block, workers)
        return self._cache.nbytes

    def describe(self) -> dict[str, Any]:
        """Everything known without reading pixels, as JSON-ready values."""
        return {
            "source": self.source,
            "kind": self.plane.kind,
            "shape": list(self.shape),
            "dtype": str(self.plane.dtype),
            "chunks": list(self.chunks),
            "mpp": self.mpp,
        }

    def stamp(self) -> str:
        """Hash that changes when the mask's content may have changed.

        Files answer with their names, sizes and times (on object stores with their ETags), so that a huge
        mask is not read; arrays in memory answer with their content.

        Raises
        ------
        OSError
            The files are gone, or their storage does not list them or does not say when they change.
        """
        digest = hashlib.blake2b(digest_size=16)
        digest.update(repr((self.shape, str(self.plane.dtype))).encode())
        if self._reopen is None:
            for y in range(0, self.shape[0], 1024):
                for x in range(0, self.shape[1], 8192):
                    part = self[y : min(y + 1024, self.shape[0]), x : min(x + 8192, self.shape[1])]
                    digest.update(part.tobytes())
        else:
            digest.update(repr(self._reopen[1:]).encode())
            for line in _file_facts(self._reopen[0]):
                digest.update(line.encode())
        return digest.hexdigest()

    @property
    def in_memory(self) -> bool:
        """Whether it is an array of this process, which other processes cannot open."""
        return self._reopen is None

    def __reduce__(self) -> tuple[Any, ...]:
        if self._reopen is None:
            return LabelMask, (self.plane, self.source)
        return _open_named, (self.source, *self._reopen)

    def __repr__(self) -> str:
        return f"LabelMask({self.source}, {self.shape[0]} x {self.shape[1]}, {self.plane.kind})"


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
    reopen = (where, colours, tolerance)
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
    from .label_images import open_image  # image libraries load slowly and a Zarr mask needs none

    return LabelMask(open_image(path, name, dict(colours), tolerance), name, reopen)


def one_line(error: BaseException) -> str:
    """Message of any exception, short enough to follow ours on one line."""
    text = " ".join(str(error).split())
    if not text or isinstance(error, KeyError):
        text = f"{type(error).__name__} {text}".strip()
    return text if len(text) <= 300 else text[:297] + "..."


# Zarr and arrays in memory


class ArrayPlane:
    """Two axes of anything that has ``shape``, ``dtype`` and slicing; the other axes have length one."""

    def __init__(
        self, array: Any, kind: str, axes: tuple[int, int], mpp: float | None, notes: tuple[str, ...]
    ):
        self.array = array
        self.kind = kind
        self.axes = axes
        self.shape = (int(array.shape[axes[0]]), int(array.shape[axes[1]]))
        self.dtype = np.dtype(array.dtype)
        self.mpp = mpp
        self.notes = notes
        self.keep_chunks = not isinstance(array, np.ndarray)
        files = ChunkFiles.of(array) if isinstance(array, zarr.Array) else None
        self.read_chunk: ReadChunk | None = (
            None if files is None else partial(_read_chunk, files, axes, self.shape)
        )
        chunks = (
            getattr(array, "chunksize", None) or getattr(array, "chunks", None) or (1024,) * len(array.shape)
        )
        self.chunks = (min(int(chunks[axes[0]]), self.shape[0]), min(int(chunks[axes[1]]), self.shape[1]))

    def read(self, rows: slice, cols: slice) -> npt.NDArray[Any]:
        """Integers [y, x] of an in-bounds region."""
        index = [slice(0, 1)] * len(self.array.shape)
        index[self.axes[0]], index[self.axes[1]] = rows, cols
        place = tuple(index)
        values = read_here(self.array, place) if isinstance(self.array, zarr.Array) else self.array[place]
        # The other axes have one index; y comes before x.
        return np.asarray(values).reshape(rows.stop - rows.start, cols.stop - cols.start)

    def blame(self, rows: slice, cols: slice) -> str:
        """Name the first chunk of the region that cannot be read."""
        if isinstance(self.array, zarr.Array):
            unit = self.array.shards or self.array.chunks
            height, width = unit[self.axes[0]], unit[self.axes[1]]
            for row in range(rows.start // height, -(-rows.stop // height)):
                for col in range(cols.start // width, -(-cols.stop // width)):
                    y, x = row * height, col * width
                    try:
                        self.read(
                            slice(y, min(y + height, self.shape[0])), slice(x, min(x + width, self.shape[1]))
                        )
                    except Exception:
                        place = [0] * len(unit)
                        place[self.axes[0]], place[self.axes[1]] = row, col
                        return f"chunk {self.array.metadata.encode_chunk_key(tuple(place))}"
        return f"rows {rows.start}..{rows.stop - 1}, columns {cols.start}..{cols.stop - 1}"


def _read_chunk(
    files: ChunkFiles, axes: tuple[int, int], shape: tuple[int, int], row: int, col: int
) -> npt.NDArray[Any]:
    """The plane [y, x] of one chunk, as far as it lies in the array."""
    place: list[Any] = [0] * files.ndim
    place[axes[0]], place[axes[1]] = row, col
    chunk = files.read(tuple(place))
    for axis, index, length in zip(axes, (row, col), shape, strict=True):
        place[axis] = slice(0, length - index * chunk.shape[axis])
    for axis in set(range(files.ndim)) - set(axes):
        place[axis] = 0
    plane: npt.NDArray[Any] = chunk[tuple(place)]
    # A view would keep the rest of the chunk as well.
    return plane if plane.size == chunk.size else plane.copy()


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


# Small things


def _bounded(part: slice, size: int) -> slice:
    start = 0 if part.start is None else operator.index(part.start)
    stop = size if part.stop is None else operator.index(part.stop)
    if part.step not in (None, 1) or not 0 <= start <= stop <= size:
        raise IndexError(f"slice {start}:{stop} with step {part.step} of an axis with {size} pixels")
    return slice(start, stop)


# What stores say of a file that changes with it, by fsspec's many names.
_CHANGED = ("ETag", "etag", "CRC", "mtime", "LastModified", "last_modified", "modified", "updated", "created")


def _file_facts(where: str) -> Iterator[str]:
    """Name, size and time (or ETag) of every file of a mask, in order of name."""
    fs, root = fsspec.url_to_fs(where)
    if isinstance(fs, LocalFileSystem):
        yield from _local_facts(Path(root), "")
        return
    fs.invalidate_cache()  # else a store may tell what it saw before
    found = fs.find(root, detail=True) or {root: fs.info(root)}
    for path in sorted(found):
        facts = found[path]
        changed = next((facts[key] for key in _CHANGED if facts.get(key)), None)
        if changed is None:  # as over HTTP
            raise OSError(f"{where}: its storage does not say when a file changed")
        yield f"{re.sub('^' + re.escape(root), '', path)} {facts.get('size')} {changed}\n"


def _local_facts(path: Path, name: str) -> Iterator[str]:
    """The same for a file or folder of this machine, with no more than one folder's names in memory."""
    if not path.is_dir():
        yield _fact(name, path.stat())
        return
    with os.scandir(path) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        inside = f"{name}/{entry.name}"
        if entry.is_dir():
            yield from _local_facts(Path(entry.path), inside)
        else:
            yield _fact(inside, entry.stat())


def _fact(name: str, facts: os.stat_result) -> str:
    return f"{name} {facts.st_size} {facts.st_mtime_ns}\n"
