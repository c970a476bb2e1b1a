"""All measurements of one slide, and tables of several slides.

`evaluate_seams` measures a slide; `seam_table` sets several under each other; `write_report` keeps them as JSON.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safron.engine.generator.inputs import Labels
from safron.engine.generator.model import PatchModel, load_model
from safron.engine.plan.scale import Scale
from safron.io.errors import BadInput
from safron.io.legend import DEFAULT_LABELS
from safron.io.masks.mask import LabelMask
from safron.io.masks.open import open_mask
from safron.io.masks.scaled import ScaledMask
from safron.io.slides.reader import Pixels

from .alignment import Alignment, check_size, measure_alignment
from .boundary_profiles import measure_profiles
from .drawn_pixels import in_drawn_pixels, scale_of
from .overlap_mismatch import Mismatch, measure_mismatch
from .seam_scores import SeamScores, score_seams
from .slide_grid import SlideGrid, grid_of


@dataclass(frozen=True)
class SeamReport:
    """Measurements of one slide.

    Attributes
    ----------
    slide, model, mask, real
        Sources; None where not given.
    grid
        Where its patches lie.
    scores
        How far the boundaries of patches stand out; None with too little tissue.
    mismatch
        Of the generator, before blending; None without generator, mask or overlap.
    alignment
        Of slide and mask; None without a mask, or where no square holds two labels.
    real_boundary_ratio
        Boundary ratio of the real slide on the same grid.
    made_by
        Name of the generator that the slide says it was rendered with; None where it says nothing.
    """

    slide: str
    grid: SlideGrid
    scores: SeamScores | None
    mismatch: Mismatch | None = None
    alignment: Alignment | None = None
    real_boundary_ratio: float | None = None
    model: str | None = None
    mask: str | None = None
    real: str | None = None
    made_by: str | None = None

    @property
    def boundary_ratio(self) -> float | None:
        """Boundary ratio, divided by the real slide's where there is one; None with too little tissue."""
        return None if self.scores is None else self.scores.boundary_ratio / (self.real_boundary_ratio or 1.0)

    @property
    def seams(self) -> tuple[str, ...]:
        """Names of the measures that found seams."""
        mismatch = ("mismatch",) if self.mismatch is not None and self.mismatch.visible else ()
        return mismatch + (() if self.scores is None else self.scores.found)

    @property
    def has_seams(self) -> bool | None:
        """Whether any measure found seams; None where none could be taken."""
        return None if self.scores is None and not self.seams else bool(self.seams)

    @property
    def verdict(self) -> str:
        """The last column of the table."""
        if self.has_seams is None:
            return "too little tissue"
        return f"yes: {', '.join(self.seams)}" if self.seams else "no"

    @property
    def json(self) -> dict[str, Any]:
        """Everything as JSON values."""
        return asdict(self) | {
            "z": None if self.scores is None else self.scores.z,
            "has_seams": self.has_seams,
            "seams": list(self.seams),
            "alignment_sure": None if self.alignment is None else self.alignment.sure,
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
    part: bool = False,
) -> SeamReport:
    """Measure one slide.

    Parameters
    ----------
    slide
        Any slide or image; read in windows.
    mask
        The labels it was rendered from, for alignment and mismatch.
    model
        The generator, for the mismatch.
    real
        A real slide; the boundary ratio is divided by its own.
    tile, overlap, seed
        Of the render; None takes them from the slide's description.
    device
        Where the generator runs.
    palette_tolerance
        See `safron.io.masks.open.open_mask`.
    part
        The slide may show only the upper left part of the mask.

    Raises
    ------
    BadInput
        A file cannot be read, the grid is not known, or the mask has another size than the slide.
    """
    if model is not None and mask is None:
        raise BadInput("--model: the generator is run on windows of a mask; give --mask, too")
    generator = None if model is None else load_model(model, device=device)
    cards = [] if generator is None else [generator.card]
    labels = (
        None if mask is None else _open_mask(mask, cards[0].palette if cards else None, palette_tolerance)
    )
    with Pixels(slide) as pixels:
        grid = grid_of(pixels, tile=tile, overlap=overlap, cards=cards)
        if labels is not None:
            check_size(pixels, labels, part=part)
        drawn, drawn_grid = in_drawn_pixels(pixels, grid)
        scores = score_seams(measure_profiles(drawn, drawn_grid), drawn_grid)
        scale = scale_of(pixels)
        alignment = None if labels is None else measure_alignment(pixels, labels, grid)
        said, made_by = pixels.facts.get("Seed", "0"), pixels.facts.get("Generator")
        number = seed if seed is not None else int(said) if said.lstrip("-").isdecimal() else 0
    mismatch = None
    if generator is not None and labels is not None:
        mismatch = _mismatch_of(generator, labels, scale, grid, number)
    return SeamReport(
        slide=str(slide),
        grid=grid,
        scores=scores,
        mismatch=mismatch,
        alignment=alignment,
        real_boundary_ratio=None if real is None else _ratio_of_real(real, grid),
        model=None if generator is None else generator.card.name,
        mask=None if labels is None else labels.source,
        real=None if real is None else str(real),
        made_by=made_by,
    )


def _mismatch_of(
    generator: PatchModel, labels: LabelMask, scale: Scale, grid: SlideGrid, seed: int
) -> Mismatch | None:
    """Run a generator on windows of the mask, at the scale at which it drew the slide."""
    generator.card.require_tile(grid.tile)
    drawn: Labels = labels
    if not scale.is_one:
        shape = (scale.drawn(labels.shape[0]), scale.drawn(labels.shape[1]))
        drawn = ScaledMask(labels, shape, scale.slide_index)
    return measure_mismatch(generator, drawn, tile=grid.tile, overlap=grid.overlap, seed=seed)


def _ratio_of_real(real: str | Path, grid: SlideGrid) -> float:
    """Boundary ratio of a real slide, which has no boundaries, on a grid of these patches."""
    plain = SlideGrid(grid.tile, grid.overlap)
    with Pixels(real) as pixels:
        scores = score_seams(measure_profiles(pixels, plain), plain)
    if scores is None:
        raise BadInput(f"--real {real}: has too little tissue to compare with; give a larger slide")
    return scores.boundary_ratio


def _open_mask(mask: Any, palette: Any, tolerance: int) -> LabelMask:
    colors = palette or {label.value: label.color for label in DEFAULT_LABELS}
    return open_mask(mask, palette=colors, palette_tolerance=tolerance)


def seam_table(reports: Sequence[SeamReport], names: Sequence[str] = ()) -> list[str]:
    """Lines of a table with one slide a row; the first line is the head.

    Parameters
    ----------
    reports
        One for each row.
    names
        Names of the rows; the slides' file names where there are none.
    """
    measures = ("step", "ramp", "edge", "blur", "patch")
    rows: list[tuple[str, ...]] = [
        ("slide", "mismatch", "worst", *measures, "boundary", "overlap", "shift", "seams")
    ]
    for index, report in enumerate(reports):
        scores, mismatch, alignment = report.scores, report.mismatch, report.alignment
        shift = "-" if alignment is None else "{},{}".format(*alignment.shift)
        rows.append(
            (
                names[index] if names else Path(report.slide).name,
                "-" if mismatch is None else f"{mismatch.mean:.3g} ({mismatch.relative:.1%})",
                "-" if mismatch is None else f"{mismatch.largest:.3g}",
                *(_number(getattr(scores, name, None), ".1f") for name in measures),
                _number(report.boundary_ratio, ".3f"),
                _number(getattr(scores, "overlap_ratio", None), ".3f"),
                shift if alignment is None or alignment.sure else f"{shift}?",
                report.verdict,
            )
        )
    return format_table(rows)


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


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
