"""What does a generator make of slides that it was not trained on?

A sheet has one column for each held-out window: its mask, the real tissue, the tissue generated from the mask by 3 x 3
stitched patches, and the same with the edges of the patches drawn in.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from safron.training.config import TrainConfig
from safron.training.data import Source, draw_noise
from safron.training.networks import PaperGenerator, to_rgb
from torch import Tensor, nn

COLUMNS = 5
GAP = 4
SEAM = (255, 220, 0)


def one_hot_labels(labels: Tensor, count: int) -> Tensor:
    """[n, y, x] uint8 -> [n, count, y, x] float32."""
    return F.one_hot(labels.long(), count).movedim(-1, 1).float()


def generate(
    generator: nn.Module, labels: npt.NDArray[np.uint8], noise: npt.NDArray[np.float32], config: TrainConfig
) -> npt.NDArray[np.float32]:
    """Run a generator on one window.

    Parameters
    ----------
    labels
        uint8 [y, x], context included.
    noise
        float32 [k, y, x].

    Returns
    -------
    NDArray
        float32 [y - 2c, x - 2c, 3], RGB in 0..255.
    """
    device = next(generator.parameters()).device
    with torch.no_grad():
        one_hot = one_hot_labels(torch.from_numpy(labels)[None], len(config.model.labels)).to(device)
        if isinstance(generator, PaperGenerator):
            image = generator.paint(one_hot)
        else:
            image = generator(one_hot, torch.from_numpy(noise)[None].to(device))
    return np.asarray(to_rgb(image.float())[0].clamp(0, 255).cpu().numpy())


def stitch(
    generator: nn.Module,
    labels: npt.NDArray[np.uint8],
    noise: npt.NDArray[np.float32],
    config: TrainConfig,
    *,
    tile: int,
) -> npt.NDArray[np.uint8]:
    """Render a canvas from patches of `tile` pixels, averaged where they overlap.

    Parameters
    ----------
    labels, noise
        uint8 [y, x] and float32 [k, y, x], context included; what is left of the canvas must be a whole number of strides
        and one overlap.

    Returns
    -------
    NDArray
        uint8 [y - 2c, x - 2c, 3], RGB.
    """
    context, stride = config.model.context, tile - config.model.overlap
    height, width = labels.shape[0] - 2 * context, labels.shape[1] - 2 * context
    total, count = np.zeros((height, width, 3), np.float32), np.zeros((height, width, 1), np.float32)
    for y in range(0, height - tile + 1, stride):
        for x in range(0, width - tile + 1, stride):
            read = np.s_[y : y + tile + 2 * context, x : x + tile + 2 * context]
            write = np.s_[y : y + tile, x : x + tile]
            total[write] += generate(generator, labels[read], noise[:, *read], config)
            count[write] += 1
    return np.rint(total / count).astype(np.uint8)


def draw_sheet(generator: nn.Module, held_out: Source, config: TrainConfig) -> npt.NDArray[np.uint8]:
    """Draw a sheet, RGB uint8 [y, x, 3]; the same windows and noise at every step of a run."""
    rng, context = np.random.default_rng([config.seed, 1]), config.model.context
    colors = np.array([label.color for label in config.model.labels], np.uint8)
    tile = config.sheet_tile
    stride = tile - config.model.overlap
    side = tile + 2 * stride
    chosen = rng.choice(len(held_out), size=min(COLUMNS, len(held_out)), replace=False)
    columns = []
    trained = generator.training
    generator.eval()
    for index in chosen:
        place = held_out.place(rng, int(index), side + 2 * context)
        sample = held_out.read(int(index), place, side + 2 * context)
        noise = draw_noise(rng, side + 2 * context, side + 2 * context, config.model.noise_scales)
        image = stitch(generator, sample.labels, noise, config, tile=tile)
        inner = np.s_[context : context + side, context : context + side]
        seams = mark_seams(image, tile, stride)
        columns.append(_spaced([colors[sample.labels[inner]], sample.image[inner], image, seams], axis=0))
    generator.train(trained)
    return _spaced(columns, axis=1)


def mark_seams(image: npt.NDArray[np.uint8], tile: int, stride: int) -> npt.NDArray[np.uint8]:
    """Draw a line along every patch's edge inside the image."""
    marked = image.copy()
    for start in range(0, image.shape[0] - tile + 1, stride):
        for edge in {start, start + tile - 1} - {0, image.shape[0] - 1}:
            marked[edge, :] = SEAM
            marked[:, edge] = SEAM
    return marked


def _spaced(images: list[npt.NDArray[np.uint8]], axis: int) -> npt.NDArray[np.uint8]:
    """Join images with white gaps."""
    margin = [(0, GAP) if dimension == axis else (0, 0) for dimension in range(3)]
    padded = [np.pad(image, margin, constant_values=255) for image in images[:-1]]
    return np.concatenate([*padded, images[-1]], axis=axis)
