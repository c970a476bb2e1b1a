"""Does the picture of a mask of nuclei give the mask back, in blocks of any size?"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from masks import cells
from safron.io.masks.nucleus_code import circle, encode, find_interiors, measure_depth
from safron.io.masks.nucleus_decode import NucleusFinder

CODES = circle(6)


def decode(
    picture: npt.NDArray[np.uint8], block: int, types: tuple[int, ...] = tuple(range(6)), smallest: int = 1
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint32], NucleusFinder]:
    """Find and paint in blocks."""
    height, width = picture.shape[:2]
    found = NucleusFinder(CODES.tolist(), types, width, smallest)
    places = [(y, x) for y in range(0, height, block) for x in range(0, width, block)]
    parts = {place: picture[place[0] : place[0] + block, place[1] : place[1] + block] for place in places}
    glass = {place: np.zeros(part.shape[:2], bool) for place, part in parts.items()}
    for place in reversed(places):
        found.note(place, parts[place], glass[place])
    found.settle()
    kinds, numbers = np.zeros((height, width), np.uint8), np.zeros((height, width), np.uint32)
    for y, x in places:
        both = found.paint((y, x), parts[y, x], glass[y, x])
        for whole, part in zip((kinds, numbers), both, strict=True):
            whole[y : y + block, x : x + block] = part
    return kinds, numbers, found


def oracle(
    picture: npt.NDArray[np.uint8], smallest: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint32]]:
    """The same of a picture that fits into memory, in plain words."""
    _, labels = cv2.connectedComponents((picture[..., 0] >= 128).astype(np.uint8), connectivity=4)
    kinds, numbers = np.zeros(labels.shape, np.uint8), np.zeros(labels.shape, np.uint32)
    firsts = {label: int(np.flatnonzero(labels.ravel() == label)[0]) for label in range(1, labels.max() + 1)}
    number = 0
    for label in sorted(firsts, key=lambda label: firsts[label]):
        here = labels == label
        if here.sum() >= smallest:
            number += 1
            mean = (
                np.array([picture[..., channel][here].sum() for channel in (1, 2)]) / here.sum() / 127.5 - 1
            )
            kinds[here], numbers[here] = 1 + np.square(mean - CODES).sum(axis=1).argmin(), number
    typed = np.hypot(*np.moveaxis(picture[..., 1:] / 127.5 - 1, 2, 0)) > 0.5
    seen = np.pad(numbers, 1)
    for y, x in np.argwhere((labels == 0) & typed):
        near = [seen[y, x + 1], seen[y + 1, x], seen[y + 1, x + 2], seen[y + 2, x + 1]]
        numbers[y, x] = next((number for number in near if number), 0)
        kinds[y, x] = kinds[numbers == numbers[y, x]].max() if numbers[y, x] else 0
    return kinds, numbers


def same_partition(one: npt.NDArray[np.uint32], other: npt.NDArray[np.uint32]) -> bool:
    """Whether each number of one stands for one number of the other."""
    pairs = {*zip(one.ravel().tolist(), other.ravel().tolist(), strict=True)}
    return len(pairs) == len({first for first, _ in pairs}) == len({second for _, second in pairs})


def test_touching_rectangles_come_back_pixel_by_pixel() -> None:
    numbers = np.zeros((40, 50), np.uint32)
    numbers[5:15, 5:15], numbers[5:15, 15:30], numbers[17:25, 5:30], numbers[25:36, 10:50] = 7, 3, 9, 1
    types = np.array([0, 6, 0, 2, 0, 0, 0, 1, 0, 5], np.uint8)[numbers]
    picture = encode(types, measure_depth(numbers), CODES)
    kinds, found, finder = decode(picture, 64)
    assert np.array_equal(kinds, types)
    assert same_partition(numbers, found)
    assert finder.counts.tolist() == [1, 1, 0, 0, 1, 1]
    assert found[5, 5] == 1  # numbers follow the first pixels, row by row
    assert found[5, 20] == 2


@pytest.mark.parametrize("seed", range(3))
def test_crowded_discs_come_back_but_for_some_corners(seed: int) -> None:
    types, numbers = cells(seed)
    kinds, found, _ = decode(encode(types, measure_depth(numbers), CODES), 96)
    kept = found > 0
    assert kept[find_interiors(numbers)].all()
    assert not kept[numbers == 0].any()
    assert kept.sum() > 0.98 * (numbers > 0).sum()
    # A nucleus may be cut in two where others press it; never do two become one.
    pairs = {*zip(found[kept].tolist(), numbers[kept].tolist(), strict=True)}
    assert len(pairs) == len({number for number, _ in pairs})
    assert np.array_equal(kinds[kept], types[kept])


@pytest.mark.parametrize("block", [7, 32, 96])
def test_any_block_equals_the_whole_picture(block: int) -> None:
    types, numbers = cells(4)
    picture = encode(types, measure_depth(numbers), CODES)
    noise = np.random.default_rng(0).integers(-70, 70, picture.shape)
    rough = np.clip(picture.astype(int) + noise, 0, 255).astype(np.uint8)
    kinds, found, _ = decode(rough, block, smallest=5)
    want_kinds, want = oracle(rough, 5)
    assert want.max() > 20
    assert np.array_equal(found, want)
    assert np.array_equal(kinds, want_kinds)


def test_only_types_that_were_asked_for_are_found() -> None:
    types, numbers = cells(5)
    kinds, _, finder = decode(encode(types, measure_depth(numbers), CODES), 96, types=(1, 4))
    assert {*np.unique(kinds).tolist()} == {0, 2, 5}
    assert finder.counts[[0, 2, 3, 5]].sum() == 0


def test_glass_holds_no_nuclei_and_an_empty_picture_none() -> None:
    types, numbers = cells(6)
    picture = encode(types, measure_depth(numbers), CODES)
    finder = NucleusFinder(CODES.tolist(), range(6), 96)
    glass = np.zeros((96, 96), bool)
    glass[:, :48] = True
    finder.note((0, 0), picture, glass)
    finder.settle()
    kinds, found = finder.paint((0, 0), picture, glass)
    assert not found[glass].any()
    assert found[~glass].any()
    assert np.array_equal(kinds > 0, found > 0)
    empty = np.full((8, 8, 3), (0, 128, 128), np.uint8)
    finder = NucleusFinder(CODES.tolist(), range(6), 8)
    finder.note((0, 0), empty, np.zeros((8, 8), bool))
    finder.settle()
    assert not any(part.any() for part in finder.paint((0, 0), empty, np.zeros((8, 8), bool)))
