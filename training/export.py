"""How does a generator leave PyTorch, and how is it known to be the same one?

`export` writes an ONNX graph with uint8 labels in and RGB 0..255 out, puts the card into its metadata, and
then runs the file: its output must match that of PyTorch in float32, and two patches that overlap are compared
where they do. Both numbers go on the card.
"""

from __future__ import annotations

import io
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from safron.io.errors import BadInput, Failed
from safron.training.checkpoint import load_checkpoint
from safron.training.config import ModelConfig, TrainConfig
from safron.training.data import EBHI, draw_noise
from safron.training.files import whole
from safron.training.graph import fold_norms, halve_network, training_nodes
from safron.training.networks import PaperGenerator, crop, make_generator, to_rgb
from torch import Tensor, nn

OPSET = 17
CARD_VERSION = "1"
PARITY_LIMIT = 1e-3
"""Largest difference between ONNX Runtime and PyTorch that is let through, as a share of the range 0..255."""
FLOAT16_LIMIT = 1e-2
"""The same for a float16 file, held against PyTorch in float32."""

GLASS_WINDOW, GLASS_FROM = 9, 0.8
"""Glass fades into its fill where it holds this share of a window of this many pixels, and is it where it holds all."""

DATA_LICENCE = (
    "Weights derived from EBHI-Seg (Shi et al., Front Med 10:1114673, 2023, doi:10.3389/fmed.2023.1114673), "
    "CC BY 4.0; images were resized, stain-normalised and cropped."
)


class SeamlessContract(nn.Module):
    """The generator contract around a seamless network: one-hot in front of it, RGB 0..255 behind it.

    Deep inside glass the picture is the label's fill, exactly: a patch that is all glass is painted with it and never
    run, and the two must meet without an edge.
    """

    values: Tensor
    fills: Tensor

    def __init__(self, network: nn.Module, config: ModelConfig) -> None:
        super().__init__()
        self.network, self.context = network, config.context
        self.register_buffer("values", torch.arange(len(config.labels), dtype=torch.int32).view(1, -1, 1, 1))
        self.glass = [index for index, label in enumerate(config.labels) if label.fill]
        fills = [label.fill for label in config.labels if label.fill]
        self.register_buffer("fills", torch.tensor(fills, dtype=torch.float32).view(-1, 1, 1, 1, 3))

    def forward(self, labels: Tensor, noise: Tensor) -> Tensor:
        """Uint8 [n, y, x] and float32 [n, k, y, x] -> float32 [n, y-40, x-40, 3]."""
        one_hot = torch.eq(labels[:, None].int(), self.values).float()
        image = to_rgb(self.network(one_hot, noise))
        for place, index in enumerate(self.glass):
            share = nn.functional.avg_pool2d(one_hot[:, index : index + 1], GLASS_WINDOW, stride=1)
            depth = crop(share, self.context - GLASS_WINDOW // 2).movedim(1, -1)
            veil = ((depth - GLASS_FROM) / (1.0 - GLASS_FROM)).clamp(0.0, 1.0)
            image = image + (self.fills[place] - image) * veil
        return image


class PaperContract(nn.Module):
    """The generator contract around the paper's network, which takes the labels as colours in [-1, 1]."""

    values: Tensor

    def __init__(self, network: nn.Module, config: ModelConfig) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("values", torch.arange(len(config.labels), dtype=torch.int32).view(1, -1, 1, 1))

    def forward(self, labels: Tensor) -> Tensor:
        """Uint8 [n, 296, 296] -> float32 [n, 256, 256, 3]."""
        assert isinstance(self.network, PaperGenerator)
        return to_rgb(self.network.paint(torch.eq(labels[:, None].int(), self.values).float()))


def export_checkpoint(checkpoint: Path, out: Path, *, float16: bool = False) -> dict[str, Any]:
    """Export the moving average of a checkpoint and return its card; see `export`."""
    kept = load_checkpoint(checkpoint)
    network = make_generator(kept.config.model)
    network.load_state_dict(kept.state["average"])
    about = kept.metadata
    # The first version trained on nothing else, and did not say so.
    data = about.get("data", EBHI)
    classes = " (normal, polyp, low-grade)" if data == EBHI else ""
    trained_on = f"{data}: {about['images']} images of {about['slides']} slides{classes}"
    return export(network, kept.config, out, steps=kept.step, trained_on=trained_on, float16=float16)


def export_fresh(config: TrainConfig, out: Path, *, float16: bool = False) -> dict[str, Any]:
    """Export an untrained generator whose weights are drawn from the seed, and return its card; see `export`."""
    torch.manual_seed(config.seed)
    network = make_generator(config.model)
    return export(network, config, out, steps=0, trained_on="nothing: random weights", float16=float16)


def export(
    network: nn.Module,
    config: TrainConfig,
    out: Path,
    *,
    steps: int,
    trained_on: str,
    float16: bool = False,
) -> dict[str, Any]:
    """Write `network` to `out` with its card.

    Frozen norms are folded into the convolutions. With `float16` weights and arithmetic of the network are in half
    precision; labels, noise and image keep the types of the contract.

    Raises
    ------
    BadInput
        A card lies beside `out`: it would take the place of the one inside.
    Failed
        ONNX Runtime and PyTorch in float32 differ by more than `PARITY_LIMIT` (`FLOAT16_LIMIT`) of the range, or a
        layer is left that belongs in training.
    """
    if (beside := out.with_suffix(".json")).exists():
        raise BadInput(
            f"{out} would be read with {beside.name}, which lies beside it, as its card; choose another name, or remove "
            f"{beside}"
        )
    model = config.model
    network = network.float().eval().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    kind = PaperContract if isinstance(network, PaperGenerator) else SeamlessContract
    wrapped = kind(network, model).eval()
    graph = onnx.load_model_from_string(_trace(wrapped, _example(model, model.tile), model))
    fold_norms(graph)
    if left := training_nodes(graph):
        raise Failed(f"the graph keeps {left[0]}, which belongs in training; nothing was written")
    if float16:
        graph = halve_network(graph)
    onnx.checker.check_model(graph)
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    card = make_card(config, steps=steps, trained_on=trained_on) | {
        "precision": "float16" if float16 else "float32",
        "parity_max_abs": _parity(wrapped, session, model),
        "overlap_mismatch": _overlap_mismatch(session, model),
    }
    limit = 255 * (FLOAT16_LIMIT if float16 else PARITY_LIMIT)
    if not card["parity_max_abs"] <= limit:  # a NaN is refused as well
        raise Failed(
            f"the exported file and PyTorch differ by {card['parity_max_abs']:.3g} of 255, more than {limit:.3g}; nothing "
            + (
                "was written; export in float32"
                if float16
                else "was written; try other versions of torch and onnxruntime"
            )
        )
    onnx.helper.set_model_props(graph, {"safron": json.dumps(card)})
    out.parent.mkdir(parents=True, exist_ok=True)
    with whole(out) as file:
        file.write(graph.SerializeToString())
    return card


def make_card(config: TrainConfig, *, steps: int, trained_on: str) -> dict[str, Any]:
    """Return the card without the two numbers that are measured on the exported file."""
    model = config.model
    labels = []
    for label in model.labels:
        entry: dict[str, Any] = {"value": label.value, "name": label.name, "color": list(label.color)}
        if label.fill is not None:
            entry["fill"] = list(label.fill)
        labels.append(entry)
    return {
        "version": CARD_VERSION,
        "name": model.name,
        "tile": {"multiple_of": model.alignment, "default": model.tile} if model.dynamic_tile else model.tile,
        "context": model.context,
        "alignment": model.alignment,
        "labels": labels,
        "outside": "edge",
        "noise_channels": len(model.noise_scales),
        "noise_scales": list(model.noise_scales),
        "mpp": model.mpp,
        "norm": "none" if model.network == "seamless" else "frozen",
        "licence": _licence(trained_on) if steps else "random weights, no data",
        "trained_on": trained_on,
        "steps": steps,
        "config_sha256": config.sha256(),
    }


def _licence(trained_on: str) -> str:
    return DATA_LICENCE if trained_on.startswith(EBHI) else "unknown: ask who made the training data"


def _example(model: ModelConfig, tile: int, seed: int = 0) -> tuple[npt.NDArray[Any], ...]:
    """Random blobs of labels, and noise where the network takes it."""
    rng = np.random.default_rng(seed)
    side = tile + 2 * model.context
    blobs = draw_noise(rng, side, side, (32,))
    labels = np.digitize(blobs, [-1.0, 0.3]).astype(np.uint8)
    if not model.noise_scales:
        return (labels,)
    return labels, draw_noise(rng, side, side, model.noise_scales)[None]


def _trace(wrapped: nn.Module, example: tuple[npt.NDArray[Any], ...], model: ModelConfig) -> bytes:
    names = ["labels", "noise"][: len(example)]
    axes = {"labels": {0: "n"}, "noise": {0: "n"}, "image": {0: "n"}}
    if model.dynamic_tile:
        axes = {
            "labels": {0: "n", 1: "height", 2: "width"},
            "noise": {0: "n", 2: "height", 3: "width"},
            "image": {0: "n", 1: "out_height", 2: "out_width"},
        }
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # The exporter that traces is deprecated, but its graph needs no further package.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            wrapped,
            tuple(torch.from_numpy(array) for array in example),
            buffer,  # type: ignore[arg-type]
            input_names=names,
            output_names=["image"],
            dynamic_axes={name: axes[name] for name in [*names, "image"]},
            opset_version=OPSET,
            dynamo=False,
        )
    return buffer.getvalue()


def _run(
    session: onnxruntime.InferenceSession, window: tuple[npt.NDArray[Any], ...]
) -> npt.NDArray[np.float32]:
    """Run the exported file on one window, given as `_example` gives it: float32 [y, x, 3]."""
    feeds = {"labels": window[0]} | ({"noise": window[1]} if len(window) > 1 else {})
    return np.asarray(session.run(None, feeds)[0][0])


def _parity(wrapped: nn.Module, session: onnxruntime.InferenceSession, model: ModelConfig) -> float:
    window = _example(model, model.tile, seed=1)
    with torch.no_grad():
        expected = wrapped(*(torch.from_numpy(array) for array in window))[0].numpy()
    return float(np.abs(_run(session, window) - expected).max())


def _overlap_mismatch(session: onnxruntime.InferenceSession, model: ModelConfig) -> float:
    """Mean difference where two neighbouring patches overlap, over the image's standard deviation."""
    shared = model.overlap or min(20, model.tile // 2)
    step, side = model.tile - shared, model.tile + 2 * model.context
    wide = _example(model, model.tile + step, seed=2)
    left, right = (
        _run(session, tuple(np.ascontiguousarray(a[..., :side, x : x + side]) for a in wide))
        for x in (0, step)
    )
    return float(np.abs(left[:, step:] - right[:, :shared]).mean() / left.std())
