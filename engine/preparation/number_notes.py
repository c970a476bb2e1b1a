"""Are the numbers beside a mask those of its nuclei?

They come from a file of their own, or from another program: one of another slide, or turned, has the right size all the same. A few places tell.
"""

from __future__ import annotations

from itertools import product

import cv2
import numpy as np
from safron.engine.execution.tasks import Job
from safron.engine.plan.window import Window
from safron.io.masks.edges import not_alike

PLACES = 4
"""Places along each side of the canvas."""

SIDE = 256
"""Largest side of a place, in pixels of the mask."""

LEAST = 1000
"""Pixels of nuclei from which it can be told."""


def number_notes(job: Job) -> tuple[str, ...]:
    """Say where numbers of nuclei do not fit the labels, or do not tell one nucleus from another; nothing where there are none.

    Raises
    ------
    Failed
        A part of the mask cannot be read.
    """
    edges, mask = job.model.card.edges, job.mask
    if edges is None or edges.of != "instances" or "instances" not in mask.beside:
        return ()
    labelled, numbered, found, pieces = [], [], set[int](), 0
    for place in _places(job.plan.region.clip(Window(0, 0, *mask.shape))):
        rows, cols = place.slices()
        numbers = np.asarray(mask.beside["instances"][rows, cols])
        labelled.append(np.isin(mask[rows, cols], edges.labels).ravel())
        numbered.append((numbers != 0).ravel())
        found.update(np.unique(numbers[numbers != 0])[:2].tolist())
        pieces += cv2.connectedComponents((numbers != 0).astype(np.uint8))[0] - 1
    label, number = np.concatenate(labelled), np.concatenate(numbered)
    if np.count_nonzero(label | number) < LEAST:
        return ()
    if fault := not_alike(label, number):
        return (
            f"mask {mask.source}: its numbers and its labels {fault}, in {len(labelled)} places; check --instances",
        )
    if len(found) == 1 and pieces > 1:
        return (
            f"mask {mask.source}: all its nuclei have the number {found.pop()} in {len(labelled)} places, so touching nuclei of one "
            "label are drawn as one; check --instances",
        )
    return ()


def _places(region: Window) -> list[Window]:
    """Places on a lattice over a region."""
    height, width = (min(SIDE, -(-side // PLACES)) for side in (region.height, region.width))
    step = PLACES - 1
    return [
        Window(
            region.y + row * (region.height - height) // step,
            region.x + column * (region.width - width) // step,
            height,
            width,
        )
        for row, column in product(range(PLACES), range(PLACES))
    ]
