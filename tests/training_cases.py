"""Drawn data to train on, and how the training command is run."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

with contextlib.suppress(ImportError):
    import torch

    # Threads that wait for one another on such small arrays cost more than they give.
    torch.set_num_threads(1)

Bytes = npt.NDArray[np.uint8]

COLORS = np.array([[243, 240, 243], [190, 120, 160], [110, 60, 130]], np.uint8)
"""Of glass, stroma and gland: each label has one of its own, so that a window shows whether mask and image agree."""


def labels_of(height: int, width: int, seed: int = 0) -> Bytes:
    """Stroma with glands, and glass in one corner."""
    rng = np.random.default_rng(seed)
    labels = np.ones((height, width), np.uint8)
    for _ in range(6):
        y, x = int(rng.integers(height)), int(rng.integers(width))
        cv2.circle(labels, (x, y), 12, 2, -1)
    labels[: height // 4, : width // 4] = 0
    return labels


def image_of(labels: Bytes, grain: float = 0.0) -> Bytes:
    """Labels in `COLORS`, with noise of a standard deviation of `grain` grey levels."""
    if not grain:
        return COLORS[labels].astype(np.uint8)
    noise = np.random.default_rng(0).normal(0, grain, (*labels.shape, 3))
    return np.clip(COLORS[labels] + noise, 0, 255).astype(np.uint8)


def write(path: Path, array: Bytes) -> None:
    """Write an image or a mask."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), array[..., ::-1] if array.ndim == 3 else array)


def pair(
    folder: Path, name: str, seed: int = 0, size: tuple[int, int] = (90, 100), grain: float = 0.0
) -> None:
    """Write ``NAME.png`` and ``NAME.mask.png``."""
    labels = labels_of(*size, seed)
    write(folder / f"{name}.png", image_of(labels, grain))
    write(folder / f"{name}.mask.png", labels)


def one_line(problem: pytest.ExceptionInfo[Exception]) -> str:
    """Return the message, which is one line."""
    message = str(problem.value)
    assert "\n" not in message
    return message


def count_macs(network: Any, *inputs: Any) -> int:
    """Count the multiply-adds of all convolutions in one call of `network`."""
    import torch
    from torch import nn

    total = 0

    def add(module: Any, _: object, output: Any) -> None:
        nonlocal total
        assert isinstance(module, (nn.Conv2d, nn.ConvTranspose2d))
        taps = module.weight[0].numel() if isinstance(module, nn.Conv2d) else module.weight[:, 0].numel()
        pixels = output.shape[-2] * output.shape[-1]
        # A transposed convolution of stride 2 reaches each output pixel with a quarter of its taps.
        stride = module.stride[0] ** 2 if isinstance(module, nn.ConvTranspose2d) else 1
        total += output.shape[0] * output.shape[1] * pixels * taps // stride

    kinds = (nn.Conv2d, nn.ConvTranspose2d)
    hooks = [m.register_forward_hook(add) for m in network.modules() if isinstance(m, kinds)]
    with torch.no_grad():
        network(*inputs)
    for hook in hooks:
        hook.remove()
    return total


def tile(folder: Path, name: str, seed: int = 0, side: int = 240, *, ink: bool = False) -> None:
    """Nuclei of all classes on pink, with glass in one corner."""
    rng = np.random.default_rng(seed)
    image = np.full((side, side, 3), (220, 160, 200), np.uint8)
    image[:70, :70] = (245, 244, 246)
    numbers, classes = np.zeros((side, side), np.uint16), np.zeros((side, side), np.uint8)
    for number in range(1, 40):
        y, x, kind = int(rng.integers(80, side)), int(rng.integers(side)), number % 4 + 1
        disk = np.zeros((side, side), np.uint8)
        cv2.circle(disk, (x, y), 9, 1, -1)
        numbers[disk > 0], classes[disk > 0] = number * 3, kind
    image[numbers > 0] = (90 + 10 * seed, 60, 150)
    if ink:
        image[100:160, 100:160] = (20, 20, 20)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(
        str(folder / "images" / f"{name}.webp"), image[..., ::-1], [cv2.IMWRITE_WEBP_QUALITY, 101]
    )
    write(folder / "inst" / f"{name}.png", numbers)
    write(folder / "class" / f"{name}.png", classes)
