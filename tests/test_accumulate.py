"""Sums are exact: any order, any split between blocks, the same image."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from safron.engine.blending import accumulator as accumulate
from safron.engine.blending.accumulator import Accumulator
from safron.engine.generator import label_colors
from safron.engine.plan.fixed_point import Blend
from safron.engine.plan.grid import PatchGrid
from safron.engine.plan.render_plan import choose_bits
from safron.engine.plan.taper import Taper
from safron.engine.plan.window import Window
from safron.engine.system.native import compiled

GRID = PatchGrid(150, 170, 64, 20, 0)
COMPILED = pytest.mark.skipif(compiled is None, reason="no C compiler was at hand on installation")


@pytest.fixture(params=["NumPy", pytest.param("compiled", marks=COMPILED)], autouse=True)
def way(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every test here holds for both ways to blend."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "NumPy":
            patch.setattr(accumulate, "compiled", None)
            patch.setattr(label_colors, "compiled", None)
        yield


def patches(dtype: Any) -> dict[tuple[int, int], Any]:
    rng = np.random.default_rng(0)
    return {job.index: (rng.random((64, 64, 3)) * 255).astype(dtype) for job in GRID}


def image_of(blend: Blend, order: list[tuple[int, int]], values: dict[tuple[int, int], Any]) -> Any:
    image = np.full((150, 170, 3), 77, np.uint8)
    accumulator = Accumulator(GRID.canvas, blend, image)
    for index in order:
        accumulator.add(values[index][None], GRID[index].write)
    return accumulator.finalize().copy()


@pytest.mark.parametrize("taper", ["flat", "linear", "cosine"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.uint8])
def test_any_order_and_any_split_give_the_same_image(taper: Any, dtype: Any) -> None:
    blend, values = Blend(GRID, Taper(taper), 0 if dtype == np.uint8 else 9), patches(dtype)
    order = [job.index for job in GRID]
    whole = image_of(blend, order, values)
    np.testing.assert_array_equal(whole, image_of(blend, order[::-1], values))
    # Half the patches arrive as a seam.
    accumulator = Accumulator(GRID.canvas, blend)
    right = [index for index in order if index[1] >= 2]
    window = Window(0, GRID[0, 2].write.x, 150, 170 - GRID[0, 2].write.x)
    seam = Accumulator(window, blend)
    for index in order:
        (seam if index in right else accumulator).add(values[index][None], GRID[index].write)
    accumulator.merge(seam)
    np.testing.assert_array_equal(whole, accumulator.finalize())


@pytest.mark.parametrize("taper", ["flat", "linear", "cosine"])
@pytest.mark.parametrize(
    ("overlap", "height", "width"),
    [
        *((overlap, 150, 331) for overlap in (0, 7, 20, 32, 40, 48)),
        (63, 68, 131),
    ],  # 63: a patch for each pixel
)
def test_patches_side_by_side_are_added_as_one_by_one(
    taper: Any, overlap: int, height: int, width: int
) -> None:
    grid = PatchGrid(height, width, 64, overlap, 0)
    blend = Blend(
        grid, Taper(taper), choose_bits(PatchGrid(1, 1, 64, 20, 0), Taper(taper), returns_uint8=True)
    )
    window = Window(11, 23, height - 30, width - 41)
    rng = np.random.default_rng(overlap)
    single, rows = Accumulator(window, blend), Accumulator(window, blend)
    for row in range(grid.shape[0]):
        values = rng.integers(0, 256, (grid.shape[1], 64, 64, 3)).astype(np.uint8)
        for column, value in enumerate(values):
            single.add(value[None], grid[row, column].write)
        middle = grid.shape[1] // 3
        rows.add(values[:middle], grid[row, 0].write)
        rows.add(values[middle:], grid[row, middle].write)
    np.testing.assert_array_equal(single.finalize(), rows.finalize())


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_patches_may_lie_in_memory_as_they_like(dtype: Any) -> None:
    blend, values = Blend(GRID, Taper("linear"), 0 if dtype == np.uint8 else 9), patches(dtype)
    planes = {index: np.ascontiguousarray(value.transpose(2, 0, 1)) for index, value in values.items()}
    order = [job.index for job in GRID]
    turned = {index: value.transpose(1, 2, 0) for index, value in planes.items()}
    np.testing.assert_array_equal(image_of(blend, order, values), image_of(blend, order, turned))


def test_ties_go_to_even_and_values_are_clipped_once() -> None:
    grid = PatchGrid(2, 3, 2, 1, 0)
    blend = Blend(grid, Taper("flat"), 4)
    image = np.zeros((2, 3, 3), np.uint8)
    accumulator = Accumulator(grid.canvas, blend, image)
    accumulator.add(np.full((1, 2, 2, 3), 2.5, np.float32), Window(0, 0, 2, 2))
    accumulator.add(np.full((1, 2, 2, 3), 300.0, np.float32), Window(0, 1, 2, 2))
    made = accumulator.finalize()
    assert made[0, :, 0].tolist() == [2, 151, 255]  # 2.5 -> 2; (2.5 + 300) / 2 = 151.25; clipped


@pytest.mark.parametrize("bits", [0, 6, 12])
def test_the_quotient_is_rounded_as_the_exact_fraction(bits: int) -> None:
    blend = Blend(GRID, Taper("flat"), bits)
    sums = np.arange(0, 1020 << bits, max(1, (1020 << bits) // 9000)).astype(blend.sum_dtype)
    for weights in ([1, 1], [2, 1], [2, 2]):
        row, column = np.array([weights[0]], np.int32), np.full(len(sums), weights[1], np.int32)
        made = blend.mean(np.repeat(sums[None, :, None], 3, axis=2), row, column)[0, :, 0]
        divisor = weights[0] * weights[1] << bits
        exact = [min(255, round(Fraction(int(value), divisor))) for value in sums]
        np.testing.assert_array_equal(made, exact)


def test_small_types_are_used_only_where_they_are_exact() -> None:
    assert Blend(GRID, Taper("flat"), 0).sum_dtype == np.uint16
    assert Blend(GRID, Taper("flat"), 12).sum_dtype == np.int32
    assert Blend(GRID, Taper("cosine"), 0).sum_dtype == np.int32
    assert Blend(GRID, Taper("flat"), 12).mean_dtype == np.float32
    assert Blend(GRID, Taper("cosine"), 9).mean_dtype == np.float64
