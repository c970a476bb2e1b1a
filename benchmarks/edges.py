"""What do generated images of nuclei add to a segmenter? Table 1 of "Synthetic augmentation using edge features", by tile.

    python benchmarks/edges.py CONSEP OUT --minutes 240 --segmenters unet --seeds 0 1 2

Trains edge-pix2pix on all tiles but those that are tested on, makes the sets G0 and G1 with it and with the shipped seamless
generator, and trains segmenters on the tiles, cut into 4 x 4 blocks, alone and with each set, for as many steps each. `--width`
and `--generator-width` are 64 in the papers. What is finished is not made again, so the same command goes on; `--minutes` bound
one call. Writes scores.json, sheet.png and a table. The last line is JSON.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from common import parser_of
from results import Results, run_study
from safron.engine.augment import SetOptions, augment
from safron.engine.nucleus_tiles import list_tiles, read_tile
from safron.io.masks.canny import Canny, canny
from safron.io.whole_image import read_image
from safron.training.segmentation.fitting import Annotated, predictions, train_segmenter
from safron.training.segmentation.options import DiceOptions
from safron.training.segmentation.study import measures, show_spread, spread

TESTED = ("train_1", "train_10", "train_18")
"""Tiles to test on: those that the shipped generator of nuclei did not see."""
VALIDATED = ("train_9", "train_20")
"""Tiles by which the best state of a training is chosen."""
BLOCK = 250
"""Side of a block in pixels."""
KINDS = ("G0", "G1")
GENERATORS = ("edge-pix2pix", "nuclei")
SEGMENTERS = ("unet", "fcn8s", "segnet", "deeplab18", "deeplab50")
SHOWN = ("f1", "iou", "precision", "recall")

UInt8 = npt.NDArray[np.uint8]


def image_file(folder: Path, name: str) -> Path:
    """Find the image of a tile."""
    return next((folder / "images").glob(f"{name}.*"))


def read(folder: Path, names: Iterable[str], block: int | None = None) -> Annotated:
    """Read tiles and which of their pixels are nuclei, whole or cut into blocks."""
    images, masks = [], []
    for name in names:
        image, mask = (
            read_image(image_file(folder, name)),
            read_tile(folder, name, image_edges=False).numbers > 0,
        )
        height, width = mask.shape
        side = block or max(height, width)
        for y in range(0, height - side + 1, side):
            for x in range(0, width - side + 1, side):
                images.append(image[y : y + side, x : x + side])
                masks.append(mask[y : y + side, x : x + side])
    return Annotated(tuple(images), tuple(masks))


def train_generator(data: Path, out: Path, steps: int, width: int, minutes: float) -> Path | None:
    """Train edge-pix2pix, or go on, with all tiles but those to test on; None if the time was up first."""
    run, tiles, model = out / "pix2pix", out / "generator-data", out / "edge-pix2pix.onnx"
    if model.exists():
        return model
    for name in list_tiles(data, TESTED):
        for file in (image_file(data, name), data / "inst" / f"{name}.png", data / "class" / f"{name}.png"):
            kept = tiles / file.relative_to(data)
            kept.parent.mkdir(parents=True, exist_ok=True)
            if not kept.exists():
                shutil.copyfile(file, kept)
    checkpoint, settings = run / "checkpoint.pt", out / "pix2pix.json"
    chosen = {"held_out": 0.06, "discriminator_base": width, "model": {"base": width}}
    settings.write_text(json.dumps(chosen) + "\n")
    fresh = ["--preset", "edge-pix2pix", "--config", str(settings), "--steps", str(steps)]
    fresh += ["--licence", "Apache-2.0, as reported for CoNSeP", "--trained-on", "CoNSeP, 24 of 27 tiles"]
    train = [str(Path(sys.executable).with_name("safron-train"))]
    going_on = ["--resume", "--steps", str(steps)] if checkpoint.exists() else fresh
    common = ["--data-set", "consep", "--threads", "1", "--minutes", f"{minutes:.3f}", "--save-every", "280"]

    def done() -> bool:
        about = checkpoint.with_suffix(".json")
        return about.exists() and json.loads(about.read_text())["step"] >= steps

    if not done():
        subprocess.run([*train, "fit", str(tiles), str(run), *common, *going_on], check=True)
    if not done():
        return None
    subprocess.run([*train, "export", str(checkpoint), str(model)], check=True)
    return model


def make_set(data: Path, out: Path, generator: str, kind: Any, model: Path | None) -> Path:
    """Make a set of generated tiles, if it is not there: with edges of the real tiles, as the paper, or of the numbers."""
    made = out / "sets" / f"{generator}-{kind}"
    if not made.exists():
        made.parent.mkdir(exist_ok=True)
        options = SetOptions(
            model or generator, kind, edges="image" if model else "mask", leave_out=[*TESTED, *VALIDATED]
        )
        augment(data, made, options)
    return made


def score(network: torch.nn.Module, test: Annotated) -> dict[str, float]:
    """Mean scores over the tiles, of nuclei and of background; the paper's F1 of pixels is the Dice."""
    rows = [measures(*pair) for pair in predictions(network, test, torch.device("cpu"))]
    found = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    return {name.replace("dice", "f1"): value for name, value in found.items()}


def table(found: dict[str, dict[str, Any]], segmenters: Sequence[str], arms: Sequence[str]) -> list[str]:
    """Write the table in Markdown: mean over seeds, and their deviation where there are several."""
    names = [*SHOWN, *(f"background_{name}" for name in SHOWN), "boundary_f1"]
    head = ["segmenter", "trained on", "seeds", *(name.replace("_", " ") for name in names)]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for segmenter in segmenters:
        for arm in arms:
            rows = [row for key, row in found.items() if key.startswith(f"{segmenter}, {arm}, seed ")]
            if rows:
                each = [spread([row[name] for row in rows]) for name in names]
                cells = [show_spread(one) for one in each]
                lines.append(f"| {segmenter} | {arm} | {len(rows)} | " + " | ".join(cells) + " |")
    return lines


def sheet(data: Path, sets: Sequence[Path], names: Sequence[str], file: Path) -> None:
    """Draw parts of tiles: real, what edge-pix2pix reads, and of each set what was made of the tile."""
    columns = []
    for name in names:
        real, mask = read_image(image_file(data, name)), read_tile(data, name, image_edges=False).numbers > 0
        grey = np.where(canny(real, Canny()) > 0, 255, np.where(mask, 128, 0)).astype(np.uint8)
        made = [read_image(image_file(part, f"{name}-{part.name[-2:].lower()}-0")) for part in sets]
        columns.append(np.concatenate([one[:256, :256] for one in (real, np.dstack([grey] * 3), *made)]))
    if not cv2.imwrite(str(file), np.concatenate(columns, axis=1)[..., ::-1]):
        raise OSError(f"{file} cannot be written")


def main() -> None:
    """Train what is not trained yet, score it and print."""
    parser = parser_of(__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=240.0)
    parser.add_argument("--generators", nargs="*", choices=GENERATORS, default=GENERATORS)
    parser.add_argument("--sets", nargs="*", choices=KINDS, default=KINDS)
    parser.add_argument("--generator-steps", type=int, default=2240, help="steps of edge-pix2pix")
    parser.add_argument("--generator-width", type=int, default=32, help="channels of its first layer")
    parser.add_argument("--segmenters", nargs="*", choices=SEGMENTERS, default=SEGMENTERS)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=300, help="steps of each segmenter")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--crop", type=int, default=128, help="the paper: 224")
    parser.add_argument("--width", type=int, default=16, help="channels of each segmenter's first layer")
    chosen = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    chosen.out.mkdir(parents=True, exist_ok=True)
    results = Results(chosen.out / "scores.json", chosen.minutes)
    sets = {}
    for generator in chosen.generators:
        model = None
        if generator == "edge-pix2pix":
            model = train_generator(
                chosen.data, chosen.out, chosen.generator_steps, chosen.generator_width, results.minutes
            )
            if model is None:
                print("edge-pix2pix is not trained yet; the same command resumes")
                continue
        sets |= {
            f"+{kind} {generator}": make_set(chosen.data, chosen.out, generator, kind, model)
            for kind in chosen.sets
        }
    trained = list_tiles(chosen.data, [*TESTED, *VALIDATED])
    real, validation, test = (
        read(chosen.data, names, block)
        for names, block in ((trained, BLOCK), (VALIDATED, None), (TESTED, None))
    )
    if sets:
        sheet(
            chosen.data,
            list(sets.values()),
            ["train_3", "train_8", "train_14", "train_21"],
            chosen.out / "sheet.png",
        )
    about = {name: getattr(chosen, name) for name in ("width", "steps", "batch", "crop", "generator_steps")}
    for segmenter in chosen.segmenters:
        options = DiceOptions(
            segmenter=segmenter,
            width=chosen.width,
            steps=chosen.steps,
            batch=chosen.batch,
            crop=chosen.crop,
            class_weights=True,
        )
        for seed in chosen.seeds:
            for arm in ("initial", *sets):
                key = f"{segmenter}, {arm}, seed {seed}"
                if not results.wants(key):
                    continue
                train = real
                if arm in sets:
                    more = read(sets[arm], list_tiles(sets[arm], ()), BLOCK)
                    train = Annotated(real.images + more.images, real.masks + more.masks)
                state = chosen.out / f"{key.replace(', ', '-').replace(' ', '-')}.pt"
                ended = train_segmenter(
                    train,
                    validation,
                    options,
                    seed=seed,
                    state=state,
                    device=torch.device("cpu"),
                    until=results.until,
                )
                if ended is None:
                    print(f"{key}: the time is up; the same command resumes")
                    continue
                scores = score(ended.network, test)
                results.keep(key, scores | about | {"blocks": len(train), "best_step": ended.step})
                print(f"{key:36s}  F1 {scores['f1']:.3f}  IoU {scores['iou']:.3f}", flush=True)
    print(
        "\n".join(
            table(results.found, SEGMENTERS, ["initial", *(f"+{k} {g}" for g in GENERATORS for k in KINDS)])
        )
    )
    print(json.dumps(results.found))


if __name__ == "__main__":
    run_study(main)
