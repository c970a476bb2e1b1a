"""What does a segmenter learn from pictures that nobody labelled, and is a refined picture more real than an initial one?

    python benchmarks/unsupervised.py CONSEP OUT --minutes 240 --size small

Reads images/, and inst/ for the comparison only, of CoNSeP or a folder laid out like it. `--held-out` tiles are kept for scoring.
Trains by algorithm 1 of Hou et al. (2017): the whole method, without style, without hard examples; and the same segmenter on
the labels, and on the initial pictures, for as many steps. A variant that is finished is not trained again, so the same
command resumes; `--minutes` bound one call. `--shrink 2` works at half the resolution, 0.5 um of 0.25. Writes scores.json, a table, and reader.html with its key. The last line is JSON.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from common import parser_of
from results import Results, run_study
from safron.engine.evaluation.blinded_sheet import write_sheet
from safron.io.synthesis.shrinking import shrink_image, shrink_numbers
from safron.io.synthesis.tiles import read_tiles
from safron.training.fit_refiner import fit_refiner
from safron.training.refiner.data import (
    Tiles,
    as_bytes,
    as_tensor,
    task_targets,
)
from safron.training.refiner.found import find_nuclei
from safron.training.refiner.networks import TaskNet
from safron.training.refiner.settings import CONTEXT, SIZES, RefinerConfig
from safron.training.refiner.train import RefinerTrainer
from safron.training.segmentation.metrics import compare, compare_instances
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

VARIANTS: dict[str, dict[str, bool]] = {
    "whole method": {},
    "no style": {"use_style": False},
    "no hard examples": {"use_hard": False},
}

ROWS = ("labels", "initial pictures", *VARIANTS)

SHOWN = ("dice", "aji", "pq")

UInt8 = npt.NDArray[np.uint8]
Instances = npt.NDArray[np.int64]


def task_steps(config: RefinerConfig) -> int:
    """Steps of the task network in all phases."""
    return config.steps[3] + config.inner[2] * config.steps[4]


def train_task(config: RefinerConfig, tiles: Tiles, truth: list[Instances] | None) -> nn.Module:
    """Train the task network alone, for as many steps: on real tiles and their labels, or on initial pictures."""
    torch.manual_seed(config.seed)
    network, rng = TaskNet(config.task_width), np.random.default_rng([config.seed, 7])
    adam = torch.optim.Adam(network.parameters(), config.task_rate, betas=(0.5, 0.999))
    for step in range(task_steps(config)):
        if truth is None:
            batch = tiles.batch(step)
            image, targets = batch.initial[:, :, CONTEXT:-CONTEXT, CONTEXT:-CONTEXT], batch.targets
        else:
            image, targets = labelled(tiles.images, truth, config, rng)
        loss = binary_cross_entropy_with_logits(network(image), targets)
        adam.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        adam.step()
    return network


def labelled(
    images: list[UInt8], truth: list[Instances], config: RefinerConfig, rng: np.random.Generator
) -> Any:
    """Crops of real tiles with their labels."""
    shown, targets = [], []
    for _ in range(config.batch):
        tile = int(rng.integers(len(images)))
        y, x = (int(rng.integers(length - config.patch + 1)) for length in images[tile].shape[:2])
        place, turn = np.s_[y : y + config.patch, x : x + config.patch], int(rng.integers(8))
        for kept, part in (
            (shown, images[tile][place]),
            (targets, task_targets(truth[tile][place].astype(np.uint32), config.interior)),
        ):
            kept.append(np.ascontiguousarray(np.rot90(part[::-1] if turn >= 4 else part, turn % 4)))
    return as_tensor(shown), torch.from_numpy(np.stack(targets)).permute(0, 3, 1, 2)


def scores_of(
    network: nn.Module, held: dict[str, tuple[UInt8, Instances]], smallest: int
) -> dict[str, float]:
    """Mean scores over tiles, and the Dice of each; `smallest` is the number of pixels of the smallest nucleus."""
    rows = {}
    for name, (rgb, true) in held.items():
        found = find_nuclei(network.eval(), rgb, smallest=smallest)
        nuclei = compare_instances(found, true)
        rows[name] = (compare(found > 0, true > 0).dice, nuclei.aji, nuclei.panoptic)
    means = dict(zip(SHOWN, np.mean([*rows.values()], axis=0).tolist(), strict=True))
    return means | {f"dice of {name}": row[0] for name, row in rows.items()}


def reader_sheet(trainer: RefinerTrainer, out: Path, count: int) -> None:
    """Write a page that asks for each of some pictures, in random order, whether it is real (section 5 of the paper)."""
    kinds: dict[str, list[UInt8]] = {"initial": [], "refined": [], "real": []}
    number = 1 << 20
    while len(kinds["real"]) < count:
        number += 1
        batch = trainer.tiles.batch(number)
        with torch.no_grad():
            kinds["refined"] += list(as_bytes(trainer.refined(batch)))
        kinds["initial"] += list(as_bytes(batch.initial[:, :, CONTEXT:-CONTEXT, CONTEXT:-CONTEXT]))
        kinds["real"] += list(as_bytes(batch.real))
    kinds = {kind: images[:count] for kind, images in kinds.items()}
    write_sheet(kinds, out / "reader.html", seed=trainer.config.seed, overwrite=True)
    shown = [np.concatenate(images[:8], axis=1) for images in kinds.values()]
    cv2.imwrite(str(out / "sheet.png"), np.concatenate(shown, axis=0)[..., ::-1])


def main() -> None:
    """Train what is not trained yet, score it and print."""
    parser = parser_of(__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=240.0)
    parser.add_argument("--size", choices=[*SIZES], default="small")
    parser.add_argument("--iterations", type=int)
    parser.add_argument("--shrink", type=int, default=1, help="sides of tiles are divided by this")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="*", choices=ROWS, default=ROWS, help="rows of the table that are trained")
    parser.add_argument("--held-out", nargs="*", default=["train_4", "train_11", "train_18", "train_23"])
    parser.add_argument("--readings", type=int, default=100, help="pictures of each kind in reader.html")
    chosen = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    chosen.out.mkdir(parents=True, exist_ok=True)
    results = Results(chosen.out / "scores.json", chosen.minutes)
    found = {Path(name).stem: rgb for name, rgb in read_tiles([chosen.data / "images"])}
    truth = {
        name: cv2.imread(str(chosen.data / "inst" / f"{name}.png"), cv2.IMREAD_UNCHANGED).astype(np.int64)
        for name in found
    }
    truth = {name: shrink_numbers(numbers, chosen.shrink) for name, numbers in truth.items()}
    for seed in range(chosen.seeds):
        config = dataclasses.replace(SIZES[chosen.size], seed=seed)
        config = config.with_total(chosen.iterations) if chosen.iterations else config
        config = dataclasses.replace(config, shrink=chosen.shrink)
        tiles = Tiles([(name, rgb) for name, rgb in found.items() if name not in chosen.held_out], config)
        held = {name: (shrink_image(found[name], chosen.shrink), truth[name]) for name in chosen.held_out}
        for name in ROWS:
            key = f"{name}, seed {seed}"
            if name not in chosen.only or not results.wants(key):
                continue
            if name not in VARIANTS:
                labels = [truth[one] for one in tiles.names] if name == "labels" else None
                network = train_task(config, tiles, labels)
            else:
                variant = dataclasses.replace(config, **VARIANTS[name])
                folder = chosen.out / key.replace(", ", "-").replace(" ", "-")
                resume = (folder / "refiner.pt").exists()
                trainer = fit_refiner(tiles, folder, variant, resume=resume, minutes=results.minutes)
                network = trainer.task
                if trainer.done < variant.total:
                    print(f"{key}: {trainer.done} of {variant.total} iterations; the same command resumes")
                    continue
                if name == "whole method" and seed == 0:
                    reader_sheet(trainer, chosen.out, chosen.readings)
            scores = scores_of(network, held, config.smallest)
            results.keep(key, scores | {"task_steps": task_steps(config), "batch": config.batch})
            print(f"{key:30s}" + "".join(f"  {what} {scores[what]:.3f}" for what in SHOWN), flush=True)
    print(json.dumps(results.found))


if __name__ == "__main__":
    run_study(main)
