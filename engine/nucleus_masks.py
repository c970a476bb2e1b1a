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
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safron.io.errors import BadInput
from safron.io.files import replacing
from safron.io.masks.classes import ClassTable
from safron.io.masks.image_planes import open_image
from safron.io.masks.nucleus_decode import NucleusFinder, View
from safron.io.masks.open import open_mask
from safron.io.masks.write import CHUNK, blocks, check_target, run_blocks, worker_count, write_labels
from safron.io.masks.write_nuclei import write_nuclei

from .generator.card import Card
from .generator.model import PatchModel
from .nucleus_plan import TISSUE, NucleusPlan, scaled_regions
from .plan.grid import agreeing_overlap
from .preparation.options import RenderOptions
from .preparation.prepare import prepare
from .preparation.prepared import Prepared
from .regional_types import RegionalTypes
from .rendering import open_runner, run

SMALLEST = 8
"""Pixels of the smallest nucleus that is kept: 2 square micrometres at 0.5."""

REGIONS, PICTURE = "regions.zarr", "codes.tiff"


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
        See `safron.engine.nucleus_plan.plan_nuclei`.
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
    beside, card = sampling_folder(out), plan.model.card
    begun = _claim(beside, plan, out, overwrite=overwrite)
    try:
        regions, picture = _regions(plan, beside), beside / PICTURE
        if picture.exists():
            return None
        how = RenderOptions(
            model=_sampled(plan), style=plan.style, seed=plan.seed, steps=plan.steps, overlap=_overlap(card),
            compression="deflate", flavor="generic", level_count=1, **options,
        )  # fmt: skip
        prepared = prepare(regions, picture, how)
        prepared.check_budget()
    except BadInput:
        if begun:
            shutil.rmtree(beside)
        raise
    return prepared


def _sampled(plan: NucleusPlan) -> PatchModel:
    """Give the model that is sampled: the mask model, or one whose types depend on the region."""
    if not plan.by_region:
        return plan.model
    return RegionalTypes(plan.model, plan.allowed.astype(np.float32))


def _claim(beside: Path, plan: NucleusPlan, out: Path, *, overwrite: bool) -> bool:
    """Make the folder of a request, or continue with it if it is the same; whether it was made."""
    note, wanted = beside / "request.json", plan.request()
    try:
        kept = json.loads(note.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        kept = None
    except ValueError:  # damaged
        kept = {}
    if isinstance(kept, dict):  # an earlier version may not have known of an input
        kept = dict.fromkeys(wanted) | kept
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


def sampling_folder(out: Path) -> Path:
    """Name the folder that keeps what is sampled until the mask is written."""
    return out.with_name(f".{out.name}.sampling")


def _overlap(card: Card) -> int:
    """Give the overlap from 20 pixels on that patches of this alignment agree with; 20 where there is none, which is warned of."""
    return agreeing_overlap(card.tile, 20, card.alignment) or 20


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
    seen = scaled_regions(tissue, card)

    def draw(rows: slice, cols: slice) -> npt.NDArray[np.uint8]:
        labels = seen[rows, cols]
        found = plan.values[labels]
        if not (known := card.known[found]).all():
            raise BadInput(
                f"--tissue: label {labels[~known][0]} is not a region of {card.name!r}, which has "
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
    regions, picture = _regions(plan, sampling_folder(out)), sampling_folder(out) / PICTURE
    card, table = plan.model.card, plan.table
    height, width = plan.shape
    beneath, plane = open_mask(regions), open_image(picture, str(picture), {0: (0, 0, 0)}, 0)
    finder = NucleusFinder(plan.codes.codes, plan.all_types, width, SMALLEST, allowed=plan.allowed)
    nuclei = np.append(np.uint8(0), table.values(plan.codes.types, source=card.name))
    ground = _ground(table, card)

    def read(rows: slice, cols: slice) -> tuple[Any, Any, Any]:
        regions = beneath[rows, cols]
        return plane.pixels(rows, cols), card.is_fill[regions], regions  # type: ignore[attr-defined]

    def find(rows: slice, cols: slice) -> int:
        finder.note(View.of(rows, cols, plan.shape, read))
        return int((rows.stop - rows.start) * (cols.stop - cols.start))

    def paint(rows: slice, cols: slice) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint32]]:
        kinds, numbers = finder.paint(View.of(rows, cols, plan.shape, read))
        progress(kinds.size)
        return np.where(kinds > 0, nuclei[kinds], ground[beneath[rows, cols]]), numbers

    run_blocks(find, blocks(height, width, (CHUNK, CHUNK)), worker_count(workers), progress)
    finder.settle()
    about = {
        "model": {"name": card.name, "sha256": plan.model.sha256, "licence": card.licence},
        "types": plan.style,
        **({"region types": plan.region_types} if plan.by_region else {}),
        "seed": plan.seed,
        "steps": plan.steps or len(card.sampler.times if card.sampler else ()),
        "nuclei": {name: int(count) for name, count in zip(plan.codes.types, finder.counts, strict=True)},
    }
    write_nuclei(
        out, paint, height=height, width=width, mpp=card.mpp, most=int(finder.counts.sum()), labels=table.labels,
        about=lambda: about, workers=workers, overwrite=overwrite,
    )  # fmt: skip
    shutil.rmtree(sampling_folder(out))
    return {plan.codes.types[place]: int(finder.counts[place]) for place in plan.all_types}


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
