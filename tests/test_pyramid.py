from __future__ import annotations

import doctest
import math
from itertools import pairwise

import numpy as np
import pytest
import safron.io.slides.pyramid
from hypothesis import given, settings
from hypothesis import strategies as st
from safron.io.errors import BadInput
from safron.io.slides.pyramid import Pixels, Pyramid, halve, reduce_region


def textured(height: int, width: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def halve_reference(rgb: Pixels) -> Pixels:
    """The meaning of halve(): a 2 x 2 box in integers; an odd last row or column is repeated to make a box."""
    odd = [(0, side % 2) for side in rgb.shape[:2]]
    wide = np.pad(rgb.astype(int), (*odd, (0, 0)), "edge")
    wide = wide.reshape(wide.shape[0] // 2, 2, wide.shape[1] // 2, 2, 3)
    return ((wide.sum((1, 3)) + 2) >> 2).astype(np.uint8)


def test_the_examples_in_the_docstrings_run() -> None:
    results = doctest.testmod(safron.io.slides.pyramid)
    assert results.attempted > 0
    assert results.failed == 0


WIDTHS = [1, 2, 3, 5, 7, 15, 16, 17, 31, 33, 62, 63, 64, 65, 127, 129, 130, 491, 512]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("height", [1, 2, 3, 6, 37])
def test_halve_is_the_integer_box_at_every_width(height: int, width: int) -> None:
    rgb = textured(height, width)
    np.testing.assert_array_equal(halve(rgb), halve_reference(rgb))


def test_halve_rounds_every_sum_half_up() -> None:
    boxes = np.zeros((2, 2 * 1021, 3), np.uint8)
    for total in range(1021):
        box = np.array([total // 4 + (k < total % 4) for k in range(4)]).reshape(2, 2, 1)
        boxes[:, 2 * total : 2 * total + 2] = box
    np.testing.assert_array_equal(halve(boxes)[0, :, 0], [(total + 2) >> 2 for total in range(1021)])


@pytest.mark.parametrize(
    "view",
    [
        lambda rgb: rgb[3:-2, 5:-4],
        lambda rgb: rgb[::-1],
        lambda rgb: rgb[:, ::-1],
        lambda rgb: rgb[::2, ::3],
        lambda rgb: rgb[..., ::-1],
        lambda rgb: rgb.transpose(1, 0, 2),
        lambda rgb: np.asfortranarray(rgb),
        lambda rgb: np.broadcast_to(rgb[:1, :1], rgb.shape),
    ],
)
def test_halve_takes_arrays_of_any_strides(view) -> None:  # type: ignore[no-untyped-def]
    rgb = view(textured(75, 107))
    np.testing.assert_array_equal(halve(rgb), halve_reference(rgb))


def test_levels_halve_by_floor_and_never_vanish() -> None:
    pyramid = Pyramid.auto(9001, 3, 512)  # no side is a multiple of the tile in any level
    assert [(level.height, level.width) for level in pyramid.levels] == [
        (9001, 3), (4500, 1), (2250, 1), (1125, 1), (562, 1), (281, 1)
    ]  # fmt: skip
    assert [level.downsample for level in pyramid.levels] == [1, 2, 4, 8, 16, 32]
    assert (pyramid.level(0).rows, pyramid.level(0).cols, pyramid.level(0).tiles) == (18, 1, 18)


@pytest.mark.parametrize(
    ("height", "width", "count"),
    [(1, 1, 1), (512, 512, 1), (513, 1, 2), (1024, 1024, 2), (1025, 512, 3), (200_000, 5, 10)],
)
def test_auto_halves_until_one_tile_is_enough(height: int, width: int, count: int) -> None:
    pyramid = Pyramid.auto(height, width, 512)
    assert pyramid.level_count == count
    assert pyramid.levels[-1].tiles == 1


def tiles_wanted(side: int, tile: int, index: int) -> int:
    """Tiles along a side of a level as large_image and DeepZoom count them: from the size of level 0."""
    return math.ceil(math.ceil(side / (1 << index)) / tile)


def rounded_down(side: int, tile: int, index: int) -> int:
    """Tiles along a side of a level that is rounded down."""
    return -(-max(1, side >> index) // tile)


@pytest.mark.parametrize("tile", [16, 256, 512])
def test_no_level_lacks_a_tile_that_readers_derive_from_level_0(tile: int) -> None:
    rng = np.random.default_rng(7)
    sizes = [(2049, 1537), (tile << 3, tile << 2), *rng.integers(1, 100_000, (200, 2)).tolist()]
    affected = 0
    for height, width in sizes:
        pyramid = Pyramid.auto(height, width, tile)
        for level in pyramid.levels:
            index = level.index
            assert (level.rows, level.cols) == (
                tiles_wanted(height, tile, index),
                tiles_wanted(width, tile, index),
            )
            for side, of in ((level.height, height), (level.width, width)):
                up = rounded_down(of, tile, index) < tiles_wanted(of, tile, index) or not of >> index
                assert side == (of >> index) + up
                affected += up and of >> index > 0
    assert affected


@settings(deadline=None)
@given(st.integers(1, 5000), st.integers(1, 5000), st.sampled_from([16, 128, 240, 512]))
def test_each_level_is_half_of_the_one_above(height: int, width: int, tile: int) -> None:
    levels = Pyramid.auto(height, width, tile).levels
    for above, level in pairwise(levels):
        for side, of in ((level.height, above.height), (level.width, above.width)):
            assert side in {max(1, of >> 1), (of + 1) >> 1}
    assert levels[-1].tiles == 1


@given(
    st.integers(1, 100_000),
    st.integers(1, 100_000),
    st.sampled_from([32, 128, 480, 512]),
    st.sampled_from([16, 32]),
)
def test_whole_tiles_fit_into_every_level(height: int, width: int, tile: int, step: int) -> None:
    pyramid = Pyramid.with_whole_tiles(height, width, tile, step=step)
    assert pyramid.tile % step == 0
    assert tile % pyramid.tile == 0
    short = min(height, width)
    if short >= step:
        assert all(min(level.height, level.width) >= pyramid.tile for level in pyramid.levels)
    if short >= 2 * step and max(height, width) > tile:
        assert pyramid.level_count > 1  # or large_image would not open a long slide
    if short >= 2 * tile:
        assert pyramid.tile == tile


def test_auto_takes_a_given_number_of_levels() -> None:
    assert Pyramid.auto(4096, 4096, 512, 2).levels[-1].height == 2048
    with pytest.raises(BadInput, match=r"--level-count 14: .* 1 to 13 levels"):
        Pyramid.auto(4096, 4096, 512, 14)
    with pytest.raises(BadInput, match="at least 1"):
        Pyramid.auto(0, 4096, 512)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(0, 4), st.integers(1, 3))
def test_regions_join_to_the_levels_of_the_whole(height: int, width: int, last: int, steps: int) -> None:
    last = min(last, max(height, width).bit_length() - 1)
    pyramid = Pyramid(height, width, 16, last + 1)
    canvas = textured(height, width)
    whole = [canvas]
    for level in pyramid.levels[1:]:
        whole.append(halve(whole[-1])[: level.height, : level.width])
    joined = [np.full_like(level, 77) for level in whole]
    block = steps << last
    for y in range(0, height, block):
        for x in range(0, width, block):
            region = canvas[y : y + block, x : x + block]
            for index, top, left, part in reduce_region(region, y, x, pyramid, last):
                joined[index][top : top + part.shape[0], left : left + part.shape[1]] = part
    for index, level in enumerate(whole):
        assert level.shape[:2] == (pyramid.level(index).height, pyramid.level(index).width)
        np.testing.assert_array_equal(joined[index], level)


def test_a_misplaced_region_is_refused() -> None:
    with pytest.raises(AssertionError, match="not aligned"):
        list(reduce_region(textured(8, 8), 2, 4, Pyramid(16, 16, 4, 3), 2))
