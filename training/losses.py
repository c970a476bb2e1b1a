"""What is a generated image punished for?

Four terms: `HingeLoss` for looking generated, `FeatureLoss` for leaving the statistics of real tissue,
`AnchorLoss` for the wrong colour over a few nuclei's distance, and `PixelLoss` for early guidance. None of
them needs a network trained elsewhere.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


class HingeLoss:
    """Hinge form of the adversarial loss, averaged over the judges."""

    def discriminator(self, real: list[Tensor], fake: list[Tensor]) -> Tensor:
        """Real logits belong above 1, fake ones below -1."""
        terms = [
            F.relu(1 - r.float()).mean() + F.relu(1 + f.float()).mean()
            for r, f in zip(real, fake, strict=True)
        ]
        return torch.stack(terms).mean()

    def generator(self, fake: list[Tensor]) -> Tensor:
        """Fake logits belong as high as they can be."""
        return torch.stack([-f.float().mean() for f in fake]).mean()


class FeatureLoss:
    """Mean absolute difference between the judges' features of the real and the generated image."""

    def __call__(self, real: list[Tensor], fake: list[Tensor]) -> Tensor:
        """Compare features layer by layer; `real` is taken as constant."""
        terms = [(f.float() - r.detach().float()).abs().mean() for r, f in zip(real, fake, strict=True)]
        return torch.stack(terms).mean()


class AnchorLoss:
    """L1 between averages over square cells: pins colour and darkness, leaves texture free."""

    def __init__(self, cell: int) -> None:
        self.cell = cell

    def __call__(self, real: Tensor, fake: Tensor) -> Tensor:
        """Compare images [n, 3, y, x]."""
        return F.l1_loss(F.avg_pool2d(fake, self.cell), F.avg_pool2d(real, self.cell))


class PixelLoss:
    """Plain L1."""

    def __call__(self, real: Tensor, fake: Tensor) -> Tensor:
        """Compare images [n, 3, y, x]."""
        return F.l1_loss(fake, real)
