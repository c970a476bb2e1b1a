"""How does a mask model become a sampler that safron-mask nuclei runs, and how is it known to be the same?

The graph takes labels of regions, the types as a style, the running picture and the time. The card has the schedule, a named style
for every choice of types, and the codes by which a picture is read. The file is run and held against PyTorch, and two patches are
compared where they overlap.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from safron.io.errors import BadInput, Failed
from safron.io.masks.nucleus_code import circle
from safron.training.config.exported import check_export, write_export
from safron.training.diffusion.graph import (
    PARITY_LIMIT,
    Patch,
    draw_labels,
    in_runtime,
    in_torch,
    make_card,
    overlap_mismatch,
    trace_sampler,
)
from safron.training.diffusion.network import one_hot_of
from safron.training.diffusion.running import read_trained
from torch import Tensor, nn

from .network import LayoutUNet
from .settings import LayoutConfig
from .train import KIND, make_network

TILE = 512
MULTIPLE = 8
SIDE, SHARED = 128, 24
"""Of the patches that are compared, and what two of them share, in pixels."""


class Contract(nn.Module):
    """What the graph does: labels to one-hot, prediction without context, channels last."""

    def __init__(self, network: LayoutUNet, config: LayoutConfig) -> None:
        super().__init__()
        self.network, self.context, self.count = network, config.context, len(config.labels)

    def forward(self, labels: Tensor, style: Tensor, xt: Tensor, t: Tensor) -> Tensor:
        """Uint8 [n, y, x], float32 [n, types], float32 [n, 3, y, x], float32 [n] -> float32 [n, T, T, 3]."""
        c = self.context
        made = self.network(xt, t, style, one_hot_of(labels, self.count))
        inner: Tensor = made[:, :, c : xt.shape[2] - c, c : xt.shape[3] - c]
        return inner.clamp(-60.0, 60.0).permute(0, 2, 3, 1)


def export_run(
    checkpoint: Path,
    out: Path,
    *,
    steps: int = 20,
    tile: int = TILE,
    overwrite: bool = False,
    **named: str | None,
) -> dict[str, Any]:
    """Write the moving average of a checkpoint to `out` as a sampler, named as `read_trained` takes, and return its card; see `export_network`."""
    check_export(out, overwrite=overwrite)
    network, config, said = read_trained(checkpoint, KIND, make_network, **named)
    return export_network(network, config, out, steps=steps, tile=tile, said=said, overwrite=overwrite)


def export_network(
    network: LayoutUNet,
    config: LayoutConfig,
    out: Path,
    *,
    said: dict[str, Any],
    steps: int = 20,
    tile: int = TILE,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write a network to `out` as a sampler, compare it with PyTorch, and return its card.

    Parameters
    ----------
    network
        With its final weights.
    config
        Of the network.
    out
        The ONNX file.
    said
        Fields of the card about provenance.
    steps
        Of sampling, for the card; fewer may be taken.
    tile
        Usual side of a patch in pixels.
    overwrite
        Whether `out` may be replaced.

    Raises
    ------
    BadInput
        `out` exists, a card lies beside it, or `tile` cannot be used.
    Failed
        The file and PyTorch differ.
    """
    check_export(out, overwrite=overwrite)
    if tile % MULTIPLE:
        raise BadInput(f"--tile {tile}: must be a multiple of {MULTIPLE}, by which the network reduces")
    wrapped = Contract(network.eval(), config).eval()
    graph = trace_sampler(wrapped, _example(config, 64))
    exported, patch = in_runtime(graph), _example(config, SIDE)
    wide, step = _example(config, 2 * SIDE - SHARED, seed=2), SIDE - SHARED
    card = _card(config, tile, steps) | said
    card |= {
        "parity_max_abs": float(np.abs(exported(patch) - in_torch(wrapped)(patch)).max()),
        "overlap_mismatch": overlap_mismatch(exported, wide, SIDE + 2 * config.context, step),
    }
    if not card["parity_max_abs"] <= PARITY_LIMIT:
        raise Failed(
            f"the exported file and PyTorch differ by {card['parity_max_abs']:.3g}; nothing was written; try other versions of "
            "torch and onnxruntime"
        )
    write_export(graph, out, card=card, overwrite=overwrite)
    return card


def _card(config: LayoutConfig, tile: int, steps: int) -> dict[str, Any]:
    """Return the card without what is measured."""
    types = config.types
    choices = [choice for choice in product((1, 0), repeat=len(types)) if any(choice)]
    return make_card(config, tile=tile, multiple=MULTIPLE, steps=steps) | {
        "norm": "pixel",
        "style": {
            "numbers": list(types),
            "default": [1.0] * len(types),
            "named": {
                "+".join(name for name, given in zip(types, choice, strict=True) if given): list(choice)
                for choice in choices
            },
        },
        "nuclei": {"types": list(types), "codes": circle(len(types)).round(6).tolist()},
    }


def _example(config: LayoutConfig, tile: int, *, seed: int = 0) -> Patch:
    """Return the inputs of one patch."""
    rng, side = np.random.default_rng(seed), tile + 2 * config.context
    labels = draw_labels(rng, len(config.labels), side)
    style = rng.integers(0, 2, (1, len(config.types))).astype(np.float32)
    xt = rng.standard_normal((1, 3, side, side), np.float32)
    return {"labels": labels, "style": style, "xt": xt, "t": np.array([400.0], np.float32)}
