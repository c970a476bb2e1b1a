"""Which networks segment tissue? A small U-Net, and those of the papers: FCN-8s, U-Net, SegNet (DeepLabv3+ is in `deeplab`).

Each takes float32 [n, 3, y, x] in [-1, 1] and returns logits [n, classes, y, x]; `SEGMENTERS` names them. All start from
random weights. Sides must be multiples of `stride`; `predict` in `fitting` pads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from safron.training.segmentation.deeplab import DeepLab
from torch import Tensor, nn
from torch.nn import functional as F

VGG16 = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
"""Channels and number of convolutions of each of the five blocks of VGG-16 (Simonyan and Zisserman, 2015, column D)."""


def _convs(widths: Sequence[int], norm: bool) -> nn.Sequential:
    """3 x 3 convolutions with ReLU that keep the size."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers.append(nn.Conv2d(before, after, 3, padding=1, bias=not norm))
        layers += [nn.BatchNorm2d(after)] if norm else []
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """U-Net (Ronneberger et al., 2015) with padded convolutions; `norm` adds batch normalization.

    `widths` are the channels of each scale from the finest on: (64, 128, 256, 512, 1024) in the paper.
    """

    def __init__(
        self,
        classes: int,
        widths: Sequence[int] = (64, 128, 256, 512, 1024),
        *,
        norm: bool = False,
        channels: int = 3,
    ) -> None:
        super().__init__()
        self.stride = 2 ** (len(widths) - 1)
        self.down = nn.ModuleList(
            _convs((before, after, after), norm) for before, after in pairwise((channels, *widths))
        )
        steps = list(pairwise(reversed(widths)))
        self.enlarge = nn.ModuleList(nn.ConvTranspose2d(low, high, 2, stride=2) for low, high in steps)
        self.up = nn.ModuleList(_convs((2 * high, high, high), norm) for _, high in steps)
        self.out = nn.Conv2d(widths[0], classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Compute logits."""
        kept = []
        for index, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2) if index else x)
            kept.append(x)
        for enlarge, block, skip in zip(self.enlarge, self.up, reversed(kept[:-1]), strict=True):
            x = block(torch.cat([skip, enlarge(x)], dim=1))
        logits: Tensor = self.out(x)
        return logits


class FCN8s(nn.Module):
    """FCN-8s on VGG-16 (Long et al., 2015): the fully connected layers become convolutions, and three scales are summed."""

    stride = 32

    def __init__(self, classes: int, width: int = 64, fully: int = 4096) -> None:
        super().__init__()
        blocks = [(3, 0), *((channels * width // 64, count) for channels, count in VGG16)]
        self.blocks = nn.ModuleList(
            _convs((before, *[after] * count), norm=False) for (before, _), (after, count) in pairwise(blocks)
        )
        third, fourth, last = (channels for channels, _ in blocks[-3:])
        self.fully = nn.Sequential(
            *(nn.Conv2d(last, fully, 7, padding=3), nn.ReLU(inplace=True), nn.Dropout2d()),
            *(nn.Conv2d(fully, fully, 1), nn.ReLU(inplace=True), nn.Dropout2d()),
        )
        self.scores = nn.ModuleList(nn.Conv2d(channels, classes, 1) for channels in (third, fourth, fully))
        self.twice = nn.ModuleList(
            nn.ConvTranspose2d(classes, classes, 4, stride=2, padding=1, bias=False) for _ in range(2)
        )
        self.eight = nn.ConvTranspose2d(classes, classes, 16, stride=8, padding=4, bias=False)
        for layer in (*self.twice, self.eight):
            _interpolate(layer)

    def forward(self, x: Tensor) -> Tensor:
        """Compute logits."""
        kept = []
        for block in self.blocks:
            x = F.max_pool2d(block(x), 2)
            kept.append(x)
        sums = self.twice[0](self.scores[2](self.fully(x))) + self.scores[1](kept[3])
        logits: Tensor = self.eight(self.twice[1](sums) + self.scores[0](kept[2]))
        return logits


def _interpolate(layer: nn.Module) -> None:
    """Start a transposed convolution as bilinear enlargement, as the paper does."""
    assert isinstance(layer, nn.ConvTranspose2d)
    size = layer.kernel_size[0]
    ramp = 1 - (torch.arange(size) - (size - 1) / 2).abs() / (size / 2)
    with torch.no_grad():
        layer.weight.zero_()
        for index in range(layer.in_channels):
            layer.weight[index, index] = ramp[:, None] * ramp[None, :]


class SegNet(nn.Module):
    """SegNet (Badrinarayanan et al., 2017): VGG-16 without its last layers, and a mirror image that unpools by indices."""

    stride = 32

    def __init__(self, classes: int, width: int = 64) -> None:
        super().__init__()
        blocks = [(3, 0), *((channels * width // 64, count) for channels, count in VGG16)]
        self.down = nn.ModuleList(
            _convs((before, *[after] * count), norm=True) for (before, _), (after, count) in pairwise(blocks)
        )
        self.up = nn.ModuleList(
            _convs((*[wide] * count, narrow or wide), norm=True)
            for (narrow, _), (wide, count) in reversed(list(pairwise([(0, 0), *blocks[1:]])))
        )
        # The decoder's last block has one layer less: the classifier takes its place.
        self.up[-1] = _convs((blocks[1][0], blocks[1][0]), norm=True)
        self.out = nn.Conv2d(blocks[1][0], classes, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Compute logits."""
        places = []
        for block in self.down:
            x, indices = F.max_pool2d(block(x), 2, return_indices=True)
            places.append(indices)
        for block, indices in zip(self.up, reversed(places), strict=True):
            x = block(F.max_unpool2d(x, indices, [2, 2]))
        logits: Tensor = self.out(x)
        return logits


SEGMENTERS: dict[str, Callable[..., nn.Module]] = {
    "small-unet": lambda classes, width=16: UNet(
        classes, [width * 2**scale for scale in range(4)], norm=True
    ),
    "unet": lambda classes, width=64: UNet(classes, [width * 2**scale for scale in range(5)]),
    "fcn8s": lambda classes, width=64: FCN8s(classes, width, fully=64 * width),
    "segnet": SegNet,
    "deeplab18": lambda classes, width=64: DeepLab(classes, 18, width),
    "deeplab50": lambda classes, width=64: DeepLab(classes, 50, width),
}
"""Each takes the number of classes and, if need be, the channels of its first layer."""
