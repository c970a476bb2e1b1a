"""MONAI: `PatchInferer` runs the patches, `ZarrAvgMerger` adds sums and counts in Zarr and divides at the end.

MONAI takes 256 out of 296 as a change of scale and multiplies locations by 256/296; they are given divided by that. Patches
are given ready made: its own splitters cannot read a label window with its edge repeated. Stores are named, since the default
ones are temporary folders of which one is never removed.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from job import TILE, WINDOW, Generator, Job, main, origins, windows
from monai.inferers import PatchInferer, ZarrAvgMerger


def render(job: Job, generator: Generator) -> dict[str, str]:
    """Make a Zarr of float32 [1, 3, height, width]."""
    scale = WINDOW / TILE

    def patches() -> Iterator[tuple[torch.Tensor, tuple[float, float]]]:
        for y, x, labels in windows(job.labels()):
            yield torch.from_numpy(labels.copy())[None, None], (y * scale, x * scale)

    def network(labels: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(generator(labels[:, 0].numpy())).permute(0, 3, 1, 2)

    covered = origins(job.side)[-1] + TILE
    chunk, bare = job.setting["chunk"], [{"name": "bytes", "configuration": {"endian": "little"}}]
    single = [{"name": "bytes"}]  # of one byte: no order
    out = job.out / "monai.zarr"
    inferer = PatchInferer(
        splitter=None,
        merger_cls=ZarrAvgMerger,
        batch_size=job.batch,
        buffer_size=job.setting["buffer"],
        merged_shape=(1, 3, covered, covered),
        cropped_shape=(1, 3, job.side, job.side),
        store=str(out),
        value_store=str(job.out / "values.zarr"),
        count_store=str(job.out / "counts.zarr"),
        chunks=(1, 3, chunk, chunk),
        codecs=bare,
        value_codecs=bare,
        count_codecs=single,
    )
    inferer(patches(), network)
    return {"kind": "zarr ncyx", "path": str(out)}


if __name__ == "__main__":
    torch.set_num_threads(1)  # it only copies; the generator has the cores
    main(render)
