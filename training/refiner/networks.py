"""What do the refiner, the discriminator, their view of a style, and the task network compute?

    refiner G(I, S)     I + delta, [n, 3, y + 40, x + 40] -> [n, 3, y, x]; ten 5 x 5 convolutions in five residual blocks, without
                        padding, norms or strides: a receptive field of 41, so patches agree exactly where they overlap
    style encoder       a reference [n, 3, y, x] -> [n, S]: convolutions and a mean over the picture
    discriminator       a picture and a reference -> a map of logits, high where both look real and alike
    task network R      a small U-Net: logits of nuclei and of their interiors, [n, 2, y, x]

Layers as in the paper's later code; its refiner begins and ends with 3 x 3 convolutions, which are 1 x 1 here.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from .settings import CONTEXT, RefinerConfig

SLOPE = 0.2


def activated(layer: nn.Conv2d) -> nn.Sequential:
    """Put a leaky rectifier behind a convolution, whose weights keep the variance of what passes both (He et al., 2015).

    With PyTorch's usual weights nothing of a picture would be left behind ten layers without norms.
    """
    nn.init.kaiming_normal_(layer.weight, a=SLOPE)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return nn.Sequential(layer, nn.LeakyReLU(SLOPE))


class StyleEncoder(nn.Module):
    """A reference as a vector."""

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            activated(nn.Conv2d(3, width, 4)),
            nn.AvgPool2d(3, 2),
            activated(nn.Conv2d(width, width, 5)),
            activated(nn.Conv2d(width, width, 5)),
            activated(nn.Conv2d(width, width, 5)),
            nn.Conv2d(width, size, 5),
        )

    def forward(self, reference: Tensor) -> Tensor:
        """[n, 3, y, x] in -1..1 -> [n, S]; at least 40 pixels a side."""
        features: Tensor = self.layers(reference)
        return features.mean(dim=(2, 3))


class _Residual(nn.Module):
    """Two 5 x 5 convolutions beside the cropped input: 8 pixels less each way."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = activated(nn.Conv2d(width, width, 5))
        self.second = nn.Conv2d(width, width, 5)

    def forward(self, x: Tensor) -> Tensor:
        inner: Tensor = self.second(self.first(x))
        return nn.functional.leaky_relu(x[:, :, 4:-4, 4:-4] + inner, SLOPE)


class Refiner(nn.Module):
    """G(I, S)."""

    def __init__(self, width: int, style_size: int) -> None:
        super().__init__()
        self.first = activated(nn.Conv2d(3 + style_size, width, 1))
        self.blocks = nn.Sequential(*(_Residual(width) for _ in range(5)))
        self.last = nn.Conv2d(width, 3, 1)
        nn.init.zeros_(self.last.weight)
        assert self.last.bias is not None
        nn.init.zeros_(self.last.bias)

    def forward(self, image: Tensor, style: Tensor) -> Tensor:
        """Refine.

        Parameters
        ----------
        image
            [n, 3, y + 40, x + 40] in -1..1.
        style
            [n, S], or [n, S, y + 40, x + 40].

        Returns
        -------
        Tensor
            [n, 3, y, x] in -1..1.
        """
        if style.dim() == 2:
            style = style[:, :, None, None].expand(-1, -1, image.shape[2], image.shape[3])
        delta: Tensor = self.last(self.blocks(self.first(torch.cat([image, style], dim=1))))
        return (image[:, :, CONTEXT:-CONTEXT, CONTEXT:-CONTEXT] + delta).clamp(-1, 1)


class Discriminator(nn.Module):
    """D(picture, reference), as logits."""

    def __init__(self, width: int, style_size: int) -> None:
        super().__init__()
        self.encoder, self.style_size = StyleEncoder(width, style_size), style_size
        self.first = activated(nn.Conv2d(3, width, 3))
        wide = [width + style_size, width, width * 3 // 2, 2 * width, 3 * width]
        layers: list[nn.Module] = []
        for number, (before, after) in enumerate(pairwise(wide)):
            layers += [activated(nn.Conv2d(before, after, 3 if number else 5, padding=1 if number else 2))]
            layers += [activated(nn.Conv2d(after, after, 3, padding=1)), nn.AvgPool2d(2, ceil_mode=True)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(wide[-1], 1, 1))

    def forward(self, image: Tensor, reference: Tensor | None) -> Tensor:
        """[n, 3, y, x] and [n, 3, v, u], or None for the vector 0 -> [n, 1, rows, columns]."""
        features: Tensor = self.first(image)
        style = (
            features.new_zeros(len(image), self.style_size) if reference is None else self.encoder(reference)
        )
        style = style[:, :, None, None].expand(-1, -1, features.shape[2], features.shape[3])
        logits: Tensor = self.layers(torch.cat([features, style], dim=1))
        return logits


class TaskNet(nn.Module):
    """A U-Net of three halvings."""

    def __init__(self, width: int) -> None:
        super().__init__()
        wide = [width * 2**level for level in range(4)]
        self.down = nn.ModuleList(
            _pair(before, after) for before, after in zip([3, *wide], wide, strict=False)
        )
        self.up = nn.ModuleList(_pair(3 * below, below) for below in reversed(wide[:-1]))
        self.heads = nn.Conv2d(width, 2, 1)

    def forward(self, image: Tensor) -> Tensor:
        """[n, 3, y, x] in -1..1, sides multiples of 8 -> logits [n, 2, y, x] of nucleus and interior."""
        kept: list[Tensor] = []
        x = image
        for level, layer in enumerate(self.down):
            x = layer(nn.functional.avg_pool2d(x, 2) if level else x)
            kept.append(x)
        kept.pop()
        for layer in self.up:
            x = layer(torch.cat([nn.functional.interpolate(x, scale_factor=2.0), kept.pop()], dim=1))
        logits: Tensor = self.heads(x)
        return logits


def _pair(before: int, after: int) -> nn.Sequential:
    """Two 3 x 3 convolutions with norms over the groups of one image."""
    groups = 4 if after % 4 == 0 else 1
    layers: list[nn.Module] = []
    for first in (before, after):
        layers += [nn.Conv2d(first, after, 3, padding=1), nn.GroupNorm(groups, after), nn.LeakyReLU(SLOPE)]
    return nn.Sequential(*layers)


def make_networks(config: RefinerConfig) -> dict[str, nn.Module]:
    """Make all networks with weights drawn from the seed."""
    torch.manual_seed(config.seed)
    return {
        "style": StyleEncoder(config.width, config.style_size),
        "refiner": Refiner(config.width, config.style_size),
        "discriminator": Discriminator(config.width, config.style_size),
        "task": TaskNet(config.task_width),
    }
