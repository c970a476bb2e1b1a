"""How well does a predicted mask agree with a true one? By pixels, by outlines, and by instances."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from safron.io.errors import BadInput

Mask = npt.NDArray[np.bool_]
Instances = npt.NDArray[Any]

BOUNDARY_PX = 3
"""Distance in pixels at which two outlines count as one in the boundary F1."""


@dataclass(frozen=True)
class Scores:
    """Agreement of two masks, each value 0..1; 1 where both are empty.

    Attributes
    ----------
    dice
        2 TP / (2 TP + FP + FN) by pixels, which is the F1 of the foreground.
    iou
        TP / (TP + FP + FN).
    precision, recall
        TP / (TP + FP) and TP / (TP + FN).
    boundary_f1
        F1 of outlines: a pixel of one is found if the other has one within `BOUNDARY_PX` (Csurka et al., 2013).
    """

    dice: float
    iou: float
    precision: float
    recall: float
    boundary_f1: float


def compare(predicted: Mask, true: Mask, *, within: float = BOUNDARY_PX) -> Scores:
    """Compare two masks.

    Parameters
    ----------
    predicted, true
        bool [y, x], true on the foreground.
    within
        Distance of the boundary F1, in pixels.

    Raises
    ------
    BadInput
        The sizes differ.

    Examples
    --------
    >>> import numpy as np
    >>> true = np.zeros((8, 8), bool)
    >>> true[2:6, 2:6] = True
    >>> scores = compare(np.roll(true, 1, axis=1), true, within=0)
    >>> scores.dice, scores.iou
    (0.75, 0.6)
    """
    _check(predicted, true)
    both = int(np.count_nonzero(predicted & true))
    extra, missed = int(np.count_nonzero(predicted)) - both, int(np.count_nonzero(true)) - both
    return Scores(
        _share(2 * both, 2 * both + extra + missed),
        _share(both, both + extra + missed),
        _share(both, both + extra),
        _share(both, both + missed),
        _boundary_f1(predicted, true, within),
    )


def _check(predicted: npt.NDArray[Any], true: npt.NDArray[Any]) -> None:
    if predicted.shape != true.shape or predicted.ndim != 2:
        raise BadInput(
            f"masks of {predicted.shape} and {true.shape}: two planes of one size can be compared; crop one"
        )


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 1.0


def outline(mask: Mask) -> Mask:
    """Find the pixels of a mask that have a 4-neighbour outside; the image's edge is no outline. bool [y, x]."""
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    inner = cv2.erode(
        mask.astype(np.uint8), cross, borderType=cv2.BORDER_CONSTANT, borderValue=(1.0, 1.0, 1.0, 1.0)
    )
    return np.asarray(mask & ~np.asarray(inner, bool))


def _boundary_f1(predicted: Mask, true: Mask, within: float) -> float:
    first, second = outline(predicted), outline(true)
    if not first.any() or not second.any():
        return 1.0 if first.any() == second.any() else 0.0
    precision = float((_distance_to(second)[first] <= within).mean())
    recall = float((_distance_to(first)[second] <= within).mean())
    return _share(2 * precision * recall, precision + recall) if precision + recall else 0.0


def _distance_to(pixels: Mask) -> npt.NDArray[np.float32]:
    """Exact distance of each pixel to the nearest one of `pixels`, in pixels."""
    return np.asarray(cv2.distanceTransform((~pixels).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE))


@dataclass(frozen=True)
class InstanceScores:
    """Agreement of two instance masks, each value 0..1; 1 where both are empty.

    Attributes
    ----------
    aji
        Aggregated Jaccard index (Kumar et al., 2017, algorithm 1).
    detection, segmentation, panoptic
        DQ, SQ and PQ = DQ * SQ of one class (Kirillov et al., 2019, eq. 1): instances match where their IoU is above 0.5.
    """

    aji: float
    detection: float
    segmentation: float
    panoptic: float


def compare_instances(predicted: Instances, true: Instances) -> InstanceScores:
    """Compare two instance masks; numbers need not be consecutive.

    Parameters
    ----------
    predicted, true
        Whole numbers [y, x] of any type, 0 on background.

    Raises
    ------
    BadInput
        The sizes differ.

    Examples
    --------
    >>> import numpy as np
    >>> true = np.array([[7, 7, 0, 9], [7, 7, 0, 9]])
    >>> compare_instances(np.array([[1, 1, 0, 0], [1, 1, 0, 0]]), true).panoptic  # one of two found
    0.6666666666666666
    """
    _check(predicted, true)
    shared, areas, true_areas = _overlaps(predicted, true)
    if not len(areas) and not len(true_areas):
        return InstanceScores(1.0, 1.0, 1.0, 1.0)
    union = areas[:, None] + true_areas[None, :] - shared
    iou = shared / union
    matched = iou[iou > 0.5]  # above one half each instance has one partner at most
    detection = 2 * len(matched) / (len(areas) + len(true_areas))
    segmentation = float(matched.mean()) if len(matched) else 0.0
    return InstanceScores(
        _aji(iou, shared, union, areas, true_areas), detection, segmentation, detection * segmentation
    )


def _overlaps(
    predicted: Instances, true: Instances
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Pixels that each pair of instances shares [predicted, true], and the areas of both sides, without background."""
    numbers, first = np.unique(predicted, return_inverse=True)
    true_numbers, second = np.unique(true, return_inverse=True)
    table = np.bincount(
        first.ravel() * len(true_numbers) + second.ravel(), minlength=len(numbers) * len(true_numbers)
    ).reshape(len(numbers), len(true_numbers))
    rows, columns = numbers != 0, true_numbers != 0
    return table[np.ix_(rows, columns)], table.sum(axis=1)[rows], table.sum(axis=0)[columns]


def _aji(
    iou: npt.NDArray[np.float64],
    shared: npt.NDArray[np.int64],
    union: npt.NDArray[np.int64],
    areas: npt.NDArray[np.int64],
    true_areas: npt.NDArray[np.int64],
) -> float:
    """Each true instance takes the predicted one of the largest IoU; predicted ones that none took add their areas."""
    if not len(areas) or not len(true_areas):
        return 0.0
    best = iou.argmax(axis=0)
    met = iou.max(axis=0) > 0
    columns = np.arange(len(true_areas))
    inside = int(shared[best, columns][met].sum())
    around = int(union[best, columns][met].sum() + true_areas[~met].sum())
    used = np.zeros(len(areas), bool)
    used[best[met]] = True
    return inside / (around + int(areas[~used].sum()))
