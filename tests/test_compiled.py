"""What is compiled gives the bits of the NumPy code that it stands in for, and touches no memory but its own."""

from __future__ import annotations

import importlib.machinery
import shutil
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from safron.engine.blending import accumulator as accumulate
from safron.engine.blending.accumulator import Accumulator
from safron.engine.generator import label_colors, noise
from safron.engine.plan.fixed_point import Blend, fraction_bits
from safron.engine.plan.grid import PatchGrid
from safron.engine.plan.render_plan import choose_bits
from safron.engine.plan.taper import Taper
from safron.engine.plan.window import Window
from safron.engine.system.native import compiled

needs_compiled = pytest.mark.skipif(compiled is None, reason="no C compiler was at hand on installation")


def test_where_there_is_a_compiler_it_was_used() -> None:
    headers = Path(sysconfig.get_path("include"), "Python.h")
    if not (shutil.which("cc") and headers.is_file()):
        pytest.skip("no C compiler, or no headers of Python")
    assert compiled is not None, "it is missing, or cannot be imported, and all other tests here are skipped"
    assert compiled.__file__.endswith(tuple(importlib.machinery.EXTENSION_SUFFIXES))


@needs_compiled
@settings(deadline=None, max_examples=40)
@given(
    overlap=st.integers(0, 40),
    taper=st.sampled_from(["flat", "linear", "cosine"]),
    dtype=st.sampled_from([np.uint8, np.float16, np.float32]),
    corner=st.tuples(st.integers(0, 90), st.integers(0, 90)),
    shape=st.tuples(st.integers(1, 60), st.integers(1, 80)),
    seed=st.integers(0, 1000),
)
def test_compiled_and_numpy_give_the_same_bits(
    overlap: int, taper: Any, dtype: Any, corner: Any, shape: Any, seed: int
) -> None:
    grid = PatchGrid(150, 170, 40, min(overlap, 39), 0)
    bits = choose_bits(grid, Taper(taper), returns_uint8=True)
    blend = Blend(grid, Taper(taper), 0 if dtype == np.uint8 else max(4, bits))
    rng = np.random.default_rng(seed)
    # Outside 0..255 too, and ties. An overlap of 39 has 14,000 patches: they take turns, each with other ones beside it.
    values = np.round(rng.random((13, 1, 40, 40, 3)) * 300 - 20, 1)
    if dtype == np.uint8:
        values = np.clip(values, 0, 255)
    values = values.astype(dtype)
    made = []
    for way in (compiled, None):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(accumulate, "compiled", way)
            whole = np.full((shape[0] + 3, shape[1] + 5, 3), 9, np.uint8)
            image = whole[2:-1, 3:-2]  # rows that are not dense
            target = Accumulator(Window(*corner, *shape), blend, image)
            for row, column in np.ndindex(grid.shape):
                target.add(values[(5 * row + column) % 13], grid[row, column].write)
            sums = target._h.copy(), target._v.copy()
            target.finalize()
            made.append((whole, *sums))
    for fast, slow in zip(*made, strict=True):
        np.testing.assert_array_equal(fast, slow)


@pytest.mark.parametrize("way", [pytest.param(compiled, marks=needs_compiled), None])
@settings(deadline=None, max_examples=15)
@given(
    overlap=st.integers(0, 39),
    taper=st.sampled_from(["flat", "linear", "cosine"]),
    exact=st.booleans(),
    corner=st.tuples(st.integers(0, 90), st.integers(0, 90)),
    shape=st.tuples(st.integers(1, 60), st.integers(1, 80)),
    count=st.tuples(st.integers(1, 3), st.integers(1, 4)),
    seed=st.integers(0, 1000),
)
def test_patches_of_labels_are_added_as_one(
    way: Any, overlap: int, taper: Any, exact: bool, corner: Any, shape: Any, count: Any, seed: int
) -> None:
    """With the same sums as if each had been painted and added."""
    grid = PatchGrid(150, 170, 40, overlap, 0)
    spare = fraction_bits(grid, Taper(taper))
    assume(exact or spare >= 4)  # a render with fewer is refused
    bits = 0 if exact else spare
    blend, stride = Blend(grid, Taper(taper), bits), 40 - overlap
    rng = np.random.default_rng(seed)
    colors = rng.integers(0, 256, (256, 3), np.uint8)
    height, width = ((number - 1) * stride + 40 for number in count)
    labels = rng.integers(0, 256, (height, width + 3), np.uint8)[:, 2:-1]
    first = Window(stride * rng.integers(0, 3), stride * rng.integers(0, 3), 40, 40)
    made = []
    for together in (True, False):
        image = np.zeros((*shape, 3), np.uint8)
        target = Accumulator(Window(*corner, *shape), blend, image)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(accumulate, "compiled", way if together else None)
            if together:
                target.paint(labels, colors, first)
            for row, column in () if together else np.ndindex(count):
                y, x = row * stride, column * stride
                target.add(colors[labels[y : y + 40, x : x + 40]][None], first.shift(y, x))
        made.append((image, target._h, target._v))
    for one, other in zip(*made, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("way", [pytest.param(compiled, marks=needs_compiled), None])
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 7), (2, 40, 33)])
def test_labels_are_painted_in_their_colours(
    way: Any, shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(label_colors, "compiled", way)
    rng = np.random.default_rng(0)
    colors = rng.integers(0, 256, (256, 3), np.uint8)
    wide = rng.integers(0, 256, (shape[0], shape[1] + 4, shape[2] + 4), np.uint8)
    labels = wide[:, 2:-2, 2:-2]
    np.testing.assert_array_equal(label_colors.paint_labels(labels, colors), colors[labels])


@needs_compiled
def test_compiled_code_refuses_what_would_reach_beyond_an_array() -> None:
    assert compiled is not None
    image, across, down = (
        np.zeros((4, 6, 3), np.uint8),
        np.zeros((0, 6, 3), np.int32),
        np.zeros((4, 0, 3), np.int32),
    )
    rows, columns = np.zeros(5, np.int32), np.zeros(7, np.int32)
    patches, weights = np.zeros((1, 2, 2, 3), np.float32), np.ones(2, np.int32)
    good = [image, across, down, rows, columns, patches, weights, 0, 0, 2, 4]
    compiled.add(*good)
    for place, bad in (
        (0, np.zeros((4, 6, 4), np.uint8)),
        (0, np.zeros((4, 6, 3), np.float32)),
        (0, np.broadcast_to(np.uint8(0), (4, 6, 3))),
        (1, np.zeros((1, 6, 3), np.int32)),
        (2, np.zeros((4, 0, 3), np.uint16)),
        (3, np.zeros(4, np.int32)),
        (4, np.zeros(7, np.int64)),
        (5, np.zeros((1, 3, 2, 3), np.float32)),
        (5, np.zeros((1, 2, 2, 3), np.float64)),
        (5, np.zeros((1, 2, 4, 3), np.float32)[:, :, ::2]),
        (6, np.ones(3, np.int32)),
        (10, 13),
    ):
        with pytest.raises((TypeError, ValueError, BufferError)):
            compiled.add(*good[:place], bad, *good[place + 1 :])
    labels, colors = np.zeros((2, 3), np.uint8), np.zeros((256, 3), np.uint8)
    good = [image, across, down, rows, columns, labels, colors, weights, np.ones(3, np.int32), 0, 0, 4]
    compiled.add_labels(*good)
    for place, bad in (
        (0, np.zeros((4, 6, 4), np.uint8)),
        (5, np.zeros((3, 3), np.uint8)),
        (5, np.zeros((2, 6), np.uint8)[:, ::2]),
        (5, np.zeros((2, 3), np.int8)),
        (6, np.zeros((255, 3), np.uint8)),
        (7, np.ones(3, np.int32)),
        (8, np.ones(3, np.int64)),
        (11, 13),
    ):
        with pytest.raises((TypeError, ValueError, BufferError)):
            compiled.add_labels(*good[:place], bad, *good[place + 1 :])
    totals = np.ones(4, np.int32), np.ones(6, np.int32)
    compiled.divide(*good[:5], *totals, 4, True)
    with pytest.raises(ValueError, match="row_total"):
        compiled.divide(*good[:5], *totals[::-1], 4, True)
    with pytest.raises(ValueError, match="labels"):
        compiled.paint(
            np.zeros((1, 2, 2, 3), np.uint8), np.zeros((1, 2, 3), np.uint8), np.zeros((256, 3), np.uint8)
        )


@needs_compiled
@given(
    corner=st.tuples(st.integers(-(2**40), 2**40), st.integers(-300, 300)),
    shape=st.tuples(st.integers(1, 70), st.integers(1, 90)),
    seed=st.integers(0, 2**64 - 1),
    scale=st.sampled_from([1, 2, 7, 32, 500]),
)
@settings(deadline=None)
def test_noise_has_the_same_bits(corner: Any, shape: Any, seed: int, scale: int) -> None:
    window = Window(*corner, *shape)
    fast = noise.normal_noise(window, seed=seed, scales=[scale, 1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(noise, "compiled", None)
        slow = noise.normal_noise(window, seed=seed, scales=[scale, 1])
    np.testing.assert_array_equal(fast.view(np.uint32), slow.view(np.uint32))


@needs_compiled
def test_compiled_noise_refuses_what_would_reach_beyond_an_array() -> None:
    assert compiled is not None
    out, keys, table = np.zeros((3, 5), np.float32), np.zeros(3, np.uint32), np.zeros(1 << 16, np.float32)
    compiled.white(out, keys, np.zeros(5, np.uint32), table)
    for bad in (
        (out, keys, keys, table),
        (out, keys, np.zeros(5, np.uint64), table),
        (out.astype(float), keys, np.zeros(5, np.uint32), table),
        (out, keys, np.zeros(5, np.uint32), table[1:]),
    ):
        with pytest.raises((TypeError, ValueError)):
            compiled.white(*bad)
    lattice = np.zeros((6, 4), np.float32)
    good = [out, lattice, np.array([0, 1, 2], np.int32), np.zeros((4, 3), np.float32)]
    good += [np.zeros(5, np.int32), np.zeros((4, 5), np.float32)]
    compiled.smooth(*good)
    for place, wrong in (
        (0, np.zeros((3, 6), np.float32)),
        (1, lattice[:, :3]),
        (1, lattice[:5]),
        (2, np.array([0, 1, 3], np.int32)),
        (2, np.array([-1, 1, 2], np.int32)),
        (3, np.zeros((3, 3), np.float32)),
        (4, np.zeros(5, np.int64)),
        (5, np.zeros((4, 4), np.float32)),
    ):
        with pytest.raises((TypeError, ValueError)):
            compiled.smooth(*good[:place], wrong, *good[place + 1 :])
