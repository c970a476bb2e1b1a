"""How do stain, sharpness and noise of what a task network sees vary?

A network that learns from drawn or refined pictures for long enough finds what sets them apart from real ones, such as the
sharpness of a drawn border, and then takes pale real nuclei for tissue. Where light, stain, sharpness and noise differ from
picture to picture, it learns shapes.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

DENSITY, CHANNEL = 0.25, 0.12
"""Largest relative change of the optical density, of a picture and of one of its channels beside that."""

UNCHANGED, BLURRED = 0.6, 0.24
"""Share of the pictures whose sharpness stays, and of those that are blurred; the others are sharpened as much."""

LEAST_BLUR, MOST_BLUR = 0.2, 1.2
"""Standard deviation in pixels."""

MOST_NOISE = 0.05
"""Standard deviation of the noise, where values span 2."""

REACH = 3
"""Pixels that a blur reads on each side."""


def varied(images: Tensor, *, seed: int, step: int) -> Tensor:
    """Change each picture at random.

    Parameters
    ----------
    images
        [n, 3, y, x] in -1..1, each side at least 4.
    seed, step
        What all random numbers follow from.

    Returns
    -------
    Tensor
        Of the same shape, in -1..1.
    """
    rng = np.random.default_rng([seed, step, 5])
    count = len(images)

    def between(low: float, high: float, *shape: int) -> Tensor:
        return torch.from_numpy(rng.uniform(low, high, shape).astype(np.float32))

    density = -torch.log((images * 127.5 + 128.5) / 256)
    density = density * between(1 - DENSITY, 1 + DENSITY, count, 1, 1, 1)
    density = density * between(1 - CHANNEL, 1 + CHANNEL, count, 3, 1, 1)
    light = (256 * torch.exp(-density) - 1) / 127.5 - 1
    kind = between(0, 1, count, 1, 1, 1)
    # 1: the blurred picture; -1: as much sharper than the given one.
    softer = (kind >= UNCHANGED).float() - 2 * (kind >= UNCHANGED + BLURRED).float()
    light = light + softer * (_blurred(light, between(LEAST_BLUR, MOST_BLUR, count)) - light)
    grain = torch.from_numpy(rng.standard_normal(images.shape, np.float32))
    return (light + between(0, MOST_NOISE, count, 1, 1, 1) * grain).clamp(-1, 1)


def _blurred(images: Tensor, deviations: Tensor) -> Tensor:
    """Blur each picture by a standard deviation of its own [n]."""
    count, channels, height, width = images.shape
    lines = torch.exp(-(torch.arange(-REACH, REACH + 1.0) ** 2) / (2 * deviations[:, None] ** 2))
    lines = (lines / lines.sum(dim=1, keepdim=True)).repeat_interleave(channels, dim=0)
    kernels = (lines[:, :, None] * lines[:, None, :])[:, None]
    flat = pad(images, (REACH,) * 4, mode="reflect").reshape(1, count * channels, height + 2 * REACH, -1)
    return conv2d(flat, kernels, groups=count * channels).reshape(count, channels, height, width)
