"""torch-em: `predict_with_halo_pipelined` reads blocks with a halo ahead, runs the network, writes behind.

Halos are cropped, not averaged. The network must return its input's size, so patches are put back into a frame of 20 pixels
that torch-em cuts off again. The prediction function fills a block with patches side by side, as for Dask: with blocks of one
patch, handing them from queue to queue takes most of the time.
"""

from __future__ import annotations

import numpy as np
import torch
import torchvision_cpu  # noqa: F401
import zarr
from job import CONTEXT, Generator, Job, main, render_block
from torch_em.util.prediction import predict_with_halo_pipelined


class Framed(torch.nn.Module):
    """The generator on blocks of any whole number of patches: [N, 1, H, W] to [N, 3, H, W], with an empty frame of 20."""

    def __init__(self, generator: Generator, batch: int) -> None:
        super().__init__()
        self.generator, self.batch, self.out_channels = generator, batch, 3
        self.anchor = torch.nn.Parameter(torch.zeros(1))  # torch-em asks where the parameters are

    def forward(self, blocks: torch.Tensor) -> torch.Tensor:
        """Run the blocks one by one."""
        framed = torch.empty((len(blocks), 3, *blocks.shape[2:]), dtype=torch.uint8)
        inner = slice(CONTEXT, -CONTEXT)
        for block, frame in zip(blocks, framed, strict=True):
            image = render_block(block[0].numpy(), self.generator, self.batch, None)
            frame[:, inner, inner] = torch.from_numpy(image).permute(2, 0, 1)
        return framed


def render(job: Job, generator: Generator) -> dict[str, str]:
    """Make a Zarr of uint8 [3, height, width]."""
    block = job.block()
    path = job.out / "torch_em.zarr"
    out = zarr.create_array(
        path, shape=(3, job.side, job.side), chunks=(3, block, block), dtype=np.uint8, overwrite=True
    )
    predict_with_halo_pipelined(
        job.labels(),
        Framed(generator, job.batch),
        ["cpu"],
        block_shape=(block, block),
        halo=(CONTEXT, CONTEXT),
        output=out,
        preprocess=None,
        batch_size=1,
        num_prefetch_workers=1,
        num_write_workers=job.setting["writers"],
        disable_tqdm=True,
    )
    return {"kind": "zarr cyx", "path": str(path)}


if __name__ == "__main__":
    torch.set_num_threads(1)  # it only copies; the generator has the cores
    main(render)
