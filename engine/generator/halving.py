"""What happens when a GPU runs out of memory in the middle of a render?

The batch is halved, once, and the same patches go through in two calls. That may not change a pixel, and kernels may
round differently for another batch size. So the warm-up runs one batch whole and in halves before the first patch.
Where both agree to the last bit, as with kernels that take one patch at a time, halving is safe. Where they do not,
running out of memory ends the render with a line that says so.
"""

from __future__ import annotations

import logging
import re
import threading
from typing import Any

import numpy as np
import numpy.typing as npt
from safron.engine.system.failures import Final

from .model import GeneratorInfo, PatchModel
from .planes import each

log = logging.getLogger("safron")

# What ONNX Runtime, CUDA, cuBLAS, cuDNN and PyTorch say.
_SAYS = re.compile(
    r"out of memory|failed to allocate memory|CUDA_?ERROR_OUT_OF_MEMORY|ALLOC_FAILED|ALLOCATION_FAILED|bad[ _]alloc"
    r"|resource allocation failed|smaller than requested bytes|No valid execution plans built",
    re.IGNORECASE,
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a GPU's memory did not suffice."""
    return _SAYS.search(str(error)) is not None


def in_halves(
    model: PatchModel,
    labels: npt.NDArray[np.uint8],
    noise: npt.NDArray[np.float32] | None,
    **planes: npt.NDArray[Any],
) -> npt.NDArray[Any]:
    """Run the first and the last half of a batch; both have one shape, so an odd batch has its middle run twice."""
    half = -(-len(labels) // 2)
    rest = len(labels) - half
    first = model(labels[:half], None if noise is None else noise[:half], **each(planes, slice(half)))
    last = model(labels[rest:], None if noise is None else noise[rest:], **each(planes, slice(rest, None)))
    return np.concatenate([first, last[half - rest :]])


class Halving:
    """Calls of a generator that halve their batch once the GPU's memory has run out.

    Parameters
    ----------
    model
        The generator.
    info
        Of it, with what the warm-up saw.
    """

    def __init__(self, model: PatchModel, info: GeneratorInfo) -> None:
        self._model, self._info = model, info
        self._halved = False
        self._guard = threading.Lock()

    def __call__(
        self,
        labels: npt.NDArray[np.uint8],
        noise: npt.NDArray[np.float32] | None = None,
        **planes: npt.NDArray[Any],
    ) -> npt.NDArray[Any]:
        """Run a batch; see `PatchModel`."""
        if self._halved:
            return in_halves(self._model, labels, noise, **planes)
        try:
            return self._model(labels, noise, **planes)
        except Exception as error:
            if not is_out_of_memory(error) or len(labels) < 2:
                raise
            self._halve(len(labels), error)
        return in_halves(self._model, labels, noise, **planes)

    def _halve(self, batch: int, error: Exception) -> None:
        """Halve all batches from now on, or say why that cannot be done."""
        info, half = self._info, -(-batch // 2)
        if not info.same_halves:
            raise Final(
                f"{info.device}: out of memory with --batch {batch}, and generator {info.card.name!r} rounds "
                f"differently with {half}; free GPU memory and run the same command again, or start over with "
                f"--fresh --batch {half}"
            ) from error
        with self._guard:
            if not self._halved:
                self._halved = True
                log.warning(
                    "%s: out of memory; continues with a batch size of %d, same pixels", info.device, half
                )
