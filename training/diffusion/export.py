"""How does a diffusion model become a sampler that safron-render runs, and how is it known to be the same?

The graph takes labels, the running picture and the time, and gives one prediction; the card has the schedule. A variance that the network
learned is left out: samplers take that of a random step from the schedule. The file is run: one step and a picture of five steps must match PyTorch, and two patches are compared where they overlap.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safron.io.errors import BadInput, Failed
from safron.io.masks.edges import find_edges
from safron.training.config.exported import check_export, own_name, write_export
from torch import Tensor, nn

from .graph import (
    PARITY_LIMIT,
    Floats,
    Patch,
    Predict,
    draw_labels,
    in_runtime,
    in_torch,
    make_card,
    overlap_mismatch,
    trace_sampler,
)
from .network import CHANNELS, SemanticUNet, condition_of
from .process import linear_alphas, sampling_times
from .running import read_trained
from .sample import ddim
from .settings import NULL_LABEL, DiffusionConfig
from .train import KIND, make_network

TILE = 256
MULTIPLE = 4
MOST_LEVELS = 0.5
"""Largest difference that is accepted between pictures of five steps, in grey levels."""

FADE_WINDOW, FADE_FROM = 9, 0.8
"""Background fades into its fill where more than this share of a square of so many pixels is background."""


class Contract(nn.Module):
    """What the graph does: labels to one-hot, prediction without context, channels last.

    Deep inside background the prediction is the one that leads to the fill's colour exactly: a patch that is all background
    is filled without a call, and the two must meet without an edge.
    """

    alphas: Tensor
    fills: Tensor

    def __init__(self, network: SemanticUNet, config: DiffusionConfig) -> None:
        super().__init__()
        self.network, self.context, self.count = network, config.context, len(config.labels)
        self.prediction = config.prediction
        self.register_buffer("alphas", torch.from_numpy(linear_alphas()).float())
        self.background = [index for index, label in enumerate(config.labels) if label.fill]
        colors = [config.labels[index].fill for index in self.background]
        fills = torch.tensor(colors, dtype=torch.float32).reshape(len(colors), 3, 1, 1)
        self.register_buffer("fills", fills / 127.5 - 1)

    def forward(self, labels: Tensor, xt: Tensor, t: Tensor, edges: Tensor | None = None) -> Tensor:
        """Uint8 [n, y, x], float32 [n, 3, y, x], float32 [n], uint8 [n, 1, y, x] -> float32 [n, T, T, 3]."""
        c = self.context
        condition = condition_of(labels, edges, self.count)
        made = self.network(xt, t, condition)[:, :CHANNELS, c : xt.shape[2] - c, c : xt.shape[3] - c]
        x = xt[:, :, c : xt.shape[2] - c, c : xt.shape[3] - c]
        for place, index in enumerate(self.background):
            share = nn.functional.avg_pool2d(condition[:, index : index + 1], FADE_WINDOW, stride=1)
            edge = c - FADE_WINDOW // 2
            depth = share[:, :, edge : share.shape[2] - edge, edge : share.shape[3] - edge]
            veil = ((depth - FADE_FROM) / (1.0 - FADE_FROM)).clamp(0.0, 1.0)
            made = made + (self._towards(self.fills[place], x, t) - made) * veil
        prediction: Tensor = made.clamp(-60.0, 60.0).permute(0, 2, 3, 1)
        return prediction

    def _towards(self, picture: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """Return the prediction that leads to this picture."""
        if self.prediction == "x0":
            return torch.zeros_like(x) + picture
        alpha = self.alphas[t.long()][:, None, None, None]
        noise: Tensor = (x - alpha.sqrt() * picture) / (1 - alpha).sqrt()
        if self.prediction == "epsilon":
            return noise
        v: Tensor = alpha.sqrt() * noise - (1 - alpha).sqrt() * picture
        return v


def export_run(
    checkpoint: Path,
    out: Path,
    *,
    steps: int = 20,
    usual: int | None = None,
    guidance: float = 0.0,
    tile: int = TILE,
    overwrite: bool = False,
    **named: str | None,
) -> dict[str, Any]:
    """Write the moving average of a checkpoint to `out` as a sampler, named as `read_trained` takes, and return its card; see `export_network`."""
    check_export(out, overwrite=overwrite)
    network, config, said = read_trained(checkpoint, KIND, make_network, **named)
    options: dict[str, Any] = {"steps": steps, "usual": usual, "guidance": guidance, "tile": tile}
    return export_network(network, config, out, said=said, overwrite=overwrite, **options)


def export_fresh(config: DiffusionConfig, out: Path, *, steps: int = 8, tile: int = TILE) -> dict[str, Any]:
    """Write an untrained sampler, whose cost is real: its last layer has random weights, too."""
    torch.manual_seed(config.seed)
    network = make_network(config)
    nn.init.normal_(network.out.weight, std=0.01)
    config = replace(config, name=own_name(config.name, f"random-{config.name}"))
    said = {"trained_on": "nothing: random weights"}
    return export_network(network, config, out, steps=steps, tile=tile, said=said)


def export_network(
    network: SemanticUNet,
    config: DiffusionConfig,
    out: Path,
    *,
    said: dict[str, Any],
    steps: int = 20,
    usual: int | None = None,
    guidance: float = 0.0,
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
    steps, usual, guidance
        For the card; a render takes `usual` of the steps, or others, and this guidance, or another.
    tile
        Usual side of a patch in pixels.
    overwrite
        Whether `out` may be replaced.

    Raises
    ------
    BadInput
        `out` exists, a card lies beside it, or a value cannot be used.
    Failed
        The file and PyTorch differ.
    """
    check_export(out, overwrite=overwrite)
    if usual is not None and usual > steps:
        raise BadInput(f"--usual-steps {usual}: must be at most {steps}, the number of --steps")
    if tile % MULTIPLE:
        raise BadInput(f"--tile {tile}: must be a multiple of {MULTIPLE}, by which the network reduces")
    wrapped, example = Contract(network.eval(), config).eval(), _example(config, tile)
    graph = trace_sampler(wrapped, example)
    trained, exported = in_torch(wrapped), in_runtime(graph)
    shared, side = 20, tile + 2 * config.context
    wide = _example(config, 2 * tile - shared, seed=2)
    card = _card(config, tile, steps, usual, guidance) | said
    card |= {
        "parity_max_abs": float(np.abs(trained(example) - exported(example)).max()),
        "parity_of_five_steps": float(
            np.abs(five_steps(trained, config, tile) - five_steps(exported, config, tile)).max()
        ),
        "overlap_mismatch": overlap_mismatch(exported, wide, side, tile - shared),
    }
    if not (card["parity_max_abs"] <= PARITY_LIMIT and card["parity_of_five_steps"] <= MOST_LEVELS):
        raise Failed(
            f"the exported file and PyTorch differ by {card['parity_max_abs']:.3g} in one step and "
            f"{card['parity_of_five_steps']:.3g} grey levels after five; nothing was written; try other versions of torch and "
            "onnxruntime"
        )
    write_export(graph, out, card=card, overwrite=overwrite)
    return card


def _card(
    config: DiffusionConfig, tile: int, steps: int, usual: int | None, guidance: float
) -> dict[str, Any]:
    """Return the card without what is measured."""
    card = make_card(config, tile=tile, multiple=MULTIPLE, steps=steps) | {"norm": config.norm}
    card["sampler"] |= {"null_label": NULL_LABEL, "guidance": guidance}
    if usual:
        card["sampler"]["steps"] = usual
    if config.nuclei:
        card["edges"] = {"of": "instances", "labels": [*config.nuclei]}
    return card


def _example(config: DiffusionConfig, tile: int, *, seed: int = 0) -> Patch:
    """Return the inputs of one patch."""
    rng, side = np.random.default_rng(seed), tile + 2 * config.context
    labels = draw_labels(rng, len(config.labels), side)
    xt = rng.standard_normal((1, 3, side, side), np.float32)
    patch: Patch = {"labels": labels, "xt": xt, "t": np.array([400.0], np.float32)}
    if config.nuclei:
        patch["edges"] = find_edges(np.pad(labels[0], 1, "edge"), config.nuclei, None)[None, None]
    return patch


def five_steps(predict: Predict, config: DiffusionConfig, tile: int) -> Floats:
    """Sample one patch in five steps: float32 [3, tile, tile] in grey levels. Around it the first noise stays."""
    patch = _example(config, tile, seed=3)
    x = patch["xt"]
    inside = np.s_[:, :, config.context : config.context + tile, config.context : config.context + tile]
    alphas, times = linear_alphas(), sampling_times(5)
    for number, time in enumerate(times):
        after = float(alphas[times[number + 1]]) if number < 4 else 1.0
        made = predict(patch | {"t": np.array([time], np.float32)}).transpose(0, 3, 1, 2)
        now, predicted = (torch.from_numpy(np.ascontiguousarray(values)) for values in (x[inside], made))
        x[inside] = ddim(now, predicted, config.prediction, float(alphas[time]), after).numpy()
    return np.asarray((x[inside][0] + 1) * 127.5)
