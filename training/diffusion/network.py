"""Which network predicts the noise in a picture, given labels and time?

A U-Net after SDM (Wang et al., 2022): the noisy picture goes through the encoder, whose blocks are scaled and shifted by the
time; labels enter the decoder only, where they scale and shift each pixel after a norm without parameters (SPADE). The
picture is folded to half its size first (2 x 2 pixels become channels), which quarters the arithmetic.

With ``norm="pixel"`` a pixel is divided by the root mean square of its channels. What a pixel becomes then depends on its
neighbourhood alone, so patches agree. Group norm, as in SDM, takes statistics over the patch.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TIME_CHANNELS = 64
CHANNELS = 3
"""Of a picture."""


def normalize(x: Tensor, norm: Literal["pixel", "group"]) -> Tensor:
    """Normalize [n, c, y, x] without parameters."""
    if norm == "group":
        return F.group_norm(x, 8)
    return x * torch.rsqrt(x.square().mean(dim=1, keepdim=True) + 1e-5)


def embed_time(t: Tensor) -> Tensor:
    """Turn times [n] of 0 to 1000 into sines and cosines [n, `TIME_CHANNELS`]."""
    half = TIME_CHANNELS // 2
    rates = torch.exp(torch.arange(half, device=t.device) * (-math.log(10000.0) / half))
    angles = t[:, None] * rates
    return torch.cat([torch.cos(angles), torch.sin(angles)], dim=1)


class Block(nn.Module):
    """Residual block, scaled and shifted by the time and, in the decoder, by the labels.

    Parameters
    ----------
    channels_in, channels
        Before and after.
    norm
        See `normalize`.
    label_channels
        Channels of the label features; 0 in the encoder.
    """

    def __init__(
        self, channels_in: int, channels: int, norm: Literal["pixel", "group"], label_channels: int = 0
    ) -> None:
        super().__init__()
        self.norm = norm
        self.first = nn.Conv2d(channels_in, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        self.time = nn.Linear(TIME_CHANNELS, 2 * channels)
        self.skip = nn.Conv2d(channels_in, channels, 1) if channels_in != channels else nn.Identity()
        self.labels = nn.ModuleList(
            nn.Conv2d(label_channels, 2 * width, 1) for width in (channels_in, channels) if label_channels
        )
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return [n, channels, y, x]; `time` [n, `TIME_CHANNELS`], `labels` [n, label_channels, y, x]."""
        h = self.first(F.silu(self._spade(normalize(x, self.norm), 0, labels)))
        scale, shift = self.time(time)[:, :, None, None].chunk(2, dim=1)
        h = self._spade(normalize(h, self.norm), 1, labels) * (1 + scale) + shift
        out: Tensor = self.skip(x) + self.second(F.silu(h))
        return out

    def _spade(self, x: Tensor, place: int, labels: Tensor | None) -> Tensor:
        if labels is None:
            return x
        scale, shift = self.labels[place](labels).chunk(2, dim=1)
        changed: Tensor = x * (1 + scale) + shift
        return changed


class SemanticUNet(nn.Module):
    """The network.

    Parameters
    ----------
    conditions
        Channels of labels and edges.
    widths, blocks, norm
        See `DiffusionConfig`.
    learned_variance
        Whether it gives v of `safron.training.diffusion.variance`, too.
    """

    def __init__(
        self,
        conditions: int,
        widths: tuple[int, int],
        blocks: int,
        norm: Literal["pixel", "group"],
        *,
        learned_variance: bool = False,
    ) -> None:
        super().__init__()
        wide, deep = widths
        self.norm = norm
        self.time = nn.Sequential(
            nn.Linear(TIME_CHANNELS, TIME_CHANNELS),
            nn.SiLU(),
            nn.Linear(TIME_CHANNELS, TIME_CHANNELS),
            nn.SiLU(),
        )
        self.stem = nn.Conv2d(4 * CHANNELS, wide, 3, padding=1)
        self.down = nn.Conv2d(wide, deep, 3, stride=2, padding=1)
        self.encoder = nn.ModuleList(Block(wide, wide, norm) for _ in range(blocks))
        self.encoder_deep = nn.ModuleList(Block(deep, deep, norm) for _ in range(blocks))
        self.middle = Block(deep, deep, norm, wide)
        self.decoder_deep = nn.ModuleList(
            Block(2 * deep if first == 0 else deep, deep, norm, wide) for first in range(blocks)
        )
        self.up = nn.Conv2d(deep, wide, 3, padding=1)
        self.decoder = nn.ModuleList(
            Block(2 * wide if first == 0 else wide, wide, norm, wide) for first in range(blocks)
        )
        # What surrounds a pixel counts: two convolutions see the shape of a nucleus.
        self.labels = nn.Sequential(
            nn.Conv2d(4 * conditions, wide, 3, padding=1), nn.SiLU(), nn.Conv2d(wide, wide, 3, padding=1)
        )
        self.labels_deep = nn.Sequential(
            nn.Conv2d(wide, wide, 3, padding=1), nn.SiLU(), nn.Conv2d(wide, wide, 3, padding=1)
        )
        self.out = nn.Conv2d(wide, 4 * CHANNELS * (1 + learned_variance), 3, padding=1)
        nn.init.zeros_(self.out.weight)

    def forward(self, xt: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """Predict.

        Parameters
        ----------
        xt
            Noisy picture, float32 [n, 3, y, x]; y and x are multiples of 4.
        t
            Times, float32 [n].
        condition
            float32 [n, conditions, y, x], see `condition_of`; zeros for none.

        Returns
        -------
        Tensor
            float32 [n, 3, y, x]; [n, 6, y, x] with a learned variance, whose v are the last three.
        """
        time = self.time(embed_time(t))
        known = self.labels(F.pixel_unshuffle(condition, 2))
        known_deep = self.labels_deep(F.avg_pool2d(known, 2))
        x = self.stem(F.pixel_unshuffle(xt, 2))
        for block in self.encoder:
            x = block(x, time)
        y = self.down(x)
        for block in self.encoder_deep:
            y = block(y, time)
        z = self.middle(y, time, known_deep)
        z = torch.cat([z, y], dim=1)
        for block in self.decoder_deep:
            z = block(z, time, known_deep)
        z = torch.cat([self.up(F.interpolate(z, scale_factor=2.0, mode="nearest")), x], dim=1)
        for block in self.decoder:
            z = block(z, time, known)
        return F.pixel_shuffle(self.out(F.silu(normalize(z, self.norm))), 2)


def one_hot_of(labels: Tensor, count: int) -> Tensor:
    """Turn labels uint8 [n, y, x] into float32 [n, count, y, x]; a label that is none of them becomes zeros."""
    values = torch.arange(count, dtype=torch.uint8, device=labels.device)
    return (labels[:, None] == values[:, None, None]).float()


def condition_of(labels: Tensor, edges: Tensor | None, count: int) -> Tensor:
    """Join labels uint8 [n, y, x] and edges uint8 [n, 1, y, x]: float32 [n, count or one more, y, x].

    Where a label is none of `count`, there is no edge either.
    """
    one_hot = one_hot_of(labels, count)
    if edges is None:
        return one_hot
    return torch.cat([one_hot, edges.float() * (labels < count)[:, None].float()], dim=1)
