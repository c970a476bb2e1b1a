"""What is a generated image punished for?

Four terms: an adversarial one for looking generated, `FeatureLoss` for leaving the statistics of real tissue,
`AnchorLoss` for the wrong colour over a few nuclei's distance, and `PixelLoss` for early guidance. None of
them needs a network trained elsewhere. The adversarial one has three forms: `HingeLoss`, the paper's `LogLoss`, and
`ClassLoss` for a judge that names labels.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class AdversarialLoss(Protocol):
    """What the judges and the generator strive for.

    `real` and `fake` are logits [n, 1, y, x] of each judge, or [n, labels + 1, y, x] of one that names labels; `labels` is
    one-hot [n, labels, y, x], all zero where there is nothing to judge.
    """

    def discriminator(self, real: list[Tensor], fake: list[Tensor], labels: Tensor) -> Tensor:
        """Loss of the judges over their logits."""

    def generator(self, fake: list[Tensor], labels: Tensor) -> Tensor:
        """Loss of the generator over the judges' logits."""


class HingeLoss:
    """Hinge form, averaged over the judges (Lim and Ye, Geometric GAN, 2017)."""

    def discriminator(self, real: list[Tensor], fake: list[Tensor], labels: Tensor) -> Tensor:
        """Real logits belong above 1, fake ones below -1."""
        terms = [
            F.relu(1 - r.float()).mean() + F.relu(1 + f.float()).mean()
            for r, f in zip(real, fake, strict=True)
        ]
        return torch.stack(terms).mean()

    def generator(self, fake: list[Tensor], labels: Tensor) -> Tensor:
        """Fake logits belong as high as they can be."""
        return torch.stack([-f.float().mean() for f in fake]).mean()


class LogLoss:
    """Cross entropy of each logit, averaged, in the form that does not fade when the judge is sure.

    The SAFRON paper averages scores first and prints the other form; its authors' code does this.
    """

    def discriminator(self, real: list[Tensor], fake: list[Tensor], labels: Tensor) -> Tensor:
        """-log D(real) - log(1 - D(fake))."""
        terms = [
            F.softplus(-r.float()).mean() + F.softplus(f.float()).mean()
            for r, f in zip(real, fake, strict=True)
        ]
        return torch.stack(terms).mean()

    def generator(self, fake: list[Tensor], labels: Tensor) -> Tensor:
        """-log D(fake)."""
        return torch.stack([F.softplus(-f.float()).mean() for f in fake]).mean()


class ClassLoss:
    """Cross entropy of each pixel's label, or of "generated", rare labels weighing more.

    OASIS (Schonfeld et al., ICLR 2021), equations 1 and 2, without its LabelMix.

    Parameters
    ----------
    weights
        One weight a label, from how often each is found in the whole data set: a batch's own counts
        would make a pixel's weight depend on the others of its batch.
    """

    def __init__(self, weights: Tensor) -> None:
        self.weights = weights

    def discriminator(self, real: list[Tensor], fake: list[Tensor], labels: Tensor) -> Tensor:
        """Real pixels belong to their label, generated ones to the class behind the labels."""
        (logits,) = fake
        generated = -F.log_softmax(logits.float(), dim=1)[:, -1]
        return self.generator(real, labels) + (generated * labels.sum(dim=1)).mean()

    def generator(self, fake: list[Tensor], labels: Tensor) -> Tensor:
        """Generated pixels belong to the label that they were drawn for."""
        (logits,) = fake
        named = -F.log_softmax(logits.float(), dim=1)[:, :-1] * labels
        return (named * self.weights.to(labels.device).view(1, -1, 1, 1)).sum(dim=1).mean()


def class_weights(counts: Tensor) -> Tensor:
    """Weights of labels by their pixel counts: their mean over all pixels is 1, and none is above 10."""
    present = counts > 0
    weights = torch.where(present, counts.sum() / counts.clamp(min=1) / present.sum(), torch.zeros(()))
    return weights.clamp(max=10.0)


class FeatureLoss:
    """Mean absolute difference between the judges' features of the real and the generated image (pix2pixHD)."""

    def __call__(self, real: list[Tensor], fake: list[Tensor]) -> Tensor:
        """Compare features [n, c, y, x] layer by layer; `real` is taken as constant."""
        terms = [(f.float() - r.detach().float()).abs().mean() for r, f in zip(real, fake, strict=True)]
        return torch.stack(terms).mean()


class AnchorLoss:
    """L1 between averages over square cells: pins colour and darkness, leaves texture free."""

    def __init__(self, cell: int) -> None:
        self.cell = cell

    def __call__(self, real: Tensor, fake: Tensor) -> Tensor:
        """Compare images [n, 3, y, x] in [-1, 1]."""
        return F.l1_loss(F.avg_pool2d(fake, self.cell), F.avg_pool2d(real, self.cell))


class PixelLoss:
    """Plain L1."""

    def __call__(self, real: Tensor, fake: Tensor) -> Tensor:
        """Compare images [n, 3, y, x] in [-1, 1]."""
        return F.l1_loss(fake, real)
