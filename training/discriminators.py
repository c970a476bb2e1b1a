"""Which networks tell generated tissue from real?

`TileDiscriminator` is the SAFRON paper's: a PatchGAN over the stitched tile. `ScalesDiscriminator` trained `safron-seamless`. Both
learn from their first weights on. `ProjectedDiscriminator` sees images through a frozen encoder (Sauer et al., "Projected GANs
converge faster", 2021): on a few hundred frames the others never learn to see texture.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from safron.training.config import TrainConfig
from safron.training.encoder import TAPS, read_encoder
from safron.training.networks import act, init_paper
from torch import Tensor, nn

MIXED = (32, 32, 64, 64, 128)
"""Channels to which the features after each of `TAPS` are mixed."""


class TileDiscriminator(nn.Module):
    """The discriminator of the SAFRON paper (section III-F), of labels and image.

    `levels` convolutions of stride 2, then two of stride 1. With 5 levels a tile of 728 x 728 gives 20 x 20 logits that see
    286 pixels each: more than a patch, so each has a seam in view. With 3 levels it is pix2pix's, which sees 70 pixels
    and is the one for single patches. Norms are those of a batch of one, whatever the batch is.

        labels + image   6 x 728 x 728
        layers          64 x 364, 128 x 182, 256 x 91, 512 x 45, 512 x 22, 512 x 21
        head             1 x 20 x 20
    """

    def __init__(self, labels: int, base: int, levels: int) -> None:
        super().__init__()
        widths = [labels + 3, *(base * min(2**level, 8) for level in range(levels))]
        widths.append(base * min(2 ** (levels - 1), 8))
        strides = [2] * levels + [1]
        self.layers = nn.ModuleList(
            nn.Conv2d(widths[i], widths[i + 1], 4, stride, 1) for i, stride in enumerate(strides)
        )
        self.norms = nn.ModuleList(nn.InstanceNorm2d(width, affine=True) for width in widths[2:])
        self.head = nn.Conv2d(widths[-1], 1, 4, 1, 1)
        self.apply(init_paper)

    def forward(self, one_hot: Tensor, image: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Classify images [n, 3, y, x] over one-hot labels of their size: logits [n, 1, v, u] and features."""
        x, features = torch.cat([one_hot, image], dim=1), []
        for index, layer in enumerate(self.layers):
            x = layer(x)
            x = act(self.norms[index - 1](x) if index else x)
            features.append(x)
        return [self.head(x)], features


class SpectralConv(nn.Conv2d):
    """Convolution whose weight is divided by its largest singular value, tracked by power iteration.

    Written out rather than taken from `torch.nn.utils.parametrizations`, which iterates in bfloat16 under
    autocast.
    """

    left: Tensor

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__(inputs, outputs, kernel, stride, padding=(kernel - 1) // 2)
        self.register_buffer("left", F.normalize(torch.randn(outputs), dim=0))

    def normalised(self) -> Tensor:
        """Weight of spectral norm one; in training, one more iteration towards it."""
        with torch.autocast(self.weight.device.type, enabled=False):
            matrix = self.weight.flatten(1)
            with torch.no_grad():
                right = F.normalize(matrix.T @ self.left, dim=0)
                left = F.normalize(matrix @ right, dim=0)
                if self.training:
                    self.left.copy_(left)
            weight: Tensor = self.weight / torch.dot(left, matrix @ right)
        return weight

    def forward(self, x: Tensor) -> Tensor:
        """Convolve [n, c, y, x] with the normalised weight."""
        return F.conv2d(x, self.normalised(), self.bias, self.stride, self.padding)


class PatchDiscriminator(nn.Module):
    """Classify overlapping windows of (labels, image): logits [n, 1, y, x] and the features below them."""

    def __init__(self, inputs: int, width: int, strides: tuple[int, ...]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        outputs = width
        for stride in strides:
            layers.append(SpectralConv(inputs, outputs, 4 if stride == 2 else 3, stride))
            inputs, outputs = outputs, min(2 * outputs, 4 * width)
        self.layers = nn.ModuleList(layers)
        self.head = SpectralConv(inputs, 1, 3, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """[n, labels + 3, y, x] -> logits and features."""
        features = []
        for layer in self.layers:
            x = act(layer(x))
            features.append(x)
        return self.head(x), features


class ScalesDiscriminator(nn.Module):
    """Two networks: one sees single nuclei at full scale, the other the structure of a gland at half scale."""

    def __init__(self, labels: int, widths: tuple[int, int]) -> None:
        super().__init__()
        self.near = PatchDiscriminator(labels + 3, widths[0], (2, 2, 1))
        self.far = PatchDiscriminator(labels + 3, widths[1], (2, 2, 2, 1))

    def forward(self, one_hot: Tensor, image: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Classify images [n, 3, y, x] over one-hot labels of their size: logits and features of both networks."""
        both = torch.cat([one_hot, image], dim=1)
        found = [self.near(both), self.far(F.avg_pool2d(both, 2))]
        return [logits for logits, _ in found], [part for _, parts in found for part in parts]


class ProjectedDiscriminator(nn.Module):
    """Judges an image by a frozen encoder's features, mixed over channels and scales by fixed random weights, and by its pixels.

        image   3 x 176 x 176
        taps   16 x 88, 24 x 44, 40 x 22, 112 x 11, 320 x 6      frozen
        mixed  32 x 88, 32 x 44, 64 x 22,  64 x 11, 128 x 6      random 1x1, and what is below it enlarged and mixed by 3x3
        heads  logits of each, with labels and guides averaged to its size; one more sees the pixels themselves

    Parameters
    ----------
    labels
        Channels of labels and guides, which it sees beside the image.
    width
        First channels of its heads.
    """

    def __init__(self, labels: int, width: int) -> None:
        super().__init__()
        self.encoder = read_encoder()
        self.mix = nn.ModuleList(nn.Conv2d(*pair, 1, bias=False) for pair in zip(TAPS, MIXED, strict=True))
        pairs = zip(MIXED[1:], MIXED[:-1], strict=True)
        self.join = nn.ModuleList(nn.Conv2d(*pair, 3, padding=1, bias=False) for pair in pairs)
        for module in (*self.mix, *self.join):
            assert isinstance(module, nn.Conv2d)
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
            module.requires_grad_(False)
        self.near = PatchDiscriminator(labels + 3, width, (2, 2, 1))
        strides = ((2, 2, 1), (2, 1), (1, 1), (1, 1), (1,))
        heads = zip(MIXED, strides, strict=True)
        self.heads = nn.ModuleList(PatchDiscriminator(labels + mixed, width, each) for mixed, each in heads)

    def forward(self, one_hot: Tensor, image: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Classify images [n, 3, y, x] over one-hot labels of their size: logits and features of all heads."""
        mixed = [mix(tap) for mix, tap in zip(self.mix, self.encoder(image), strict=True)]
        for level in reversed(range(len(self.join))):
            below = F.interpolate(mixed[level + 1], mixed[level].shape[2:], mode="bilinear")
            mixed[level] = mixed[level] + self.join[level](below)
        found = [self.near(torch.cat([one_hot, image], dim=1))]
        for head, part in zip(self.heads, mixed, strict=True):
            beside = F.adaptive_avg_pool2d(one_hot, part.shape[2:]).to(part.dtype)
            found.append(head(torch.cat([beside, part], dim=1)))
        return [logits for logits, _ in found], [part for _, parts in found for part in parts]


def make_discriminator(config: TrainConfig) -> nn.Module:
    """Build the discriminator that `config` names, with fresh weights."""
    labels = config.model.conditions + (config.model.guide.channels if config.model.guide else 0)
    if config.discriminator_network == "projected":
        return ProjectedDiscriminator(labels, config.discriminator_widths[0])
    if config.discriminator_network == "scales":
        return ScalesDiscriminator(labels, config.discriminator_widths)
    return TileDiscriminator(labels, config.discriminator_base, config.discriminator_levels)
