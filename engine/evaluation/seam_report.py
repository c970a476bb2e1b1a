"""What is said of one slide, or of several side by side?

`evaluate_seams` joins the measurements of `safron.engine.evaluation.gradients` for one slide; `seam_table` sets several under
each other, and `write_report` keeps them as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safron.engine.generator.model import PatchModel, load_model
from safron.io.errors import BadInput, Failed
from safron.io.legend import DEFAULT_LABELS
from safron.io.masks.mask import LabelMask
from safron.io.masks.open import open_mask
from safron.io.slides.reader import Pixels

from .alignment import Alignment, measure_alignment
from .gradients import SEAM_Z, GradientScores, SlideGrid, grid_of, measure_gradients, score_gradients
from .overlap_mismatch import Mismatch, measure_mismatch


@dataclass(frozen=True)
class SeamReport:
    """What was measured on one slide.

    Attributes
    ----------
    slide, model, mask, real : what was given; None where it was not.
    grid : where its patches lie.
    gradients : steps at the grid's phases.
    mismatch : of the generator, before blending; None without generator, mask or overlap.
    alignment : of slide and mask; None without a mask, or where it holds no two labels side by side.
    real_boundary_ratio : boundary ratio of the real slide at the same phases.
    """

    slide: str
    grid: SlideGrid
    gradients: GradientScores
    mismatch: Mismatch | None = None
    alignment: Alignment | None = None
    real_boundary_ratio: float | None = None
    model: str | None = None
    mask: str | None = None
    real: str | None = None

    @property
    def boundary_ratio(self) -> float:
        """Boundary ratio, divided by the real slide's where there is one."""
        return self.gradients.boundary_ratio / (self.real_boundary_ratio or 1.0)

    @property
    def has_seams(self) -> bool:
        """Whether the grid's own phases stand out."""
        return abs(self.gradients.z) >= SEAM_Z

    @property
    def json(self) -> dict[str, Any]:
        """Everything as JSON values."""
        return asdict(self) | {
            "z": self.gradients.z,
            "has_seams": self.has_seams,
            "boundary_ratio_over_real": None if self.real_boundary_ratio is None else self.boundary_ratio,
        }


def evaluate_seams(
    slide: str | Path,
    *,
    mask: Any = None,
    model: str | Path | PatchModel | None = None,
    real: str | Path | None = None,
    tile: int | None = None,
    overlap: int | None = None,
    seed: int | None = None,
    device: str = "auto",
    palette_tolerance: int = 0,
) -> SeamReport:
    """Measure one slide.

    Parameters
    ----------
    slide : any slide or image; read in windows.
    mask : what it was rendered from, for alignment and mismatch.
    model : the generator, for the mismatch.
    real : a real slide whose boundary ratio is divided by.
    tile, overlap, seed : of the render; None takes what the slide says of itself.
    device : where the generator runs.
    palette_tolerance : see `safron.io.masks.open.open_mask`.

    Raises
    ------
    BadInput
        Something cannot be read, the grid is not known, or there is no tissue.
    """
    if model is not None and mask is None:
        raise BadInput("--model: a generator is measured on windows of a mask; give --mask, too")
    generator = None if model is None else load_model(model, device=device)
    cards = [] if generator is None else [generator.card]
    labels = (
        None if mask is None else _open_mask(mask, cards[0].palette if cards else None, palette_tolerance)
    )
    with Pixels(slide) as pixels:
        grid = grid_of(pixels, tile=tile, overlap=overlap, cards=cards)
        gradients = _gradients(pixels, grid)
        alignment = None if labels is None else measure_alignment(pixels, labels, grid)
        said = pixels.facts.get("Seed", "0")
        number = seed if seed is not None else int(said) if said.lstrip("-").isdecimal() else 0
    mismatch, real_ratio = None, None
    if generator is not None and labels is not None:
        generator.card.require_tile(grid.tile)
        mismatch = measure_mismatch(generator, labels, tile=grid.tile, overlap=grid.overlap, seed=number)
    if real is not None:
        with Pixels(real) as pixels:
            real_ratio = _gradients(pixels, SlideGrid(grid.tile, grid.overlap)).boundary_ratio
    return SeamReport(
        slide=str(slide),
        grid=grid,
        gradients=gradients,
        mismatch=mismatch,
        alignment=alignment,
        real_boundary_ratio=real_ratio,
        model=None if generator is None else generator.card.name,
        mask=None if labels is None else labels.source,
        real=None if real is None else str(real),
    )


def _open_mask(mask: Any, palette: Any, tolerance: int) -> LabelMask:
    colors = palette or {label.value: label.color for label in DEFAULT_LABELS}
    return open_mask(mask, palette=colors, palette_tolerance=tolerance)


def _gradients(slide: Pixels, grid: SlideGrid) -> GradientScores:
    try:
        return score_gradients(measure_gradients(slide, grid), grid, slide.shape[0] * slide.shape[1])
    except BadInput as error:
        raise BadInput(f"{slide.path}: {error}") from None


def seam_table(reports: Sequence[SeamReport], names: Sequence[str] = ()) -> list[str]:
    """Lines of a table, one slide a row; the first line is the head.

    Parameters
    ----------
    reports : one a row.
    names : what the rows are called; the slides' file names where there are none.
    """
    head = ("slide", "mismatch", "worst", "z", "largest z", "boundary", "overlap", "shift", "seams")
    rows = [head]
    for index, report in enumerate(reports):
        scores, mismatch, alignment = report.gradients, report.mismatch, report.alignment
        axis, where = max((("y", scores.rows), ("x", scores.columns)), key=lambda item: abs(item[1].largest))
        rows.append(
            (
                names[index] if names else Path(report.slide).name,
                "-" if mismatch is None else f"{mismatch.mean:.3g} ({mismatch.relative:.1%})",
                "-" if mismatch is None else f"{mismatch.largest:.3g}",
                f"{scores.z:.1f}",
                f"{where.largest:.1f} at {axis} {where.largest_phase}",
                f"{report.boundary_ratio:.3f}",
                "-" if scores.overlap_ratio is None else f"{scores.overlap_ratio:.3f}",
                "-" if alignment is None else "{},{}".format(*alignment.shift),
                "yes" if report.has_seams else "no",
            )
        )
    return format_table(rows)


def format_table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns of even width: the first to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            [
                row[0].ljust(widths[0]),
                *(text.rjust(wide) for text, wide in zip(row[1:], widths[1:], strict=True)),
            ]
        )
        for row in rows
    ]


def write_report(path: Path, content: dict[str, Any]) -> None:
    """Write a report as JSON, whole or not at all."""
    part = path.with_name(f"{path.name}.part")
    try:
        part.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise Failed(f"--report {path}: {error.strerror}; choose another path") from error
