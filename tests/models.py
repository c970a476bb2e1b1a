"""Generators whose output is known, for tests."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from safron.engine.generator.card import Card, Edges, Label

LABELS = (
    Label(0, "background", (0, 0, 255), fill=(243, 240, 244)),
    Label(1, "stroma", (255, 0, 0)),
    Label(2, "gland", (0, 255, 0)),
)


class RampModel:
    """Paints where in the patch a pixel lies, plus a little of label and noise: blend weights show in its output.

    Values are fractional, some beyond 0..255, so that rounding and clipping show as well.
    """

    device = "cpu"
    returns_uint8 = False

    def __init__(
        self, *, tile: int = 64, context: int = 4, outside: int | None = None, noise: bool = True
    ) -> None:
        scales = (1, 8) if noise else ()
        self.card = Card(
            "ramp", tile, context, LABELS, tile_multiple=1, outside=outside, noise_scales=scales, mpp=1.0
        )
        self.sha256 = hashlib.sha256(b"ramp").hexdigest()
        self.calls = 0

    def __call__(
        self, labels: npt.NDArray[np.uint8], noise: npt.NDArray[np.float32] | None = None
    ) -> npt.NDArray[Any]:
        self.calls += len(labels)
        c = self.card.context
        inner = labels[:, c : labels.shape[1] - c, c : labels.shape[2] - c]
        n, height, width = inner.shape
        y, x = np.mgrid[:height, :width].astype(np.float32)
        image = np.empty((n, height, width, 3), np.float32)
        image[..., 0] = -9 + 270 * y / height
        image[..., 1] = 270 * x / width + inner / np.float32(7)
        # Reads the context too: the mean of a pixel's four neighbours at the context's distance.
        far = [labels[:, :height, c : c + width], labels[:, 2 * c : 2 * c + height, c : c + width]]
        image[..., 2] = 40 * (far[0] + far[1].astype(np.float32)) + 20
        if noise is not None:
            image[..., 2] += (
                9 * noise[:, 0, c : c + height, c : c + width]
                + 5 * noise[:, 1, c : c + height, c : c + width]
            )
        return image


class EdgeModel(RampModel):
    """The ramp, with 40 more in green on the borders of regions."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.card = replace(self.card, edges=Edges())

    def __call__(self, labels: Any, noise: Any = None, **planes: Any) -> Any:
        image = super().__call__(labels, noise)
        c, (edges,) = self.card.context, planes.values()
        assert edges.shape == (len(labels), 1, *labels.shape[1:])
        assert edges.dtype == np.uint8
        image[..., 1] += 40 * edges[:, 0, c:-c, c:-c]
        return image


class StainModel(RampModel):
    """Stain-like colours by label with grain in brightness, as JPEG meets them in tissue."""

    colors = np.array([[243, 240, 244], [222, 160, 200], [130, 80, 150]], np.float32)

    def __call__(
        self, labels: npt.NDArray[np.uint8], noise: npt.NDArray[np.float32] | None = None
    ) -> npt.NDArray[Any]:
        assert noise is not None
        c = self.card.context
        inner = (slice(None), slice(c, labels.shape[1] - c), slice(c, labels.shape[2] - c))
        grain = 2 * noise[:, 0][inner] + 8 * noise[:, 1][inner]
        return np.asarray((self.colors[labels[inner]] + grain[..., None]).clip(0, 255))
