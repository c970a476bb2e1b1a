"""How is a synthetic picture written together with its mask?

The output is an OME-Zarr group of three images of one size: ``labels/class`` (uint8) and ``labels/instance`` (uint32),
which the group itself names as a mask, and ``image`` (RGB uint8 [y, x, 3]). Blocks of whole chunks are drawn in parallel,
one writer per chunk, into a hidden folder that is renamed when the last block is done.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy.typing as npt
import zarr
import zarr.codecs
from safron.io.errors import BadInput
from safron.io.files import check_output_path
from safron.io.synthesis.draw import Picture
from zarr.storage import LocalStore

from .write import CHUNK, blocks, write_blocks
from .write_nuclei import create_image, create_labels, multiscale

Draw = Callable[[int, int, int, int], Picture]

ABOUT = "safron_synthesis"
"""Attribute that says how a group was made; a group that has it may be replaced."""

NUCLEUS_LABELS = [
    {"value": 0, "name": "tissue", "color": [255, 0, 0]},
    {"value": 1, "name": "nucleus", "color": [0, 0, 255]},
]


def write_pictures(
    out: Path,
    draw: Draw,
    *,
    height: int,
    width: int,
    mpp: float | None,
    about: dict[str, Any],
    workers: int | None = None,
    overwrite: bool = False,
    progress: Callable[[int], None] = lambda pixels: None,
) -> None:
    """Write picture, classes and instances, block by block.

    Parameters
    ----------
    out
        Folder to create.
    draw
        Draws a window (y0, x0, y1, x1) in pixels; called from many threads.
    height, width
        Size of the canvas in pixels.
    mpp
        Micrometres per pixel; None where unknown.
    about
        How it was made, kept in the group's attributes.
    workers
        Threads; None means one per core, at most 8.
    overwrite
        Replace a group that this function has written.
    progress
        Called with the pixels of every finished block.

    Raises
    ------
    BadInput
        `out` exists, or cannot be created.
    Failed
        The disk refused a write; what existed at `out` is untouched.
    """
    check_pictures(out, overwrite=overwrite)

    def parts(rows: slice, cols: slice) -> tuple[npt.NDArray[Any], ...]:
        picture = draw(rows.start, cols.start, rows.stop, cols.stop)
        return picture.rgb, picture.classes, picture.instances

    write_blocks(
        out,
        lambda part: _create(part, height, width, mpp, about),
        parts,
        blocks(height, width, (CHUNK, CHUNK)),
        workers=workers,
        overwrite=overwrite,
        progress=progress,
    )


def check_pictures(out: Path, *, overwrite: bool) -> None:
    """Raise `BadInput` unless a group may be written here; it replaces nothing but its like."""
    if out.suffix not in ("", ".zarr"):
        raise BadInput(f"{out}: a Zarr folder is written; end its name in .zarr")
    if overwrite and os.path.lexists(out) and not _is_ours(out):
        raise BadInput(
            f"{out}: exists and was not made by this command, so it is not replaced; choose another name"
        )
    check_output_path(out, overwrite=overwrite, folder=True)


def _is_ours(path: Path) -> bool:
    """Whether a folder was written by `write_pictures`."""
    if path.is_symlink() or not path.is_dir():
        return False
    try:
        return ABOUT in zarr.open_group(LocalStore(path, read_only=True), mode="r").attrs
    except Exception:  # no Zarr, an array, or damaged: not to be replaced
        return False


def _create(
    part: Path, height: int, width: int, mpp: float | None, about: dict[str, Any]
) -> tuple[zarr.Array[Any], zarr.Array[Any], zarr.Array[Any]]:
    attributes = {"ome": multiscale("labels/class/0", mpp), "labels": NUCLEUS_LABELS, ABOUT: about}
    root = zarr.create_group(LocalStore(part), attributes=attributes)
    common: dict[str, Any] = {
        "fill_value": 0,
        "compressors": zarr.codecs.BloscCodec(cname="zstd", clevel=1, shuffle="shuffle"),
    }
    labels, shape = create_labels(root), (height, width)
    return (
        create_image(root, "image", (*shape, 3), "uint8", mpp, **common),
        create_image(
            labels, "class", shape, "uint8", mpp, label={}, attributes={"labels": NUCLEUS_LABELS}, **common
        ),
        create_image(labels, "instance", shape, "uint32", mpp, label={}, **common),
    )
