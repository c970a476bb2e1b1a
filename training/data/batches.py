"""What does one training step get?

A batch is a pure function of the source, the seed and the step's number: a resumed run gets what an uninterrupted one
would have got.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from safron.training.config import TrainConfig
from safron.training.data.source import Bytes, Floats, Source

AHEAD = 8
"""Batches that are prepared while a GPU works."""


@dataclass(frozen=True)
class Batch:
    """The input of one step.

    `labels` uint8 [n, y, x], `noise` float32 [n, k, y, x] and `guides` float32 [n, g, y, x] cover the training tile and its
    context; `images` float32 [n, 3, y, x] in [-1, 1] covers the tile. `style` is float32 [n, s]. `edges` uint8 [n, y, x], if the
    generator takes them, as `labels`; so `initial` uint8 [n, 3, y, x], a coarse image to refine.
    """

    labels: Bytes
    noise: Floats
    images: Floats
    guides: Floats
    style: Floats
    edges: Bytes | None = None
    initial: Bytes | None = None


def draw_batch(source: Source, config: TrainConfig, step: int, part: slice = slice(None)) -> Batch:
    """Draw the batch of one step: random items, windows and symmetries, and noise with the measured cues in it.

    Parameters
    ----------
    part
        The share of the batch that one of several processes wants. Random numbers are drawn for the whole batch, so that
        it is the same for any number of processes, but only this part is read.
    """
    rng = np.random.default_rng([config.seed, step])
    context = config.model.context
    side = config.tile_side + 2 * context
    wanted = range(config.batch)[part]
    labels, noises, images, guides, styles, edges, coarse = [], [], [], [], [], [], []
    for number, index in enumerate(rng.integers(len(source), size=config.batch)):
        place = source.place(rng, int(index), side)
        turns, mirror = int(rng.integers(4)), bool(rng.integers(2))
        noise = draw_noise(rng, side, side, config.model.noise_scales)
        if number not in wanted:
            continue
        sample = source.read(int(index), place, side)
        if len(noise) >= (cued := len(sample.cues)):
            # The last channels are the cues where their class is near and smooth noise elsewhere; the variance stays 1.
            cue, trust = _turn(sample.cues, turns, mirror), _turn(sample.trust, turns, mirror)
            noise[-cued:] = trust * cue + np.sqrt(1 - trust**2) * noise[-cued:]
        tile = sample.image[context : side - context, context : side - context]
        labels.append(_turn(sample.labels, turns, mirror))
        images.append(_turn(np.moveaxis(tile, -1, 0).astype(np.float32) / 127.5 - 1.0, turns, mirror))
        noises.append(noise)
        guides.append(_turn(sample.guides, turns, mirror))
        styles.append(sample.style)
        if sample.edges is not None:
            edges.append(_turn(sample.edges, turns, mirror))
        if (initial := sample.coarse(config.model.coarse)) is not None:
            coarse.append(_turn(initial, turns, mirror))
    needed = (np.stack(part) for part in (labels, noises, images, guides, styles))
    return Batch(*needed, *(np.stack(part) if part else None for part in (edges, coarse)))


def draw_batches(
    source: Source, config: TrainConfig, steps: range, part: slice, *, ahead: bool
) -> Iterator[Batch]:
    """Draw the batches of `steps`; with `ahead`, threads draw the next ones while a GPU works."""
    if not ahead:
        for step in steps:
            yield draw_batch(source, config, step, part)
        return
    with ThreadPoolExecutor(AHEAD // 2) as pool:
        waiting: list[Future[Batch]] = []
        try:
            for step in steps:
                further = range(step + len(waiting), min(step + AHEAD, steps.stop))
                waiting += [pool.submit(draw_batch, source, config, number, part) for number in further]
                yield waiting.pop(0).result()
        finally:
            for future in waiting:
                future.cancel()


def _turn(array: npt.NDArray[Any], turns: int, mirror: bool) -> npt.NDArray[Any]:
    """Turn [..., y, x] by quarter turns, then mirror it."""
    turned = np.rot90(array, turns, axes=(-2, -1))
    return np.ascontiguousarray(turned[..., ::-1] if mirror else turned)


def draw_noise(rng: np.random.Generator, height: int, width: int, scales: tuple[int, ...]) -> Floats:
    """Draw the noise of one window, float32 [k, height, width], one channel for each scale."""
    channels = [smooth_field(rng, height, width, scale) for scale in scales]
    return np.stack(channels) if channels else np.zeros((0, height, width), np.float32)


def smooth_field(rng: np.random.Generator, height: int, width: int, scale: int) -> Floats:
    """Draw noise of one scale: float32 [height, width], standard normal at each pixel.

    Scale 1 is independent at each pixel. A larger scale is a lattice of normals `scale` pixels apart, interpolated by the
    uniform cubic B-spline and divided by the root of the sum of squared weights.
    """
    if scale == 1:
        return rng.standard_normal((height, width), np.float32)
    rows = _spline_weights(height, scale, int(rng.integers(scale)))
    columns = _spline_weights(width, scale, int(rng.integers(scale)))
    lattice = rng.standard_normal((rows.shape[1], columns.shape[1]), np.float32)
    return np.asarray(rows @ lattice @ columns.T, np.float32)


def _spline_weights(length: int, scale: int, phase: int) -> Floats:
    """Return [length, nodes]: each row holds a pixel's four B-spline weights, whose squares sum to 1."""
    position = (np.arange(length) + phase) / scale
    node = np.floor(position).astype(int)
    t = position - node
    basis = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], axis=1)
    basis /= np.sqrt((basis**2).sum(axis=1, keepdims=True))
    weights = np.zeros((length, int(node[-1]) + 4), np.float32)
    for k in range(4):
        weights[np.arange(length), node + k] = basis[:, k]
    return weights
