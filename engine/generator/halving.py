"""What happens when a GPU runs out of memory in the middle of a render?

The batch is halved, once, and the same patches go through in two calls. That may not change a pixel, and
kernels may round differently for another batch. So `Halving.rehearse` runs one batch whole and in halves
before the first patch: where both agree to the last bit, as kernels of one patch at a time do, halving is
safe; where they do not, running out of memory ends the render with a line that says so.
"""

from __future__ import annotations

import logging
import re
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from safron.engine.system.failures import Final

from .model import PatchModel

log = logging.getLogger("safron")

# What ONNX Runtime, CUDA, cuBLAS and PyTorch say.
_SAYS = re.compile(
    r"out of memory|failed to allocate memory|CUDA_?ERROR_OUT_OF_MEMORY|ALLOC_FAILED|bad allocation",
    re.IGNORECASE,
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a GPU's memory did not suffice."""
    return _SAYS.search(str(error)) is not None


@dataclass(frozen=True)
class Rehearsed:
    """What a trial showed of a generator.

    Attributes
    ----------
    same_halves : whether a patch has the same bits in half a batch.
    same_places : whether it has them in any place of a batch, and beside any other patches.
    """

    same_halves: bool = False
    same_places: bool = False


class Halving:
    """A generator that halves its batch once when the GPU's memory runs out.

    Parameters
    ----------
    model : the generator; everything but calls is passed on to it.

    rehearsed : what `rehearse` said of it, here or elsewhere.
    """

    def __init__(self, model: PatchModel, rehearsed: Rehearsed | None = None) -> None:
        self.model = model
        self.card = model.card
        self.sha256 = model.sha256
        self.device = model.device
        self.integral = model.integral
        self.rehearsed = rehearsed or Rehearsed()
        self._halved = False
        self._guard = threading.Lock()

    def rehearse(self, labels: npt.NDArray[np.uint8], noise: npt.NDArray[np.float32] | None) -> None:
        """Run a batch; find out whether its halves give the same, and its patches elsewhere beside others."""
        whole = self.model(labels, noise)
        if len(labels) > 1:
            self.rehearsed = Rehearsed(
                same_halves=np.array_equal(whole, self._in_halves(labels, noise)),
                same_places=all(self._is_same_elsewhere(whole, labels, noise, first) for first in (0, 1)),
            )

    def _is_same_elsewhere(
        self,
        whole: npt.NDArray[Any],
        labels: npt.NDArray[np.uint8],
        noise: npt.NDArray[np.float32] | None,
        first: int,
    ) -> bool:
        """Whether every other patch gives the same a place further, from place `first` on, beside patches of one label.

        Those neighbours have another range and another mean, which a generator that scales by its batch would show.
        """
        kept = np.arange(first, len(labels), 2)
        labels_there = np.full_like(labels, labels.min())
        labels_there[kept] = labels[kept - 1]
        noise_there = None if noise is None else np.zeros_like(noise)
        if noise is not None and noise_there is not None:
            noise_there[kept] = noise[kept - 1]
        return np.array_equal(self.model(labels_there, noise_there)[kept], whole[kept - 1])

    def __call__(
        self, labels: npt.NDArray[np.uint8], noise: npt.NDArray[np.float32] | None = None
    ) -> npt.NDArray[Any]:
        """Run a batch; see `PatchModel`."""
        if self._halved:
            return self._in_halves(labels, noise)
        try:
            return self.model(labels, noise)
        except Exception as error:
            if not is_out_of_memory(error) or len(labels) < 2:
                raise
            half = -(-len(labels) // 2)
            if not self.rehearsed.same_halves:
                raise Final(
                    f"{self.device}: out of memory with --batch {len(labels)}, and generator {self.card.name!r} rounds "
                    f"differently with {half}; free GPU memory and run the same command again, or start over with "
                    f"--fresh --batch {half}"
                ) from error
            with self._guard:
                if not self._halved:
                    self._halved = True
                    log.warning(
                        "%s: out of memory; goes on with %d patches a call, the same pixels",
                        self.device,
                        half,
                    )
        return self._in_halves(labels, noise)

    def _in_halves(
        self, labels: npt.NDArray[np.uint8], noise: npt.NDArray[np.float32] | None
    ) -> npt.NDArray[Any]:
        """Run the first and the last half; both have one shape, so an odd batch has its middle run twice."""
        half = -(-len(labels) // 2)
        rest = len(labels) - half
        first = self.model(labels[:half], None if noise is None else noise[:half])
        last = self.model(labels[rest:], None if noise is None else noise[rest:])
        return np.concatenate([first, last[half - rest :]])
