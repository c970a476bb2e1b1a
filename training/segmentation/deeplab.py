"""DeepLabv3+ on a residual network of 18 or 50 layers (Chen et al., 2018; He et al., 2016), without torchvision.

The network reads features at a sixteenth of the scale through atrous convolutions of several rates, and joins them with
features at a quarter of the scale.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BLOCKS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}
RATES = (6, 12, 18)
ASPP, LOW = 256, 48
"""Channels behind the atrous pyramid, and of the finer features that join them."""


def _conv(
    before: int, after: int, size: int = 1, *, stride: int = 1, rate: int = 1, groups: int = 1
) -> nn.Sequential:
    """Convolution that keeps the size, and batch normalization."""
    padding = rate * (size // 2)
    return nn.Sequential(
        nn.Conv2d(before, after, size, stride, padding, rate, groups, bias=False), nn.BatchNorm2d(after)
    )


def _separable(before: int, after: int, rate: int = 1) -> nn.Sequential:
    """3 x 3 convolution of each channel, then 1 x 1 over channels."""
    return nn.Sequential(
        *(_conv(before, before, 3, rate=rate, groups=before), nn.ReLU(inplace=True)),
        *(_conv(before, after), nn.ReLU(inplace=True)),
    )


class Residual(nn.Module):
    """One residual block: two 3 x 3 convolutions, or with `bottleneck` 1 x 1, 3 x 3 and 1 x 1 to four times the channels."""

    def __init__(
        self, before: int, width: int, *, stride: int = 1, rate: int = 1, bottleneck: bool = False
    ) -> None:
        super().__init__()
        after = 4 * width if bottleneck else width
        relu = nn.ReLU(inplace=True)
        middle = _conv(width if bottleneck else before, width, 3, stride=stride, rate=rate)
        self.body = (
            nn.Sequential(_conv(before, width), relu, middle, relu, _conv(width, after))
            if bottleneck
            else nn.Sequential(middle, relu, _conv(width, width, 3, rate=rate))
        )
        same = stride == 1 and before == after
        self.short = nn.Identity() if same else _conv(before, after, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """Add what the block computes to what it was given."""
        return F.relu(self.body(x) + self.short(x))


class ResNet(nn.Module):
    """The convolutions of ResNet-18 or -50; the last stage is dilated instead of halved, so that the scale is a sixteenth."""

    def __init__(self, depth: Literal[18, 50], width: int = 64) -> None:
        super().__init__()
        self.stem = nn.Sequential(_conv(3, width, 7, stride=2), nn.ReLU(inplace=True))
        deep = depth == 50
        before, stages = width, []
        for index, count in enumerate(BLOCKS[depth]):
            own = width * 2**index
            stride, rate = (2 if index in (1, 2) else 1), (2 if index == 3 else 1)
            blocks = [Residual(before, own, stride=stride, rate=rate, bottleneck=deep)]
            before = own * 4 if deep else own
            blocks += [Residual(before, own, rate=rate, bottleneck=deep) for _ in range(count - 1)]
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(stages)
        self.widths = (width * 4 if deep else width, before)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Compute features at a quarter and at a sixteenth of the scale."""
        x = F.max_pool2d(self.stem(x), 3, stride=2, padding=1)
        fine = x = self.stages[0](x)
        for stage in self.stages[1:]:
            x = stage(x)
        return fine, x


class DeepLab(nn.Module):
    """DeepLabv3+ with separable atrous convolutions."""

    stride = 16

    def __init__(self, classes: int, depth: Literal[18, 50], width: int = 64) -> None:
        super().__init__()
        self.encoder = ResNet(depth, width)
        fine, deep = self.encoder.widths
        self.pyramid = nn.ModuleList(
            [
                nn.Sequential(_conv(deep, ASPP), nn.ReLU(inplace=True)),
                *(_separable(deep, ASPP, rate) for rate in RATES),
            ]
        )
        # The mean over the image has one value per channel: batch normalization cannot train on a single image there.
        self.whole = nn.Sequential(nn.Conv2d(deep, ASPP, 1), nn.ReLU(inplace=True))
        self.join = nn.Sequential(_conv(5 * ASPP, ASPP), nn.ReLU(inplace=True))
        self.low = nn.Sequential(_conv(fine, LOW), nn.ReLU(inplace=True))
        self.refine = nn.Sequential(_separable(ASPP + LOW, ASPP), _separable(ASPP, ASPP))
        self.out = nn.Conv2d(ASPP, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Compute logits."""
        size = x.shape[-2:]
        fine, deep = self.encoder(x)
        whole = self.whole(deep.mean(dim=(2, 3), keepdim=True)).expand(-1, -1, *deep.shape[-2:])
        joined = self.join(torch.cat([*(part(deep) for part in self.pyramid), whole], dim=1))
        near = F.interpolate(joined, size=fine.shape[-2:], mode="bilinear", align_corners=False)
        logits = self.out(self.refine(torch.cat([near, self.low(fine)], dim=1)))
        return F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
