"""Is generated tissue like real tissue? Kernel distance, lumina in each gland, and a sheet to look at.

    python benchmarks/tissue.py EBHI --model safron-seamless --model tissue.onnx --sheet sheets/ --blinded blinded.html

EBHI is a folder of EBHI-Seg. Frames of the slides that training holds out are drawn anew from their masks, patch by patch as
one; generators with a style take for each frame that of a training image, chosen at random. Colours are as they are.
Prints for each generator the kernel distance in EfficientNet-Lite0's features, how many glands have no lumen, one, or more, and
how dark background is beside tissue: levels of green below the frame's white, by distance from tissue.
`--blinded` makes a page that asks of frames, 50 real and 50 of each generator, whether they are real; `safron-eval answers` counts.

A lumen is a connected bright part of a gland: above `BRIGHT` of the frame's white after a blur of 1.5 px, more than 5 px from the
gland's border, of at least 40 px and 1.2 % of the gland. Glands that touch a frame's edge, or have less than 1500 px, are
left out. Real goblets are bright as well, so real glands have more than one part, too. Needs the extras "eval" and "train".
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from msgspec import structs
from safron.engine.evaluation.blinded_sheet import write_sheet
from safron.engine.evaluation.encoder import load_encoder
from safron.engine.evaluation.encoder_distance import encoder_distances
from safron.engine.generator.model import PatchModel, load_model
from safron.engine.generator.planes import call_with, card_sources, one_patch
from safron.engine.plan.window import Window
from safron.io.measures.style import measure_style
from safron.training.config.data_sets import DataFacts
from safron.training.data.source import Pairs, split
from safron.training.segmentation.tissue import open_tissue

Bytes = npt.NDArray[np.uint8]

SIDE = 224
HELD_OUT = 0.1
BRIGHT = 0.8
SHOWN, BLINDED = 6, 50
BESIDE = (0, 1, 2, 3, 5, 8)
"""Distances from tissue in pixels, between which background is compared."""


def count_lumina(image: Bytes, labels: Bytes) -> list[int]:
    """Count the lumina of each whole gland of a frame: uint8 [y, x, 3] under its labels [y, x]."""
    soft = cv2.GaussianBlur(image, (0, 0), 1.5).astype(np.float32).mean(axis=2)
    gland = (labels == 2).astype(np.uint8)
    deep = cv2.distanceTransform(gland, cv2.DIST_L2, 5) > 5
    bright = (soft > BRIGHT * np.percentile(image.mean(axis=2), 99.5)) & deep
    count, parts, stats, _ = cv2.connectedComponentsWithStats(gland, connectivity=4)
    found = []
    for number in range(1, count):
        x, y, width, height, area = (int(value) for value in stats[number])
        inside = x > 0 and y > 0 and x + width < gland.shape[1] and y + height < gland.shape[0]
        if area < 1500 or not inside:
            continue
        lumen = (bright & (parts == number)).astype(np.uint8)
        sizes = cv2.connectedComponentsWithStats(lumen, connectivity=4)[2][1:, cv2.CC_STAT_AREA]
        found.append(int((sizes >= max(40, 0.012 * area)).sum()))
    return found


def shares(counts: Sequence[int]) -> dict[str, float]:
    """Shares of glands without a lumen, with one, and with more."""
    number = np.array(counts)
    kinds = {"none": number == 0, "one": number == 1, "more": number > 1}
    return {"glands": len(number)} | {name: round(float(part.mean()), 3) for name, part in kinds.items()}


def darkness_beside_tissue(images: Sequence[Bytes], labels: Sequence[Bytes]) -> dict[str, float]:
    """Measure background by its distance from tissue: levels of green below the white of glass, mean over all frames."""
    sums, counts = np.zeros(len(BESIDE) - 1), np.zeros(len(BESIDE) - 1)
    for image, classes in zip(images, labels, strict=True):
        away = cv2.distanceTransform((classes == 0).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        if not (away > BESIDE[-1]).any():
            continue  # it shows no glass
        green = image[..., 1].astype(np.float64)
        dark = np.median(green[away > BESIDE[-1]]) - green
        place = np.digitize(away, BESIDE, right=True) - 1
        for index in range(len(sums)):
            sums[index] += dark[place == index].sum()
            counts[index] += (place == index).sum()
    means = (sums / counts).round(1)
    return {f"{near}-{far}": float(mean) for (near, far), mean in zip(pairwise(BESIDE), means, strict=True)}


def generate(model: PatchModel, frames: Pairs, styles: Sequence[npt.NDArray[np.float32]]) -> list[Bytes]:
    """Draw each frame as one patch, as high and as wide as its upper left square of `SIDE` pixels."""
    rng, images = np.random.default_rng(0), []
    for number, labels in enumerate(frames.labels):
        card = model.card
        if card.style is not None:
            vector = tuple(float(value) for value in styles[int(rng.integers(len(styles)))])
            card = replace(card, style=structs.replace(card.style, default=vector))
        read = Window(0, 0, SIDE, SIDE).expand(card.context)
        around = np.pad(labels, card.context, mode="edge")[: read.height, : read.width]
        inputs = one_patch(card_sources(card, labels, seed=number), around, read)
        image = call_with(model, inputs)[0]
        images.append(np.clip(np.rint(image), 0, 255).astype(np.uint8))
    return images


def main(args: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ebhi", type=Path)
    parser.add_argument("--model", action="append", default=[], help="generator to measure; may be repeated")
    parser.add_argument(
        "--sheet", type=Path, help="folder for one sheet a generator: real left, generated right"
    )
    parser.add_argument("--blinded", type=Path, help="blinded page to write, .html; its key lies beside it")
    options = parser.parse_args(args)
    training, frames = split(open_tissue(options.ebhi, DataFacts(data_set="ebhi")), HELD_OUT)
    styles = [measure_style(image) for image in training.images[::3]]
    cut = [np.ascontiguousarray(image[:SIDE, :SIDE]) for image in frames.images]
    labels = [part[:SIDE, :SIDE] for part in frames.labels]
    encoder = load_encoder()
    real = encoder.features(cut)
    found: dict[str, object] = {
        "real": shares(_lumina(cut, labels)) | {"beside tissue": darkness_beside_tissue(cut, labels)}
    }
    blinded = {"real": _evenly(cut, min(BLINDED, len(cut)))}
    for name in options.model:
        images = generate(load_model(name, device="cpu"), frames, styles)
        blinded[Path(name).stem] = _evenly(images, min(BLINDED, len(cut)))
        distance = encoder_distances(real, encoder.features(images))
        kernel = {"KD": round(distance.kernel, 4), "error": round(distance.error, 4)}
        beside = {"beside tissue": darkness_beside_tissue(images, labels)}
        found[Path(name).stem] = kernel | shares(_lumina(images, labels)) | beside
        if options.sheet is not None:
            options.sheet.mkdir(parents=True, exist_ok=True)
            both = zip(_evenly(cut, SHOWN), _evenly(images, SHOWN), strict=True)
            rows = [np.hstack(pair) for pair in both]
            sheet = np.vstack([np.hstack(rows[start : start + 2]) for start in range(0, SHOWN, 2)])
            cv2.imwrite(str(options.sheet / f"{Path(name).stem}.png"), sheet[..., ::-1])
    if options.blinded is not None:
        write_sheet(blinded, options.blinded, seed=0)
    for name, row in found.items():
        print(f"{name}: {row}")
    print(json.dumps(found))


def _evenly(images: Sequence[Bytes], count: int) -> list[Bytes]:
    """Choose images evenly."""
    chosen = np.linspace(0, len(images) - 1, count).round().astype(int)
    return [images[index] for index in chosen]


def _lumina(images: Sequence[Bytes], labels: Sequence[Bytes]) -> list[int]:
    """Count the lumina of all frames."""
    return [count for pair in zip(images, labels, strict=True) for count in count_lumina(*pair)]


if __name__ == "__main__":
    main()
