"""Does the picture of a mask of nuclei give the mask back, in blocks of any size?"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from masks import cells
from safron.io.masks.nucleus_code import circle, encode, find_interiors, measure_depth
from safron.io.masks.nucleus_decode import NucleusFinder, View
from safron.io.masks.nucleus_split import highest, join_basins

CODES = circle(6)


def decode(
    picture: npt.NDArray[np.uint8], block: int, types: tuple[int, ...] = tuple(range(6)), smallest: int = 1,
    glass: npt.NDArray[np.bool_] | None = None,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint32], NucleusFinder]:  # fmt: skip
    """Find and paint in blocks."""
    height, width = shape = picture.shape[:2]
    bare = np.zeros(shape, bool) if glass is None else glass
    found = NucleusFinder(CODES.tolist(), types, width, smallest)
    places = [(y, x) for y in range(0, height, block) for x in range(0, width, block)]
    views = [
        View.of(
            slice(y, min(y + block, height)), slice(x, min(x + block, width)), shape,
            lambda rows, cols: (picture[rows, cols], bare[rows, cols]),
        )
        for y, x in places
    ]  # fmt: skip
    for view in reversed(views):
        found.note(view)
    found.settle()
    kinds, numbers = np.zeros(shape, np.uint8), np.zeros(shape, np.uint32)
    for (y, x), view in zip(places, views, strict=True):
        both = found.paint(view)
        for whole, part in zip((kinds, numbers), both, strict=True):
            whole[y : y + block, x : x + block] = part
    return kinds, numbers, found


def split(inside: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Nuclei of pieces, from 1, in plain words: pixel by pixel over the whole canvas."""
    far = np.minimum(cv2.distanceTransform(inside.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE), 16)
    wide = np.pad(np.rint(64 * far).astype(np.int64), 2, mode="edge")
    side = [1, 4, 6, 4, 1]
    rows, cols = inside.shape
    high = sum(
        side[y] * side[x] * wide[y : y + rows, x : x + cols] for y in range(5) for x in range(5)
    )  # fmt: skip
    pixels = [(int(y), int(x)) for y, x in np.argwhere(inside)]
    held = {*pixels}

    def near(y: int, x: int, diagonal: bool) -> list[tuple[int, int]]:
        found = [(y - 1, x), (y, x - 1), (y, x + 1), (y + 1, x)]
        if diagonal:
            found += [(y + b, x + a) for b in (-1, 1) for a in (-1, 1) if {(y + b, x), (y, x + a)} & held]
        return [pixel for pixel in found if pixel in held]

    def way(pixel: tuple[int, int]) -> tuple[int, int]:
        best, steepest = pixel, -1
        for other in near(*pixel, diagonal=True):
            rise = int(high[other] - high[pixel])
            slope = rise * (7 if other[0] == pixel[0] or other[1] == pixel[1] else 5)
            if (rise > 0 or (rise == 0 and other < pixel)) and slope > steepest:
                best, steepest = other, slope
        return best

    summit = {pixel: way(pixel) for pixel in pixels}
    while any(summit[end] != end for end in summit.values()):
        summit = {pixel: summit[end] for pixel, end in summit.items()}
    passes: dict[tuple[tuple[int, int], tuple[int, int]], int] = {}
    for pixel in pixels:
        for other in near(*pixel, diagonal=False):
            if (one := summit[pixel]) < (two := summit[other]):
                passes[one, two] = max(passes.get((one, two), 0), int(min(high[pixel], high[other])))
    nucleus = {top: top for top in summit.values()}
    for one, two in sorted(passes, key=lambda pair: (-passes[pair], pair)):
        first, second = nucleus[one], nucleus[two]
        if first != second and passes[one, two] > 0.85 * min(high[first], high[second]):
            kept, lost = (first, second) if high[first] >= high[second] else (second, first)
            nucleus = {top: kept if now == lost else now for top, now in nucleus.items()}
    names = {top: place for place, top in enumerate(sorted({*nucleus.values()}), 1)}
    labels = np.zeros(inside.shape, np.int64)
    for pixel in pixels:
        labels[pixel] = names[nucleus[summit[pixel]]]
    return labels


def oracle(
    picture: npt.NDArray[np.uint8], smallest: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint32]]:
    """The same of a picture that fits into memory, in plain words."""
    labels = split(picture[..., 0] >= 128)
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


@pytest.mark.parametrize("block", [7, 40, 120])
def test_nuclei_that_run_together_are_parted_and_large_ones_are_not(block: int) -> None:
    y, x = np.mgrid[:120, :120]
    two = ((np.hypot(y - 20, x - 20) < 9) | (np.hypot(y - 24, x - 34) < 8)).astype(np.uint32)
    large = np.hypot(y - 78, (x - 60) / 1.3) < 36
    picture = encode(np.where(two | large, 1, 0).astype(np.uint8), measure_depth(two | large), CODES)
    _, found, finder = decode(picture, block)
    assert finder.counts.tolist() == [3, 0, 0, 0, 0, 0]
    assert found[20, 20] == 1
    assert found[24, 34] == 2
    assert (found[(two > 0) & (np.hypot(y - 20, x - 20) < 6)] == 1).all()
    assert (found[large] == 3).all()
    np.testing.assert_array_equal(found > 0, (two > 0) | large)


def test_basins_are_joined_over_high_passes_from_the_highest_on() -> None:
    passes = highest(np.array([[1, 0, 60], [0, 1, 84], [2, 1, 86], [2, 3, 40], [3, 2, 43]]))
    assert passes.tolist() == [[0, 1, 84], [1, 2, 86], [2, 3, 43]]
    one, two, three, four = join_basins([200, 100, 100, 50], passes).tolist()
    assert two == three  # 86 is above 0.85 of 100
    assert one != two  # 84 is not
    assert four == three  # 43 is above 0.85 of 50


def test_only_types_that_were_asked_for_are_found() -> None:
    types, numbers = cells(5)
    kinds, _, finder = decode(encode(types, measure_depth(numbers), CODES), 96, types=(1, 4))
    assert {*np.unique(kinds).tolist()} == {0, 2, 5}
    assert finder.counts[[0, 2, 3, 5]].sum() == 0


def test_glass_holds_no_nuclei_and_an_empty_picture_none() -> None:
    types, numbers = cells(6)
    picture = encode(types, measure_depth(numbers), CODES)
    glass = np.zeros((96, 96), bool)
    glass[:, :48] = True
    kinds, found, _ = decode(picture, 96, glass=glass)
    assert not found[glass].any()
    assert found[~glass].any()
    assert np.array_equal(kinds > 0, found > 0)
    for block in (3, 8):
        assert not any(part.any() for part in decode(np.full((8, 8, 3), (0, 128, 128), np.uint8), block)[:2])
