"""How does a mask of any size get onto disk, whole or not at all?

Blocks of whole chunks are painted in parallel, one writer to a chunk, into a hidden folder beside the target,
which is renamed when the last block is done. Chunks that are background all over are not written.
"""

from __future__ import annotations

import atexit
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
import zarr.codecs
from safron.io.errors import BadInput, Failed
from safron.io.legend import DEFAULT_LABELS, Label

from .plane import ZARR_MARKERS

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
    block: tuple[int, int] = (CHUNK, CHUNK),
    fill: int = 0,
    workers: int | None = None,
    overwrite: bool = False,
    progress: Callable[[int], None] = lambda pixels: None,
) -> None:
    """Write a Zarr v3 label array, block by block.

    Parameters
    ----------
    out : folder to create.
    paint : returns the labels uint8 [y, x] of a region given as two slices (y, x); called from many threads.
    height, width : size of the canvas in pixels.
    mpp : micrometres per pixel, kept in the array's attributes; None where unknown.
    labels : what the values mean, kept in the array's attributes; none where unknown.
    block : pixels (y, x) painted by one call; rounded up to whole chunks.
    fill : value of chunks that are not written because they hold nothing else.
    workers : threads; None takes one per core, at most 8.
    overwrite : replace a Zarr that stands at `out`.
    progress : told the pixels of every finished block.

    Raises
    ------
    BadInput
        `out` exists, or cannot be created.
    Failed
        The disk refused a write. What stood at `out` before is untouched.
    """
    check_target(out, overwrite=overwrite)
    workers = workers or min(8, os.cpu_count() or 1)
    part = out.with_name(f".{out.name}.{secrets.token_hex(4)}.part")
    remove = partial(shutil.rmtree, part, ignore_errors=True)
    # Once more at the very end: a signal that comes while a thread starts leaves it at work unseen.
    atexit.register(remove)
    try:
        part.mkdir()
        # In a thread, which a signal does not break off: Zarr would go on writing to a folder that is gone.
        with ThreadPoolExecutor(1) as pool:
            array = pool.submit(_create, part, height, width, mpp, labels, fill).result()

        def work(rows: slice, cols: slice) -> int:
            array[rows, cols] = paint(rows, cols)
            return int(rows.stop - rows.start) * int(cols.stop - cols.start)

        _run(work, blocks(height, width, block), workers, progress)
        _replace(out, part)
    except OSError as error:
        raise Failed(f"{out}: cannot write the mask: {error.strerror or error}") from error
    finally:
        remove()
    atexit.unregister(remove)


def check_target(out: Path, *, overwrite: bool) -> None:
    """Raise `BadInput` unless a mask may be written here; replaces nothing but a Zarr."""
    if "://" in str(out) or str(out).startswith(("s3:/", "gs:/", "memory:/")):
        raise BadInput(f"{out}: masks are written to local folders; copy it to object storage afterwards")
    if not out.parent.is_dir():
        raise BadInput(f"{out}: the folder {out.parent} does not exist; create it first")
    if not os.access(out.parent, os.W_OK):
        raise BadInput(f"{out}: the folder {out.parent} may not be written to")
    if not (out.exists() or out.is_symlink()):
        return
    if not overwrite:
        raise BadInput(f"{out}: it exists already; choose another name, or pass --overwrite")
    if out.is_symlink() or not any((out / marker).exists() for marker in ZARR_MARKERS):
        raise BadInput(f"{out}: it exists and is no Zarr folder, so it is not replaced; choose another name")


def blocks(height: int, width: int, block: tuple[int, int]) -> Iterator[tuple[slice, slice]]:
    """Yield regions (y, x) of whole chunks that tile a canvas, row by row."""
    step_y, step_x = (max(1, -(-side // CHUNK)) * CHUNK for side in block)
    for y in range(0, height, step_y):
        for x in range(0, width, step_x):
            yield slice(y, min(y + step_y, height)), slice(x, min(x + step_x, width))


def _create(
    part: Path, height: int, width: int, mpp: float | None, labels: Sequence[Label], fill: int
) -> zarr.Array[Any]:
    meanings = [
        {name: given for name, given in asdict(label).items() if given is not None} for label in labels
    ]
    attributes: dict[str, Any] = {"labels": meanings} if labels else {}
    if mpp is not None:
        attributes["mpp"] = mpp
    return zarr.create_array(
        str(part),
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


def _run(
    work: Callable[[slice, slice], int],
    regions: Iterator[tuple[slice, slice]],
    workers: int,
    progress: Callable[[int], None],
) -> None:
    """Run all regions with few of them queued, so that memory does not grow with the canvas."""
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


def _replace(out: Path, part: Path) -> None:
    """Put the finished folder in place; the old one goes only once the new one stands."""
    if not out.exists():
        part.rename(out)
        return
    old = part.with_suffix(".old")
    out.rename(old)
    try:
        part.rename(out)
    except OSError:
        old.rename(out)
        raise
    shutil.rmtree(old)
