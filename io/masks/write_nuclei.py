"""How are labels and numbers of nuclei written, side by side?

The mask is an OME-Zarr whose group ``labels`` holds two label images: ``class``, uint8, and ``instance``, uint16 or uint32. The group
itself names ``labels/class`` as its image, so that whatever opens an OME-Zarr opens the labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
import zarr.codecs
from safron.io.legend import Label
from zarr.storage import LocalStore

from .write import CHUNK, blocks, check_target, write_blocks

BLOCK_BYTES = 1 << 17
"""Of what is unpacked together of the numbers in a chunk: 32 or 64 of its rows."""

PaintBoth = Callable[[slice, slice], tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint32]]]


def write_nuclei(
    out: Path,
    paint: PaintBoth,
    *,
    height: int,
    width: int,
    mpp: float | None = None,
    most: int,
    labels: Sequence[Label] = (),
    about: Callable[[], dict[str, Any]] = dict,
    fill: int = 0,
    regions: Iterable[tuple[slice, slice]] | None = None,
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
    most
        The largest number there may be. Numbers take 16 bits if it fits, else 32: half as many bytes are read in half the time.
    labels
        Meaning of the values.
    about
        Gives whatever else is kept in the attributes, as "safron"; called when all is drawn.
    fill
        Label of the chunks that are not written because they hold nothing else.
    regions
        Slices (y, x) of whole chunks, each drawn by one call; None for one call for each chunk. What lies in none of them has
        the label `fill` and no number.
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
        lambda part: _create(part, height, width, mpp, labels, most, fill),
        paint,
        blocks(height, width, (CHUNK, CHUNK)) if regions is None else regions,
        workers=workers,
        overwrite=overwrite,
        progress=progress,
        finish=lambda part: zarr.open_group(LocalStore(part), mode="r+").attrs.update({"safron": about()}),
    )


def _create(
    part: Path,
    height: int,
    width: int,
    mpp: float | None,
    labels: Sequence[Label],
    most: int,
    fill: int,
) -> tuple[zarr.Array[Any], zarr.Array[Any]]:
    meanings = [label.to_json() for label in labels]
    colors = [{"label-value": label.value, "rgba": [*label.color, 255]} for label in labels]
    attributes = {"ome": multiscale("labels/class/0", mpp), "labels": meanings}
    group = create_labels(zarr.create_group(LocalStore(part), attributes=attributes))
    classes = create_image(
        group, "class", (height, width), "uint8", mpp, label={"colors": colors}, fill_value=fill,
        compressors=zarr.codecs.ZstdCodec(level=12), attributes={"labels": meanings},
    )  # fmt: skip
    # Numbers are up to four times as many bytes as labels, so what counts is the speed of unpacking. A row repeats most of the
    # one before it, which LZ4 sees where bytes are not shuffled; in blocks of some rows, readers unpack no more than they need.
    kind = np.dtype(np.uint16 if most < 1 << 16 else np.uint32)
    fast = zarr.codecs.BloscCodec(
        cname="lz4hc", clevel=7, shuffle="noshuffle", blocksize=BLOCK_BYTES, typesize=1
    )
    shape = (height, width)
    return classes, create_image(
        group, "instance", shape, kind.name, mpp, label={}, fill_value=0, compressors=fast
    )


def create_labels(root: zarr.Group) -> zarr.Group:
    """Make the group of the label images ``class`` and ``instance``."""
    return root.create_group(
        "labels", attributes={"ome": {"version": "0.5", "labels": ["class", "instance"]}}
    )


def create_image(
    group: zarr.Group,
    name: str,
    shape: tuple[int, ...],
    dtype: str,
    mpp: float | None,
    *,
    label: dict[str, Any] | None = None,
    **more: Any,
) -> zarr.Array[Any]:
    """Make an OME-Zarr image of one level in chunks of whole canvas blocks, and return its array.

    Parameters
    ----------
    group
        Where it lies.
    name
        Its name there.
    shape
        [y, x] or [y, x, channels].
    dtype
        Type of its values.
    mpp
        Micrometres per pixel; None where unknown.
    label
        Metadata of a label image; None for other images.
    **more
        Passed to `zarr.Group.create_array`.
    """
    axes = "yxc"[: len(shape)]
    about = multiscale("0", mpp, axes) | ({} if label is None else {"image-label": label})
    return group.create_group(name, attributes={"ome": about}).create_array(
        "0",
        shape=shape,
        chunks=(CHUNK, CHUNK, *shape[2:]),
        dtype=dtype,
        dimension_names=tuple(axes),
        config={"write_empty_chunks": False},
        **more,
    )


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
