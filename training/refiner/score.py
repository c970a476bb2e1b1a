"""How well does a task network find the nuclei of real tiles?

Pixels are scored by Dice, nuclei by the aggregated Jaccard index (Kumar et al., IEEE TMI 36:1550, 2017) and panoptic quality
(Graham et al., Medical Image Analysis 58:101563, 2019: pairs with an IoU above 0.5).
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from .data import as_tensor

Integers = npt.NDArray[np.int32]
GROW = 4
"""Steps by which interiors grow into the nucleus around them."""

SMALLEST = 30
"""Pixels of the smallest nucleus that is kept."""


def find_nuclei(network: nn.Module, rgb: npt.NDArray[np.uint8]) -> Integers:
    """Segment a picture.

    Parameters
    ----------
    network
        A `TaskNet`.
    rgb
        uint8 [y, x, 3].

    Returns
    -------
    Integers
        int32 [y, x]: 0, or the number of a nucleus from 1 on.
    """
    height, width = rgb.shape[:2]
    padded = np.pad(rgb, ((0, -height % 8), (0, -width % 8), (0, 0)), mode="edge")
    with torch.no_grad():
        logits = network(as_tensor([padded]))[0, :, :height, :width].numpy()
    nucleus, interior = logits[0] > 0, (logits[1] > 0) & (logits[0] > 0)
    _, numbers = cv2.connectedComponents(interior.view(np.uint8))
    grown = numbers.astype(np.float32)
    for _ in range(GROW):
        wide = np.asarray(cv2.dilate(grown, np.ones((3, 3), np.uint8)))
        grown = np.where((grown == 0) & nucleus, wide, grown)
    # Nuclei so thin that none of their pixels is interior.
    _, thin = cv2.connectedComponents(((grown == 0) & nucleus).view(np.uint8))
    found = np.where(thin > 0, thin + int(grown.max()), grown).astype(np.int32)
    counts = np.bincount(found.reshape(-1))
    found[counts[found] < SMALLEST] = 0
    return np.unique(found, return_inverse=True)[1].reshape(found.shape).astype(np.int32)


def score(found: Integers, truth: Integers) -> dict[str, float]:
    """Compare nuclei.

    Parameters
    ----------
    found, truth
        int32 [y, x]: 0, or the number of a nucleus; numbers need not follow each other.

    Returns
    -------
    dict[str, float]
        "dice", "aji" and "pq", 0..1; 1 where both are empty.
    """
    a, b = (
        np.unique(one, return_inverse=True)[1].reshape(-1) + (0 if (one == 0).any() else 1)
        for one in (found, truth)
    )
    inside = int(((a > 0) & (b > 0)).sum())
    total = int((a > 0).sum()) + int((b > 0).sum())
    if total == 0:
        return {"dice": 1.0, "aji": 1.0, "pq": 1.0}
    columns = int(b.max()) + 1
    pairs, counts = np.unique(a.astype(np.int64) * columns + b, return_counts=True)
    left, right = pairs // columns, pairs % columns
    both = (left > 0) & (right > 0)
    left, right, shared = left[both], right[both], counts[both]
    size_a, size_b = np.bincount(a, minlength=int(a.max()) + 1), np.bincount(b, minlength=columns)
    union = size_a[left] + size_b[right] - shared
    iou = shared / union
    hits = iou > 0.5
    misses = (np.count_nonzero(size_a[1:]) - hits.sum()) + (np.count_nonzero(size_b[1:]) - hits.sum())
    return {
        "dice": 2 * inside / total,
        "aji": _aji(left, right, shared, union, size_a, size_b),
        "pq": float(iou[hits].sum() / max(1e-9, hits.sum() + misses / 2)),
    }


def _aji(
    left: npt.NDArray[np.int64],
    right: npt.NDArray[np.int64],
    shared: npt.NDArray[np.int64],
    union: npt.NDArray[np.int64],
    size_a: npt.NDArray[np.int64],
    size_b: npt.NDArray[np.int64],
) -> float:
    """Aggregated Jaccard index: each true nucleus with the one that it overlaps best; the unmatched count as errors."""
    above = below = 0
    used = np.zeros(len(size_a), bool)
    for number in range(1, len(size_b)):
        mine = np.flatnonzero(right == number)
        if not len(mine):
            below += int(size_b[number])
            continue
        best = mine[np.argmax(shared[mine] / union[mine])]
        above, below = above + int(shared[best]), below + int(union[best])
        used[left[best]] = True
    below += int(size_a[1:][~used[1:]].sum())
    return above / max(1, below)
