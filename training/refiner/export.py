"""How do a refiner and its style encoder leave PyTorch?

``OUT.onnx`` takes labels (which it does not look at), the initial picture and a style vector, and gives RGB; ``OUT-style.onnx``
beside it takes squares of a reference and gives their vectors. The card names both. Each is compared with PyTorch, and
two patches of the refiner are compared where they overlap.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from safron.io.errors import Failed
from safron.training.config.exported import check_export, write_export
from safron.training.graphs import open_graph, trace
from torch import Tensor, nn

from .settings import CONTEXT, RefinerConfig

TILE = 256
PARITY_LIMIT = 0.255
"""Largest accepted difference between ONNX Runtime and PyTorch, of 255."""

LABELS = [
    {"value": 0, "name": "tissue", "color": [255, 0, 0]},
    {"value": 1, "name": "nucleus", "color": [0, 0, 255]},
]

Inputs = dict[str, npt.NDArray[Any]]


class RefinerContract(nn.Module):
    """The generator contract around a refiner: uint8 pictures in, RGB 0..255 out."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, labels: Tensor, initial: Tensor, style: Tensor) -> Tensor:
        """[n, y, x], [n, 3, y, x] and [n, S] or [n, S, y, x] -> float32 [n, y - 40, x - 40, 3]."""
        # The contract has labels in every graph; times 0 they stay an input and change nothing.
        image = initial.float() / 127.5 - 1 + 0 * labels[:, None].float()
        refined: Tensor = self.network(image, style)
        return ((refined + 1) * 127.5).permute(0, 2, 3, 1)


class EncoderContract(nn.Module):
    """A style encoder that takes uint8."""

    def __init__(self, network: nn.Module, size: int, *, used: bool) -> None:
        super().__init__()
        self.network, self.size, self.used = network, size, used

    def forward(self, image: Tensor) -> Tensor:
        """[n, 3, y, x] -> [n, S]."""
        vector: Tensor = self.network(image.float() / 127.5 - 1)
        return vector if self.used else 0 * vector


def export_refiner(
    networks: dict[str, nn.Module],
    config: RefinerConfig,
    out: Path,
    *,
    style: Sequence[float],
    said: dict[str, Any],
    mpp: float = 0.25,
    field: bool = False,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write a refiner and its encoder, and return the card.

    Parameters
    ----------
    networks
        Of `make_networks`.
    config
        Settings.
    out
        Name of the refiner's file.
    style
        Vector that is used where no reference is given.
    said
        Fields of the card about name and provenance.
    mpp
        Micrometres per pixel of the tiles.
    field
        Whether the style is read in each pixel.
    overwrite
        Whether both files may be replaced.

    Returns
    -------
    dict[str, Any]
        The card.

    Raises
    ------
    BadInput
        The name does not end in .onnx, one of the files exists, or a card lies beside it.
    Failed
        The file and PyTorch differ.
    """
    encoder_file = out.with_name(f"{out.stem}-style.onnx")
    for path in (out, encoder_file):
        check_export(path, overwrite=overwrite)
    encoder, encoder_parity = _encoder_graph(networks["style"], config)
    refiner, parity = _refiner_graph(
        networks["refiner"], _window(config, TILE, style, field=field), field=field
    )
    parity = max(parity, encoder_parity)
    if not parity <= PARITY_LIMIT:
        raise Failed(f"the exported file and PyTorch differ by {parity:.3g} of 255; nothing was written")
    card = _card(config, encoder_file, style, mpp=mpp, field=field) | said
    card |= {
        "parity_max_abs": parity,
        "overlap_mismatch": _overlap_mismatch(refiner, config, style, field=field),
    }
    write_export(refiner, out, card=card, overwrite=overwrite, beside={encoder_file: encoder})
    return card


def _refiner_graph(network: nn.Module, window: Inputs, *, field: bool) -> tuple[onnx.ModelProto, float]:
    """Graph of a refiner for patches of any size, and by how much it differs from PyTorch."""
    wrapped = RefinerContract(network).eval()
    axes = {"labels": {0: "n", 1: "h", 2: "w"}, "initial": {0: "n", 2: "h", 3: "w"}, "style": {0: "n"}}
    if field:
        axes["style"] |= {2: "h", 3: "w"}
    graph = trace(wrapped, window, "image", axes | {"image": {0: "n", 1: "y", 2: "x"}})
    return graph, _parity(wrapped, graph, window)


def _encoder_graph(network: nn.Module, config: RefinerConfig) -> tuple[onnx.ModelProto, float]:
    """Graph of a style encoder for squares of any size, and by how much it differs from PyTorch."""
    wrapped = EncoderContract(network, config.style_size, used=config.use_style).eval()
    square = {"image": _picture(config.reference, 0)}
    graph = trace(wrapped, square, "style", {"image": {0: "n", 2: "h", 3: "w"}, "style": {0: "n"}})
    return graph, _parity(wrapped, graph, square)


def _card(
    config: RefinerConfig, encoder: Path, style: Sequence[float], *, mpp: float, field: bool
) -> dict[str, Any]:
    """Describe the inputs of a refiner."""
    return {
        "version": "1",
        "tile": {"multiple_of": 1, "default": TILE},
        "context": CONTEXT,
        "labels": LABELS,
        "initial": {},
        "style": {
            "numbers": [f"style {number}" for number in range(config.style_size)],
            "default": [float(value) for value in style],
            "encoder": {"file": encoder.name, "side": config.reference, "mpp": mpp},
            "field": field,
        },
        "mpp": mpp,
        "config_sha256": config.sha256(),
    }


def _picture(side: int, seed: int) -> npt.NDArray[np.uint8]:
    """A picture of grain, uint8 [1, 3, side, side]."""
    return np.random.default_rng(seed).integers(0, 256, (1, 3, side, side), dtype=np.uint8)


def _window(config: RefinerConfig, tile: int, style: Sequence[float], *, field: bool) -> Inputs:
    """Inputs of a patch."""
    side = tile + 2 * CONTEXT
    vector = np.array(style, np.float32)[None]
    if field:
        vector = np.ascontiguousarray(np.broadcast_to(vector[:, :, None, None], (1, len(style), side, side)))
    return {"labels": np.zeros((1, side, side), np.uint8), "initial": _picture(side, 1), "style": vector}


def _run(graph: onnx.ModelProto, inputs: Inputs) -> npt.NDArray[np.float32]:
    return np.asarray(open_graph(graph).run(None, inputs)[0][0])


def _parity(network: nn.Module, graph: onnx.ModelProto, inputs: Inputs) -> float:
    """Largest difference between file and PyTorch."""
    with torch.no_grad():
        expected = network(*map(torch.from_numpy, inputs.values()))[0].numpy()
    return float(np.abs(_run(graph, inputs) - expected).max())


def _overlap_mismatch(
    graph: onnx.ModelProto, config: RefinerConfig, style: Sequence[float], *, field: bool
) -> float:
    """Mean difference of two patches where they overlap by 20 pixels, over the picture's standard deviation."""
    tile, shared = 64, 20
    wide = _window(config, 2 * tile - shared, style, field=field)
    side, step = tile + 2 * CONTEXT, tile - shared
    spatial = {"labels", "initial"} | ({"style"} if field else set())
    parts = (
        {
            name: np.ascontiguousarray(array[..., :side, x : x + side]) if name in spatial else array
            for name, array in wide.items()
        }
        for x in (0, step)
    )
    left, right = (_run(graph, part) for part in parts)
    return float(np.abs(left[:, step:] - right[:, :shared]).mean() / left.std())
