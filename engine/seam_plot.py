"""Would one see where patches meet? A curve for the page of a render; `safron-eval seams` measures.

Steps of colour between neighbouring pixels are averaged by their place in a patch's stride, over the middle of the slide. Tissue has
steps anywhere alike; a seam is a peak where patches begin or end.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from safron.engine.plan.render_plan import RenderPlan
from safron.io.html_page import curves, text
from safron.io.slides.reader import Pixels

MOST_SIDE = 2048
"""Pixels a side that are looked at."""

Floats = npt.NDArray[np.float64]


def seam_plot(slide: Pixels, plan: RenderPlan) -> str:
    """Draw the curve as a part of a page.

    Parameters
    ----------
    slide
        The finished slide.
    plan
        Of its render.
    """
    height, width = (min(side, MOST_SIDE) for side in slide.shape)
    y, x = (slide.shape[0] - height) // 2, (slide.shape[1] - width) // 2
    rgb = slide.read(y, x, height, width)
    stride, ratio = plan.grid.tile - plan.grid.overlap, float(plan.scale.ratio)
    origins = (x + plan.region.x) * ratio, (y + plan.region.y) * ratio
    lines = {
        name: [(float(place), float(step)) for place, step in enumerate(steps) if np.isfinite(step)]
        for name, steps in (
            ("side by side", steps_by_place(rgb, stride, origins[0], ratio)),
            ("one below the other", steps_by_place(rgb.swapaxes(0, 1), stride, origins[1], ratio)),
        )
    }
    values = [step for line in lines.values() for _, step in line]
    if values and 0 < plan.grid.overlap < stride:
        end = float(plan.grid.overlap)
        low, high = min(values), max(values)
        lines["overlap"] = [(0.0, high), (0.0, low), (end, low), (end, high)]
    ends = f"0 and {plan.grid.overlap % stride}" if plan.grid.overlap % stride else "0"
    said = f"Mean step of colour between neighbours, by place in a patch's stride. Patches meet at {ends}; a seam is a peak there."
    return f"<p>{text(said)}</p>{curves(lines, f'of {stride} px')}"


def steps_by_place(rgb: npt.NDArray[np.uint8], stride: int, origin: float, ratio: float) -> Floats:
    """Average the steps between neighbouring columns by their place in a stride.

    Parameters
    ----------
    rgb
        uint8 [y, x, 3].
    stride
        Of patches, in drawn pixels.
    origin
        Drawn pixel of the first column.
    ratio
        Drawn pixels along a pixel of the slide.

    Returns
    -------
    Floats
        [stride], grey levels; NaN at places that no column has.
    """
    steps = np.abs(np.diff(rgb.astype(np.int16), axis=1)).mean(axis=(0, 2))
    places = np.rint(np.arange(1, rgb.shape[1]) * ratio + origin).astype(np.int64) % stride
    counts = np.bincount(places, minlength=stride)
    with np.errstate(invalid="ignore"):
        return np.bincount(places, steps, minlength=stride) / counts
