"""The SAFRON paper's comparators at one budget each: is their tissue like real tissue, does it lie on its masks, are there seams?

    python benchmarks/comparators.py EBHI OUT --steps 400 --minutes 120 --also shipped=safron-seamless

Trains each generator from every seed for `--steps` steps, draws the held-out frames' masks with it, and measures

- KD: kernel distance in EfficientNet-Lite0's features between real and drawn frames (needs the extra "eval");
- Dice: a segmenter that was trained on real frames finds glands in the drawn ones; against their masks;
- agreement: Dice of that segmenter's glands in drawn and in real frames of the same mask (the paper: 0.93);
- mismatch: difference of neighbouring patches in their overlap before blending, over their standard deviation; and the seams
  that safron-eval finds.

Real frames are brought to one stain, which is what generators of EBHI-Seg are trained on; what generators of `--also` draw
is, too. The multi-scale generator draws in two steps: pix2pix at twice the pixel size, then patches that refine it. What is finished is not made again, so the same
command resumes; `--minutes` bounds one call. `real` compares halves of the real frames. Writes scores.json and sheet.png; a
table, then one line of JSON.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from common import parser_of
from results import Results, run_study
from safron.engine import render
from safron.engine.evaluation.encoder import is_installed, load_encoder
from safron.engine.evaluation.encoder_distance import encoder_distances
from safron.engine.evaluation.seam_report import evaluate_seams, format_table
from safron.io.slides.reader import Pixels
from safron.training.checkpoint import load_checkpoint
from safron.training.config.data_sets import DataFacts
from safron.training.config.settings import TrainConfig, check_config, override, preset
from safron.training.data.source import Pairs
from safron.training.export import export_checkpoint
from safron.training.notes import Schedule
from safron.training.segmentation.fitting import Annotated, predictions, train_segmenter
from safron.training.segmentation.metrics import compare
from safron.training.segmentation.networks import SEGMENTERS
from safron.training.segmentation.options import DiceOptions
from safron.training.segmentation.synthesis import LEAST_MARGIN, draw_mosaic, lay_out
from safron.training.segmentation.tissue import divide, normalize, open_tissue
from safron.training.train import fit
from torch import nn

UInt8 = npt.NDArray[np.uint8]

GLAND = 2
COARSE = 2
TRAINED: dict[str, tuple[str, dict[str, Any]]] = {
    "safron": ("safron", {}),
    "safron, patch discriminator": ("safron", {"discriminator_input": "patch"}),
    "safron, no skips": ("safron", {"model": {"skips": False}}),
    "pix2pix": ("pix2pix", {}),
    "multi-scale": ("multiscale", {"model": {"coarse": COARSE}}),
    "ours": ("safron-seamless", {}),
}
"""Preset, and what is changed in it."""


def settings(name: str, size: str, steps: int, seed: int) -> TrainConfig:
    """Settings of one training."""
    named, changes = TRAINED[name]
    config = override(preset(named, size), {"steps": steps, "epochs": 0, "seed": seed, **changes}, name)
    if changes.get("discriminator_input") == "patch":  # as safron-train does it
        config = replace(config, discriminator_levels=max(1, config.discriminator_levels - 2))
    return check_config(config)


def first_step(fine: TrainConfig, mpp: float) -> TrainConfig:
    """Settings of the network that draws the coarse image: pix2pix of half the tile, at twice the pixel size."""
    model = fine.model
    half = {"tile": model.tile // 2, "alignment": model.tile // 2, "levels": model.levels - 1}
    changes = {"name": "multiscale-first", "coarse": 0, "mpp": COARSE * mpp, **half}
    return override(fine, {"model": changes}, "first step")


@dataclass(frozen=True)
class Frames:
    """Real frames of one stain, to train a segmenter on and to test with, and their pixel size."""

    train: Annotated
    validation: Annotated
    test: Annotated
    labels: tuple[UInt8, ...]
    mpp: float


def read_frames(data: Path, facts: DataFacts, *, images: int, tests: int) -> Frames:
    """Read frames; slides that generators are not trained on are tested with."""
    pairs = open_tissue(data, facts)
    if not pairs.mpp:
        raise SystemExit(f'{data}: the pixel size is not known; write {{"mpp": 1.0}} to {data}/dataset.json')
    parts = divide(pairs, held_out=0.1, validation=0.1, images=images)
    chosen = np.unique(np.linspace(0, len(parts.test) - 1, tests).round().astype(int)).tolist()
    test = parts.test.take(chosen)

    def annotated(part: Pairs) -> Annotated:
        both = zip(part.images, part.labels, strict=True)
        brought = tuple(normalize(*pair) if facts.data_set == "ebhi" else pair[0] for pair in both)
        return Annotated(brought, tuple(labels == GLAND for labels in part.labels))

    return Frames(
        annotated(parts.train), annotated(parts.validation), annotated(test), test.labels, pairs.mpp
    )


def segmenter(frames: Frames, options: DiceOptions, out: Path, end: float) -> nn.Module | None:
    """Train the segmenter on real frames, or take the one that was trained; None if the time is up."""
    kept = out / "segmenter.pt"
    network = SEGMENTERS[options.segmenter](1)
    if kept.exists():
        network.load_state_dict(torch.load(kept, weights_only=True))
        return network
    common: dict[str, Any] = {"seed": 0, "state": out / "segmenter-unfinished.pt", "until": end}
    made = train_segmenter(frames.train, frames.validation, options, device=torch.device("cpu"), **common)
    if made is not None:
        torch.save(made.network.state_dict(), kept)
    return None if made is None else made.network


def train(config: TrainConfig, data: Path, folder: Path, facts: DataFacts, minutes: float) -> Path | None:
    """Train and export a generator, or go on with it; None if the time is up."""
    made = folder / "generator.onnx"
    if made.exists():
        return made
    checkpoint = folder / "checkpoint.pt"
    done = load_checkpoint(checkpoint).step if checkpoint.exists() else 0
    if done < config.steps and minutes > 0:
        schedule = Schedule(config.steps, minutes=minutes)
        fit(data, folder, config, schedule, facts=facts, resume=bool(done), cache=folder.parent)
        done = load_checkpoint(checkpoint).step
    if done < config.steps:
        print(f"{folder.name}: {done} of {config.steps} steps; the same command resumes", flush=True)
        return None
    export_checkpoint(checkpoint, made, overwrite=True)
    return made


def measure(
    model: str | Path, first: Path | None, overlap: int, frames: Frames, network: nn.Module, folder: Path
) -> tuple[dict[str, Any], list[UInt8]]:
    """Draw the masks of the test frames with a generator, or with a first step and one that refines it, and measure."""
    folder.mkdir(parents=True, exist_ok=True)
    mosaic = lay_out([labels.shape for labels in frames.labels], LEAST_MARGIN)
    mask, slide = draw_mosaic(frames.labels, mosaic, LEAST_MARGIN), folder / "slide.tiff"
    common: dict[str, Any] = {"mpp": frames.mpp, "threads": 1, "compression": "deflate", "level_count": 1}
    common |= {"overwrite": True, "overlap": overlap}
    if first is not None:
        render(mask, folder / "first.tiff", model=first, **common)
        common["image"] = folder / "first.tiff"
    render(mask, slide, model=model, **common)
    with Pixels(slide) as pixels:
        drawn = [
            pixels.read(y, x, *labels.shape)
            for labels, (y, x) in zip(frames.labels, mosaic.places, strict=True)
        ]
    seams = evaluate_seams(slide, mask=mask, model=model if first is None else None)
    found = {
        **scores(Annotated(tuple(drawn), frames.test.masks), frames, network),
        "mismatch": seams.mismatch.relative if seams.mismatch else None,
        "seams": seams.verdict,
    }
    return found, drawn


def scores(drawn: Annotated, frames: Frames, network: nn.Module) -> dict[str, Any]:
    """KD, Dice and agreement of frames drawn of the test frames' masks."""
    device = torch.device("cpu")
    seen, known = predictions(network, drawn, device), predictions(network, frames.test, device)
    dice = [compare(mask, true).dice for mask, true in seen]
    agreement = [compare(mask, real).dice for (mask, _), (real, _) in zip(seen, known, strict=True)]
    return {
        "dice": float(np.mean(dice)),
        "agreement": float(np.mean(agreement)),
        **distance(frames.test.images, drawn.images),
    }


def distance(real: Sequence[UInt8], drawn: Sequence[UInt8]) -> dict[str, float | None]:
    """Kernel distance and its standard error; None without the encoder, or with fewer than four frames."""
    if not is_installed() or min(len(real), len(drawn)) < 4:
        return {"kd": None, "kd_error": None}
    side = min(224, *(length for image in real for length in image.shape[:2]))
    encoder = load_encoder()
    features = [
        encoder.features([np.ascontiguousarray(image[:side, :side]) for image in each])
        for each in (real, drawn)
    ]
    found = encoder_distances(*features)
    return {"kd": found.kernel, "kd_error": found.error}


def row(name: str, found: dict[str, Any]) -> list[str]:
    """Write a row of the table."""

    def text(key: str) -> str:
        return "-" if found.get(key) is None else f"{found[key]:.3f}"

    return [name, *map(text, ("kd", "kd_error", "dice", "agreement", "mismatch")), found.get("seams", "-")]


def main() -> None:
    """Train what is not trained yet, measure it and print."""
    parser = parser_of(__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data-set", default="ebhi")
    parser.add_argument("--size", choices=["full", "small", "tiny"], default="small")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=240.0)
    parser.add_argument("--images", type=int, default=60, help="frames that the segmenter is trained on")
    parser.add_argument("--tests", type=int, default=48, help="held-out frames that are drawn")
    parser.add_argument("--segmenter-steps", type=int, default=300)
    parser.add_argument(
        "--also", nargs="*", default=[], metavar="NAME=MODEL", help="generators made elsewhere"
    )
    chosen = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    chosen.out.mkdir(parents=True, exist_ok=True)
    results = Results(chosen.out / "scores.json", chosen.minutes)
    facts = DataFacts(data_set=chosen.data_set)
    frames = read_frames(chosen.data, facts, images=chosen.images, tests=chosen.tests)
    options = DiceOptions(steps=chosen.segmenter_steps, batch=4, crop=64 if chosen.size == "tiny" else 96)
    network = segmenter(frames, options, chosen.out, results.until)
    if network is None:
        raise SystemExit("the time was up before the segmenter was trained; the same command resumes")
    half = distance(frames.test.images[::2], frames.test.images[1::2])
    keep(results, "real", scores(frames.test, frames, network) | half, frames.test.images)
    jobs: list[tuple[str, str, int]] = [
        (f"{name}, seed {seed}", name, seed) for seed in range(chosen.seeds) for name in TRAINED
    ]
    for key, name, seed in jobs:
        if not results.wants(key):
            continue
        config = settings(name, chosen.size, chosen.steps, seed)
        folder = chosen.out / key.replace(", ", "-").replace(" ", "-")
        model = train(config, chosen.data, folder, facts, results.minutes)
        first = None
        if config.model.coarse and model is not None:
            begin = first_step(config, frames.mpp)
            first = train(
                begin, chosen.data, folder.with_name(f"{folder.name}-first"), facts, results.minutes
            )
        if model is None or (config.model.coarse and first is None):
            continue
        found, drawn = measure(model, first, config.model.overlap, frames, network, folder)
        keep(results, key, found | {"steps": config.steps}, drawn)
    for name, _, model_name in (also.partition("=") for also in chosen.also):
        if results.wants(name):
            found, drawn = measure(model_name, None, 20, frames, network, chosen.out / name)
            if facts.data_set == "ebhi":  # they may draw any stain
                drawn = [normalize(*pair) for pair in zip(drawn, frames.labels, strict=True)]
                found |= scores(Annotated(tuple(drawn), frames.test.masks), frames, network)
            keep(results, name, found, drawn)
    head = ["generator", "KD", "+-", "Dice", "agreement", "mismatch", "seams"]
    print("\n".join(format_table([head, *(row(name, found) for name, found in results.found.items())])))
    missing = [key for key, _, _ in jobs if key not in results.found]
    print(f"missing: {'; '.join(missing)}: the same command resumes" if missing else "all done")
    print(json.dumps(results.found))


def keep(results: Results, name: str, found: dict[str, Any], images: Sequence[UInt8]) -> None:
    """Keep the scores, and a strip of frames; sheet.png holds all strips that are there."""
    results.keep(name, found)
    out = results.file.parent
    side = min(min(image.shape[:2]) for image in images)
    strip = np.hstack([image[:side, :side] for image in images[:6]])
    cv2.imwrite(str(out / f"strip-{name}.png"), strip[..., ::-1])
    strips = [
        cv2.imread(str(out / f"strip-{each}.png"))
        for each in results.found
        if (out / f"strip-{each}.png").exists()
    ]
    cv2.imwrite(str(out / "sheet.png"), np.vstack(strips))


if __name__ == "__main__":
    run_study(main)
