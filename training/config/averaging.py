"""How do the weights that are used follow those that are trained?"""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def follow(average: nn.Module, network: nn.Module, decay: float, step: int) -> None:
    """Move the moving average of a network's weights towards its weights, in place.

    Parameters
    ----------
    average, network
        Two networks of the same layers.
    decay
        0..1: the part of the average that a step keeps.
    step
        Steps taken so far. The first few keep less, so that the average forgets where it began.
    """
    keep = min(decay, (1 + step) / (10 + step))
    for slow, fast in zip(average.parameters(), network.parameters(), strict=True):
        slow.lerp_(fast, 1 - keep)
    # Running statistics are averages already.
    for kept, current in zip(average.buffers(), network.buffers(), strict=True):
        kept.copy_(current)
