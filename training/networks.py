"""Which networks turn labels and noise into tissue?

`PaperGenerator` is the SAFRON paper's: a 41 x 41 stem with an eight-level U-Net.

`SeamlessGenerator` is the one that ships. It has only valid convolutions and crops, two down-samplings, and no statistics
over space. So a pixel depends on the labels and noise within 20 pixels of it and on nothing else: patches whose origins are
multiples of 4 agree exactly where they overlap.

    input  T+40 |--------------------------------------| labels + noise, full scale
    stem   T+38  |------------------------------------|
    half  (T+36)/2 -> (T+32)/2        one 4x4 stride 2, one 3x3
    trunk (T+32)/4 -> (T+8)/4         three residual blocks, one 3x3 each
    half  (T+8)/2 -> (T+4)/2          nearest up, joined with `half` cropped
    full   T+4 -> T+2 -> T            nearest up, joined with `stem` cropped
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from safron.io.measures.style import STYLE_NAMES
from safron.training.config import ModelConfig
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

SLOPE = 0.2
"""Slope of the leaky rectifiers below zero."""

STYLE_WIDTH = 32
"""Channels of the hidden layer that a style goes through."""

STYLE_LIMIT = 3.0
"""Styles are clipped at this many standard deviations."""

NOISE_LIMIT = 2.5
"""Noise is clipped at this many standard deviations: rarer values are never learnt."""


EDGE = (255, 255, 255)
"""Colour of edges in the input of the papers' networks."""


def crop(x: Tensor, margin: int) -> Tensor:
    """Cut `margin` pixels off each side of [n, c, y, x]."""
    return x[..., margin:-margin, margin:-margin] if margin else x


def act(x: Tensor) -> Tensor:
    """Leaky rectifier."""
    return F.leaky_relu(x, SLOPE)


def pixel_norm(x: Tensor) -> Tensor:
    """Divide each pixel by the root mean square of its channels; no statistics over space."""
    wide = x.float() if x.dtype == torch.float16 else x  # squares of 256 and more overflow float16
    return x * torch.rsqrt(wide.square().mean(dim=1, keepdim=True) + 1e-4).to(x.dtype)


def one_hot_labels(labels: Tensor, count: int) -> Tensor:
    """[n, y, x] uint8 -> [n, count, y, x] float32, 0 or 1."""
    values = torch.arange(count, dtype=labels.dtype, device=labels.device)
    return (labels[:, None] == values[:, None, None]).float()


def join_conditions(
    one_hot: Tensor, edges: Tensor | None, config: ModelConfig, initial: Tensor | None = None
) -> Tensor:
    """Labels [n, labels, y, x], 0 or 1, with edges [n, y, x] and RGB in bytes [n, 3, y, x]: [n, `config.conditions`, y, x].

    The networks of the papers, which take colours, see edges in place of the labels below them.
    """
    parts = [one_hot]
    if edges is not None:
        drawn = edges[:, None].to(one_hot.dtype)
        parts = [one_hot if config.network == "seamless" else one_hot * (1 - drawn), drawn]
    if initial is not None:
        parts.append(initial.to(one_hot.dtype) / 127.5 - 1.0)
    return torch.cat(parts, dim=1) if len(parts) > 1 else one_hot


def to_rgb(image: Tensor) -> Tensor:
    """[n, 3, y, x] in [-1, 1] -> [n, y, x, 3], RGB in 0..255."""
    return (image.permute(0, 2, 3, 1) + 1.0) * 127.5


class PaperGenerator(nn.Module):
    """The generator of the SAFRON paper (section III-F): at full size 296 x 296 in and 256 x 256 out.

    A stem that spans the context, then a U-Net that halves the scale `levels` times, down to one pixel. Shapes at full size:

        labels as colours   3 x 296 x 296
        stem              64 x 256 x 256     41 x 41, valid
        down[0..7]        64 x 128 x 128, 128 x 64 x 64, 256 x 32 x 32, 512 x 16 x 16, ..., 512 x 1 x 1
        up[0..6]          512 x 2 x 2, ..., 64 x 128 x 128, each joined with the encoder's layer of its scale
        up[7]               3 x 256 x 256

    Four things differ from the authors' code:

    - There is no norm at the one-pixel bottleneck. Over a single value it gives (x - mean) = 0, so only its bias would
      pass, and the bottleneck would be dead.
    - In training norms take their statistics from all patches of a tile; in that code from each patch alone, so that
      patches differ where they overlap. Rendering uses the running statistics, folded into the convolutions.
    - Dropout ends before rendering; that code leaves it on, so that a slide never comes out the same twice.
    - The context is the mask around the tile, and beyond a slide's edge the nearest label; that code pads each tile with
      zeros, a colour that no label has.

    Without the stem it is the U-Net of pix2pix (Isola et al., 2017), from which the paper's comes: 256 x 256 in and out.
    """

    colors: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        base, levels = config.base, config.levels
        down = [base, *(base * min(2**level, 8) for level in range(levels))]
        up = down[levels - 1 : 0 : -1]
        skips = [0, *up] if config.skips else [0] * levels
        inner = [down[levels], *up]
        self.skips = config.skips
        # Without context there is nothing for a stem to span, and this is pix2pix's U-Net.
        # A coarse image to refine is three channels more.
        seen_colors = 6 if config.coarse else 3
        side = 2 * config.context + 1
        self.stem = nn.Conv2d(seen_colors, base, side, bias=False) if config.context else None
        first = [base if config.context else seen_colors, *down[1:]]
        self.down = nn.ModuleList(nn.Conv2d(first[i], down[i + 1], 4, 2, 1) for i in range(levels))
        self.down_norm = nn.ModuleList(nn.BatchNorm2d(c) for c in down[2:levels])
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(inner[i] + skips[i], [*up, 3][i], 4, 2, 1) for i in range(levels)
        )
        self.up_norm = nn.ModuleList(nn.BatchNorm2d(c) for c in up)
        self.dropout = nn.Dropout(config.dropout)
        seen = [*(label.color for label in config.labels), *[EDGE] * bool(config.nuclei)]
        colors = torch.tensor(seen, dtype=torch.float32)
        self.register_buffer("colors", (colors / 127.5 - 1.0).T[:, :, None, None], persistent=False)
        self.apply(init_paper)

    def forward(self, one_hot: Tensor, noise: Tensor | None = None) -> Tensor:
        """Render what `join_conditions` gives to [n, 3, T, T], RGB in [-1, 1]; there is no noise."""
        last = len(self.up) - 1
        labels = self.colors.shape[1]
        x = torch.cat([F.conv2d(one_hot[:, :labels], self.colors), one_hot[:, labels:]], dim=1)
        x = self.down[0](x if self.stem is None else act(self.stem(x)))
        skips = [x]
        for level in range(1, last + 1):
            x = self.down[level](act(x))
            if level < last:
                x = self.down_norm[level - 1](x)
                skips.append(x)
        for level in range(last + 1):
            x = self.up[level](F.relu(x))
            if level < last:
                x = self.up_norm[level](x)
                if level < 3:
                    x = self.dropout(x)
                if self.skips:
                    x = torch.cat([x, skips.pop()], dim=1)
        return torch.tanh(x)

    def folded(self) -> PaperGenerator:
        """Return a copy for rendering, whose norms are folded into the convolutions before them."""
        copied = copy.deepcopy(self).eval()
        for layers, norms, first in ((copied.down, copied.down_norm, 1), (copied.up, copied.up_norm, 0)):
            for index, norm in enumerate(norms):
                layer = layers[index + first]
                assert isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)
                assert isinstance(norm, nn.BatchNorm2d)
                folded = fuse_conv_bn_eval(layer, norm, transpose=layers is copied.up)
                layers[index + first], norms[index] = folded, nn.Identity()
        return copied


class TrunkBlock(nn.Module):
    """Residual block: a valid 3x3 convolution that looks around, two 1x1 convolutions for capacity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.place = nn.Conv2d(channels, channels, 3)
        self.widen = nn.Conv2d(channels, 2 * channels, 1)
        self.narrow = nn.Conv2d(2 * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[n, c, y, x] -> [n, c, y-2, x-2]."""
        y = act(self.place(pixel_norm(x)))
        update: Tensor = self.narrow(act(self.widen(y)))
        return crop(x, 1) + update


def turn(x: Tensor, look: Tensor | None) -> Tensor:
    """Scale and shift the channels of [n, c, y, x] by a look [n, 2c, 1, 1]; None leaves them."""
    if look is None:
        return x
    scale, shift = look.to(x.dtype).chunk(2, dim=1)
    return x * (1.0 + scale) + shift


class StyleNetwork(nn.Module):
    """A style to scales and shifts of channels (FiLM: Perez et al., 2018), none of which depends on the place.

    `center` and `spread` [9] bring styles to mean 0 and standard deviation 1; they are those of the training images.
    """

    center: Tensor
    spread: Tensor

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(len(STYLE_NAMES)))
        self.register_buffer("spread", torch.ones(len(STYLE_NAMES)))
        self.hidden = nn.Linear(len(STYLE_NAMES), STYLE_WIDTH)
        self.heads = nn.ModuleList(nn.Linear(STYLE_WIDTH + len(STYLE_NAMES), 2 * width) for width in channels)
        self.colors = nn.Conv2d(3, 3, 1)

    def begin(self) -> None:
        """Begin with looks that change nothing."""
        for head in self.heads:
            assert isinstance(head, nn.Linear)
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)
        nn.init.dirac_(self.colors.weight)

    def set_range(self, styles: Tensor) -> None:
        """Take mean and standard deviation from the styles [n, 9] of training images."""
        self.center.copy_(styles.mean(dim=0))
        self.spread.copy_(styles.std(dim=0).clamp(min=1e-3))

    def forward(self, style: Tensor) -> list[Tensor]:
        """[n, 9] -> looks [n, 2c, 1, 1]."""
        given = (style - self.center.float()) / self.spread.float()
        given = given.clamp(-STYLE_LIMIT, STYLE_LIMIT).to(self.hidden.weight.dtype)
        both = torch.cat([given, act(self.hidden(given))], dim=1)
        return [head(both)[:, :, None, None] for head in self.heads]


class SeamlessGenerator(nn.Module):
    """Labels and noise to tissue, shift-consistent at multiples of 4; see the module's drawing."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        stem, down, trunk, half, full = config.widths
        guides = config.guide.channels if config.guide else 0
        self.stem = nn.Conv2d(config.conditions + len(config.noise_scales) + guides, stem, 3)
        # Smooth planes, which the stem would have to carry through narrow layers, also go straight to the trunk.
        self.smooth = (
            [index for index, scale in enumerate(config.noise_scales) if scale > 1] if guides else []
        )
        self.guide = nn.Conv2d(guides + len(self.smooth), trunk, 1) if guides else None
        self.style = StyleNetwork((trunk, half, full, 3)) if config.style else None
        self.down1 = nn.Conv2d(stem, down, 4, stride=2)
        self.half1 = nn.Conv2d(down, down, 3)
        self.down2 = nn.Conv2d(down, trunk, 2, stride=2)
        self.trunk = nn.Sequential(*(TrunkBlock(trunk) for _ in range(3)))
        self.up1 = nn.Conv2d(trunk, half, 1)
        self.half2 = nn.Conv2d(half + down, half, 3)
        self.up2 = nn.Conv2d(half, full, 1)
        self.full1 = nn.Conv2d(full + stem, full, 3)
        self.full2 = nn.Conv2d(full, 3, 3)
        self.apply(_init_he)
        for block in self.trunk:
            assert isinstance(block, TrunkBlock)
            nn.init.normal_(block.narrow.weight, std=0.02)
        if self.style is not None:
            self.style.begin()

    def forward(
        self, one_hot: Tensor, noise: Tensor, guides: Tensor | None = None, style: Tensor | None = None
    ) -> Tensor:
        """Render a patch.

        Parameters
        ----------
        one_hot
            [n, labels, T+40, T+40], 0 or 1.
        noise
            [n, noise channels, T+40, T+40], standard normal.
        guides, style
            [n, guides, T+40, T+40] and [n, 9], where the generator takes them.

        Returns
        -------
        Tensor
            [n, 3, T, T], RGB in [-1, 1].
        """
        noise = noise.clamp(-NOISE_LIMIT, NOISE_LIMIT)
        planes = [one_hot, noise] if guides is None else [one_hot, noise, guides]
        looks = self.style(style) if self.style is not None else (None,) * 4
        stem = act(self.stem(torch.cat(planes, dim=1)))
        half = act(self.half1(act(self.down1(stem))))
        low = self.down2(half)
        if self.guide is not None:
            # A value of `low` lies in the middle of label pixels 4 to 7 from its first one.
            smooth = torch.cat([noise[:, self.smooth], planes[-1]], dim=1)
            low = low + self.guide(F.avg_pool2d(crop(smooth, 4), 4))
        low = self.trunk(turn(low, looks[0]))
        low = F.interpolate(turn(pixel_norm(act(self.up1(low))), looks[1]), scale_factor=2, mode="nearest")
        low = act(self.half2(torch.cat([low, crop(half, 6)], dim=1)))
        low = F.interpolate(act(self.up2(low)), scale_factor=2, mode="nearest")
        low = turn(act(self.full1(torch.cat([low, crop(stem, 17)], dim=1))), looks[2])
        low = turn(self.full2(low), looks[3])
        return torch.tanh(low if self.style is None else self.style.colors(low))


def make_generator(config: ModelConfig) -> nn.Module:
    """Build the network that `config` names, with fresh weights."""
    return SeamlessGenerator(config) if config.network == "seamless" else PaperGenerator(config)


def _init_he(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, a=SLOPE)
        assert module.bias is not None
        nn.init.zeros_(module.bias)


def init_paper(module: nn.Module) -> None:
    """Begin a layer as pix2pix does."""
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
