"""What does the network make of noise, one crop by itself? For sample sheets, and to hold exported files against."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from .network import CHANNELS, condition_of
from .process import linear_alphas, parted, sampling_times
from .settings import DiffusionConfig


@torch.no_grad()
def sample(
    network: nn.Module,
    labels: npt.NDArray[np.uint8],
    config: DiffusionConfig,
    *,
    steps: int,
    guidance: float,
    seed: int,
    edges: npt.NDArray[np.uint8] | None = None,
) -> npt.NDArray[np.uint8]:
    """Sample pictures by DDIM.

    Parameters
    ----------
    network
        See `SemanticUNet`.
    labels
        uint8 [n, y, x].
    config
        Of the network.
    steps
        Of sampling.
    guidance
        Strength of classifier-free guidance; 0 for none.
    seed
        Of the noise.
    edges
        uint8 [n, 1, y, x], where the network takes them.

    Returns
    -------
    npt.NDArray[np.uint8]
        RGB uint8 [n, y, x, 3].
    """
    drawn = None if edges is None else torch.from_numpy(edges)
    known = condition_of(torch.from_numpy(labels), drawn, len(config.labels))

    def predict(x: Tensor, t: Tensor) -> Tensor:
        made: Tensor = network(x, t, known)
        if guidance:
            made = made + guidance * (made - network(x, t, torch.zeros_like(known)))
        return made[:, :CHANNELS]

    return sample_pictures(predict, labels.shape, prediction=config.prediction, steps=steps, seed=seed)


@torch.no_grad()
def sample_pictures(
    predict: Callable[[Tensor, Tensor], Tensor],
    shape: tuple[int, ...],
    *,
    prediction: str,
    steps: int,
    seed: int,
) -> npt.NDArray[np.uint8]:
    """Sample pictures by DDIM.

    Parameters
    ----------
    predict
        Takes noisy pictures float32 [n, 3, y, x] and times [n].
    shape
        Number, height and width of the pictures.
    prediction
        What is predicted, see `DiffusionConfig`.
    steps
        Of sampling.
    seed
        Of the noise.

    Returns
    -------
    npt.NDArray[np.uint8]
        RGB uint8 [n, y, x, 3].
    """
    count, height, width = shape
    rng = np.random.default_rng(seed)
    x = torch.from_numpy(rng.standard_normal((count, 3, height, width), np.float32))
    alphas, times = linear_alphas(), sampling_times(steps)
    for number, now in enumerate(times):
        after = alphas[times[number + 1]] if number + 1 < steps else 1.0
        made = predict(x, torch.full((count,), float(now)))
        x = ddim(x, made, prediction, float(alphas[now]), float(after))
    levels = ((x + 1) * 127.5).round().clamp(0, 255).byte()
    return np.asarray(levels.permute(0, 2, 3, 1).numpy())


def ddim(x: Tensor, made: Tensor, prediction: str, alpha: float, after: float) -> Tensor:
    """Take a step without fresh noise, the picture clipped to -1 to 1."""
    picture, eps = parted(x, made, prediction, alpha**0.5, (1 - alpha) ** 0.5)
    stepped: Tensor = after**0.5 * picture.clamp(-1, 1) + (1 - after) ** 0.5 * eps
    return stepped
