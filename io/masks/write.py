"""How is a mask of any size written, whole or not at all?

Blocks of whole chunks are drawn in parallel, one writer per chunk, into a hidden folder beside the target, which is
renamed when the last block is done. Chunks that hold background alone are not written.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
import zarr.codecs
from safron.io.errors import BadInput, Failed
from safron.io.files import check_output_path, output
from safron.io.legend import DEFAULT_LABELS, Label
from zarr.storage import LocalStore

CHUNK = 1024
"""Side of a chunk, in pixels: 1 MiB of labels, some kB compressed."""

Paint = Callable[[slice, slice], npt.NDArray[np.uint8]]


def write_labels(
    out: Path,
    paint: Paint,
    *,
    height: int,
    width: int,
    mpp: float | None = None,
    labels: Sequence[Label] = DEFAULT_LABELS,
    regions: Iterable[tuple[slice, slice]] | None = None,
    fill: int = 0,
    workers: int | None = None,
    overwrite: bool = False,
    progress: Callable[[int], None] = lambda pixels: None,
) -> None:
    """Write a Zarr v3 label array, block by block.

    Parameters
    ----------
    out
        Folder to create.
    paint
        Returns the labels uint8 [y, x] of a region given as two slices (y, x); called from many threads.
    height, width
        Size of the canvas in pixels.
    mpp
        Micrometres per pixel, kept in the array's attributes; None where unknown.
    labels
        Meaning of the values, kept in the array's attributes; none where unknown.
    regions
        Slices (y, x) of whole chunks, each drawn by one call; None for one call for each chunk. What lies in none of them has
        the value `fill`.
    fill
        Value of the chunks that are not written because they hold nothing else.
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
        lambda part: (_create(part, height, width, mpp, labels, fill),),
        lambda rows, cols: (paint(rows, cols),),
        blocks(height, width, (CHUNK, CHUNK)) if regions is None else regions,
        workers=workers,
        overwrite=overwrite,
        progress=progress,
    )


def write_blocks(
    out: Path,
    create: Callable[[Path], Sequence[Any]],
    draw: Callable[[slice, slice], Sequence[npt.NDArray[Any]]],
    regions: Iterable[tuple[slice, slice]],
    *,
    workers: int | None,
    overwrite: bool,
    progress: Callable[[int], None],
    finish: Callable[[Path], Any] = lambda part: None,
) -> None:
    """Write some arrays of one canvas, block by block; the folder appears whole.

    Parameters
    ----------
    out
        Folder to create.
    create
        Makes the empty Zarr arrays [y, x] or [y, x, ...] in a folder.
    draw
        Returns a region of each, given as two slices (y, x); called from many threads.
    regions
        The blocks.
    workers, overwrite, progress
        See `write_labels`.
    finish
        Called with the folder when all blocks are written.

    Raises
    ------
    Failed
        The disk refused a write; what existed at `out` is untouched.
    """
    try:
        with output(out, overwrite=overwrite, folder=True) as part:
            # In a thread, which a signal does not interrupt: Zarr would go on writing to a folder that is gone.
            with ThreadPoolExecutor(1) as pool:
                arrays = pool.submit(create, part).result()

            def work(rows: slice, cols: slice) -> int:
                for array, values in zip(arrays, draw(rows, cols), strict=True):
                    array[rows, cols] = values
                return int(rows.stop - rows.start) * int(cols.stop - cols.start)

            run_blocks(work, iter(regions), worker_count(workers), progress)
            with ThreadPoolExecutor(1) as pool:
                pool.submit(finish, part).result()
    except OSError as error:
        raise Failed(f"{out}: cannot write the mask: {error.strerror or error}") from error


def check_target(out: Path, *, overwrite: bool) -> None:
    """Raise `BadInput` unless a mask may be written here; it replaces nothing but a mask."""
    if "://" in str(out) or str(out).startswith(("s3:/", "gs:/", "memory:/")):
        raise BadInput(f"{out}: masks are written to local folders; copy it to object storage afterwards")
    if out.suffix not in ("", ".zarr"):
        raise BadInput(f"{out}: a mask is written as a Zarr folder; end its name in .zarr")
    if overwrite and os.path.lexists(out) and not _is_mask(out):
        raise BadInput(
            f"{out}: exists and is not a Zarr array of labels, so it is not replaced; choose another name"
        )
    check_output_path(out, overwrite=overwrite, folder=True)


def _is_mask(path: Path) -> bool:
    """Whether a folder is a Zarr array that may hold labels: two axes, whole numbers; or labels and instances."""
    if path.is_symlink() or not path.is_dir():
        return False
    try:
        node = zarr.open(LocalStore(path, read_only=True), mode="r")
        # A group may hold images as well, unless it is one that we wrote.
        array: Any = (
            node["labels/class/0"] if isinstance(node, zarr.Group) and "safron" in node.attrs else node
        )
    except Exception:  # no Zarr, a group, or damaged: not to be replaced
        return False
    return isinstance(array, zarr.Array) and array.ndim == 2 and array.dtype.kind in "bui"


def worker_count(workers: int | None) -> int:
    """Threads to write with: one per core, at most 8, unless the user says."""
    return workers or min(8, os.cpu_count() or 1)


def blocks(height: int, width: int, block: tuple[int, int]) -> Iterator[tuple[slice, slice]]:
    """Yield the regions (y, x) of whole chunks that tile a canvas, row by row."""
    step_y, step_x = (whole_chunks(side) for side in block)
    for y in range(0, height, step_y):
        for x in range(0, width, step_x):
            yield slice(y, min(y + step_y, height)), slice(x, min(x + step_x, width))


def whole_chunks(side: int) -> int:
    """Round pixels up to those of whole chunks."""
    return max(1, -(-side // CHUNK)) * CHUNK


def _create(
    part: Path, height: int, width: int, mpp: float | None, labels: Sequence[Label], fill: int
) -> zarr.Array[Any]:
    attributes: dict[str, Any] = {"labels": [label.to_json() for label in labels]} if labels else {}
    if mpp is not None:
        attributes["mpp"] = mpp
    return zarr.create_array(
        LocalStore(part),  # as text, '::' in a path would mean a chain of stores
        shape=(height, width),
        chunks=(CHUNK, CHUNK),
        dtype="uint8",
        fill_value=fill,
        compressors=zarr.codecs.ZstdCodec(level=12),
        dimension_names=("y", "x"),
        attributes=attributes,
        config={"write_empty_chunks": False},
        overwrite=True,
    )


def run_blocks(
    work: Callable[[slice, slice], int],
    regions: Iterator[tuple[slice, slice]],
    workers: int,
    progress: Callable[[int], None],
) -> None:
    """Run all regions, with few of them queued at a time, so that memory does not grow with the canvas."""
    with ThreadPoolExecutor(workers) as pool:
        running: set[Future[int]] = set()
        try:
            while True:
                for region in islice(regions, 2 * workers - len(running)):
                    running.add(pool.submit(work, *region))
                if not running:
                    return
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    progress(future.result())
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
