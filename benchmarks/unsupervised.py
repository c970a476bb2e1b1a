"""What does a segmenter learn from pictures that nobody labelled, and is a refined picture more real than an initial one?

    python benchmarks/unsupervised.py CONSEP OUT --minutes 240 --size small --other DSB

Reads images/, and inst/ or labels/ for the comparison only, of CoNSeP or a folder laid out like it. `--held-out` tiles are kept for scoring.
Trains by algorithm 1 of Hou et al. (2017): the whole method, without style, without hard examples; and the same segmenter on
the labels, and on the initial pictures, for as many steps. A variant that is finished is not trained again, so the same
command resumes; `--minutes` bound one call. `--shrink 2` works at half the resolution, 0.5 um of 0.25. `--other` is a folder
of another organ: every second of its images is scored, too; from the rest, without their labels, pictures are drawn and refined
by the whole method's refiner, which one more segmenter gets for half of each batch, beside the labels. Writes the
segmenters, what each finds, scores.json, a table, and reader.html with its key. The last line is JSON.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
from common import parser_of
from results import Results, run_study
from safron.engine.evaluation.blinded_sheet import write_sheet
from safron.io.errors import BadInput
from safron.io.synthesis.shrinking import shrink_image, shrink_numbers
from safron.io.synthesis.tiles import read_tiles
from safron.training.config.averaging import follow
from safron.training.fit_refiner import fit_refiner
from safron.training.refiner.data import (
    Tiles,
    as_bytes,
    as_tensor,
    task_targets,
)
from safron.training.refiner.found import SURELY_INTERIOR, find_nuclei
from safron.training.refiner.networks import TaskNet
from safron.training.refiner.settings import CONTEXT, SIZES, RefinerConfig
from safron.training.refiner.task_loss import TaskBatch, task_loss
from safron.training.refiner.train import RefinerTrainer
from safron.training.segmentation.metrics import compare, compare_instances
from torch import nn

VARIANTS: dict[str, dict[str, bool]] = {
    "whole method": {},
    "no style": {"use_style": False},
    "no hard examples": {"use_hard": False},
}

ROWS = ("labels", "initial pictures", *VARIANTS)

SHOWN = ("dice", "aji", "pq")

SHOWN_SIDE, LABELLED, FOUND = 200, (20, 160, 20), (230, 160, 0)
"""Pixels of a tile that are drawn, and the colours of outlines."""

BESIDE = "labels and refined pictures"
"""Row that only `--other` has."""

UInt8 = npt.NDArray[np.uint8]
Instances = npt.NDArray[np.int64]
Draw = Callable[[int], TaskBatch]
Held = dict[str, tuple[UInt8, Instances]]


def train_task(config: RefinerConfig, draw: Draw) -> nn.Module:
    """Train the task network alone, for as many steps, on batches of what is drawn for each; give its moving average."""
    torch.manual_seed(config.seed)
    network = TaskNet(config.task_width)
    average = copy.deepcopy(network)
    adam = torch.optim.Adam(network.parameters(), config.task_rate, betas=(0.5, 0.999))
    for step in range(config.task_steps):
        loss = task_loss(network, average, draw(step), config, step)
        adam.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        adam.step()
        follow(average, network, config.task_average, step)
    return average


def initial(tiles: Tiles) -> Draw:
    """Initial pictures and their masks."""

    def draw(step: int) -> TaskBatch:
        batch = tiles.batch(step)
        return TaskBatch(batch.initial[:, :, CONTEXT:-CONTEXT, CONTEXT:-CONTEXT], batch.targets, batch.real)

    return draw


def refined(trainer: RefinerTrainer, tiles: Tiles) -> Draw:
    """Pictures drawn upon any tiles, in their style, and their masks."""

    def draw(step: int) -> TaskBatch:
        batch = tiles.batch(step)
        with torch.no_grad():
            return TaskBatch(trainer.refined(batch), batch.targets, batch.real)

    return draw


def labelled(images: list[UInt8], truth: list[Instances], config: RefinerConfig) -> Draw:
    """Crops of real tiles with their labels."""
    rng = np.random.default_rng([config.seed, 7])

    def draw(step: int) -> TaskBatch:
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
        return TaskBatch(as_tensor(shown), torch.from_numpy(np.stack(targets)).permute(0, 3, 1, 2))

    return draw


def halves(one: Draw, other: Draw) -> Draw:
    """Batches of which each source gives half; real pictures without labels are the second one's."""

    def draw(step: int) -> TaskBatch:
        first, second = one(step), other(step)
        pairs = (first.images, second.images), (first.targets, second.targets)
        image, targets = (torch.cat([a[: len(a) // 2], b[len(b) // 2 :]]) for a, b in pairs)
        return TaskBatch(image, targets, second.real)

    return draw


Find = Callable[[UInt8], npt.NDArray[np.int32]]


def finder(network: nn.Module, row: str, config: RefinerConfig) -> Find:
    """How nuclei are looked for by the segmenter of a row."""
    pseudo = config.use_pseudo_labels and row != "labels"
    network.eval()
    return partial(
        find_nuclei, network, smallest=config.smallest, interior=SURELY_INTERIOR if pseudo else 0.0
    )


def scores_of(find: Find, held: Held) -> dict[str, float]:
    """Mean scores over tiles, and the Dice of each."""
    rows = {}
    for name, (rgb, true) in held.items():
        found = find(rgb)
        nuclei = compare_instances(found, true)
        rows[name] = (compare(found > 0, true > 0).dice, nuclei.aji, nuclei.panoptic)
    means = dict(zip(SHOWN, np.mean([*rows.values()], axis=0).tolist(), strict=True))
    return means | {f"dice of {name}": row[0] for name, row in rows.items()}


def draw_found(find: Find, held: Held, file: Path) -> None:
    """Draw the middle of each scored tile, below it the outlines of its labels, and of what was found, at twice the size."""
    columns = []
    for rgb, true in held.values():
        found = find(rgb)
        y, x = (max(0, length // 2 - SHOWN_SIDE // 2) for length in true.shape)
        part = np.s_[y : y + SHOWN_SIDE, x : x + SHOWN_SIDE]
        column = [np.repeat(np.repeat(rgb[part], 2, axis=0), 2, axis=1)]
        for numbers, colour in ((true, LABELLED), (found, FOUND)):
            outlined = column[0].copy()
            wide = np.repeat(np.repeat(numbers[part], 2, axis=0), 2, axis=1).astype(np.float32)
            kernel = np.ones((3, 3), np.uint8)
            outlined[(cv2.erode(wide, kernel) != wide) | (cv2.dilate(wide, kernel) != wide)] = colour
            column.append(outlined)
        columns.append(np.concatenate(column, axis=0))
    height = min(len(column) for column in columns)
    cv2.imwrite(str(file), np.concatenate([column[:height] for column in columns], axis=1)[..., ::-1])


def read_labelled(folder: Path, shrink: int) -> tuple[dict[str, UInt8], dict[str, Instances]]:
    """Tiles of a folder, at their own pixel size, and the numbers of their nuclei, made smaller."""
    tiles = {Path(name).stem: rgb for name, rgb in read_tiles([folder / "images"])}
    marks = next((folder / name for name in ("inst", "labels") if (folder / name).is_dir()), folder / "inst")
    truth = {}
    for name, rgb in tiles.items():
        numbers = cv2.imread(str(marks / f"{name}.png"), cv2.IMREAD_UNCHANGED)
        if numbers is None or numbers.shape != rgb.shape[:2]:
            raise BadInput(f"{marks / name}.png: must hold numbers of nuclei for each pixel of images/{name}")
        truth[name] = shrink_numbers(numbers.astype(np.int64), shrink)
    return tiles, truth


def check_held(tiles: dict[str, UInt8], names: list[str]) -> None:
    """Refuse names to score that no tile has, and tiles of which all or none are scored."""
    if unknown := [name for name in names if name not in tiles]:
        raise BadInput(
            f"--held-out {unknown[0]}: there is no such tile; there are {', '.join([*tiles][:5])} ..."
        )
    if not 0 < len(set(names)) < len(tiles):
        raise BadInput(
            f"--held-out: {len(set(names))} of {len(tiles)} tiles; hold some out, and leave others to train on"
        )


def held_of(tiles: dict[str, UInt8], truth: dict[str, Instances], names: list[str], shrink: int) -> Held:
    """What is scored: tiles made smaller, and their nuclei."""
    return {name: (shrink_image(tiles[name], shrink), truth[name]) for name in names}


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


@dataclass(frozen=True)
class Study:
    """Trainings of one seed.

    Attributes
    ----------
    config
        Settings.
    tiles, truth
        What is trained on, and the numbers of all nuclei by name of the tile, which only rows with labels use.
    held
        What is scored, by what stands before the names of its scores.
    out
        Folder of the checkpoints.
    unlabelled
        Names and pixels of another organ, of which pictures are drawn for `BESIDE`.
    """

    config: RefinerConfig
    tiles: Tiles
    truth: dict[str, Instances]
    held: dict[str, Held]
    out: Path
    unlabelled: list[tuple[str, UInt8]]

    def refiner(self, name: str, minutes: float) -> RefinerTrainer | None:
        """Train a variant, or go on with it; None where it is not finished."""
        config = dataclasses.replace(self.config, **VARIANTS[name])
        folder = self.out / f"{name}-seed-{config.seed}".replace(" ", "-")
        resume = (folder / "refiner.pt").exists()
        trainer = fit_refiner(self.tiles, folder, config, resume=resume, minutes=minutes)
        if trainer.done >= config.total:
            return trainer
        print(
            f"{name}, seed {config.seed}: {trainer.done} of {config.total} iterations; the same command resumes"
        )
        return None

    def network(self, row: str, minutes: float, readings: int) -> nn.Module | None:
        """Train the segmenter of a row; None where it is not finished."""
        if row == "initial pictures":
            return train_task(self.config, initial(self.tiles))
        labels = labelled(self.tiles.images, [self.truth[one] for one in self.tiles.names], self.config)
        if row == "labels":
            return train_task(self.config, labels)
        trainer = self.refiner("whole method" if row == BESIDE else row, minutes)
        if trainer is None:
            return None
        if row == BESIDE:
            pictures = refined(trainer, Tiles(self.unlabelled, self.config))
            return train_task(self.config, halves(labels, pictures))
        if row == "whole method" and self.config.seed == 0:
            reader_sheet(trainer, self.out, readings)
        return trainer.average

    def scores(self, find: Find) -> dict[str, float]:
        """Scores of all that is held out."""
        found = {}
        for kind, held in self.held.items():
            found |= {kind + what: score for what, score in scores_of(find, held).items()}
        return found | {"task_steps": self.config.task_steps, "batch": self.config.batch}


def options() -> argparse.Namespace:
    """What the command line says."""
    parser = parser_of(__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=240.0)
    parser.add_argument("--size", choices=[*SIZES], default="small")
    parser.add_argument("--iterations", type=int)
    parser.add_argument("--shrink", type=int, default=1, help="sides of tiles are divided by this")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--only", nargs="*", choices=[*ROWS, BESIDE], help="rows of the table that are trained"
    )
    parser.add_argument("--held-out", nargs="*", default=["train_4", "train_11", "train_18", "train_23"])
    parser.add_argument(
        "--other", type=Path, help="folder of another organ; a finished row is not scored again"
    )
    parser.add_argument("--readings", type=int, default=100, help="pictures of each kind in reader.html")
    chosen = parser.parse_args()
    chosen.only = chosen.only or ([*ROWS, BESIDE] if chosen.other else [*ROWS])
    if BESIDE in chosen.only and not chosen.other:
        parser.error(f"--only {BESIDE!r} needs --other")
    return chosen


def main() -> None:
    """Train what is not trained yet, score it and print."""
    chosen = options()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    chosen.out.mkdir(parents=True, exist_ok=True)
    results = Results(chosen.out / "scores.json", chosen.minutes)
    found, truth = read_labelled(chosen.data, chosen.shrink)
    check_held(found, chosen.held_out)
    held = {"": held_of(found, truth, chosen.held_out, chosen.shrink)}
    unlabelled = []
    if chosen.other:
        others, other_truth = read_labelled(chosen.other, chosen.shrink)
        names = [*others]
        check_held(others, names[::2])
        unlabelled = [(name, others[name]) for name in names[1::2]]
        held["other "] = held_of(others, other_truth, names[::2], chosen.shrink)
    for seed in range(chosen.seeds):
        config = dataclasses.replace(SIZES[chosen.size], seed=seed)
        config = config.with_total(chosen.iterations) if chosen.iterations else config
        config = dataclasses.replace(config, shrink=chosen.shrink)
        tiles = Tiles([(name, rgb) for name, rgb in found.items() if name not in chosen.held_out], config)
        study = Study(config, tiles, truth, held, chosen.out, unlabelled)
        for row in (*ROWS, BESIDE):
            key = f"{row}, seed {seed}"
            if row not in chosen.only or not results.wants(key):
                continue
            network = study.network(row, results.minutes, chosen.readings)
            if network is None:
                continue
            name = key.replace(", ", "-").replace(" ", "-")
            torch.save(network.state_dict(), chosen.out / f"{name}.pt")
            find = finder(network, row, config)
            draw_found(find, held[""], chosen.out / f"{name}.png")
            scores = study.scores(find)
            results.keep(key, scores)
            shown = [kind + what for kind in held for what in SHOWN]
            print(f"{key:30s}" + "".join(f"  {what} {scores[what]:.3f}" for what in shown), flush=True)
    print(json.dumps(results.found))


if __name__ == "__main__":
    run_study(main)
