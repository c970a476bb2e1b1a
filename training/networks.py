"""Which networks turn labels and noise into tissue, and which judge them?

`SeamlessGenerator` is the one that ships. It has valid convolutions and crops only, two down-samplings and no
statistics over space, so what it draws at a canvas pixel depends on the labels and noise within 20 pixels of
it and on nothing else: patches whose origins are multiples of 4 agree exactly where they overlap.

    input  T+40 |--------------------------------------| labels + noise, full scale
    stem   T+38  |------------------------------------|
    half  (T+36)/2 -> (T+32)/2        one 4x4 stride 2, one 3x3
    trunk (T+32)/4 -> (T+8)/4         three residual blocks, one 3x3 each
    half  (T+8)/2 -> (T+4)/2          nearest up, joined with `half` cropped
    full   T+4 -> T+2 -> T            nearest up, joined with `stem` cropped

`PaperGenerator` is the network of the SAFRON paper: a 41 x 41 stem and an eight-level U-Net. It is kept as
the measure of cost and, once trained, of quality.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from safron.training.config import ModelConfig
from torch import Tensor, nn

SLOPE = 0.2
NOISE_LIMIT = 2.5


def crop(x: Tensor, margin: int) -> Tensor:
    """Cut `margin` pixels off each side of [n, c, y, x]."""
    return x[..., margin:-margin, margin:-margin] if margin else x


def act(x: Tensor) -> Tensor:
    """Leaky rectifier of slope 0.2."""
    return F.leaky_relu(x, SLOPE)


def pixel_norm(x: Tensor) -> Tensor:
    """Divide each pixel by the root mean square of its channels; no statistics over space."""
    return x * torch.rsqrt(x.square().mean(dim=1, keepdim=True) + 1e-4)


class TrunkBlock(nn.Module):
    """Residual block: 3x3 valid convolution for place, two 1x1 convolutions for capacity."""

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


class SeamlessGenerator(nn.Module):
    """Labels and noise to tissue, shift-consistent at multiples of 4; see the module's drawing."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        stem, down, trunk, half, full = config.widths
        self.stem = nn.Conv2d(len(config.labels) + len(config.noise_scales), stem, 3)
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

    def forward(self, one_hot: Tensor, noise: Tensor) -> Tensor:
        """Render a patch.

        Parameters
        ----------
        one_hot
            [n, labels, T+40, T+40], 0 or 1.
        noise
            [n, noise channels, T+40, T+40], standard normal.

        Returns
        -------
        Tensor
            [n, 3, T, T], RGB in [-1, 1].
        """
        stem = act(self.stem(torch.cat([one_hot, noise.clamp(-NOISE_LIMIT, NOISE_LIMIT)], dim=1)))
        half = act(self.half1(act(self.down1(stem))))
        low = self.trunk(self.down2(half))
        low = F.interpolate(pixel_norm(act(self.up1(low))), scale_factor=2, mode="nearest")
        low = act(self.half2(torch.cat([low, crop(half, 6)], dim=1)))
        low = F.interpolate(act(self.up2(low)), scale_factor=2, mode="nearest")
        low = act(self.full1(torch.cat([low, crop(stem, 17)], dim=1)))
        return torch.tanh(self.full2(low))


class PaperGenerator(nn.Module):
    """The generator of the SAFRON paper, for 296 x 296 in and 256 x 256 out.

    Norms are frozen (running statistics), so that a patch does not depend on the others of its batch. The
    norm at the 1 x 1 bottleneck is left out: over one pixel it would pass on nothing but its bias. So is
    dropout.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        assert config.context == 20, "the 41 x 41 stem needs 20 pixels of context"
        down = (64, 64, 128, 256, 512, 512, 512, 512, 512)
        up = (512, 512, 512, 512, 256, 128, 64)
        self.stem = nn.Conv2d(3, 64, 41, bias=False)
        self.down = nn.ModuleList(nn.Conv2d(down[i], down[i + 1], 4, 2, 1) for i in range(8))
        self.down_norm = nn.ModuleList(nn.BatchNorm2d(c) for c in down[2:8])
        skips = (0, 512, 512, 512, 512, 256, 128, 64)
        inner = (512, *up)
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(inner[i] + skips[i], (*up, 3)[i], 4, 2, 1) for i in range(8)
        )
        self.up_norm = nn.ModuleList(nn.BatchNorm2d(c) for c in up)
        self.apply(_init_paper)

    def forward(self, colors: Tensor) -> Tensor:
        """Render [n, 3, 296, 296], label colours in [-1, 1], to [n, 3, 256, 256], RGB in [-1, 1]."""
        x = self.down[0](act(self.stem(colors)))
        skips = [x]
        for level in range(1, 8):
            x = self.down[level](act(x))
            if level < 7:
                x = self.down_norm[level - 1](x)
                skips.append(x)
        for level in range(8):
            x = self.up[level](F.relu(x))
            if level < 7:
                x = torch.cat([self.up_norm[level](x), skips.pop()], dim=1)
        return torch.tanh(x)


class SpectralConv(nn.Conv2d):
    """Convolution whose weight is divided by its largest singular value, tracked by power iteration.

    Written out rather than taken from `torch.nn.utils.parametrizations`, which iterates in bfloat16 under
    autocast.
    """

    left: Tensor

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__(inputs, outputs, kernel, stride, padding=(kernel - 1) // 2)
        self.register_buffer("left", F.normalize(torch.randn(outputs), dim=0))

    def forward(self, x: Tensor) -> Tensor:
        """Convolve [n, c, y, x] with the normalised weight."""
        with torch.autocast(x.device.type, enabled=False):
            matrix = self.weight.flatten(1)
            with torch.no_grad():
                right = F.normalize(matrix.T @ self.left, dim=0)
                left = F.normalize(matrix @ right, dim=0)
                if self.training:
                    self.left.copy_(left)
            weight: Tensor = self.weight / torch.dot(left, matrix @ right)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)


class PatchDiscriminator(nn.Module):
    """Judge overlapping windows of (labels, image): logits [n, 1, y, x] and the features below them."""

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


class Discriminators(nn.Module):
    """Two judges: single nuclei at full scale, the build of a gland at half scale."""

    def __init__(self, labels: int, widths: tuple[int, int]) -> None:
        super().__init__()
        self.near = PatchDiscriminator(labels + 3, widths[0], (2, 2, 1))
        self.far = PatchDiscriminator(labels + 3, widths[1], (2, 2, 2, 1))

    def forward(self, one_hot: Tensor, image: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Judge images [n, 3, y, x] over one-hot labels of their size: logits and features of both judges."""
        both = torch.cat([one_hot, image], dim=1)
        fine, fine_features = self.near(both)
        coarse, coarse_features = self.far(F.avg_pool2d(both, 2))
        return [fine, coarse], fine_features + coarse_features


def make_generator(config: ModelConfig) -> nn.Module:
    """Build the network that `config` names, with fresh weights."""
    return SeamlessGenerator(config) if config.network == "seamless" else PaperGenerator(config)


def count_macs(network: nn.Module, *inputs: Tensor) -> int:
    """Count the multiply-adds of all convolutions in one call of `network`."""
    total = 0

    def add(module: nn.Module, _: object, output: Tensor) -> None:
        nonlocal total
        assert isinstance(module, (nn.Conv2d, nn.ConvTranspose2d))
        taps = module.weight[0].numel() if isinstance(module, nn.Conv2d) else module.weight[:, 0].numel()
        pixels = output.shape[-2] * output.shape[-1]
        # A transposed convolution of stride 2 reaches each output pixel with a quarter of its taps.
        stride = module.stride[0] ** 2 if isinstance(module, nn.ConvTranspose2d) else 1
        total += output.shape[0] * output.shape[1] * pixels * taps // stride

    kinds = (nn.Conv2d, nn.ConvTranspose2d)
    hooks = [m.register_forward_hook(add) for m in network.modules() if isinstance(m, kinds)]
    with torch.no_grad():
        network(*inputs)
    for hook in hooks:
        hook.remove()
    return total


def _init_he(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, a=SLOPE)
        assert module.bias is not None
        nn.init.zeros_(module.bias)


def _init_paper(module: nn.Module) -> None:
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
