"""How does a training tile come out of patches, so that the discriminator sees the seams and the generator feels them?

    tile   |----------------- 728 -----------------|
    patch  |---- 256 ----|            |---- 256 ----|
                     |---- 256 ----|                       stride 236: 20 pixels are shared and averaged

`cut` takes the windows, `join` averages the patches; both are linear, and gradients pass through. The engine does the same
to a whole slide (flat blend weights), with patch origins on the same grid.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from safron.training.config import TrainConfig
from torch import Tensor, nn


def cut(canvas: Tensor, side: int, stride: int) -> Tensor:
    """Cut [n, c, y, x] into its windows: [n * rows * columns, c, side, side], row by row.

    >>> cut(torch.arange(25.0).view(1, 1, 5, 5), 3, 2)[:, 0, 0, 0]
    tensor([ 0.,  2., 10., 12.])
    """
    windows = canvas.unfold(2, side, stride).unfold(3, side, stride)
    return windows.permute(0, 2, 3, 1, 4, 5).reshape(-1, canvas.shape[1], side, side)


def join(patches: Tensor, stride: int, count: int) -> Tensor:
    """Average square patches where they overlap.

    Parameters
    ----------
    patches
        [n * count * count, c, p, p], row by row as `cut` gives them.
    stride, count
        Pixels from patch to patch, and patches along each side.

    Returns
    -------
    Tensor
        [n, c, side, side] with side = p + (count - 1) * stride: at each pixel the mean of the patches over it.
    """
    channels, side = patches.shape[1], patches.shape[-1]
    columns = patches.reshape(-1, count * count, channels * side * side).transpose(1, 2)
    whole = side + (count - 1) * stride
    # The same sum over ones counts the patches over each pixel.
    ones = columns.new_ones(1, side * side, count * count)
    return F.fold(columns, whole, side, stride=stride) / F.fold(ones, whole, side, stride=stride)


class TileGenerator(nn.Module):
    """Any generator as one that makes whole training tiles.

    The seamless network renders a tile at once: its patches agree exactly, so stitching them would give the same. The paper's
    network makes the patches of one tile as one batch, over which its norms take their statistics, tile after tile, so that
    a tile does not depend on the others of its batch.
    """

    def __init__(self, network: nn.Module, config: TrainConfig) -> None:
        super().__init__()
        self.network = network
        self.whole = config.model.network == "seamless"
        self.stride, self.count = config.stride, config.grid
        self.read_side = config.model.tile + 2 * config.model.context

    def forward(
        self, one_hot: Tensor, noise: Tensor, guides: Tensor | None = None, style: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Render tiles.

        Parameters
        ----------
        one_hot, noise
            [n, labels, y + 2c, x + 2c], 0 or 1, and [n, k, y + 2c, x + 2c], standard normal.
        guides, style
            See `networks.SeamlessGenerator`.

        Returns
        -------
        tuple of Tensor
            Tiles [n, 3, y, x] in [-1, 1], and the patches that they are made of, [n * grid * grid, 3, tile, tile].
        """
        if self.whole:
            tile: Tensor = self.network(one_hot, noise, guides, style)
            return tile, tile
        windows = (cut(labels[None], self.read_side, self.stride) for labels in one_hot)
        patches = torch.cat([self.network(window) for window in windows])
        return join(patches, self.stride, self.count), patches
