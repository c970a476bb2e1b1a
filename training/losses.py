"""What is a generated tile punished for?

Equations 1 to 3 of the SAFRON paper: L1 to the real tile (`PixelLoss`) and an adversarial loss (`LogLoss`), weighted and
summed in `train.Trainer`. safron-seamless has `HingeLoss` instead, and adds `FeatureLoss` (the statistics of real tissue)
and `AnchorLoss` (the right colour at the distance of a few nuclei). None of them needs a network trained elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


class LogLoss:
    """Equation 2: cross entropy of each logit [n, 1, y, x], then the mean over all of them.

    The generator maximises log D(fake), which does not fade where the discriminator is sure, as the printed form would.
    The paper averages the scores before the logarithm; its authors' code does this.
    """

    def discriminator(self, real: Sequence[Tensor], fake: Sequence[Tensor]) -> Tensor:
        """-log D(real) - log(1 - D(fake)), mean over the networks of the discriminator."""
        return _mean(F.softplus(-r).mean() + F.softplus(f).mean() for r, f in _float(real, fake))

    def generator(self, fake: Sequence[Tensor]) -> Tensor:
        """-log D(fake)."""
        return _mean(F.softplus(-f).mean() for (f,) in _float(fake))


class HingeLoss:
    """Hinge form of the adversarial loss (Lim and Ye, Geometric GAN, 2017)."""

    def discriminator(self, real: Sequence[Tensor], fake: Sequence[Tensor]) -> Tensor:
        """Real logits belong above 1, fake ones below -1."""
        return _mean(F.relu(1 - r).mean() + F.relu(1 + f).mean() for r, f in _float(real, fake))

    def generator(self, fake: Sequence[Tensor]) -> Tensor:
        """Fake logits belong as high as possible."""
        return _mean(-f.mean() for (f,) in _float(fake))


class PixelLoss:
    """Equation 1: L1 between real and generated tile."""

    def __call__(self, real: Tensor, fake: Tensor) -> Tensor:
        """Compare images [n, 3, y, x] in [-1, 1]."""
        return F.l1_loss(fake, real)


class AnchorLoss:
    """L1 between means over squares of `cell` pixels: fixes colour and darkness, leaves texture free."""

    def __init__(self, cell: int) -> None:
        self.cell = cell

    def __call__(self, real: Tensor, fake: Tensor) -> Tensor:
        """Compare images [n, 3, y, x] in [-1, 1]."""
        return F.l1_loss(F.avg_pool2d(fake, self.cell), F.avg_pool2d(real, self.cell))


class FeatureLoss:
    """Mean absolute difference between the discriminator's features of real and generated images (pix2pixHD)."""

    def __call__(self, real: Sequence[Tensor], fake: Sequence[Tensor]) -> Tensor:
        """Compare features [n, c, y, x] layer by layer; both must come from the same weights."""
        return _mean((f - r.detach()).abs().mean() for r, f in _float(real, fake))


def _float(*lists: Sequence[Tensor]) -> list[tuple[Tensor, ...]]:
    """Pair up tensors in float32: sums over many pixels lose digits in half precision."""
    return [tuple(tensor.float() for tensor in row) for row in zip(*lists, strict=True)]


def _mean(terms: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(terms)).mean()
