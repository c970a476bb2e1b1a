"""Which kind of mask is this, and how is it opened?"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safron.io.errors import BadInput, one_line
from safron.io.fields import RGB
from safron.io.files import open_input
from safron.io.json_texts import SEQUENCE_ENDINGS

from .mask import Elsewhere, LabelMask
from .plane import ACCEPTED, ZARR_MARKERS
from .relabel import Relabel, RelabelledPlane
from .zarr_masks import is_zarr, open_zarr, plane_of


def open_mask(
    source: str | Path | Any,
    *,
    palette: Mapping[int, RGB] | None = None,
    palette_tolerance: int = 0,
    use_palette: bool = False,
    relabel: Relabel | None = None,
    beside: Mapping[str, Any] | None = None,
) -> LabelMask:
    """Open a mask, and check what can be checked without reading pixels.

    Parameters
    ----------
    source
        Path of a Zarr array or OME-Zarr image (a folder or zip archive), of a NumPy file or of an image; URL
        of a Zarr (``s3://``, ``memory://``, ...); or anything with ``shape``, ``dtype`` and slicing: NumPy,
        zarr.Array, dask.array.
    palette
        Label value to RGB; needed by colour-coded images.
    palette_tolerance
        Largest difference, 0..255, in any channel to the nearest palette colour.
    use_palette
        Insist on the palette: grey images are looked up in it as well, and a mask that holds labels is
        refused. Otherwise the palette is for colour images alone.
    relabel
        What stored numbers, or labels of the palette, become; they may be any whole numbers before.
    beside
        Sources of further planes of the same canvas, by what they hold: "instances" (numbers of nuclei), "edges".
        They are opened as masks are, but hold whole numbers of any size.

    Returns
    -------
    LabelMask
        LabelMask.

    Raises
    ------
    BadInput
        The source is missing, damaged, or no 2-D array of whole numbers.
    """
    colours = dict(palette or {})
    if beside:
        how = tuple(colours.items()), palette_tolerance, use_palette, *([] if relabel is None else [relabel])
        return _open_beside(source, dict(beside), how)
    if not isinstance(source, str | Path):
        name = f"<{type(source).__name__} in memory>"
        plane = plane_of(source, name)
        return LabelMask(plane if relabel is None else RelabelledPlane(plane, relabel), name)
    reading = tuple(colours.items()), palette_tolerance, use_palette
    if relabel is not None:
        return _open_relabelled(str(source), _place(source), *reading, relabel)
    return _open_named(str(source), _place(source), *reading)


def _place(source: str | Path) -> str:
    """Absolute path, or URL: a worker that reopens the mask may have another working folder."""
    name = str(source).removeprefix("file://")
    return name if "://" in name else str(Path(name).absolute())


def _open_beside(source: Any, beside: dict[str, Any], how: tuple[Any, ...]) -> LabelMask:
    """Open a mask and further planes of its canvas; `how` are colours, tolerance, use_palette and, if given, relabel."""
    if all(isinstance(one, str | Path) for one in (source, *beside.values())):
        elsewhere = Elsewhere(tuple((name, _place(other)) for name, other in beside.items()))
        return _reopen_beside(str(source), _place(source), how, elsewhere)
    colours, tolerance, use, *relabel = how
    mask = open_mask(
        source,
        palette=dict(colours),
        palette_tolerance=tolerance,
        use_palette=use,
        relabel=next(iter(relabel), None),
    )
    planes = {name: open_mask(other).plane for name, other in beside.items()}
    return LabelMask(mask.plane, mask.source, beside=mask.planes_beside | planes)


def _reopen_beside(name: str, where: str, how: tuple[Any, ...], elsewhere: Elsewhere) -> LabelMask:
    """Open a path or URL and further planes of its canvas; workers call this to reopen a mask."""
    planes = {other: open_mask(path).plane for other, path in elsewhere.paths}
    mask = _open_relabelled(name, where, *how) if len(how) == 4 else _open_named(name, where, *how)
    reopen = _reopen_beside, (name, where, how, elsewhere)
    return LabelMask(mask.plane, name, reopen, beside=mask.planes_beside | planes)


def _open_relabelled(
    name: str,
    where: str,
    colours: tuple[tuple[int, RGB], ...],
    tolerance: int,
    use_palette: bool,
    relabel: Relabel,
) -> LabelMask:
    """Open a path or URL whose numbers are looked up in rules; workers call this to reopen a mask."""
    reopen = _open_relabelled, (name, where, colours, tolerance, use_palette, relabel)
    mask = _open_named(name, where, colours, tolerance, use_palette)
    return LabelMask(RelabelledPlane(mask.plane, relabel), name, reopen, beside=mask.planes_beside)


def _open_named(
    name: str, where: str, colours: tuple[tuple[int, RGB], ...], tolerance: int, use_palette: bool
) -> LabelMask:
    """Open a path or URL; workers call this to reopen a mask."""
    reopen = _open_named, (name, where, colours, tolerance, use_palette)
    if "://" in where:
        return LabelMask(_holds_labels(open_zarr(where, name), name, use_palette), name, reopen)
    path = Path(where)
    if not path.exists():
        raise BadInput(f"mask {name}: there is no such file or folder; check the path")
    if path.name in ZARR_MARKERS and path.is_file():
        path = path.parent
    if not os.access(path, os.R_OK):
        raise BadInput(f"mask {name}: it may not be read; ask its owner for permission")
    if path.is_dir():
        if not is_zarr(path):
            raise BadInput(
                f"mask {name}: this folder is not a Zarr (no zarr.json, .zarray or .zgroup in it; was it "
                f"copied completely?); {ACCEPTED}"
            )
        return LabelMask(_holds_labels(open_zarr(str(path), name), name, use_palette), name, reopen)
    try:
        with open_input(path) as file:
            start = file.read(6)
    except BadInput as error:
        raise BadInput(f"mask {str(error).replace(str(path), name)}") from None
    if path.name.lower().removesuffix(".gz").endswith((".geojson", ".json", *SEQUENCE_ENDINGS)):
        raise BadInput(
            f"mask {name}: it holds annotations, not labels; draw them with "
            f"safron-mask from-geojson {Path(name).name} mask.zarr --like SLIDE"
        )
    if start == b"\x93NUMPY":
        return LabelMask(_holds_labels(_open_npy(path, name), name, use_palette), name, reopen)
    if start[:2] == b"PK" and zipfile.is_zipfile(path):
        return LabelMask(_holds_labels(open_zarr(str(path), name), name, use_palette), name, reopen)
    from .image_planes import open_image  # image libraries load slowly and a Zarr mask needs none

    plane = open_image(path, name, dict(colours), tolerance, use_palette=use_palette)
    return LabelMask(plane, name, reopen)


def _open_npy(path: Path, name: str) -> Any:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise BadInput(f"mask {name}: cannot read it as a NumPy file ({one_line(error)})") from error
    return plane_of(array, name, "NumPy file")


def _holds_labels(plane: Any, name: str, use_palette: bool) -> Any:
    if use_palette:
        raise BadInput(f"mask {name}: it holds labels, not colours ({plane.kind}); leave the palette out")
    return plane
