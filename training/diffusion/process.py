"""How much noise is there at each time, and at which times does sampling stop by?"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

TIMES = 1000


def linear_alphas() -> npt.NDArray[np.float64]:
    """Return the share of the picture in the variance at each time: float64 [1000], falling.

    The linear schedule of DDPM (Ho et al., 2020): betas from 1e-4 to 0.02; as `DDIMScheduler` of diffusers has it.
    """
    return np.asarray(np.cumprod(1 - np.linspace(1e-4, 0.02, TIMES)), np.float64)


def sampling_times(steps: int) -> list[int]:
    """Return the times of so many steps, falling, the first that of pure noise ("trailing" in diffusers).

    >>> sampling_times(4)
    [999, 749, 499, 249]
    """
    return [round(time) - 1 for time in np.arange(TIMES, 0, -TIMES / steps)]


def add_noise(picture: Tensor, noise: Tensor, alpha: Tensor) -> Tensor:
    """Return the noisy picture: float32 [n, c, y, x]; `alpha` [n] is the share of the picture in the variance."""
    alpha = alpha[:, None, None, None]
    return alpha.sqrt() * picture + (1 - alpha).sqrt() * noise


def target_of(prediction: str, picture: Tensor, noise: Tensor, alpha: Tensor) -> Tensor:
    """Return what the network shall predict: float32 [n, c, y, x]."""
    if prediction == "epsilon":
        return noise
    if prediction == "x0":
        return picture
    alpha = alpha[:, None, None, None]
    return alpha.sqrt() * noise - (1 - alpha).sqrt() * picture


def parted(
    noisy: Tensor, made: Tensor, prediction: str, signal: Tensor | float, noise: Tensor | float
) -> tuple[Tensor, Tensor]:
    """Part a noisy picture by what is predicted of it: the picture, and the noise, both of the same shape.

    `signal` and `noise` are the amplitudes of both in it.
    """
    if prediction == "epsilon":
        return (noisy - noise * made) / signal, made
    if prediction == "v":
        return signal * noisy - noise * made, signal * made + noise * noisy
    return made, (noisy - signal * made) / noise


def to_picture(image: npt.NDArray[np.uint8]) -> Tensor:
    """Turn RGB uint8 [n, y, x, 3] into values of -1 to 1, float32 [n, 3, y, x]."""
    return torch.from_numpy(image).permute(0, 3, 1, 2).float() / 127.5 - 1
