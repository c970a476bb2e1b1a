"""What does the judge see instead of the images themselves, so that it cannot learn a small data set by heart?

DiffAugment (Zhao et al., NeurIPS 2020): real and generated images go through the same random changes, through
which gradients pass. The parameters of a step are drawn from the seed and its number, like its batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from safron.training.config import TrainConfig
from torch import Tensor

SHIFT = 0.125
"""Largest translation, as a share of the side."""

HOLE = 0.35
"""Side of the square that is cut out, as a share of the side; OASIS-like judges bear less than half."""


@dataclass(frozen=True)
class Changes:
    """Random numbers of one step in 0..1: float32 [batch, 7]; three of colour, two of place, two of the hole."""

    numbers: Tensor

    def take(self, part: slice) -> Changes:
        """Return the changes of some of the batch."""
        return Changes(self.numbers[part])


def draw_changes(config: TrainConfig, step: int) -> Changes:
    """Draw one step's changes."""
    rng = np.random.default_rng([config.seed, step, 4])
    return Changes(torch.from_numpy(rng.random((config.batch, 7), np.float32)))


def apply_changes(
    one_hot: Tensor, image: Tensor, changes: Changes, kinds: tuple[str, ...]
) -> tuple[Tensor, Tensor]:
    """Change images, and labels with them where pixels move.

    Parameters
    ----------
    one_hot
        [n, labels, y, x], 0 or 1; all zero where there is nothing to judge.
    image
        [n, 3, y, x] in [-1, 1].
    kinds
        Which of ``"color"``, ``"translation"``, ``"cutout"``.
    """
    # Patches judged by themselves change as their tile does.
    rows = changes.numbers.repeat_interleave(len(image) // len(changes.numbers), dim=0)
    numbers = rows.to(image.device)[:, :, None, None, None]
    if "color" in kinds:
        image = image + (numbers[:, 0] - 0.5) * 0.5
        grey = image.mean(dim=1, keepdim=True)
        image = grey + (image - grey) * (0.5 + numbers[:, 1])
        mean = image.mean(dim=(1, 2, 3), keepdim=True)
        image = mean + (image - mean) * (0.75 + numbers[:, 2] * 0.5)
    if "translation" in kinds:
        both = torch.cat([one_hot, image], dim=1)
        both = torch.stack([_shift(pair, number) for pair, number in zip(both, rows, strict=True)])
        one_hot, image = both[:, : one_hot.shape[1]], both[:, one_hot.shape[1] :]
    if "cutout" in kinds:
        keep = torch.stack([_hole(image.shape[-2:], number) for number in rows]).to(image.device)
        one_hot, image = one_hot * keep, image * keep
    return one_hot, image


def _shift(pair: Tensor, number: Tensor) -> Tensor:
    """Move one pair [c, y, x] by whole pixels; what comes in is zero."""
    height, width = pair.shape[-2:]
    down = round((float(number[3]) * 2 - 1) * SHIFT * height)
    right = round((float(number[4]) * 2 - 1) * SHIFT * width)
    return F.pad(pair, (right, -right, down, -down))


def _hole(size: torch.Size, number: Tensor) -> Tensor:
    """Return [1, y, x]: 0 in a square, 1 elsewhere."""
    height, width = size
    keep = torch.ones(1, height, width)
    side = round(HOLE * min(height, width))
    top, left = (round(float(number[5 + axis]) * (size[axis] - side)) for axis in (0, 1))
    keep[:, top : top + side, left : left + side] = 0
    return keep
