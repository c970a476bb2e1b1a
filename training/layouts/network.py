"""Which network predicts what is noise in the picture of a mask, given time, types and regions?

A U-Net of two levels, made of the blocks of `safron.training.diffusion.network`. The picture is folded to a quarter of its size
first (4 x 4 pixels become channels): outlines of nuclei are smooth, so little is lost, and a CPU has a quarter of the work.
Types are added to the embedding of the time; regions, averaged to each level's size, to what the encoder reads. A norm per
pixel lets patches agree.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from safron.training.diffusion.network import TIME_CHANNELS, Block, embed_time, normalize
from torch import Tensor, nn

FOLD = 4
FOLDED = 3 * FOLD * FOLD


class LayoutUNet(nn.Module):
    """The network.

    Parameters
    ----------
    types, labels
        Numbers of types and of regions' labels.
    widths, blocks
        See `LayoutConfig`.
    """

    def __init__(self, types: int, labels: int, widths: tuple[int, int], blocks: int) -> None:
        super().__init__()
        wide, deep = widths
        self.time = nn.Sequential(
            nn.Linear(TIME_CHANNELS, TIME_CHANNELS), nn.SiLU(), nn.Linear(TIME_CHANNELS, TIME_CHANNELS)
        )
        self.types = nn.Linear(types, TIME_CHANNELS)
        self.regions = nn.Conv2d(labels, wide, 1)
        self.regions_deep = nn.Conv2d(labels, deep, 1)
        self.stem = nn.Conv2d(FOLDED, wide, 3, padding=1)
        self.encoder = Block(wide, wide, "pixel")
        self.down = nn.Conv2d(wide, deep, 3, stride=2, padding=1)
        self.middle = nn.ModuleList(Block(deep, deep, "pixel") for _ in range(blocks))
        self.up = nn.Conv2d(deep, wide, 3, padding=1)
        self.decoder = Block(2 * wide, wide, "pixel")
        self.out = nn.Conv2d(wide, FOLDED, 3, padding=1)
        nn.init.zeros_(self.out.weight)

    def forward(self, xt: Tensor, t: Tensor, types: Tensor, one_hot: Tensor) -> Tensor:
        """Predict.

        Parameters
        ----------
        xt
            Noisy picture, float32 [n, 3, y, x]; y and x are multiples of 8.
        t
            Times, float32 [n].
        types
            float32 [n, types], 1 where a type is present.
        one_hot
            Regions, float32 [n, labels, y, x].

        Returns
        -------
        Tensor
            float32 [n, 3, y, x].
        """
        time = F.silu(self.time(embed_time(t)) + self.types(types))
        known = F.avg_pool2d(one_hot, FOLD)
        x = self.encoder(self.stem(F.pixel_unshuffle(xt, FOLD)) + self.regions(known), time)
        y = self.down(x) + self.regions_deep(F.avg_pool2d(known, 2))
        for block in self.middle:
            y = block(y, time)
        risen = self.up(F.interpolate(y, scale_factor=2.0, mode="nearest"))
        z = self.decoder(torch.cat([risen, x], dim=1), time)
        return F.pixel_shuffle(self.out(F.silu(normalize(z, "pixel"))), FOLD)
