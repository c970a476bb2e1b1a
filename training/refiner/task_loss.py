"""What does a task network learn from: pictures with their masks, and real pictures that it labels itself?

Pictures are drawn or refined, so that their masks are known, but they are not real. From half of its steps on the network learns
from real pictures, too: the moving average of its own weights says what is a nucleus in them, and counts where it is sure. What
is learned from varies in stain, sharpness and noise; what the average sees does not. So the network learns to find again, in a
blurred or paler picture, what it has found in the clear one. (Pseudo-labels: Lee 2013; their teacher as a moving average:
Tarvainen and Valpola 2017.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from .settings import RefinerConfig
from .variation import varied

Network = Callable[[Tensor], Tensor]

SURE = 0.8
"""Least probability of a nucleus, or of none, at which a pseudo-label counts."""


@dataclass(frozen=True)
class TaskBatch:
    """What one step sees.

    Attributes
    ----------
    images
        [n, 3, y, x] in -1..1.
    targets
        [n, 2, y, x]: nucleus and interior, 0 or 1.
    real
        [m, 3, y, x] in -1..1: pictures without labels; None where there are none.
    weights
        [n], of the images; None where all count alike.
    """

    images: Tensor
    targets: Tensor
    real: Tensor | None = None
    weights: Tensor | None = None


def task_loss(
    network: Network, average: Network, batch: TaskBatch, config: RefinerConfig, step: int
) -> Tensor:
    """Compute the loss of one step.

    Parameters
    ----------
    network, average
        What is trained, and the moving average of its weights.
    batch
        What it sees.
    config
        Settings.
    step
        Steps of the network so far.

    Returns
    -------
    Tensor
        Mean cross-entropy over the pixels of the pictures, each with its weight, and that over the sure pixels of real ones.
    """
    count = len(batch.images)
    real = batch.real if config.use_pseudo_labels and step >= config.task_steps // 2 else None
    shown = batch.images if real is None else torch.cat([batch.images, real])
    if config.use_variation:
        shown = varied(shown, seed=config.seed, step=step)
    logits = network(shown)
    each = binary_cross_entropy_with_logits(logits[:count], batch.targets, reduction="none").mean(
        dim=(1, 2, 3)
    )
    weights = torch.ones(count) if batch.weights is None else batch.weights
    loss: Tensor = (weights * each).sum() / weights.sum()
    if real is None:
        return loss
    labels, sure = pseudo_labels(average, real)
    each = binary_cross_entropy_with_logits(logits[count:], labels, reduction="none")
    return loss + (sure * each).sum() / sure.sum().clamp(min=1)


@torch.no_grad()
def pseudo_labels(average: Network, real: Tensor) -> tuple[Tensor, Tensor]:
    """Label real pictures by a network.

    Parameters
    ----------
    average
        The network.
    real
        [n, 3, y, x] in -1..1.

    Returns
    -------
    tuple[Tensor, Tensor]
        [n, 2, y, x]: nucleus and interior, 0 or 1; and where the network is sure of that, 0 or 1.
    """
    probabilities = torch.sigmoid(average(real))
    labels = (probabilities > 0.5).float()
    return labels, ((probabilities > SURE) | (probabilities < 1 - SURE)).float()
