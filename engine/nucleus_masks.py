"""How is a mask of nuclei invented, for types of cells that a user names?

A mask model is a sampler (see `safron.engine.generator.sampler`) whose picture is not tissue but the codes of a mask. So four steps make a
mask, each whole before the next begins, in a folder beside OUT; the same command continues where an earlier one ended:

    regions.zarr    in what nuclei lie, at the pixel size of the model, if there is a tissue mask
    codes.tiff      the picture, sampled over the whole canvas as any slide is rendered, without loss
    (read twice)    nuclei are found and joined over blocks, see `safron.io.masks.nucleus_decode`
    OUT.zarr        labels and numbers, as all masks of nuclei have them
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec import Struct
from safron.io.errors import BadInput
from safron.io.fields import Finite, convert
from safron.io.files import replacing
from safron.io.legend import Label
from safron.io.masks.classes import ClassTable, read_table
from safron.io.masks.image_planes import open_image
from safron.io.masks.mask import LabelMask
from safron.io.masks.nucleus_decode import NucleusFinder
from safron.io.masks.open import open_mask
from safron.io.masks.relabel import Relabel
from safron.io.masks.scaled import ScaledMask
from safron.io.masks.to_geojson import own_legend
from safron.io.masks.write import CHUNK, blocks, check_target, run_blocks, worker_count, write_labels
from safron.io.masks.write_nuclei import write_nuclei

from .generator.card import Card
from .generator.model import PatchModel, load_model
from .preparation.options import RenderOptions
from .preparation.prepare import prepare
from .preparation.prepared import Prepared
from .rendering import open_runner, run

TISSUE = "tissue"
MOST_PIXELS = 30_000_000
"""Of a side: 15 m of tissue at 0.5 um, and nearly as many blocks as a render takes."""

SMALLEST = 8
"""Pixels of the smallest nucleus that is kept: 2 square micrometres at 0.5."""

REGIONS, PICTURE = "regions.zarr", "codes.tiff"


class Codes(Struct, frozen=True):
    """The card's field "nuclei": what its picture means.

    Attributes
    ----------
    types
        Names, in the order of the style's numbers.
    codes
        Point of each on the unit circle.
    """

    types: tuple[str, ...]
    codes: tuple[tuple[Finite, Finite], ...]

    def __post_init__(self) -> None:
        if not self.types or len(self.types) != len(self.codes):
            raise ValueError(
                f"types and codes must be one or more, and as many, not {len(self.types)} and {len(self.codes)}"
            )


@dataclass(frozen=True)
class Everywhere:
    """A mask of one label: `shape` (height, width), and the label."""

    shape: tuple[int, int]
    label: int
    dtype = np.dtype(np.uint8)

    def __getitem__(self, region: tuple[slice, slice]) -> npt.NDArray[np.uint8]:
        """Labels of a region within the canvas: uint8 [y, x]."""
        rows, cols = region
        return np.full((rows.stop - rows.start, cols.stop - cols.start), self.label, np.uint8)


@dataclass(frozen=True)
class NucleusPlan:
    """What is made, and of what.

    Attributes
    ----------
    model
        The mask model.
    codes
        Of its card.
    types
        Places of the types that are wanted.
    shape
        Height and width of the mask in pixels.
    tissue
        Regions, or None for tissue everywhere.
    values
        uint8 [256]: label of the model for each value of `tissue`.
    table
        Labels of the mask that is written.
    seed, steps
        Of sampling; None takes the card's steps.
    """

    model: PatchModel
    codes: Codes
    types: tuple[int, ...]
    shape: tuple[int, int]
    tissue: LabelMask | None
    values: npt.NDArray[np.uint8]
    table: ClassTable
    seed: int
    steps: int | None

    @property
    def style(self) -> str:
        """Name of the style on the card."""
        return "+".join(self.codes.types[place] for place in self.types)

    def request(self) -> dict[str, Any]:
        """All that decides the picture, as JSON values."""
        return {
            "model": self.model.sha256,
            "--types": self.style,
            "--size": f"{self.shape[1]},{self.shape[0]}",
            "--tissue": None if self.tissue is None else [self.tissue.fingerprint(), self.values.tolist()],
            "--seed": self.seed,
            "--steps": self.steps,
        }


def plan_nuclei(
    types: Sequence[str],
    *,
    size: tuple[int, int] | None = None,
    tissue: str | Path | None = None,
    relabel: Relabel | None = None,
    model: str | Path | PatchModel,
    classes: str = "nuclei",
    seed: int = 0,
    steps: int | None = None,
    **options: Any,
) -> NucleusPlan:
    """Check a request.

    Parameters
    ----------
    types
        Types of nuclei that there shall be.
    size
        Height and width in pixels, without `tissue`.
    tissue
        A mask of regions, which has its own size.
    relabel
        Labels of the model for the values of `tissue`; otherwise its labels are found by their names.
    model
        See `load_model`.
    classes
        See `read_table`, or "types" for labels of the model's own types.
    seed, steps
        See `RenderOptions`.
    **options
        Passed to `load_model`.

    Raises
    ------
    BadInput
        A type, region or class is not known, or the model makes no masks.
    """
    loaded = load_model(model, **options)
    codes = read_codes(loaded.card)
    wanted = _places(types, codes, loaded.card)
    opened = None if tissue is None else open_mask(tissue, relabel=relabel)
    if (opened is None) == (size is None):
        raise BadInput("give either --size W,H or --tissue MASK, which has a size")
    card, shape = loaded.card, size
    if opened is not None:
        shape = _scaled(opened, card).shape
    assert shape is not None
    if max(shape) > MOST_PIXELS:
        raise BadInput(
            f"{shape[1]} x {shape[0]} pixels: a side may have {MOST_PIXELS} pixels; give a smaller --size or --tissue"
        )
    values = _values(opened, card, by_name=relabel is None)
    return NucleusPlan(
        loaded, codes, wanted, shape, opened, values, _table(classes, codes, card), seed, steps
    )


def read_codes(card: Card) -> Codes:
    """Read what a model's picture means; `BadInput` if it makes no masks."""
    field = card.extra.get("nuclei")
    if field is None or card.sampler is None or card.style is None or card.mpp is None:
        raise BadInput(
            f"--model: {card.name!r} makes no masks: its card must have nuclei, sampler, style and mpp; give a file of "
            "safron-train export-mask-model"
        )
    codes: Codes = convert(field, Codes, f"generator {card.name!r}: the card's field nuclei", loose=True)
    if card.style.numbers != codes.types:
        raise BadInput(
            f"generator {card.name!r}: nuclei has types {', '.join(codes.types)}, its style {', '.join(card.style.numbers)}; "
            "export it again"
        )
    return codes


def _places(types: Sequence[str], codes: Codes, card: Card) -> tuple[int, ...]:
    known = {name.lower(): place for place, name in enumerate(codes.types)}
    unknown = [name for name in types if name.lower() not in known]
    if unknown or not types:
        raise BadInput(
            f"--types {','.join(types)}: {card.name!r} knows {', '.join(codes.types)}; give some of these"
        )
    return tuple(sorted({known[name.lower()] for name in types}))


def _scaled(tissue: LabelMask, card: Card) -> ScaledMask:
    """Give regions at the pixel size of the model; those of unknown size are taken to have it."""
    ratio = 1.0 if tissue.mpp is None or card.mpp is None else tissue.mpp / card.mpp
    if abs(ratio - 1) < 0.02:
        ratio = 1.0
    height, width = (max(1, round(side * ratio)) for side in tissue.shape)
    return ScaledMask(tissue, (height, width), lambda pixels: ((pixels + 0.5) / ratio).astype(np.int64))


def _values(tissue: LabelMask | None, card: Card, *, by_name: bool) -> npt.NDArray[np.uint8]:
    """Label of the model for each value of a mask, uint8 [256]; what is not known stays as it is, and is refused later."""
    values = np.arange(256, dtype=np.uint8)
    legend = own_legend(tissue) if tissue is not None and by_name else []
    known = {label.name.lower(): label.value for label in card.labels}
    if unknown := [label for label in legend if label.name.lower() not in known]:
        assert tissue is not None
        example = ",".join(f"{label.value}={known.get(label.name.lower(), 1)}" for label in legend)
        raise BadInput(
            f"--tissue {tissue.source}: {card.name!r} knows no region {unknown[0].name!r}; it has "
            f"{', '.join(f'{label.value} {label.name}' for label in card.labels)}; say what each label is, as --map {example}"
        )
    for label in legend:
        values[label.value] = known[label.name.lower()]
    return values


def _table(classes: str, codes: Codes, card: Card) -> ClassTable:
    """Labels of the mask that is written, for types and regions alike."""
    if classes != "types":
        table = read_table(classes)
        table.values(codes.types, source=f"generator {card.name!r}")
        return table
    own = [Label(0, "background", (255, 255, 255)), Label(1, TISSUE, (255, 200, 220))]
    colors = [(0, 160, 0), (0, 0, 255), (255, 0, 0), (255, 160, 0), (0, 200, 200), (160, 0, 200)]
    own += [Label(2 + place, name, colors[place % len(colors)]) for place, name in enumerate(codes.types)]
    return ClassTable({name: name for name in codes.types}, tuple(own))


def make_nuclei(plan: NucleusPlan, out: Path, *, overwrite: bool = False, **options: Any) -> dict[str, int]:
    """Make the mask in one call: `prepare_codes`, a render, and `write_mask`.

    Returns
    -------
    dict of str, int
        Number of nuclei of each type that was wanted.
    """
    prepared = prepare_codes(plan, out, overwrite=overwrite, **options)
    if prepared is not None:
        with open_runner(prepared) as (prepared, runner):
            run(prepared, runner)
    return write_mask(plan, out, overwrite=overwrite, workers=options.get("workers"))


def prepare_codes(
    plan: NucleusPlan, out: Path, *, overwrite: bool = False, **options: Any
) -> Prepared | None:
    """Prepare to sample the picture over the whole canvas, or to go on where an earlier call ended.

    Parameters
    ----------
    plan
        See `plan_nuclei`.
    out
        Where the mask will lie; the picture lies in a folder beside it.
    overwrite
        `out` may exist, and what another command left beside it is removed.
    **options
        Of the render, see `RenderOptions`.

    Returns
    -------
    Prepared or None
        For `run`; None if the picture is complete.

    Raises
    ------
    BadInput
        `out` exists, or the folder beside it belongs to another command.
    """
    check_target(out, overwrite=overwrite)
    beside, card = _folder(out), plan.model.card
    begun = _claim(beside, plan, out, overwrite=overwrite)
    try:
        regions, picture = _regions(plan, beside), beside / PICTURE
        if picture.exists():
            return None
        how = RenderOptions(
            model=plan.model, style=plan.style, seed=plan.seed, steps=plan.steps, overlap=_overlap(card),
            compression="deflate", flavor="generic", level_count=1, **options,
        )  # fmt: skip
        prepared = prepare(regions, picture, how)
        prepared.check_budget()
    except BadInput:
        if begun:
            shutil.rmtree(beside)
        raise
    return prepared


def _claim(beside: Path, plan: NucleusPlan, out: Path, *, overwrite: bool) -> bool:
    """Make the folder of a request, or continue with it if it is the same; whether it was made."""
    note, wanted = beside / "request.json", plan.request()
    try:
        kept = json.loads(note.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        kept = None
    except ValueError:  # damaged
        kept = {}
    if kept == wanted:
        return False
    if kept is not None and not overwrite:
        differ = [name for name in wanted if not isinstance(kept, dict) or kept.get(name) != wanted[name]]
        raise BadInput(
            f"{out}: {beside.name} beside it was begun with other inputs ({', '.join(differ)}); run that command again to finish it, or "
            "pass --overwrite to start over"
        )
    if beside.exists() and kept is not None:
        shutil.rmtree(beside)
    beside.mkdir(parents=True, exist_ok=True)
    with replacing(note) as file:
        file.write(json.dumps(wanted).encode())
    return True


def _folder(out: Path) -> Path:
    return out.with_name(f".{out.name}.sampling")


def _overlap(card: Card) -> int:
    """Give the overlap from 20 pixels on that patches of this alignment agree with."""
    return 20 + (card.tile - 20) % card.alignment


def _regions(plan: NucleusPlan, beside: Path) -> Any:
    """Give the regions at the model's pixel size: a mask that is written, or one label everywhere."""
    card, tissue, path = plan.model.card, plan.tissue, beside / REGIONS
    height, width = plan.shape
    if tissue is None:
        named = [label.value for label in card.labels if label.name == TISSUE]
        solid = [label.value for label in card.labels if label.fill is None]
        return Everywhere(plan.shape, (named or solid)[0])
    if path.exists():
        return path
    seen = _scaled(tissue, card)

    def draw(rows: slice, cols: slice) -> npt.NDArray[np.uint8]:
        found = plan.values[seen[rows, cols]]
        if not (known := card.known[found]).all():
            raise BadInput(
                f"--tissue: label {found[~known][0]} is not a region of {card.name!r}, which has "
                f"{', '.join(f'{label.value} {label.name}' for label in card.labels)}; translate it with --map"
            )
        return found

    write_labels(path, draw, height=height, width=width, mpp=card.mpp, labels=card.labels)
    return path


def write_mask(
    plan: NucleusPlan,
    out: Path,
    *,
    overwrite: bool = False,
    workers: int | None = None,
    progress: Callable[[int], None] = lambda pixels: None,
) -> dict[str, int]:
    """Find the nuclei of a sampled picture, and write them upon their regions.

    Parameters
    ----------
    plan, out, overwrite
        See `prepare_codes`.
    workers
        Threads; None means one per core, at most 8.
    progress
        Called with the pixels of each block that was searched or written: twice those of the canvas in all.

    Returns
    -------
    dict of str, int
        Number of nuclei of each type that was wanted.
    """
    regions, picture = _regions(plan, _folder(out)), _folder(out) / PICTURE
    card, table = plan.model.card, plan.table
    height, width = plan.shape
    beneath, plane = open_mask(regions), open_image(picture, str(picture), {0: (0, 0, 0)}, 0)
    finder = NucleusFinder(plan.codes.codes, plan.types, width, SMALLEST)
    nuclei = np.append(np.uint8(0), table.values(plan.codes.types, source=card.name))
    ground = _ground(table, card)

    def read(rows: slice, cols: slice) -> tuple[tuple[int, int], Any, Any, Any]:
        labels = beneath[rows, cols]
        return (rows.start, cols.start), plane.pixels(rows, cols), card.is_fill[labels], labels  # type: ignore[attr-defined]

    def find(rows: slice, cols: slice) -> int:
        place, pixels, glass, _ = read(rows, cols)
        finder.note(place, pixels, glass)
        return int(glass.size)

    def paint(rows: slice, cols: slice) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint32]]:
        place, pixels, glass, labels = read(rows, cols)
        kinds, numbers = finder.paint(place, pixels, glass)
        progress(glass.size)
        return np.where(kinds > 0, nuclei[kinds], ground[labels]), numbers

    run_blocks(find, blocks(height, width, (CHUNK, CHUNK)), worker_count(workers), progress)
    finder.settle()
    about = {
        "model": {"name": card.name, "sha256": plan.model.sha256, "licence": card.licence},
        "types": plan.style,
        "seed": plan.seed,
        "steps": plan.steps or len(card.sampler.times if card.sampler else ()),
        "nuclei": {name: int(count) for name, count in zip(plan.codes.types, finder.counts, strict=True)},
    }
    write_nuclei(
        out, paint, height=height, width=width, mpp=card.mpp, labels=table.labels, about=about, workers=workers,
        overwrite=overwrite,
    )  # fmt: skip
    shutil.rmtree(_folder(out))
    return {plan.codes.types[place]: int(finder.counts[place]) for place in plan.types}


def _ground(table: ClassTable, card: Card) -> npt.NDArray[np.uint8]:
    """Label, in the mask that is written, of each region of the model: uint8 [256]."""
    by_name = {label.name: label.value for label in table.labels}
    ground = np.zeros(256, np.uint8)
    for label in card.labels:
        if label.name in by_name:
            ground[label.value] = by_name[label.name]
        elif label.name in table.classes:
            ground[label.value] = table.values([label.name], source=card.name)[0]
        else:
            ground[label.value] = by_name.get("tissue" if label.fill is None else "background", 0)
    return ground
