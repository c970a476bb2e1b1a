"""Which segmenters does a study train, on which images, and what did they reach?

`plan_arms` decides; `run_study` makes the synthetic images, trains arm after arm and seed after seed, tests each on real
and synthetic images of the held-out slides, and keeps every result in a file of its own. Tables I and Fig. 12 of the SAFRON
paper are made this way.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safron.io.console import warn
from safron.io.errors import BadInput, counted
from safron.io.files import parse_text, replacing
from safron.io.progress import progress
from safron.io.synthesis.stains import tissue_share
from safron.training.config.data_sets import DataFacts
from safron.training.segmentation.fitting import Annotated, choose_device, predictions, train_segmenter
from safron.training.segmentation.metrics import Mask, compare
from safron.training.segmentation.options import DiceOptions, generator_file
from safron.training.segmentation.synthesis import procedural_masks, synthesize
from safron.training.segmentation.tissue import Parts, divide, normalize, open_tissue

LEAST_TISSUE = 0.05
"""Share of an image that must be tissue where its style is measured."""

SEED_OF_SHARES = 7
"""Of the order in which images are replaced by synthetic ones, or chosen as the few."""


@dataclass(frozen=True)
class Arm:
    """What one kind of segmenter is trained on: indices of training images, real, synthetic and from procedural masks."""

    name: str
    real: tuple[int, ...] = ()
    synthetic: tuple[int, ...] = ()
    procedural: tuple[int, ...] = ()


def plan_arms(count: int, *, few: Sequence[int] = (), curve: Sequence[int] = ()) -> tuple[Arm, ...]:
    """Decide what to train on, for `count` training images.

    Examples
    --------
    >>> [arm.name for arm in plan_arms(4, few=(2,), curve=(0, 50))]
    ['real', 'synthetic', 'mixed', 'replaced 50%', 'added 50%', '2 real', '2 real + synthetic', '2 real + procedural', 'procedural']
    """
    every = tuple(range(count))
    order = np.random.default_rng(SEED_OF_SHARES).permutation(count)
    arms = [Arm("real", every), Arm("synthetic", (), every), Arm("mixed", every, every)]
    for percent in curve:
        made = tuple(sorted(order[: round(count * percent / 100)].tolist()))
        kept = tuple(sorted(set(every) - set(made)))
        if made and kept:  # none is "real"; all are "synthetic", or "mixed"
            arms += [Arm(f"replaced {percent}%", kept, made), Arm(f"added {percent}%", every, made)]
    for number in sorted({min(count, wanted) for wanted in few}):
        first = tuple(sorted(order[:number].tolist()))
        arms += [
            Arm(f"{number} real", first),
            Arm(f"{number} real + synthetic", first, every),
            Arm(f"{number} real + procedural", first, (), every),
        ]
    return (*arms, *([Arm("procedural", (), (), every)] if few else []))


@dataclass(frozen=True, eq=False)
class Material:
    """All images of a study, by kind: to train on, to validate on, and test sets by name."""

    train: dict[str, Annotated]
    validation: dict[str, Annotated]
    tests: dict[str, Annotated]

    def of(self, arm: Arm) -> tuple[Annotated, Annotated]:
        """Images that an arm is trained and validated on; it validates on the kinds that it trains on."""
        chosen = {"real": arm.real, "synthetic": arm.synthetic, "procedural": arm.procedural}
        train = _join([_take(self.train[kind], part) for kind, part in chosen.items() if part])
        # Where there are real masks, procedural ones have no say in which state is best.
        kinds = [kind for kind in ("real", "synthetic") if chosen[kind]] or ["procedural"]
        return train, _join([self.validation[kind] for kind in kinds])


def _take(found: Annotated, part: Sequence[int]) -> Annotated:
    return Annotated(tuple(found.images[i] for i in part), tuple(found.masks[i] for i in part))


def _join(parts: Sequence[Annotated]) -> Annotated:
    return Annotated(
        tuple(image for part in parts for image in part.images),
        tuple(mask for part in parts for mask in part.masks),
    )


def prepare_material(parts: Parts, out: Path, options: DiceOptions) -> Material:
    """Make the synthetic images of all masks, and those of procedural masks if they are asked for."""
    model, mpp = generator_file(options.model), parts.train.mpp
    whole = {"train": parts.train, "validation": parts.validation, "test": parts.test}
    labels = [label for part in whole.values() for label in part.labels]
    common: dict[str, Any] = {"model": model, "mpp": mpp, "threads": options.threads, "stain": options.stain}
    real = {
        name: Annotated(part.images, tuple(np.isin(label, options.label) for label in part.labels))
        for name, part in whole.items()
    }
    stained = [place for place, image in enumerate(parts.train.images) if tissue_share(image) > LEAST_TISSUE]
    common["styles"] = (
        (_take(real["train"], stained) if stained else real["train"]).thin(options.styles).images
    )
    made = iter(synthesize(labels, out / "synthetic", seed=0, **common))
    synthetic = {
        name: Annotated(tuple(next(made) for _ in found.masks), found.masks) for name, found in real.items()
    }
    train = {"real": real["train"], "synthetic": synthetic["train"]}
    validation = {"real": real["validation"], "synthetic": synthetic["validation"]}
    if options.few:
        height, width = parts.train.labels[0].shape
        count = len(parts.train) + len(parts.validation)
        drawn = procedural_masks(count, (height, width), seed=0, mpp=mpp)
        images = synthesize(drawn, out / "procedural", seed=1, **common)
        both = Annotated(images, tuple(np.isin(label, options.label) for label in drawn))
        train["procedural"] = _take(both, range(len(parts.train)))
        validation["procedural"] = _take(both, range(len(parts.train), count))
    one_stain = tuple(
        normalize(image, label) for image, label in zip(parts.test.images, parts.test.labels, strict=True)
    )
    tests = {
        "real": real["test"],
        "synthetic": synthetic["test"],
        "real, one stain": Annotated(one_stain, real["test"].masks),
    }
    return Material(train, validation, tests)


MADE = ("synthetic", "procedural")
"""Folders of rendered canvases, which may be there before the first training begins."""


def check_folder(out: Path, data: Path, options: DiceOptions) -> None:
    """Raise `BadInput` if a folder holds another study, or something else."""
    file, remedy = out / "study.json", "give the name of a new folder"
    if not file.exists():
        if out.exists() and not (out.is_dir() and all(item.name in MADE for item in out.iterdir())):
            raise BadInput(f"{out}: exists and holds no study; {remedy}")
        return
    # A study that began before there was an option has its default.
    kept = {**DiceOptions().lasting(), **parse_text(file, json.loads, kind="JSON", remedy=remedy)}
    for name, value in _identity(data, options).items():
        if kept.get(name) != value:
            raise BadInput(
                f"{out}: this study has {name} {kept.get(name)}, not {value}; give the same, or a new folder"
            )


def _identity(data: Path, options: DiceOptions) -> dict[str, Any]:
    """Return what makes a study this one, as JSON values."""
    return {"data": str(data.absolute()), **options.lasting()}


def _check_label(parts: Parts, label: tuple[int, ...]) -> None:
    """Raise `BadInput` unless there is something to segment in each part."""
    for name, part in (("training", parts.train), ("validation", parts.validation), ("test", parts.test)):
        if not any(np.isin(labels, label).any() for labels in part.labels):
            known = sorted({int(value) for labels in part.labels for value in np.unique(labels)})
            raise BadInput(
                f"--label {','.join(map(str, label))}: no mask of the {name} images has it, only {', '.join(map(str, known))}; give one of those"
            )


def _tell_of_small(masks: Sequence[npt.NDArray[Any]], crop: int) -> None:
    """Warn where crops are larger than images, and part of what they show is a mirrored edge."""
    if small := [mask.shape for mask in masks if min(mask.shape) < crop]:
        height, width = min(small, key=min)
        warn(
            "safron-eval",
            f"--crop {crop}: {len(small)} of {counted(len(masks), 'training image')} are smaller, one of {width} x {height} "
            "pixels; they are mirrored at their edges; give less to train on what is real alone",
        )


def run_study(data: Path, out: Path, options: DiceOptions) -> dict[str, Any]:
    """Run a study, or go on with one, until all is trained or the time is up.

    Parameters
    ----------
    data
        Folder of images and masks; see `open_tissue`.
    out
        Folder of the study. It is made, or holds an unfinished study of the same data and options.

    Returns
    -------
    dict[str, Any]
        What `summarize` makes of all results so far, with the counts of images, and of trainings done and planned.

    Raises
    ------
    BadInput
        The data or the folder cannot be used, or ``safron-render`` refuses the masks.
    """
    until = time.monotonic() + 60 * options.minutes if options.minutes else float("inf")
    if options.threads:
        torch.set_num_threads(options.threads)
    device = choose_device(options.device)
    check_folder(out, data, options)
    facts = DataFacts(data_set=options.data_set or "", slide_of=options.slide_of or "")
    pairs = open_tissue(data, facts)
    parts = divide(pairs, held_out=options.held_out, validation=options.validation, images=options.images)
    arms = plan_arms(len(parts.train), few=options.few or (), curve=options.curve or ())
    _check_label(parts, options.label)
    _tell_of_small(parts.train.labels, options.crop)
    material = prepare_material(parts, out, options)
    with replacing(out / "study.json") as opened:  # from here on it is this study
        opened.write((json.dumps(_identity(data, options), indent=2) + "\n").encode())
    trials = [(arm, seed) for seed in range(options.seeds) for arm in arms]
    with progress(len(trials), "trainings") as advance:
        for arm, seed in trials:
            file = trial_file(out, arm, seed)
            if not file.exists():
                result = _run_trial(arm, seed, material, options, file, device=device, until=until)
                if result is None:
                    break
                with replacing(file) as opened:
                    opened.write((json.dumps(result, indent=2) + "\n").encode())
            advance(1, f"{arm.name}, seed {seed}")
    counts = {"train": len(parts.train), "validation": len(parts.validation), "test": len(parts.test)}
    report = summarize(out, arms, options.seeds)
    return {"data": str(data), "options": asdict(options), "images": counts, **report}


def trial_file(out: Path, arm: Arm, seed: int) -> Path:
    """Name the file of a finished training."""
    plain = arm.name.replace("%", "").replace(" + ", "-and-").replace(" ", "-")
    return out / f"{plain}-{seed}.json"


def _run_trial(
    arm: Arm,
    seed: int,
    material: Material,
    options: DiceOptions,
    file: Path,
    *,
    device: torch.device,
    until: float,
) -> dict[str, Any] | None:
    """Train and test one segmenter; None if the time was up."""
    began = time.monotonic()
    train, validation = material.of(arm)
    trained = train_segmenter(
        train, validation, options, seed=seed, state=file.with_suffix(".pt"), device=device, until=until
    )
    if trained is None:
        return None
    tests, masks = {}, {}
    for name, found in material.tests.items():
        pairs = predictions(trained.network, found, device)
        masks[name] = [predicted for predicted, _ in pairs]
        scores = [measures(*pair) for pair in pairs]
        tests[name] = {measure: _over_images([one[measure] for one in scores]) for measure in scores[0]}
    both = zip(masks["synthetic"], masks["real"], strict=True)
    agreement = [compare(synthetic, real).dice for synthetic, real in both]
    return {
        "arm": arm.name,
        "seed": seed,
        "images": len(train),
        "best_step": trained.step,
        "validation_dice": trained.dice,
        "tests": tests,
        "agreement": _over_images(agreement),
        "seconds": time.monotonic() - began,
    }


def measures(predicted: Mask, true: Mask) -> dict[str, float]:
    """Score a mask bool [y, x]: the foreground, and the background by pixels, whose names begin with ``background_``."""
    background = asdict(compare(~predicted, ~true))
    del background["boundary_f1"]
    return asdict(compare(predicted, true)) | {
        f"background_{name}": value for name, value in background.items()
    }


def _over_images(values: Sequence[float]) -> dict[str, float]:
    return {"mean": float(np.mean(values)), "sd_over_images": float(np.std(values))}


def summarize(out: Path, arms: Sequence[Arm], seeds: int) -> dict[str, Any]:
    """Gather all finished trainings: for each arm and test, mean and standard deviation over seeds of each measure.

    `agreement` is the Dice of a segmenter's masks of real and of synthetic images of the same labels (the paper: 0.93).
    """
    rows: dict[str, Any] = {}
    done = 0
    for arm in arms:
        files = [file for seed in range(seeds) if (file := trial_file(out, arm, seed)).exists()]
        results = [json.loads(file.read_text()) for file in files]
        done += len(results)
        if not results:
            continue
        tests = {
            test: {
                measure: spread([result["tests"][test][measure]["mean"] for result in results])
                for measure in results[0]["tests"][test]
            }
            for test in results[0]["tests"]
        }
        agreement = spread([result["agreement"]["mean"] for result in results])
        rows[arm.name] = {
            "seeds": len(results),
            "images": results[0]["images"],
            "tests": tests,
            "agreement": agreement,
        }
    return {"done": done, "planned": len(arms) * seeds, "arms": rows}


def spread(values: Sequence[float]) -> dict[str, float | None]:
    """Mean and standard deviation over seeds; a single seed has none."""
    return {"mean": float(np.mean(values)), "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None}


def show_spread(found: Mapping[str, float | None], digits: int = 3) -> str:
    """Write what `spread` gives.

    Examples
    --------
    >>> show_spread(spread([0.5, 0.7])), show_spread(spread([0.5]))
    ('0.600 +- 0.141', '0.500')
    """
    known = [value for value in (found["mean"], found["sd"]) if value is not None]
    return " +- ".join(f"{value:.{digits}f}" for value in known)


def table(report: dict[str, Any]) -> list[list[str]]:
    """Return the rows of the printed table: Dice, IoU and boundary F1 of each arm on each test."""
    rows = [["trained on", "images", "seeds", "tested on", "Dice", "IoU", "boundary F1"]]
    for name, arm in report["arms"].items():
        for test, scores in arm["tests"].items():
            shown = [show_spread(scores[measure]) for measure in ("dice", "iou", "boundary_f1")]
            rows.append([name, str(arm["images"]), str(arm["seeds"]), test, *shown])
    return rows
