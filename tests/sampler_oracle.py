"""What does it mean to sample a whole canvas? All steps in memory, a few lines of NumPy; every fast path must equal this.

Before each step all predictions are averaged as `oracle.render_whole` averages pictures, in whole numbers; then each pixel
takes the step in float32. Patches of the pass that k more follow begin at -offset(k) along each axis.
"""

from __future__ import annotations

from math import sqrt
from typing import Any

import numpy as np
import numpy.typing as npt
from safron.engine.generator.noise import normal_noise
from safron.engine.plan.fixed_point import prediction_bits
from safron.engine.plan.grid import PatchGrid
from safron.engine.plan.taper import Taper
from safron.engine.plan.window import Window

GOLDEN = 0x9E3779B97F4A7C15
Float32 = npt.NDArray[np.float32]


def sample_whole(
    mask: npt.NDArray[np.uint8],
    model: Any,
    *,
    tile: int,
    overlap: int,
    weights: npt.NDArray[np.int32],
    bits: int,
    seed: int = 0,
    state: str = "float32",
) -> npt.NDArray[np.uint8]:
    """Return the canvas uint8 [h, w, 3]."""
    sampler, count = model.card.sampler, len(model.card.sampler.times)
    low, high = (np.float32(end) for end in sampler.range)
    x = noise(mask.shape, seed, 1)
    for step, time in enumerate(sampler.times):
        alpha, after = (*sampler.alphas, sampler.last_alpha)[step : step + 2]
        places = max(1, (tile - overlap) // model.card.alignment)
        left = count - 1 - step
        offset = [
            (left * factor % 2**24 * places >> 24) * model.card.alignment for factor in (12664746, 9560334)
        ]
        p = mean_prediction(mask, x, model, time, alpha, offset, tile, overlap, weights, bits, seed)
        x = ddim(x, p, sampler, alpha, after, noise(mask.shape, seed, step + 2))
        if left:
            x = x.astype(state).astype(np.float32)
    levels = np.rint((x - low) * np.float32(255 / (high - low)))
    return np.clip(levels, 0, 255).astype(np.uint8).transpose(1, 2, 0)


def noise(shape: tuple[int, ...], seed: int, number: int) -> Float32:
    """Return the noise of one step, float32 [3, h, w]; number 1 is what sampling begins with."""
    window = Window(0, 0, *shape)
    return normal_noise(window, seed=(seed + number * GOLDEN) % 2**64, scales=(1, 1, 1))


def mean_prediction(
    mask: Any,
    x: Float32,
    model: Any,
    time: float,
    alpha: float,
    offset: list[int],
    tile: int,
    overlap: int,
    weights: Any,
    bits: int,
    seed: int,
) -> Float32:
    """Average the predictions of all patches: float32 [3, h, w]."""
    c, stride = model.card.context, tile - overlap
    far = tile + c + stride
    labels = np.pad(mask, far, mode="edge")
    padded = np.pad(x, ((0, 0), (far, far), (far, far)), mode="symmetric")
    sums, total = np.zeros((*labels.shape, 3), np.int64), np.zeros(labels.shape, np.int64)
    weight = np.multiply.outer(weights, weights).astype(np.int64)
    for y in range(-offset[0], mask.shape[0], stride):
        for left in range(-offset[1], mask.shape[1], stride):
            read = (slice(far + y - c, far + y + tile + c), slice(far + left - c, far + left + tile + c))
            write = (slice(far + y, far + y + tile), slice(far + left, far + left + tile))
            if not touches(y, offset[0], mask.shape[0], tile, stride) or not touches(
                left, offset[1], mask.shape[1], tile, stride
            ):
                continue
            patch = predict(
                labels[read], padded[:, read[0], read[1]], model, time, alpha, (y - c, left - c), seed
            )
            sums[write] += weight[:, :, None] * np.rint(patch.astype(np.float64) * 2**bits).astype(np.int64)
            total[write] += weight
    canvas = (slice(far, far + mask.shape[0]), slice(far, far + mask.shape[1]))
    mean = sums[canvas] / (total[canvas][:, :, None] * 2.0**bits)
    return mean.astype(np.float32).transpose(2, 0, 1)


def touches(start: int, offset: int, length: int, tile: int, stride: int) -> bool:
    """Whether the grid has this patch: the last one that an axis needs is the one that reaches its end."""
    if start + tile <= 0:
        return False
    index, count = (start + offset) // stride, -(-(length + offset - (tile - stride)) // stride)
    return index < max(1, count)


def predict(
    labels: Any, xt: Any, model: Any, time: float, alpha: float, origin: tuple[int, int], seed: int
) -> Float32:
    """Return the prediction of one patch, float32 [tile, tile, 3]; of background, that which leads to its colour."""
    card, sampler = model.card, model.card.sampler
    c = card.context
    if card.is_fill[labels].all():
        inside = (slice(c, len(labels) - c),) * 2
        low, high = (np.float32(end) for end in sampler.range)
        x0 = card.fill_colors[labels[inside]] * np.float32((high - low) / 255) + low
        if sampler.prediction == "x0":
            return x0
        a, b = np.float32(sqrt(alpha)), np.float32(sqrt(1 - alpha))
        eps = (xt[:, inside[0], inside[1]].transpose(1, 2, 0) - a * x0) / b
        return np.clip(
            eps if sampler.prediction == "epsilon" else a * eps - b * x0, np.float32(-63), np.float32(63)
        )
    noise = (
        normal_noise(Window(*origin, *labels.shape), seed=seed, scales=card.noise_scales)[None]
        if card.noise_scales
        else None
    )

    def call(known: Any) -> Any:
        return model(known[None], noise, xt=np.ascontiguousarray(xt[None]), t=np.array([time], np.float32))[0]

    made = call(labels)
    if sampler.guidance:
        without = call(np.where(card.is_fill[labels], labels, np.uint8(sampler.null_label)))
        made = np.clip(
            made + np.float32(sampler.guidance) * (made - without), np.float32(-63), np.float32(63)
        )
    return np.asarray(made)


def ddim(x: Float32, p: Float32, sampler: Any, alpha: float, after: float, z: Float32) -> Float32:
    """Take the step: Song et al. 2021, equation 12."""
    sigma = min(sampler.eta * sqrt((1 - after) / (1 - alpha) * (1 - alpha / after)), sqrt(1 - after))
    a, b = np.float32(sqrt(alpha)), np.float32(sqrt(1 - alpha))
    x0 = {"epsilon": lambda: (x - b * p) / a, "x0": lambda: p, "v": lambda: a * x - b * p}[
        sampler.prediction
    ]()
    eps = {"epsilon": lambda: p, "x0": lambda: (x - a * p) / b, "v": lambda: a * p + b * x}[
        sampler.prediction
    ]()
    if sampler.clip:
        x0 = np.clip(x0, np.float32(sampler.range[0]), np.float32(sampler.range[1]))
    made = np.float32(sqrt(after)) * x0 + np.float32(sqrt(max(0.0, 1 - after - sigma**2))) * eps
    return made + np.float32(sigma) * z if sigma else made


def expected(
    mask: Any, model: Any, *, taper: Any = "flat", overlap: int = 12, seed: int = 7, state: str = "float32"
) -> Any:
    """Return the canvas as these options of a render make it: uint8 [h, w, 3]."""
    tile = model.card.tile
    grid, weights = PatchGrid(*mask.shape, tile, overlap, 4), Taper(taper).weights(tile=tile, overlap=overlap)
    bits = prediction_bits(grid, Taper(taper))
    return sample_whole(
        mask, model, tile=tile, overlap=overlap, weights=weights, bits=bits, seed=seed, state=state
    )
