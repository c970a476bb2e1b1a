"""How does a window of labels become a patch of tissue?

`PatchModel` is all that the engine knows of a generator. `OnnxModel` runs a file under the generator
contract through ONNX Runtime; `IdentityModel` paints each label in its colour and costs nothing, so
that the engine can be looked at and measured without a generator.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from .card import RGB, Card, Label
from .devices import check_device
from .label_colors import paint_labels
from .onnx_model import OnnxModel
from .shipped import MODELS


@runtime_checkable
class PatchModel(Protocol):
    """A patch generator.

    Attributes
    ----------
    card : what it needs and promises.
    sha256 : hex digest that changes whenever its pixels may change.
    device : where it runs, for the report.
    integral : whether it returns uint8; floats are put on a fixed-point grid before blending.
    apart : whether each patch is computed by itself, so that a batch may have any size; taken as False where missing.
    """

    card: Card
    sha256: str
    device: str
    integral: bool

    def __call__(
        self, labels: npt.NDArray[np.uint8], noise: npt.NDArray[np.float32] | None
    ) -> npt.NDArray[Any]:
        """Generate a batch.

        Parameters
        ----------
        labels : uint8 [N, T + 2c, T + 2c].
        noise : float32 [N, K, T + 2c, T + 2c], or None where K is 0.

        Returns
        -------
        RGB [N, T, T, 3], 0..255; uint8 if `integral`, else float16 or float32.
        """
        ...


def runs_apart(model: PatchModel) -> bool:
    """Whether each patch is computed by itself, so that a batch may have any size."""
    return bool(getattr(model, "apart", False))


def _identity_palette() -> dict[int, RGB]:
    """Colours of labels 0..255: the paper's three first, then well-spread ones."""
    spread = {
        value: ((value * 97) % 256, (value * 57 + 85) % 256, (value * 151 + 170) % 256)
        for value in range(256)
    }
    return spread | {0: (0, 0, 255), 1: (255, 0, 0), 2: (0, 255, 0)}


class IdentityModel:
    """Paint each label in its colour; any tile, no context.

    Parameters
    ----------
    palette : RGB by label; by default all 256 values have one.
    tile, context : the window sizes to ask for.
    """

    integral = True
    apart = True
    device = "cpu"

    def __init__(
        self,
        palette: dict[int, RGB] | None = None,
        *,
        tile: int = 256,
        context: int = 20,
        outside: int | None = None,
    ) -> None:
        palette = _identity_palette() if palette is None else palette
        labels = tuple(Label(value, f"label {value}", color) for value, color in sorted(palette.items()))
        self.card = Card("identity", tile, context, labels, tile_multiple=1, outside=outside)
        self._colors = np.zeros((256, 3), np.uint8)
        for value, color in palette.items():
            self._colors[value] = color
        self.sha256 = hashlib.sha256(self._colors.tobytes()).hexdigest()

    def __call__(
        self, labels: npt.NDArray[np.uint8], noise: npt.NDArray[np.float32] | None = None
    ) -> npt.NDArray[np.uint8]:
        """Return the colours of the labels inside the context: uint8 [N, T, T, 3]."""
        halo = self.card.context
        inner = labels[:, halo : labels.shape[1] - halo, halo : labels.shape[2] - halo]
        return paint_labels(inner, self._colors)


def load_model(
    model: str | Path | PatchModel, *, device: str = "auto", threads: int = 0, precision: str = "float32"
) -> PatchModel:
    """Return the generator for a shipped name or an ONNX file; pass any other `PatchModel` through."""
    if not isinstance(model, str | Path):
        return model
    check_device(device)
    if str(model) == "identity":
        return IdentityModel()
    shipped = MODELS / f"{model}.onnx"
    return OnnxModel(
        shipped if shipped.is_file() else model, device=device, threads=threads, precision=precision
    )
