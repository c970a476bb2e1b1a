"""How does a generator leave PyTorch, and how is the exported one known to be the same?

`export` writes an ONNX graph with uint8 labels in and RGB 0..255 out, and puts the card into its metadata. Then it runs the
file: the output must match PyTorch in float32, and two patches are compared where they overlap. Both numbers go on the card.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from safron.io.errors import BadInput, Failed, counted
from safron.io.measures.guides import draw_guides
from safron.io.measures.style import STYLE_NAMES
from safron.io.measures.style_picture import measure_style_of
from safron.training.checkpoint import load_checkpoint
from safron.training.config import ModelConfig, TrainConfig
from safron.training.config.exported import check_export, own_name, write_export
from safron.training.data import draw_noise
from safron.training.graphs import Axes, open_graph, trace
from safron.training.half_precision import beyond_float16
from safron.training.networks import (
    PaperGenerator,
    SeamlessGenerator,
    crop,
    join_conditions,
    make_generator,
    to_rgb,
)
from torch import Tensor, nn

TRAINING_NODES = ("BatchNormalization", "InstanceNormalization", "Dropout", "RandomNormal", "RandomUniform")
"""Nodes that a finished generator must not have."""

EXAMPLE_STYLE = np.array([[235, 230, 235, 0.6, 0.3, 0.1, 0.3, 0.15, 0.1]], np.float32)
"""A style for trials; see `safron.io.measures.style`."""

CARD_VERSION = "1"
PARITY_LIMIT = 1e-3
"""Largest difference between ONNX Runtime and PyTorch that is accepted, as a share of the range 0..255."""
FLOAT16_LIMIT = 1e-2
"""The same for a float16 file, compared with PyTorch in float32."""

FADE_WINDOW, FADE_FROM = 9, 0.8
"""Background fades into its fill from this share of a square of this many pixels on, and is the fill where it has all.
With less context the square is smaller."""

EBHI_LICENCE = (
    "Weights derived from EBHI-Seg (Shi et al., Front Med 10:1114673, 2023, doi:10.3389/fmed.2023.1114673), "
    "CC BY 4.0; images were resized, {stain}and cropped."
)
"""For runs whose user chose the data set by name."""


class Contract(nn.Module):
    """The generator contract around a network: one-hot labels in front of it, RGB 0..255 behind it.

    Deep inside background the picture is exactly the label's fill: a patch that is all background is filled
    without a call of the generator, and the two must meet without an edge. Nearer to tissue each background pixel goes
    the share `clear` of the way to the fill.
    """

    values: Tensor
    fills: Tensor

    def __init__(self, network: nn.Module, config: ModelConfig, clear: float = 0.0) -> None:
        super().__init__()
        self.network, self.context, self.config, self.clear = network, config.context, config, clear
        self.names = [*_example_names(config)]
        self.precision = next(network.parameters()).dtype
        self.register_buffer("values", torch.arange(len(config.labels), dtype=torch.int32).view(1, -1, 1, 1))
        self.background = [index for index, label in enumerate(config.labels) if label.fill]
        self.window = min(FADE_WINDOW, 2 * config.context + 1)
        fills = torch.tensor([config.labels[index].fill for index in self.background], dtype=torch.float32)
        self.register_buffer("fills", fills.reshape(len(fills), 1, 1, 1, 3))

    def forward(self, labels: Tensor, *planes: Tensor) -> Tensor:
        """Uint8 [n, T+2c, T+2c] and the inputs of `_example` in their order -> float32 [n, T, T, 3]."""
        one_hot = torch.eq(labels[:, None].int(), self.values).float()
        further = dict(zip(self.names, planes, strict=True))
        edges = further.pop("edges")[:, 0] if "edges" in further else None
        initial = further.pop("initial", None)
        conditions = join_conditions(one_hot, edges, self.config, initial).to(self.precision)
        # A style's colours of background need more digits than half precision has.
        given = {name: part if name == "style" else part.to(self.precision) for name, part in further.items()}
        image = to_rgb(self.network(conditions, **given).float())
        own = further["style"][:, None, None, :3] if "style" in further else None
        for place, index in enumerate(self.background):
            here = one_hot[:, index : index + 1]
            share = nn.functional.avg_pool2d(here, self.window, stride=1)
            depth = crop(share, self.context - self.window // 2).movedim(1, -1)
            veil = ((depth - FADE_FROM) / (1.0 - FADE_FROM)).clamp(0.0, 1.0)
            if self.clear:
                veil = torch.maximum(veil, self.clear * crop(here, self.context).movedim(1, -1))
            image = image + ((self.fills[place] if own is None else own) - image) * veil
        return image


def export_checkpoint(
    checkpoint: Path,
    out: Path,
    *,
    card: Mapping[str, str | None] | None = None,
    default_style: Path | None = None,
    clear: float = 0.0,
    float16: bool = False,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Export the moving average of a checkpoint and return its card; see `export`.

    Parameters
    ----------
    card
        Generator (its name), licence and trained_on for the card, where they are not those that the run was given.
    default_style
        Image whose style is drawn where a user asks for none; None for the mean of the training images.
    clear
        Share of the way, 0 to 1, that background pixels beside tissue go to the background's colour.

    Raises
    ------
    BadInput
        The checkpoint or the image cannot be read, the image shows no stained tissue, or the generator takes no style.
    """
    check_export(out, overwrite=overwrite)
    kept = load_checkpoint(checkpoint)
    if default_style is not None and not kept.config.model.style:
        raise BadInput(
            f"--default-style {default_style}: the generator of {checkpoint} takes no style; leave it out"
        )
    network = make_generator(kept.config.model)
    network.load_state_dict(kept.state["average"])
    about = kept.metadata | {name: text for name, text in (card or {}).items() if text}
    # Version 0.1 guessed from the ending of a mask's name that data were EBHI-Seg; only its users know.
    guessed = "data_set" not in about and about.get("data", "EBHI-Seg") == "EBHI-Seg"
    data = "data that nobody named" if guessed else about["data"]
    ebhi = EBHI_LICENCE.format(stain="" if kept.config.model.style else "stain-normalised ")
    said: dict[str, Any] = {
        "name": about.get("generator") or own_name(kept.config.model.name, checkpoint.resolve().parent.name),
        "licence": about.get("licence") or (ebhi if about.get("data_set") == "ebhi" else "unknown"),
        "trained_on": about.get("trained_on")
        or f"{data}: {counted(about['images'], 'image')} of {counted(about['slides'], 'slide')}",
    }
    styles = about.get("styles")
    if default_style is not None:
        styles = {**(styles or {}), "default": [*measure_style_of(default_style, "--default-style")]}
    options: dict[str, Any] = {"clear": clear, "float16": float16, "overwrite": overwrite}
    return export(network, kept.config, out, steps=kept.step, styles=styles, **options, **said)


def export_fresh(
    config: TrainConfig, out: Path, *, float16: bool = False, overwrite: bool = False
) -> dict[str, Any]:
    """Export an untrained generator whose weights are drawn from the seed, and return its card; see `export`."""
    check_export(out, overwrite=overwrite)
    torch.manual_seed(config.seed)
    facts: dict[str, Any] = {
        "name": own_name(config.model.name, f"random-{config.model.name}"),
        "trained_on": "nothing: random weights",
        "licence": "random weights, no data",
        "float16": float16,
        "overwrite": overwrite,
    }
    return export(make_generator(config.model), config, out, steps=0, **facts)


def export(
    network: nn.Module,
    config: TrainConfig,
    out: Path,
    *,
    steps: int,
    clear: float = 0.0,
    float16: bool = False,
    overwrite: bool = False,
    styles: Mapping[str, list[float]] | None = None,
    **said: str,
) -> dict[str, Any]:
    """Write `network` to `out` with its card, and return the card.

    Frozen norms are folded into the convolutions. With `float16` the network's weights and arithmetic are in half precision;
    labels, noise and image keep the types of the contract. `clear`, 0 to 1, is the share of the way that background pixels
    go to their fill. What is `said` of the generator goes to `make_card`.

    Raises
    ------
    BadInput
        `out` exists and may not be overwritten, or a card lies beside it, which would be read instead of the one inside.
    Failed
        ONNX Runtime and PyTorch in float32 differ by more than `PARITY_LIMIT` (`FLOAT16_LIMIT`) of the range, a layer is
        left that belongs in training, or a value is too large for float16.
    """
    check_export(out, overwrite=overwrite)
    model = config.model
    network = network.float().eval().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    wrapped = Contract(network, model, clear).eval()
    exported = network.folded() if isinstance(network, PaperGenerator) else network
    exported = copy.deepcopy(exported).half() if float16 else exported
    graph = _trace(Contract(exported, model, clear).eval(), model)
    if left := [node.op_type for node in graph.graph.node if node.op_type.startswith(TRAINING_NODES)]:
        raise Failed(f"the graph keeps {left[0]}, which belongs in training; nothing was written")
    session = open_graph(graph)
    if isinstance(network, SeamlessGenerator) and network.style is not None:
        styles = {"default": network.style.center.tolist(), **(styles or {})}
    card = make_card(config, steps=steps, styles=styles, **said) | {
        "precision": "float16" if float16 else "float32",
        "parity_max_abs": _parity(wrapped, session, model),
        "overlap_mismatch": _overlap_mismatch(session, model),
    }
    limit = 255 * (FLOAT16_LIMIT if float16 else PARITY_LIMIT)
    if not card["parity_max_abs"] <= limit:  # a NaN is refused as well
        instead = "export in float32" if float16 else "try other versions of torch and onnxruntime"
        raise Failed(
            f"the exported file and PyTorch differ by {card['parity_max_abs']:.3g} of 255, more than {limit:.3g}; nothing was "
            f"written; {instead}"
        )
    if float16 and (node := beyond_float16(graph, (_example(model, model.tile, seed) for seed in (1, 2)))):
        raise Failed(
            f"{node} gives values beyond {np.finfo(np.float16).max:.0f}, the largest of float16; nothing was written; export "
            "in float32"
        )
    write_export(graph, out, card=card, overwrite=overwrite)
    return card


def make_card(
    config: TrainConfig,
    *,
    steps: int,
    trained_on: str,
    licence: str = "unknown",
    name: str = "",
    styles: Mapping[str, list[float]] | None = None,
) -> dict[str, Any]:
    """Return the card without the numbers that are measured on the exported file."""
    model = config.model
    further: dict[str, Any] = {"mpp": model.mpp} if model.mpp else {}
    if model.nuclei:
        drawn = {"labels": list(model.nuclei)} if model.edges_of == "instances" else {}
        further["edges"] = {"of": model.edges_of, **drawn}
    if model.guides:
        further["guides"] = {"classes": list(model.guides), "radius": model.guide_radius}
    if model.coarse:
        further["initial"] = {}
    if model.style and styles:
        # Whole numbers for the background: it is also what patches of nothing else are filled with.
        named = {
            name: [*map(round, vector[:3]), *(round(v, 4) for v in vector[3:])]
            for name, vector in styles.items()
        }
        further["style"] = {"numbers": list(STYLE_NAMES), "default": named.pop("default"), "named": named}
    labels = [
        {name: value for name, value in entry.items() if value is not None}
        for entry in config.to_json()["model"]["labels"]
    ]
    return {
        "version": CARD_VERSION,
        "name": name or model.name,
        "tile": {"multiple_of": model.alignment, "default": model.tile} if model.dynamic_tile else model.tile,
        "context": model.context,
        "alignment": model.alignment,
        "labels": labels,
        "outside": "edge",
        "noise_channels": len(model.noise_scales),
        "noise_scales": list(model.noise_scales),
        "norm": "none" if model.network == "seamless" else "frozen",
        "licence": licence,
        "trained_on": trained_on,
        "steps": steps,
        "config_sha256": config.sha256(),
    } | further


Window = dict[str, npt.NDArray[Any]]
"""The inputs of one patch by name, each of batch size 1."""


def _example_names(model: ModelConfig) -> list[str]:
    """Names of the inputs beside labels, in their order."""
    takes = {"noise": model.noise_scales, "guides": model.guides, "style": model.style, "edges": model.nuclei}
    takes |= {"initial": model.coarse}
    return [name for name, taken in takes.items() if taken]


def _example(model: ModelConfig, tile: int, seed: int = 0) -> Window:
    """Random blobs of labels, and the other inputs that the network takes."""
    rng = np.random.default_rng(seed)
    side = tile + 2 * model.context
    margin = model.guide.reach if model.guide else 0
    around = side + 2 * margin
    wide = np.digitize(draw_noise(rng, around, around, (32,)), [-1.0, 0.3]).astype(np.uint8)
    inner = np.s_[margin : margin + side]
    window: Window = {"labels": wide[:, inner, inner]}
    if model.noise_scales:
        window["noise"] = draw_noise(rng, side, side, model.noise_scales)[None]
    if model.guide:
        window["guides"] = draw_guides(wide[0], (0, 0), model.guide)[None]
    if model.style:
        window["style"] = EXAMPLE_STYLE
    if model.nuclei:
        window["edges"] = (rng.random((1, 1, side, side)) < 0.2).astype(np.uint8)
    if model.coarse:
        window["initial"] = rng.integers(256, size=(1, 3, side, side)).astype(np.uint8)
    return window


def _trace(wrapped: nn.Module, model: ModelConfig) -> onnx.ModelProto:
    """Turn a network into an ONNX graph for any batch size and, if the model has a dynamic tile, any tile."""
    window = _example(model, model.tile)
    axes: Axes = {name: {0: "n"} for name in [*window, "image"]}
    if model.dynamic_tile:
        sides = {"labels": {1: "height", 2: "width"}, "noise": {2: "height", 3: "width"}}
        sides |= {
            "guides": sides["noise"],
            "edges": sides["noise"],
            "style": {},
            "image": {1: "out_height", 2: "out_width"},
        }
        axes = {name: {**free, **sides[name]} for name, free in axes.items()}
    return trace(wrapped, window, "image", axes)


def _run(session: onnxruntime.InferenceSession, window: Window) -> npt.NDArray[np.float32]:
    """Run the exported file on one window: float32 [y, x, 3]."""
    return np.asarray(session.run(None, window)[0][0])


def _parity(wrapped: nn.Module, session: onnxruntime.InferenceSession, model: ModelConfig) -> float:
    """Largest difference between the exported file and PyTorch, of 255."""
    window = _example(model, model.tile, seed=1)
    with torch.no_grad():
        expected = wrapped(*map(torch.from_numpy, window.values()))[0].numpy()
    return float(np.abs(_run(session, window) - expected).max())


def _overlap_mismatch(session: onnxruntime.InferenceSession, model: ModelConfig) -> float:
    """Mean difference where two neighbouring patches overlap, over the image's standard deviation."""
    shared = model.overlap or min(20, model.tile // 2)
    step, side = model.tile - shared, model.tile + 2 * model.context
    wide = _example(model, model.tile + step, seed=2)
    windows = (
        {
            name: array if name == "style" else array[..., :side, x : x + side].copy()
            for name, array in wide.items()
        }
        for x in (0, step)
    )
    left, right = (_run(session, window) for window in windows)
    return float(np.abs(left[:, step:] - right[:, :shared]).mean() / left.std())
