"""How does a window of labels become a patch of tissue?

The engine calls a `PatchModel`, and plans with its `GeneratorInfo`. `OnnxModel` runs a file under the generator
contract through ONNX Runtime. `IdentityModel` paints each label in its colour at almost no cost, so that the engine
can be looked at and measured without a generator.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
import numpy.typing as npt
from safron.engine.system.gpus import kind_of

from .card import RGB, Card, Label
from .devices import check_device
from .label_colors import paint_labels
from .onnx_model import OnnxModel
from .shipped import MODELS


@runtime_checkable
class PatchModel(Protocol):
    """A patch generator.

    It may have more attributes: those of `GeneratorInfo` that have a default there.

    Attributes
    ----------
    card
        What it needs and promises.
    sha256
        Hex digest that changes whenever its pixels may change.
    device
        Where it runs, for the report.
    """

    card: Card
    sha256: str
    device: str

    def __call__(
        self,
        labels: npt.NDArray[np.uint8],
        noise: npt.NDArray[np.float32] | None,
        **planes: npt.NDArray[Any],
    ) -> npt.NDArray[Any]:
        """Generate a batch.

        Parameters
        ----------
        labels
            uint8 [N, T + 2c, T + 2c].
        noise
            float32 [N, K, T + 2c, T + 2c], or None where K is 0.
        **planes
            The further inputs that its card names, by name; see `safron.engine.generator.planes`.

        Returns
        -------
        npt.NDArray[Any]
            RGB [N, T, T, 3], 0..255; uint8 if it says `returns_uint8`, else float16 or float32.
        """
        ...


@dataclass(frozen=True)
class GeneratorInfo:
    """What the engine knows of a generator; processes that never call it have this alone.

    Attributes
    ----------
    card, sha256, device
        See `PatchModel`.
    returns_uint8
        Whether it returns uint8; floats are put on a fixed-point grid before blending.
    batch_invariant
        Whether a patch has the same bits in any batch, so that a batch may have any size.
    per_call
        Patches that it takes in one call; None takes any number.
    calls
        Calls that threads of the engine make at a time on a CPU; None makes one for each task.
    runtime, precision
        What computes, with its version; in which precision.
    colors
        uint8 [256, 3], of a generator that gives each label its colour and does nothing else; None of all
        others.
    same_halves
        Whether the warm-up saw the same bits in half a batch.
    same_places
        Whether it saw them at any place of a batch, beside any other patches.
    joined
        Patches side by side that one call generates as one wide window, with the bits that they have alone; 1 for none.
    shared
        Whether what a patch shares with patches before it can be taken from them, and left out when the rest is generated.
    """

    card: Card
    sha256: str
    device: str
    returns_uint8: bool = False
    batch_invariant: bool = False
    per_call: int | None = None
    calls: int | None = None
    runtime: str = ""
    precision: str = "float32"
    colors: npt.NDArray[np.uint8] | None = field(default=None, compare=False)
    same_halves: bool = False
    same_places: bool = False
    joined: int = 1
    shared: bool = False

    @classmethod
    def of(cls, model: PatchModel) -> Self:
        """Read what a generator says of itself; `integral` and `apart` are older names."""
        said = partial(getattr, model)
        return cls(
            card=model.card,
            sha256=model.sha256,
            device=model.device,
            returns_uint8=bool(said("returns_uint8", said("integral", False))),
            batch_invariant=bool(said("batch_invariant", said("apart", False))),
            per_call=said("per_call", None),
            calls=said("calls", None),
            runtime=said("runtime", ""),
            precision=said("precision", "float32"),
            # A class that derives from it, or a test, may do something else when it is called.
            colors=getattr(model, "colors", None) if type(model).__call__ is _PAINT else None,
        )

    @property
    def on_gpu(self) -> bool:
        """Whether it runs on a device that is not the CPU."""
        return kind_of(self.device) != "cpu"


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
    palette
        RGB by label; by default all 256 values have one.
    tile, context
        The window sizes to ask for.
    """

    returns_uint8 = True
    batch_invariant = True
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
        self.colors = np.zeros((256, 3), np.uint8)
        for value, color in palette.items():
            self.colors[value] = color
        self.sha256 = hashlib.sha256(self.colors.tobytes()).hexdigest()

    def __call__(
        self,
        labels: npt.NDArray[np.uint8],
        noise: npt.NDArray[np.float32] | None = None,
        **planes: npt.NDArray[Any],
    ) -> npt.NDArray[np.uint8]:
        """Return the colours of the labels inside the context: uint8 [N, T, T, 3]."""
        context = self.card.context
        inner = labels[:, context : labels.shape[1] - context, context : labels.shape[2] - context]
        return paint_labels(inner, self.colors)


_PAINT = IdentityModel.__call__


def load_model(
    model: str | Path | PatchModel,
    *,
    device: str = "auto",
    threads: int = 0,
    precision: str = "float32",
    runtime: str = "auto",
) -> PatchModel:
    """Return the generator for a shipped name or an ONNX file; pass any other `PatchModel` through."""
    if not isinstance(model, str | Path):
        return model
    check_device(device)
    if str(model) == "identity":
        return IdentityModel()
    shipped = MODELS / f"{model}.onnx"
    path = shipped if shipped.is_file() else model
    return OnnxModel(path, device=device, threads=threads, precision=precision, runtime=runtime)
