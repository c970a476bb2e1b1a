"""The tables of NASDM++ (nuclei-aware diffusion) at a size that a CPU can pay: distances, guidance, Dice, training sets, experts.

    python benchmarks/paper_diffusion.py CONSEP OUT --minutes 120
    python benchmarks/paper_diffusion.py CONSEP OUT --masks generated=nuclei.zarr

CONSEP has images/, inst/ and class/. Tiles are brought to 0.5 um and those held out are the ones that training leaves out. Each row
is kept in scores.json and not made again, so the same command resumes; ``--minutes`` bound one call. `--masks` are other masks to
generate from, an OME-Zarr of classes and numbers at 0.5 um each. Writes experts.html, too. The last line is JSON.

- distance: kernel distance (EfficientNet-Lite0) of crops of 128 px from those of the real held-out tiles, for each generator, steps and
  guidance; CPU seconds for a megapixel.
- dice: segmenters are trained on real tiles, one for each type of nucleus, and tested on the held-out tiles, real and generated.
- curves: a segmenter of all nuclei is trained on real tiles, and on ones generated of their masks, as the rows of the paper's Tables 3 to 5
  say; tested on real held-out tiles. tables.md has these tables, as far as they are filled.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
import zarr
from common import CROP, crops_of, parser_of
from results import run_study
from safron.engine import render
from safron.engine.evaluation.blinded_sheet import write_sheet
from safron.engine.evaluation.encoder import load_encoder
from safron.engine.evaluation.encoder_distance import encoder_distances
from safron.io.errors import BadInput
from safron.io.files import replacing
from safron.io.masks.edges import find_edges
from safron.io.slides.reader import Pixels
from safron.training.config.data_sets import DataFacts
from safron.training.data import Pairs, split
from safron.training.diffusion.data import open_data
from safron.training.diffusion.settings import LABELS, NUCLEI, DiffusionConfig
from safron.training.segmentation.fitting import Annotated, predictions, train_segmenter
from safron.training.segmentation.metrics import compare
from safron.training.segmentation.options import DiceOptions
from safron.training.segmentation.study import SEED_OF_SHARES, Arm, Material, show_spread, spread
from safron.training.segmentation.synthesis import draw_mosaic, lay_out

UInt8 = npt.NDArray[np.uint8]

PAPER_TABLES = {
    "Table 3, synthetic tiles of other masks added": (
        *("25% real", "25% real, 25% synthetic"),
        *("25% real, 50% synthetic", "25% real, 75% synthetic"),
    ),
    "Table 4, real tiles replaced": (
        *("real", "75% real, 25% synthetic", "50% real, 50% synthetic"),
        *("25% real, 75% synthetic", "synthetic"),
    ),
    "Table 5, all real or all synthetic": ("real", "synthetic"),
}
"""Rows of the paper's tables of training sets. The generator has seen all masks here, so Tables 4 and 5 share rows."""

MARGIN = 20
"""Pixels of repeated labels around each generated tile."""

QUESTIONS = {
    "Do the outlines of the nuclei match those of the mask?": ("yes", "partly", "no"),
    "Is each nucleus of the type that the mask gives it?": ("yes", "partly", "no"),
    "Are there nuclei in the mask that the picture lacks?": ("none", "some", "many"),
    "Are there nuclei in the picture that the mask lacks?": ("none", "some", "many"),
}
"""Section 4.5 of the paper."""


@dataclass(frozen=True)
class Tiles:
    """Masks to generate from: labels and edges, uint8 [y, x] each."""

    labels: tuple[UInt8, ...]
    edges: tuple[UInt8, ...]


@dataclass(frozen=True)
class Generator:
    """A generator and how it is asked."""

    model: str
    options: dict[str, Any] = field(default_factory=dict)


class OutOfTimeError(Exception):
    """The minutes are up; what is done is kept."""


class Study:
    """Data, and the results so far.

    Parameters
    ----------
    chosen
        Arguments of the command line.
    """

    def __init__(self, chosen: argparse.Namespace) -> None:
        self.chosen, self.out = chosen, chosen.out
        self.out.mkdir(parents=True, exist_ok=True)
        self.end = time.monotonic() + 60 * chosen.minutes
        config = DiffusionConfig(nuclei=NUCLEI, crop=64)
        source = open_data(chosen.data, config, DataFacts(data_set="consep"), None)
        assert isinstance(source, Pairs)
        source = cut(source, chosen.side) if chosen.side else source
        self.real, self.test = split(source, config.held_out)
        self.train, self.validation = split(self.real, 1 / 7)
        self.encoder = load_encoder()
        self.reference = self.encoder.features(crops_of(self.test.images))
        self.kept = self.out / "scores.json"
        self.scores: dict[str, Any] = json.loads(self.kept.read_text()) if self.kept.exists() else {}

    def row(self, table: str, name: str, make: Callable[[], dict[str, Any]]) -> None:
        """Make a row that is not there yet, keep it and say it."""
        if name in self.scores.get(table, {}):
            return
        if time.monotonic() > self.end:
            raise OutOfTimeError
        found = make()
        self.scores.setdefault(table, {})[name] = found
        with replacing(self.kept) as file:
            file.write((json.dumps(self.scores, indent=2) + "\n").encode())
        with replacing(self.out / "tables.md") as file:
            file.write("\n".join(curve_tables(self.scores.get("curves", {}))).encode())
        print(f"{table}: {name}: {found}", flush=True)

    def generate(self, name: str, tiles: Tiles, generator: Generator) -> tuple[list[UInt8], float]:
        """Generate tiles, or read what was generated: RGB uint8 [y, x, 3] each, and CPU seconds for a megapixel."""
        folder = self.out / "generated" / name
        mosaic = lay_out([one.shape for one in tiles.labels], MARGIN)
        slide, said = folder / "slide.tiff", folder / "seconds.txt"
        if not said.exists():
            folder.mkdir(parents=True, exist_ok=True)
            np.save(folder / "labels.npy", draw_mosaic(tiles.labels, mosaic, MARGIN))
            np.save(folder / "edges.npy", draw_mosaic(tiles.edges, mosaic, MARGIN))
            common: dict[str, Any] = {"mpp": 0.5, "compression": "deflate", "level_count": 1, "device": "cpu"}
            if self.chosen.bfloat16:
                common |= {"precision": "bfloat16", "runtime": "openvino"}
            began = time.process_time()
            render(
                folder / "labels.npy", slide, model=generator.model, edges=folder / "edges.npy", workers=1,
                overwrite=True, **common, **generator.options,
            )  # fmt: skip
            with replacing(said) as file:
                file.write(f"{(time.process_time() - began) / np.prod(mosaic.shape) * 1e6}".encode())
        with Pixels(slide) as pixels:
            places = zip(tiles.labels, mosaic.places, strict=True)
            return [pixels.read(y, x, *one.shape) for one, (y, x) in places], float(said.read_text())

    def distance(self, images: Sequence[UInt8]) -> dict[str, float]:
        """Kernel distance from the real held-out tiles, and its standard error."""
        found = encoder_distances(self.reference, self.encoder.features(crops_of(images)))
        return {"KD": round(found.kernel, 4), "error": round(found.error, 4)}

    def generators(self) -> dict[str, Generator]:
        """Give generators to compare by their names, the diffusion model at several steps."""
        diffusion, gan = self.chosen.model, self.chosen.gan
        steps = {
            f"diffusion, {count} steps": Generator(diffusion, {"steps": count})
            for count in self.chosen.sampling_steps
        }
        return {"diffusion": Generator(diffusion)} | steps | {"GAN": Generator(gan)}

    def segmenter(
        self, name: str, train: Annotated, validation: Annotated, seed: int
    ) -> Callable[[Annotated], dict[str, float]]:
        """Train a segmenter, or go on with it, and return what measures it, by the pixels of all tiles together."""
        chosen = self.chosen
        options = DiceOptions(steps=chosen.steps, batch=8, crop=chosen.crop, rate=2e-3, width=chosen.width)
        state = self.out / f"{name}.pt"
        cpu = torch.device("cpu")
        made = train_segmenter(train, validation, options, seed=seed, state=state, device=cpu, until=self.end)
        if made is None:
            raise OutOfTimeError

        def measure(found: Annotated) -> dict[str, float]:
            pairs = predictions(made.network, found, cpu)
            predicted, true = (
                np.concatenate([pair[i].reshape(1, -1) for pair in pairs], axis=1) for i in (0, 1)
            )
            scores = asdict(compare(predicted, true))
            return {what: round(scores[what], 4) for what in ("dice", "iou")}

        return measure


def cut(pairs: Pairs, side: int) -> Pairs:
    """Take the upper left square of each tile."""
    planes = {
        name: tuple(part[:side, :side] for part in getattr(pairs, name))
        for name in ("images", "labels", "edges")
    }
    return replace(pairs, **planes)


def tiles_of(pairs: Pairs) -> Tiles:
    """Take labels and edges of real tiles."""
    return Tiles(pairs.labels, pairs.edges)


def other_tiles(path: Path, like: Pairs) -> Tiles:
    """Cut as many tiles, of the same size, out of the middle of a mask of classes and numbers."""
    labels, numbers = (
        zarr.open_array(str(path), path=f"labels/{name}/0", mode="r") for name in ("class", "instance")
    )
    side = min(min(image.shape) for image in like.labels)
    rows, columns = (length // side for length in labels.shape)
    places = [(y * side, x * side) for y in range(rows) for x in range(columns)][: len(like)]
    cut = [(np.asarray(labels[y : y + side, x : x + side]), np.asarray(numbers[y : y + side, x : x + side])) for y, x in places]  # fmt: skip
    edges = [find_edges(np.pad(part, 1, "edge"), NUCLEI, np.pad(number, 1, "edge")) for part, number in cut]
    return Tiles(tuple(part for part, _ in cut), tuple(edges))


def make_distances(study: Study) -> None:
    """Table 1 and the guidance sweep."""
    own = tiles_of(study.test)
    study.row("distance", "real, other tiles", lambda: study.distance(study.real.images))
    for name, generator in study.generators().items():
        study.row("distance", name, lambda n=name, p=generator: generated_row(study, n, own, p))
    for guidance in study.chosen.guidance:
        name, generator = f"guidance {guidance:g}", Generator(study.chosen.model, {"guidance": guidance})
        study.row("distance", name, lambda n=name, p=generator: generated_row(study, n, own, p))
    for name, path in study.chosen.masks.items():
        other = other_tiles(path, study.test)
        for kind in ("diffusion", "GAN"):
            named, generator = f"{name} masks, {kind}", study.generators()[kind]
            study.row("distance", named, lambda n=named, p=generator, o=other: generated_row(study, n, o, p))


def generated_row(study: Study, name: str, tiles: Tiles, generator: Generator) -> dict[str, float]:
    """Generate, and measure."""
    images, seconds = study.generate(name, tiles, generator)
    return study.distance(images) | {"cpu_s_per_mpx": round(seconds, 2)}


def make_dice(study: Study) -> None:
    """Segmenters of real tiles on what is generated of held-out masks, by type."""
    types = {label.name: (label.value,) for label in LABELS if label.value in NUCLEI}
    own = tiles_of(study.test)
    for name, values in {"all": NUCLEI, **types}.items():

        def tests(name: str = name, values: tuple[int, ...] = values) -> dict[str, Any]:
            measure = study.segmenter(f"dice-{name}", annotated(study.train, values), annotated(study.validation, values), 0)  # fmt: skip
            test = annotated(study.test, values)
            found = {"real": measure(test)["dice"]}
            for kind in ("diffusion", "GAN"):
                images, _ = study.generate(kind, own, study.generators()[kind])
                found[kind] = measure(replace(test, images=tuple(images)))["dice"]
            return found

        study.row("dice", name, tests)


def annotated(pairs: Pairs, values: Sequence[int], images: Sequence[UInt8] | None = None) -> Annotated:
    """Take tiles, or what was generated of their masks, with the masks of some labels."""
    masks = tuple(np.isin(label, values) for label in pairs.labels)
    return Annotated(tuple(images or pairs.images), masks)


def paper_arms(count: int) -> list[Arm]:
    """Give the training sets of the paper's Tables 3 to 5, of `count` tiles in four parts that are drawn once.

    Raises
    ------
    BadInput
        There are fewer than four tiles.
    """
    if count < 4:
        raise BadInput(f"{count} tiles are left to train on; give data with more tiles, at least 4")
    order = np.random.default_rng(SEED_OF_SHARES).permutation(count).tolist()
    at = [round(count * part / 4) for part in range(5)]

    def arm(name: str, real: int, synthetic: int) -> Arm:
        """Take so many real quarters, and so many synthetic ones of the masks that follow."""
        return Arm(name, tuple(order[: at[real]]), tuple(order[at[real] : at[real + synthetic]]))

    mixed = [
        arm(f"{25 * real}% real, {25 * synthetic}% synthetic", real, synthetic)
        for real, synthetic in ((1, 1), (1, 2), (1, 3), (2, 2), (3, 1))
    ]
    return [arm("real", 4, 0), arm("synthetic", 0, 4), arm("25% real", 1, 0), *mixed]


def curve_tables(curves: dict[str, dict[str, float]]) -> list[str]:
    """Give the paper's Tables 3 to 5 as lines of Markdown: mean and standard deviation over seeds; a dash where nothing is there yet."""
    lines: list[str] = []
    for title, names in PAPER_TABLES.items():
        lines += [f"**{title}**", "", "| trained on | seeds | Dice | IoU |", "|---|---|---|---|"]
        for name in names:
            rows = [row for key, row in curves.items() if key.rpartition(", seed ")[0] == name]
            cells = [
                show_spread(spread([row[what] for row in rows]), digits=4) if rows else "-"
                for what in ("dice", "iou")
            ]
            lines.append(f"| {name} | {len(rows)} | {cells[0]} | {cells[1]} |")
        lines.append("")
    return lines


def make_curves(study: Study) -> None:
    """Tables 3 to 5: train on real tiles, on generated ones of the same masks, on both."""
    generator = study.generators()["diffusion"]
    made = {
        name: study.generate(f"training-{name}", tiles_of(part), generator)[0]
        for name, part in (("train", study.train), ("validation", study.validation))
    }
    material = Material(
        {"real": annotated(study.train, NUCLEI), "synthetic": annotated(study.train, NUCLEI, made["train"])},
        {
            "real": annotated(study.validation, NUCLEI),
            "synthetic": annotated(study.validation, NUCLEI, made["validation"]),
        },
        {},
    )
    test = annotated(study.test, NUCLEI)
    for seed in range(study.chosen.seeds):
        for arm in paper_arms(len(study.train)):
            name = f"{arm.name}, seed {seed}"

            def trained(arm: Any = arm, name: str = name, seed: int = seed) -> dict[str, Any]:
                return study.segmenter(name.replace(", ", "-"), *material.of(arm), seed)(test)

            study.row("curves", name, trained)


def write_experts(study: Study) -> None:
    """Write experts.html and its key: real crops, and crops generated of real and of other masks, each beside its mask."""
    own, generator = tiles_of(study.test), study.generators()["diffusion"]
    kinds = {"real": (own, list(study.test.images)), "generated, real masks": (own, study.generate("diffusion", own, generator)[0])}  # fmt: skip
    for name, path in study.chosen.masks.items():
        other = other_tiles(path, study.test)
        kinds[f"generated, {name} masks"] = (
            other,
            study.generate(f"{name} masks, diffusion", other, generator)[0],
        )
    rng = np.random.default_rng(0)
    colors = np.array([label.color for label in LABELS], np.uint8)
    shown: dict[str, list[list[UInt8]]] = {}
    for name, (tiles, images) in kinds.items():
        for index in rng.integers(len(images), size=study.chosen.readings).tolist():
            y, x = (int(rng.integers(length - CROP + 1)) for length in tiles.labels[index].shape)
            place = np.s_[y : y + CROP, x : x + CROP]
            mask = np.where(
                tiles.edges[index][place][..., None] > 0, np.uint8(0), colors[tiles.labels[index][place]]
            )
            shown.setdefault(name, []).append([images[index][place], mask])
    legend = ", ".join(f"{label.name} rgb{label.color}" for label in LABELS[1:])
    write_sheet(
        shown,
        study.out / "experts.html",
        seed=0,
        overwrite=True,
        title="Picture and mask",
        text=f"Left a picture, real or made by a program, right the mask of its nuclei: {legend}.",
        questions=QUESTIONS,
    )


TABLES = {"distance": make_distances, "experts": write_experts, "dice": make_dice, "curves": make_curves}


def main() -> None:
    """Make what is missing, and print."""
    parser = parser_of(__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=240.0)
    parser.add_argument("--model", default="nuclei-diffusion", help="diffusion model: a name or an ONNX file")
    parser.add_argument("--gan", default="nuclei", help="generator to compare with")
    parser.add_argument("--sampling-steps", type=int, nargs="*", default=[4, 8, 20])
    parser.add_argument("--guidance", type=float, nargs="*", default=[0.0, 1.0, 2.0, 3.0])
    parser.add_argument("--bfloat16", action="store_true", help="generate in bfloat16, by OpenVINO")
    parser.add_argument("--side", type=int, help="use this many pixels a side of each tile only")
    parser.add_argument("--masks", nargs="*", default=[], help="NAME=FILE: other masks to generate from")
    parser.add_argument("--tables", nargs="*", choices=[*TABLES], default=[*TABLES])
    parser.add_argument("--steps", type=int, default=400, help="steps of each segmenter")
    parser.add_argument("--crop", type=int, default=96, help="side of its crops, a multiple of 32")
    parser.add_argument("--width", type=int, help="its channels at full size; 16 if not given")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--readings", type=int, default=20, help="pictures of each kind for the experts")
    chosen = parser.parse_args()
    chosen.masks = {name: Path(file) for name, file in (pair.split("=", 1) for pair in chosen.masks)}
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    study = Study(chosen)
    try:
        for table in chosen.tables:
            TABLES[table](study)
    except OutOfTimeError:
        print("the minutes are up; the same command resumes", flush=True)
    if "curves" in chosen.tables:
        print("\n".join(curve_tables(study.scores.get("curves", {}))), flush=True)
    print(json.dumps(study.scores))


if __name__ == "__main__":
    run_study(main)
