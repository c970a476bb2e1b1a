"""Masks whose agreement is known by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from safron.io.errors import BadInput
from safron.training.segmentation.metrics import compare, compare_instances, outline


def square(side: int = 40, first: int = 10, last: int = 30) -> npt.NDArray[np.bool_]:
    mask = np.zeros((side, side), bool)
    mask[first:last, first:last] = True
    return mask


def test_a_perfect_mask_has_one_everywhere() -> None:
    scores = compare(square(), square())
    assert vars(scores) == dict.fromkeys(vars(scores), 1.0)


def test_a_shifted_square_by_hand() -> None:
    """20 x 20 pixels, moved by 2: 360 shared, 40 extra, 40 missed."""
    scores = compare(np.roll(square(), 2, axis=1), square(), within=1)
    assert scores.dice == scores.precision == scores.recall == 360 / 400
    assert scores.iou == 360 / 440
    # Of 76 outline pixels, the 20 of the side that lies outside are 2 away, and of the side inside all but two at each end.
    assert scores.boundary_f1 == pytest.approx(1 - (20 + 16) / 76)
    assert compare(np.roll(square(), 2, axis=1), square(), within=2).boundary_f1 == 1.0


def test_extra_and_missed_pixels_are_told_apart() -> None:
    larger = square(first=9, last=31)
    extra, missed = compare(larger, square()), compare(square(), larger)
    assert (extra.precision, extra.recall) == (400 / 484, 1.0)
    assert (missed.precision, missed.recall) == (1.0, 400 / 484)
    assert extra.dice == missed.dice


@pytest.mark.parametrize(
    ("predicted", "true", "dice", "boundary"), [(0, 0, 1, 1), (1, 0, 0, 0), (0, 1, 0, 0)]
)
def test_empty_masks(predicted: int, true: int, dice: float, boundary: float) -> None:
    masks = [square() * bool(full) for full in (predicted, true)]
    scores = compare(masks[0], masks[1])
    assert (scores.dice, scores.boundary_f1) == (dice, boundary)


def test_the_edge_of_the_image_is_no_outline() -> None:
    whole = np.ones((8, 9), bool)
    assert not outline(whole).any()
    whole[:, 5:] = False
    assert np.array_equal(np.flatnonzero(outline(whole).any(axis=0)), [4])


def instances(*boxes: tuple[int, int, int, int], names: tuple[int, ...] = ()) -> npt.NDArray[Any]:
    plane = np.zeros((20, 40), np.int64)
    for number, (top, left, bottom, right) in enumerate(boxes):
        plane[top:bottom, left:right] = names[number] if names else number + 1
    return plane


A, B = (2, 2, 12, 12), (2, 20, 12, 30)


def test_the_numbers_of_instances_do_not_matter() -> None:
    scores = compare_instances(instances(A, B), instances(A, B, names=(70_000, 3)))
    assert vars(scores) == dict.fromkeys(vars(scores), 1.0)


def test_one_found_one_shifted_one_extra_by_hand() -> None:
    """A is found whole. B, of 100 pixels, is met by one moved by 2: 80 shared, 120 together. A third one is alone."""
    predicted = instances(A, (2, 22, 12, 32), (14, 2, 18, 7))
    scores = compare_instances(predicted, instances(A, B))
    assert scores.detection == 2 * 2 / 5
    assert scores.segmentation == pytest.approx((1 + 80 / 120) / 2)
    assert scores.panoptic == pytest.approx(scores.detection * scores.segmentation)
    assert scores.aji == pytest.approx((100 + 80) / (100 + 120 + 20))


def test_an_overlap_of_a_half_or_less_is_no_match() -> None:
    scores = compare_instances(instances((2, 2, 12, 7)), instances(A))
    assert (scores.detection, scores.panoptic) == (0, 0)
    assert scores.aji == 0.5


def test_a_missed_instance_counts_with_its_area() -> None:
    assert compare_instances(instances(A), instances(A, B)).aji == 0.5
    assert compare_instances(instances(), instances(A)).aji == 0
    assert compare_instances(instances(A), instances()).aji == 0
    assert compare_instances(instances(), instances()).panoptic == 1


def test_masks_of_two_sizes_are_refused() -> None:
    with pytest.raises(BadInput, match="two planes of one size"):
        compare(square(), square(side=41))
    with pytest.raises(BadInput, match="two planes of one size"):
        compare_instances(instances(), np.zeros((20, 41), int))
