"""Which label does each pixel of a finished slide have?

`--labels-out` writes the mask again, cut and padded as the slide is, so that both lie pixel upon pixel in a viewer.
"""

from __future__ import annotations

import logging

import numpy as np
import numpy.typing as npt
from safron.engine.preparation.prepared import Prepared
from safron.io.errors import Failed, SafronError
from safron.io.masks.to_geojson import own_legend
from safron.io.slides.label_pyramid import LabelSlide, write_label_slide

from .report import RenderReport

log = logging.getLogger("safron")


def write_labels_out(prepared: Prepared, report: RenderReport) -> None:
    """Write the file of `--labels-out`, if the user asks for one; a second time it replaces its own.

    Raises
    ------
    Failed
        It cannot be written; the slide is finished.
    """
    out = prepared.options.labels_out
    if out is None:
        return
    try:
        write_label_slide(out, label_slide(prepared, report), overwrite=True)
    except SafronError as error:
        raise Failed(
            f"--labels-out {error}; the slide is finished; correct this, and the same command writes the labels"
        ) from error


def label_slide(prepared: Prepared, report: RenderReport) -> LabelSlide:
    """Describe the labels of a slide."""
    plan, mask, card = prepared.plan, prepared.job.mask, prepared.job.model.card
    region = plan.region
    glass = [label.value for label in card.labels if label.fill is not None]
    padding = glass[0] if glass else card.outside if isinstance(card.outside, int) else 0

    def read(rows: slice, cols: slice) -> npt.NDArray[np.uint8]:
        labels = np.full((rows.stop - rows.start, cols.stop - cols.start), padding, np.uint8)
        y, x = min(rows.start, region.height), min(cols.start, region.width)
        y_stop, x_stop = min(rows.stop, region.height), min(cols.stop, region.width)
        found = mask[y + region.y : y_stop + region.y, x + region.x : x_stop + region.x]
        labels[: found.shape[0], : found.shape[1]] = found
        return labels

    return LabelSlide(
        pyramid=plan.pyramid,
        read=read,
        mpp=plan.slide.mpp,
        origin=(region.y, region.x),
        legend=own_legend(mask) or card.labels,
        slide=prepared.target.file_name,
        facts={"Slide digest": report.digest, "Generator": report.model, "Seed": str(plan.seed)},
    )
