"""What does a generator make of slides that it was not trained on?

A sheet has one column per held-out window: its mask, the real tissue, the tissue generated from the mask as 3 x 3 stitched
patches, and the same with the edges of the patches drawn in.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safron.training.config import TrainConfig
from safron.training.data import Source, draw_noise
from safron.training.networks import join_conditions, one_hot_labels, to_rgb
from safron.training.stitch import cut, join
from torch import nn

COLUMNS = 5
GAP = 4
EDGE = (255, 220, 0)
"""Colour of the patches' edges."""


def stitch(
    generator: nn.Module,
    labels: npt.NDArray[np.uint8],
    noise: npt.NDArray[np.float32],
    config: TrainConfig,
    *,
    tile: int,
    guides: npt.NDArray[np.float32] | None = None,
    style: npt.NDArray[np.float32] | None = None,
    edges: npt.NDArray[np.uint8] | None = None,
    initial: npt.NDArray[np.uint8] | None = None,
) -> npt.NDArray[np.float32]:
    """Render a square canvas from patches of `tile` pixels, averaged where they overlap.

    Parameters
    ----------
    labels, noise
        uint8 [y, x] and float32 [k, y, x], context included; the canvas is a whole number of strides and one overlap.
    guides, style
        float32 [g, y, x] and [s], where the generator takes them.
    edges
        uint8 [y, x], where the generator takes them.
    initial
        uint8 [3, y, x], where the generator takes it.

    Returns
    -------
    NDArray
        float32 [y - 2c, x - 2c, 3], RGB in 0..255.
    """
    device = next(generator.parameters()).device
    read, stride = tile + 2 * config.model.context, tile - config.model.overlap
    count = (len(labels) - read) // stride + 1
    with torch.no_grad():
        one_hot = one_hot_labels(torch.from_numpy(labels)[None].to(device), len(config.model.labels))
        drawn = None if edges is None else torch.from_numpy(edges)[None].to(device)
        coarse = None if initial is None else torch.from_numpy(initial)[None].to(device)
        one_hot = join_conditions(one_hot, drawn, config.model, coarse)
        planes = [one_hot, torch.from_numpy(noise)[None].to(device)]
        if guides is not None and len(guides):
            planes.append(torch.from_numpy(guides)[None].to(device))
        look = torch.from_numpy(style)[None].to(device) if style is not None and len(style) else None
        sizes = [part.shape[1] for part in planes]
        windows = (
            window.split(sizes, dim=1) for window in cut(torch.cat(planes, dim=1), read, stride)[:, None]
        )
        # The paper's network takes labels and noise only.
        further = {} if look is None else {"style": look}
        patches = torch.cat([generator(*window, **further) for window in windows])
        return np.asarray(to_rgb(join(patches, stride, count))[0].clamp(0, 255).cpu().numpy())


def draw_sheet(generator: nn.Module, held_out: Source, config: TrainConfig) -> npt.NDArray[np.uint8]:
    """Draw a sheet, RGB uint8 [y, x, 3], of the same windows and noise at every step of a run."""
    rng, context = np.random.default_rng([config.seed, 1]), config.model.context
    colors = np.array([label.color for label in config.model.labels], np.uint8)
    tile, stride = config.sheet_tile, config.sheet_tile - config.model.overlap
    side = tile + 2 * stride
    read = side + 2 * context
    inner = np.s_[context : context + side, context : context + side]
    chosen = rng.choice(len(held_out), size=min(COLUMNS, len(held_out)), replace=False)
    columns = []
    trained = generator.training
    generator.eval()
    for index in chosen:
        sample = held_out.read(int(index), held_out.place(rng, int(index), read), read)
        noise = draw_noise(rng, read, read, config.model.noise_scales)
        parts: dict[str, Any] = {"tile": tile, "guides": sample.guides, "style": sample.style}
        parts |= {"edges": sample.edges, "initial": sample.coarse(config.model.coarse)}
        image = np.rint(stitch(generator, sample.labels, noise, config, **parts)).astype(np.uint8)
        rows = [colors[sample.labels[inner]], sample.image[inner], image, mark_edges(image, tile, stride)]
        columns.append(_spaced(rows, axis=0))
    generator.train(trained)
    return _spaced(columns, axis=1)


def mark_edges(image: npt.NDArray[np.uint8], tile: int, stride: int) -> npt.NDArray[np.uint8]:
    """Draw a line along every edge of a patch inside the image."""
    marked = image.copy()
    for start in range(0, image.shape[0] - tile + 1, stride):
        for edge in {start, start + tile - 1} - {0, image.shape[0] - 1}:
            marked[edge, :] = EDGE
            marked[:, edge] = EDGE
    return marked


def _spaced(images: list[npt.NDArray[np.uint8]], axis: int) -> npt.NDArray[np.uint8]:
    """Join images with white gaps."""
    margin = [(0, GAP) if dimension == axis else (0, 0) for dimension in range(3)]
    padded = [np.pad(image, margin, constant_values=255) for image in images[:-1]]
    return np.concatenate([*padded, images[-1]], axis=axis)
