"""tiatoolbox: `SemanticSegmentor` with the generator as its network and rounding as its post-processing.

It takes 296 in, 256 out and a stride of 236 as they are, averages overlaps, and reads the mask as a TIFF slide whose red channel
is the label. Beyond the slide it reads 255, which is no label: the pixels at the border cannot be right; the edge is not
repeated. Zero patches count as missing; no generator here makes any.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torchvision_cpu  # noqa: F401
from job import STRIDE, TILE, WINDOW, Generator, Job, main
from tiatoolbox.models.engine.io_config import IOSegmentorConfig
from tiatoolbox.models.engine.semantic_segmentor import SemanticSegmentor
from tiatoolbox.models.models_abc import ModelABC


class Network(ModelABC):
    """The generator in tiatoolbox's clothes."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.generator = generator
        self.class_dict = {0: "red", 1: "green", 2: "blue"}

    def forward(self, labels: torch.Tensor) -> torch.Tensor:
        """Run a batch."""
        return torch.from_numpy(self.generator(labels.numpy()))

    @staticmethod
    def preproc(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Take the label from the red channel; 255, read beyond the slide, becomes label 0."""
        labels = np.ascontiguousarray(image[..., 0])
        labels[labels == 255] = 0
        return labels

    @staticmethod
    def postproc(image: Any) -> Any:
        """Round a Dask array to uint8: in place of the class numbers that a segmentation would save."""
        return image.round().clip(0, 255).astype(np.uint8)

    @staticmethod
    def infer_batch(model: Any, batch_data: torch.Tensor, *, device: str) -> npt.NDArray[np.float32]:
        """Run a batch to NumPy, NHWC."""
        return np.asarray(model(batch_data).numpy())


def render(job: Job, generator: Generator) -> dict[str, str]:
    """Make a Zarr of uint8 [height, width, 3]."""
    full = [{"units": "baseline", "resolution": 1.0}]
    config = IOSegmentorConfig(
        input_resolutions=full,
        output_resolutions=full,
        patch_input_shape=(WINDOW, WINDOW),
        patch_output_shape=(TILE, TILE),
        stride_shape=(STRIDE, STRIDE),
        save_resolution=full[0],
    )
    engine = SemanticSegmentor(model=Network(generator), batch_size=job.batch, num_workers=0, verbose=False)
    slide = Path(job.mask).with_suffix(".tiff")
    made = engine.run(
        [slide],
        patch_mode=False,
        ioconfig=config,
        save_dir=job.out / "tiatoolbox",
        output_type="zarr",
        return_probabilities=False,
        auto_get_mask=False,
        device="cpu",
        overwrite=True,
        memory_threshold=job.setting["memory_threshold"],
    )
    (path,) = made.values()
    return {"kind": "zarr yxc", "path": f"{path}/predictions"}


if __name__ == "__main__":
    torch.set_num_threads(1)  # it only copies; the generator has the cores
    main(render)
