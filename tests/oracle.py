"""What does a render mean? The whole canvas in memory, a few lines of NumPy; every fast path must equal this.

Truth 1: patch origins are 0, s, 2s, ... until the axis is covered; a patch reads its write window grown by the
context; each pixel is sum(w * p) / sum(w), rounded half to even and clipped once. Patch values are taken on a
grid of 2**-bits grey levels, so the sums are exact whole numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from math import ceil, floor
from typing import Any

import numpy as np
import numpy.typing as npt
from safron.engine.generator.noise import normal_noise
from safron.engine.plan.window import Window


def render_whole(
    mask: npt.NDArray[np.uint8],
    model: Any,
    *,
    tile: int = 256,
    overlap: int = 20,
    weights: npt.NDArray[np.int32],
    bits: int,
    seed: int = 0,
    planes: Callable[[Window], dict[str, Any]] = lambda read: {},
) -> npt.NDArray[np.uint8]:
    """Return the canvas uint8 [h, w, 3]; `weights` [tile] are those of one axis of a patch.

    `planes` gives the further inputs [channels, h, w] of a read window, by name.
    """
    card, stride, far = model.card, tile - overlap, tile + model.card.context
    beyond: dict[str, Any] = {"mode": "edge"} if card.outside is None else {"constant_values": card.outside}
    labels = np.pad(mask, far, **beyond)
    sums = np.zeros((labels.shape[0], labels.shape[1], 3), np.int64)
    total = np.zeros(labels.shape, np.int64)
    for y in _origins(mask.shape[0], tile, stride):
        for x in _origins(mask.shape[1], tile, stride):
            read = Window(y, x, tile, tile).expand(card.context)
            window = labels[read.shift(far, far).slices()]
            patch = _patch(window, read, model, seed, planes(read))
            inside = Window(y, x, tile, tile).shift(far, far).clip(Window(0, 0, *labels.shape))
            weight = np.multiply.outer(weights, weights)[: inside.height, : inside.width]
            fixed = np.rint(patch.astype(np.float64) * 2**bits).astype(np.int64)
            sums[inside.slices()] += weight[:, :, None] * fixed[: inside.height, : inside.width]
            total[inside.slices()] += weight
    canvas = (slice(far, far + mask.shape[0]), slice(far, far + mask.shape[1]))
    return _divide(sums[canvas], total[canvas] << bits)


def at_true_size(
    mask: npt.NDArray[np.uint8], model: Any, *, scale: Fraction, **options: Any
) -> npt.NDArray[np.uint8]:
    """Render a mask whose pixels are `scale` times the generator's: uint8 [h, w, 3].

    A drawn pixel has the label under its centre. A slide pixel is the mean of the drawn ones, with weights that fall
    linearly with the distance of centres; in 2048ths, rounded down, the rest with the largest weight. Halves round up.
    """
    rows, columns = (ceil(length * scale) for length in mask.shape)
    under = [
        [min(length - 1, floor((i + Fraction(1, 2)) / scale)) for i in range(count)]
        for length, count in zip(mask.shape, (rows, columns), strict=True)
    ]
    drawn = render_whole(mask[np.ix_(*under)], model, **options).astype(np.int64)
    down, across = (_shares(length, scale) for length in mask.shape)
    sums = np.einsum("iy,yxc,jx->ijc", down, drawn, across, optimize=True)
    return ((sums + (1 << 21)) >> 22).astype(np.uint8)


def _shares(length: int, scale: Fraction) -> npt.NDArray[np.int64]:
    """Weights of all drawn pixels in each pixel of the slide, along one axis: int64 [length, drawn]."""
    # Lengths are counted in the part of a drawn pixel that makes them whole numbers; a drawn pixel has `unit` of it.
    unit, step = 2 * scale.denominator, 2 * scale.numerator
    reach, last = max(unit, step), ceil(length * scale) - 1
    shares = np.zeros((length, last + 1), np.int64)
    for i in range(length):
        centre = step // 2 + i * step
        near = range((centre - reach) // unit - 1, (centre + reach) // unit + 2)
        distance = {j: abs(unit // 2 + j * unit - centre) for j in near}
        total = sum(max(0, reach - d) for d in distance.values())
        parts = {j: 2048 * max(0, reach - d) // total for j, d in distance.items()}
        parts[min(distance, key=lambda j: (distance[j], j))] += 2048 - sum(parts.values())
        for j, part in parts.items():
            shares[i, min(last, max(0, j))] += part
    return shares


def _origins(length: int, tile: int, stride: int) -> list[int]:
    origins = [0]
    while origins[-1] + tile < length:
        origins.append(origins[-1] + stride)
    return origins


def _patch(
    window: npt.NDArray[np.uint8], read: Window, model: Any, seed: int, planes: dict[str, Any]
) -> npt.NDArray[Any]:
    card = model.card
    if card.is_fill[window].all():
        halo = card.context
        return np.asarray(card.fill_colors[window[halo : len(window) - halo, halo : len(window) - halo]])
    noise = normal_noise(read, seed=seed, scales=card.noise_scales)[None] if card.noise_scales else None
    return np.asarray(model(window[None], noise, **{name: plane[None] for name, plane in planes.items()})[0])


def _divide(sums: npt.NDArray[np.int64], divisor: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    """Whole-number division rounded half to even, so that no float can round it differently."""
    assert divisor.min() > 0, "uncovered pixel"
    quotient, rest = np.divmod(sums, divisor[:, :, None])
    twice = 2 * rest - divisor[:, :, None]
    quotient += (twice > 0) | ((twice == 0) & (quotient % 2 == 1))
    result: npt.NDArray[np.uint8] = np.clip(quotient, 0, 255).astype(np.uint8)
    assert result.flat[0] == min(255, max(0, round(Fraction(int(sums.flat[0]), int(divisor.flat[0])))))
    return result
