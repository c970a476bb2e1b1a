"""Nuclei that are not in a mask, or not wholly, are told of by number, and counts say what the mask holds."""

from __future__ import annotations

import json
import re
import tracemalloc
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import zarr
from cases import run_program
from hypothesis import given, settings
from hypothesis import strategies as st
from safron.io import open_mask
from safron.io.masks import cli, raster
from safron.io.masks.crossing import count_crossing
from safron.io.masks.drawing import edges_of, inside
from safron.io.masks.polygon_mask import Lost, PolygonMask
from safron.io.masks.polygons import PolygonSet
from safron.io.masks.raster import Layer

Square = tuple[float, float, float]
"""X and y of the upper left corner, and the side."""

square = st.tuples(st.integers(-9, 40), st.integers(-9, 40), st.sampled_from([0.25, 2.0, 5.0, 9.0, 30.0]))


def ring(x: float, y: float, side: float) -> npt.NDArray[np.float64]:
    return np.array([[x, y], [x + side, y], [x + side, y + side], [x, y + side]], float)


def mask_of(squares: list[Square]) -> PolygonMask:
    count = len(squares)
    xy = np.concatenate([ring(*one) for one in squares])
    each = np.arange(count + 1)
    polygons = PolygonSet(xy, 1.0, 4 * each, each, (each[1:] % 2).astype(np.int32), ("even", "odd"))
    layer = Layer(polygons, np.ones(count, np.uint8), np.arange(1, count + 1, dtype=np.uint32))
    return PolygonMask(layer, None, 0)


@settings(max_examples=40, deadline=None)
@given(st.lists(square, min_size=1, max_size=9), st.integers(3, 32), st.booleans())
def test_what_is_lost_is_that_of_single_pixels(squares: list[Square], cut: int, alone: bool) -> None:
    mask, side = mask_of(squares), 32
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(raster, "MOST_PIXELS", 1 if alone else raster.MOST_PIXELS)
        for y in range(0, side, cut):
            for x in range(0, side, cut):
                mask.paint(slice(y, min(y + cut, side)), slice(x, min(x + cut, side)))
    each = np.array([inside(edges_of([ring(*one)]), 0, side, 0, side) for one in squares])
    later = np.array([each[place + 1 :].any(axis=0) for place in range(len(each))])
    visible = (each & ~later).any(axis=(1, 2))
    beyond = np.array([min(x, y) + z <= 0 or max(x, y) >= side for x, y, z in squares])
    lost = mask.lost(side, side)
    assert lost.beyond.tolist() == (np.flatnonzero(beyond) + 1).tolist()
    held = each.any(axis=(1, 2))
    assert lost.between.tolist() == (np.flatnonzero(~held & ~beyond) + 1).tolist()
    assert lost.covered.tolist() == (np.flatnonzero(held & ~visible) + 1).tolist()
    assert lost.partly == int(((each & later).any(axis=(1, 2)) & visible).sum())
    assert sum(mask.count.values()) == int(visible.sum())


def cells(path: Path, squares: dict[Square, str]) -> Path:
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [[*ring(*one).tolist(), ring(*one)[0].tolist()]]},
            "properties": {"classification": {"name": name}},
        }
        for one, name in squares.items()
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def test_cells_that_lie_over_others(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    squares: dict[Square, str] = {
        (2, 2, 4): "a", (1, 1, 8): "a", (7, 7, 6): "b", (11, 1, 3): "b", (60, 2, 4): "b", (3.6, 15.6, 0.5): "a",
    }  # fmt: skip
    source, out = cells(tmp_path / "cells.geojson", squares), tmp_path / "m.zarr"
    done = run_program(capfd, cli.main, "from-polygons", source, out, "--size", "20,20")
    assert done.code == 0
    assert done.err.splitlines()[-3:] == [
        "safron-mask: warning: 1 nucleus is beyond the canvas, and not in the mask: number 5",
        "safron-mask: warning: 1 nucleus is smaller than a pixel or between pixel centres, and not in the mask: number 6",
        "safron-mask: warning: 2 nuclei lie under later ones of the file, which keep the pixels that both hold; 1 of them is "
        "covered wholly, and not in the mask: number 1",
    ]
    assert "6 nuclei, 3 of them without a pixel; classes by table of the files:" in done.out
    assert "3 a -> 1 a (2 without a pixel)" in done.out
    numbers = open_mask(out).beside["instances"][0:20, 0:20]
    assert np.unique(numbers).tolist() == [0, 2, 3, 4]
    said: dict[str, Any] = dict(zarr.open_group(out, mode="r").attrs)["safron"]
    assert said["polygons"]["nuclei"] == {"a": 3, "b": 3}
    assert said["nuclei"] == {"a": 1, "b": 2}
    assert said["lost"] == {
        "beyond the canvas": 1,
        "between pixel centres": 1,
        "wholly under later ones": 1,
        "partly under later ones": 1,
    }


def test_cells_side_by_side_lose_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source = cells(tmp_path / "c.geojson", {(1.5, 1.5, 4): "a", (5.5, 1.5, 4): "a", (1.5, 5.5, 4): "a"})
    done = run_program(capfd, cli.main, "from-polygons", source, tmp_path / "m.zarr", "--size", "20,20")
    assert done.code == 0
    assert "nuclei lie under" not in done.err
    assert "3 nuclei; classes" in done.out


def test_a_line_names_no_more_than_ten() -> None:
    none, many = np.zeros(0, np.int64), np.arange(1, 31)
    (line,) = Lost(many, none, none, 0).told()
    assert line.endswith("not in the mask: numbers 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 20 more")


@pytest.mark.parametrize(("count", "kind"), [(65_535, np.uint16), (65_536, np.uint32)])
def test_numbers_are_as_wide_as_they_must_be(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], count: int, kind: type
) -> None:
    xy = np.tile(ring(1, 1, 2), (count, 1))
    xy[-4:] += 4
    np.savez(
        tmp_path / "n.npz",
        xy=xy,
        offsets=4 * np.arange(count + 1),
        cls=np.zeros(count, np.uint8),
        names=["a"],
    )
    done = run_program(capfd, cli.main, "from-polygons", tmp_path / "n.npz", tmp_path / "m.zarr")
    assert done.code == 0
    numbers = open_mask(tmp_path / "m.zarr").beside["instances"]
    assert numbers.plane.dtype == kind
    assert numbers[0:7, 0:7].max() == count


def test_crossings_are_looked_for_in_little_memory() -> None:
    count = 100_000
    each = np.arange(count + 1)
    xy = np.tile(ring(1, 1, 2), (count, 1))
    polygons = PolygonSet(xy, 1.0, 4 * each, each, np.zeros(count, np.int32), ("a",))
    tracemalloc.start()
    try:
        assert count_crossing(polygons) == 0
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 32 << 20


def write_squares(path: Path, *squares: Square) -> str:
    """Squares as GeoJSON of nuclei."""
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [[*ring(*one).tolist(), list(one[:2])]]},
            "properties": {"classification": {"name": "inflammatory"}},
        }
        for one in squares
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path.name


@pytest.mark.parametrize("like", [False, True])
def test_a_mask_larger_than_any_slide_is_drawn_only_if_its_size_is_given(
    like: bool, here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """It would take days, and whoever enlarges by a thousand meant something else."""
    side = 1000
    source = write_squares(here / "a.geojson", (5, 5, 9), (side - 9, side - 9, 9))
    cv2.imwrite("slide.png", np.ones((side, side), np.uint8))
    more = ["--like", "slide.png"] * like
    done = run_program(capfd, cli.main, "from-polygons", source, "m.zarr", "--downsample", "0.001", *more)
    assert done.code == 2
    assert (
        f"{'slide.png' if like else source}: with --downsample 0.001 its mask has 1000000 x 1000000"
        in done.err
    )
    advised = float(re.search(r"give --downsample ([\d.]+) or more", done.err)[1])  # type: ignore[index]
    assert (side / advised) ** 2 <= 1 << 36 < (side / (0.9 * advised)) ** 2
    assert not Path("m.zarr").exists()
    given = ["--downsample", "0.001", "--size", "9000,7000"]
    done = run_program(capfd, cli.main, "from-polygons", source, "m.zarr", *given)
    assert done.code == 0, done.err
    assert open_mask("m.zarr").shape == (7000, 9000)
    assert open_mask("m.zarr")[4999:5001, 4999:5001].tolist() == [[0, 0], [0, 1]]


def test_a_nucleus_far_away_costs_no_memory(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source = write_squares(here / "a.geojson", (5, 5, 9), (1e9, 1e9, 9), (20, 20, 4e9))
    tracemalloc.start()
    done = run_program(capfd, cli.main, "from-polygons", source, "m.zarr", "--size", "64,64")
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert done.code == 0, done.err
    assert "1 nucleus is beyond the canvas, and not in the mask: number 2" in done.err
    wanted = np.zeros((64, 64), np.uint8)
    wanted[5:14, 5:14] = wanted[20:, 20:] = 1
    np.testing.assert_array_equal(open_mask("m.zarr")[:, :], wanted)
    assert most < 64 << 20
