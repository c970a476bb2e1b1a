"""How does a network learn from slides that nobody rendered?

Regions of a virtual slide are generated while training runs, so that a data set of any size takes no disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info


class _Mask(Protocol):
    """Labels of a canvas."""

    def __getitem__(self, region: tuple[slice, slice]) -> Any: ...


class OpenSlide(Protocol):
    """What is used of `safron.engine.VirtualSlide`."""

    mask: _Mask
    dimensions: Any
    region_origin: Any

    def read_region(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> Any:
        """Return a picture of a region."""


class VirtualRegions(IterableDataset[tuple[torch.Tensor, torch.Tensor]]):
    """Random regions of a virtual slide, image and labels, without end or `count` of them.

    Parameters
    ----------
    open_slide
        Opens the slide, as ``partial(VirtualSlide, "mask.zarr", seed=1)``. Each worker of a DataLoader opens one of its own,
        since a generator cannot be shared with another process.
    size
        Pixels a side.
    seed
        Of the places. The same seed and number of workers give the same regions in the same order.
    count
        Regions of all workers together; None gives regions without end.
    wanted
        Least share of a region, 0 to 1, that must not have label `background`; regions are drawn anew until they have it, 64
        times at most.
    background
        The label that `wanted` does not count.

    Examples
    --------
    >>> from functools import partial
    >>> from safron.engine import VirtualSlide
    >>> labels = np.ones((300, 400), np.uint8)
    >>> regions = VirtualRegions(partial(VirtualSlide, labels, model="identity"), size=64, count=2)
    >>> [(image.shape, labels.unique().tolist()) for image, labels in regions]
    [(torch.Size([3, 64, 64]), [1]), (torch.Size([3, 64, 64]), [1])]
    """

    def __init__(
        self,
        open_slide: Callable[[], OpenSlide],
        *,
        size: int = 256,
        seed: int = 0,
        count: int | None = None,
        wanted: float = 0.0,
        background: int = 0,
    ) -> None:
        self._open = open_slide
        self._slide: OpenSlide | None = None
        self.size, self.seed, self.count, self.wanted, self.background = (
            size, seed, count, wanted, background,
        )  # fmt: skip

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_slide": None}

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield image and labels: float32 [3, size, size] RGB in [-1, 1], and uint8 [size, size]."""
        worker = get_worker_info()
        number, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        slide = self._slide = self._slide or self._open()
        random = np.random.default_rng([self.seed, number])
        left, top = slide.region_origin
        made = number
        while self.count is None or made < self.count:
            x, y, labels = self._place(slide, random, left, top)
            image = np.asarray(slide.read_region((x, y), 0, (self.size, self.size)))[..., :3]
            planes = np.moveaxis(image, -1, 0).astype(np.float32) / 127.5 - 1.0
            yield torch.from_numpy(planes), torch.from_numpy(labels)
            made += workers

    def _place(
        self, slide: OpenSlide, random: np.random.Generator, left: int, top: int
    ) -> tuple[int, int, Any]:
        """Draw a region: its corner in the slide, and its labels."""
        size = self.size
        for _ in range(64):
            x, y = (int(random.integers(0, side - size + 1)) for side in slide.dimensions)
            labels = slide.mask[top + y : top + y + size, left + x : left + x + size]
            if np.mean(labels != self.background) >= self.wanted:
                break
        return x, y, np.array(labels)
