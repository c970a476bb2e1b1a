"""Dask: `map_overlap` gives each block 20 pixels of its neighbours, the function fills it with patches side by side.

Overlaps are cropped, not averaged: Dask has no averaging. Chunks of input, output and blocks are one grid, so no lock is needed.
"""

from __future__ import annotations

import dask
import dask.array as da
import numpy as np
import numpy.typing as npt
import zarr
from job import CONTEXT, Generator, Job, main, render_block


def render(job: Job, generator: Generator) -> dict[str, str]:
    """Make a Zarr of uint8 [height, width, 3]."""
    block, glass = job.block(), job.setting.get("glass")

    def fill(labels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        return render_block(labels, generator, job.batch, glass)

    mask = da.from_zarr(job.mask, chunks=(block, block))
    image = da.map_overlap(
        fill, mask, depth=CONTEXT, boundary="nearest", trim=False, dtype=np.uint8, new_axis=2,
        chunks=(*mask.chunks, (3,)), meta=np.empty((0, 0, 0), np.uint8),
    )  # fmt: skip
    out = zarr.create_array(
        job.out / "dask.zarr", shape=image.shape, chunks=(block, block, 3), dtype="uint8", overwrite=True
    )
    with dask.config.set(scheduler="threads", num_workers=job.setting["workers"]):
        da.store(image, out, lock=False)
    return {"kind": "zarr yxc", "path": str(job.out / "dask.zarr")}


if __name__ == "__main__":
    main(render)
