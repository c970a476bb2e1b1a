"""Samplers whose predictions are known, for tests."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from models import LABELS
from safron.engine.generator.card import Card
from safron.engine.generator.sampler import Sampler


def schedule(steps: int, **changes: Any) -> Sampler:
    """Give so many steps, from much noise to little."""
    alphas = tuple(float(alpha) for alpha in np.linspace(0.05, 0.95, steps))
    times = tuple(float(time) for time in np.linspace(900, 0, steps))
    given: dict[str, Any] = {"kind": "ddim", "prediction": "epsilon", "times": times, "alphas": alphas}
    return Sampler(**(given | changes))


class MixModel:
    """Predicts from a pixel's neighbours as far as its context, its label, the time and where in the patch it lies.

    So every overlap disagrees, and what a pixel becomes spreads with every step.
    """

    device = "cpu"
    returns_uint8 = False
    batch_invariant = True

    def __init__(
        self, steps: int = 3, *, tile: int = 64, context: int = 4, noise: bool = False, **changes: Any
    ) -> None:
        self.card = Card(
            "mix",
            tile,
            context,
            LABELS,
            tile_multiple=1,
            alignment=4,
            noise_scales=(1,) if noise else (),
            mpp=1.0,
            sampler=schedule(steps, **changes),
        )
        self.sha256 = hashlib.sha256(f"mix {steps} {changes}".encode()).hexdigest()
        self.calls = 1
        self.made = 0

    def __call__(
        self,
        labels: npt.NDArray[np.uint8],
        noise: npt.NDArray[np.float32] | None = None,
        *,
        xt: npt.NDArray[np.float32],
        t: npt.NDArray[np.float32],
    ) -> npt.NDArray[np.float32]:
        self.made += len(labels)
        c = self.card.context
        height, width = labels.shape[1] - 2 * c, labels.shape[2] - 2 * c
        assert xt.dtype == t.dtype == np.float32
        assert t.shape == labels.shape[:1]

        def at(y: int, x: int) -> Any:
            return xt[:, :, c + y : c + y + height, c + x : c + x + width]

        near = (
            np.float32(0.5) * at(0, 0) + np.float32(0.2) * (at(-c, 0) - at(c, 0)) + np.float32(0.1) * at(0, c)
        )
        near += np.float32(0.1) * at(0, -c)
        of_label = labels[:, None, c : c + height, c : c + width] * np.float32(0.3)
        ramp = np.arange(width, dtype=np.float32) * np.float32(0.5 / width)
        made = near + of_label + ramp + (t * np.float32(1e-3))[:, None, None, None]
        if noise is not None:
            made += np.float32(0.1) * noise[:, :1, c : c + height, c : c + width]
        return np.ascontiguousarray(made.transpose(0, 2, 3, 1))


class Killed(MixModel):
    """Ends its process before a patch, counted over all runs in a file.

    Parameters
    ----------
    counts : a byte for each patch.
    at : the patch, counted over all runs; None for none.
    like : does the same, and lives.
    """

    def __init__(self, counts: Path, at: int | None = None, *, like: MixModel) -> None:
        super().__init__()
        self.card, self.sha256 = like.card, like.sha256
        self._counts, self._at = counts, at

    def __call__(self, labels: Any, noise: Any = None, **planes: Any) -> Any:
        with self._counts.open("ab") as file:
            file.write(bytes(len(labels)))
        if self._at is not None and self._counts.stat().st_size > self._at:
            os._exit(9)
        return super().__call__(labels, noise, **planes)
