"""How does a network learn the variance of a step, beside what it predicts?

After Nichol and Dhariwal (Improved denoising diffusion probabilistic models, 2021). A step backwards from x_t draws from a normal
distribution. Its mean follows from the prediction. Its variance lies between two known ones, beta and beta-tilde, and the network says
for each pixel and channel where: v of -1 to 1, in the logarithm. It learns v from the bound on the likelihood, L_vlb::

    t > 0   KL( q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t) )
    t = 0   -log p(x_0 | x_1), of the 1 / 127.5 wide bin that each grey level is

The mean is taken as it is in the bound: its gradient is that of L_simple alone.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import torch
from torch import Tensor

from .process import linear_alphas, parted

HALF_BIN = 1 / 255
"""Half of the distance of two grey levels, in a picture of -1 to 1."""

LEAST = 1e-12
"""Probability below which a grey level's is not told apart, as in the code of the paper."""


@cache
def _tables() -> Tensor:
    """Give for each time the factors of x_0 and x_t in the mean of q(x_{t-1} | x_t, x_0), log beta-tilde and log beta: float64 [4, 1000]."""
    alphas = linear_alphas()
    before = np.append(1.0, alphas[:-1])
    betas = 1 - alphas / before
    least = betas * (1 - before) / (1 - alphas)
    least[0] = least[1]  # of time 0 it is 0: there is nothing left to draw
    of_picture = betas * np.sqrt(before) / (1 - alphas)
    of_noisy = np.sqrt(1 - betas) * (1 - before) / (1 - alphas)
    return torch.from_numpy(np.stack([of_picture, of_noisy, np.log(least), np.log(betas)]))


def log_variance(v: Tensor, times: Tensor) -> Tensor:
    """Return the logarithm of the variance that v [n, c, y, x] means: log beta-tilde at -1, log beta at 1; `times` whole numbers [n]."""
    low, high = _of(times)[2:]
    share = (v + 1) / 2
    logarithm: Tensor = share * high + (1 - share) * low
    return logarithm


def variance_bound(
    v: Tensor, made: Tensor, noisy: Tensor, picture: Tensor, times: Tensor, *, prediction: str
) -> Tensor:
    """Return the term of L_vlb at these times, in bits per value; L_vlb is the sum over all times.

    Parameters
    ----------
    v
        What the network says of the variance, float32 [n, c, y, x].
    made
        What it predicts, float32 [n, c, y, x]; no gradient goes back through it.
    noisy, picture
        x_t and x_0, float32 [n, c, y, x]; x_0 lies in -1 to 1.
    times
        Whole numbers 0 to 999, [n].
    prediction
        What is predicted, see `DiffusionConfig`.

    Returns
    -------
    Tensor
        float32 [n].
    """
    of_picture, of_noisy, least, _ = _of(times)
    alpha = torch.from_numpy(linear_alphas()).float()[times][:, None, None, None]
    seen, _ = parted(noisy, made.detach(), prediction, alpha.sqrt(), (1 - alpha).sqrt())
    mean, log_var = of_picture * seen + of_noisy * noisy, log_variance(v, times)
    truth = of_picture * picture + of_noisy * noisy
    divergence = 0.5 * (
        log_var - least - 1 + torch.exp(least - log_var) + (truth - mean).square() * torch.exp(-log_var)
    )
    term = torch.where(times[:, None, None, None] > 0, divergence, _of_levels(picture, mean, log_var))
    return term.mean(dim=(1, 2, 3)) / math.log(2)


def _of_levels(picture: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    """Return -log of the probability of each grey level; the darkest and the brightest reach to infinity."""
    off, rate = picture - mean, torch.exp(-0.5 * log_var)
    upper = torch.special.ndtr(rate * (off + HALF_BIN))
    lower = torch.special.ndtr(rate * (off - HALF_BIN))
    upper = torch.where(picture > 1 - HALF_BIN, torch.ones_like(upper), upper)
    lower = torch.where(picture < HALF_BIN - 1, torch.zeros_like(lower), lower)
    return -torch.log((upper - lower).clamp(min=LEAST))


def _of(times: Tensor) -> Tensor:
    """Give the tables at these times: float32 [4, n, 1, 1, 1]."""
    return _tables()[:, times].float()[..., None, None, None]
