"""Generators for tests in worker processes, which import this file by its name."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

from models import RampModel
from safron.io.errors import Failed

MEMORY = "CUDA failure 2: out of memory ; GPU=0 ; expr=cudaMalloc(&p, size)"


class Poison(RampModel):
    """Kills its process at a window whose first label is `label`, and leaves a line in a file.

    Parameters
    ----------
    deaths : the file.
    label : what kills.
    """

    def __init__(self, deaths: Path, label: int = 2) -> None:
        super().__init__(noise=False)
        self._deaths, self._label = deaths, label

    def __call__(self, labels: Any, noise: Any = None) -> Any:
        if (labels[:, 0, 0] == self._label).any():
            with self._deaths.open("a") as file:
                file.write(f"{os.getpid()}\n")
            os._exit(1)
        return super().__call__(labels, noise)


class SmallGpu(RampModel):
    """Runs out of memory for more than `most` patches a call, from the call `since` on.

    Parameters
    ----------
    most : patches that fit.
    since : calls that go well first.
    exact : whether a batch gives what its halves give.
    """

    device = "cuda:0"

    def __init__(self, *, most: int, since: int = 0, exact: bool = True) -> None:
        super().__init__(noise=False)
        self.most, self.since, self.exact = most, since, exact
        self.sizes: list[int] = []

    def __call__(self, labels: Any, noise: Any = None) -> Any:
        if len(self.sizes) >= self.since and len(labels) > self.most:
            raise Failed(f"generator 'ramp' failed on {labels.shape}: {MEMORY}; see --batch, --device")
        self.sizes.append(len(labels))
        image = super().__call__(labels, noise)
        return image if self.exact else image + len(labels) / 64


class NamedGpu(SmallGpu):
    """Writes into a file which thread of which process ran a batch that is not of the warm-up.

    Parameters
    ----------
    file : one line a batch.
    """

    def __init__(self, file: Path) -> None:
        super().__init__(most=99)
        self._file = file

    def __call__(self, labels: Any, noise: Any = None) -> Any:
        name = threading.current_thread().name
        if "device" in name:
            with self._file.open("a") as file:
                file.write(f"{os.getpid()}-{name}\n")
        return super().__call__(labels, noise)
