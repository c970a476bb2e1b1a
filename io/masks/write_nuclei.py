"""How are labels and numbers of nuclei written, side by side?

The mask is an OME-Zarr whose group ``labels`` holds two label images: ``class``, uint8, and ``instance``, uint32. The group
itself names ``labels/class`` as its image, so that whatever opens an OME-Zarr opens the labels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
import zarr.codecs
from safron.io.legend import Label
from zarr.storage import LocalStore

from .write import CHUNK, blocks, check_target, write_blocks

PaintBoth = Callable[[slice, slice], tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint32]]]


def write_nuclei(
    out: Path,
    paint: PaintBoth,
    *,
    height: int,
    width: int,
    mpp: float | None = None,
    labels: Sequence[Label] = (),
    about: dict[str, Any] | None = None,
    fill: int = 0,
    workers: int | None = None,
    overwrite: bool = False,
    progress: Callable[[int], None] = lambda pixels: None,
) -> None:
    """Write a mask of labels and instances, block by block.

    Parameters
    ----------
    out
        Folder to create.
    paint
        Returns labels and numbers [y, x] of a region given as two slices (y, x); called from many threads.
    height, width
        Size of the canvas in pixels.
    mpp
        Micrometres per pixel; None where unknown.
    labels
        Meaning of the values.
    about
        Whatever else is kept in the attributes, as "safron".
    fill
        Label of the chunks that are not written because they hold nothing else.
    workers
        Threads; None means one per core, at most 8.
    overwrite
        Replace a mask that exists at `out`.
    progress
        Called with the pixels of every finished block.

    Raises
    ------
    BadInput
        `out` exists, or cannot be created.
    Failed
        The disk refused a write. A mask that existed at `out` is untouched.
    """
    check_target(out, overwrite=overwrite)
    write_blocks(
        out,
        lambda part: _create(part, height, width, mpp, labels, about or {}, fill),
        paint,
        blocks(height, width, (CHUNK, CHUNK)),
        workers=workers,
        overwrite=overwrite,
        progress=progress,
    )


def _create(
    part: Path,
    height: int,
    width: int,
    mpp: float | None,
    labels: Sequence[Label],
    about: dict[str, Any],
    fill: int,
) -> tuple[zarr.Array[Any], zarr.Array[Any]]:
    meanings = [
        {name: given for name, given in asdict(label).items() if given is not None} for label in labels
    ]
    colors = [{"label-value": label.value, "rgba": [*label.color, 255]} for label in labels]
    root = zarr.create_group(
        LocalStore(part),
        attributes={"ome": multiscale("labels/class/0", mpp), "labels": meanings, "safron": about},
    )
    ome = {"version": "0.5", "labels": ["class", "instance"]}
    group = root.create_group("labels", attributes={"ome": ome})
    made = []
    for name, kind, value, more in (
        ("class", "uint8", fill, {"colors": colors}),
        ("instance", "uint32", 0, {}),
    ):
        image = group.create_group(name, attributes={"ome": multiscale("0", mpp) | {"image-label": more}})
        made.append(
            image.create_array(
                "0",
                shape=(height, width),
                chunks=(CHUNK, CHUNK),
                dtype=kind,
                fill_value=value,
                # Numbers are four times as many bytes as labels, so what counts is the speed of unpacking. A row repeats most
                # of the one before it, which LZ4 sees where a chunk is one block and its bytes are not shuffled.
                compressors=zarr.codecs.BloscCodec(
                    cname="lz4hc", clevel=7, shuffle="noshuffle", blocksize=CHUNK * CHUNK * 4
                )
                if kind == "uint32"
                else zarr.codecs.ZstdCodec(level=12),
                dimension_names=("y", "x"),
                attributes={"labels": meanings} if name == "class" else {},
                config={"write_empty_chunks": False},
            )
        )
    classes, instances = made
    return classes, instances


def multiscale(path: str, mpp: float | None, axes: str = "yx") -> dict[str, Any]:
    """Metadata of an OME-Zarr image of one level."""
    kinds = {"c": "channel"}
    described = [
        {"name": name, "type": kinds.get(name, "space")}
        | ({"unit": "micrometer"} if mpp and name != "c" else {})
        for name in axes
    ]
    scale = [1.0 if name == "c" else mpp or 1.0 for name in axes]
    level = {"path": path, "coordinateTransformations": [{"type": "scale", "scale": scale}]}
    return {"version": "0.5", "multiscales": [{"axes": described, "datasets": [level]}]}
