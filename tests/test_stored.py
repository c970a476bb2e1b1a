"""Of a mask that declares more than it stores only what is stored is read, and nothing comes out otherwise."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
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
from safron.io.errors import BadInput
from safron.io.legend import Label
from safron.io.masks.cli import main
from safron.io.masks.open import open_mask
from safron.io.masks.region_shapes import shapes
from safron.io.masks.relabel import Relabel
from safron.io.masks.stored import MOST_PIECES, pieces_of
from safron.io.masks.to_png import write_png

SIDE = 1 << 31
CSV = "number,class\n7,tumour\n"


def sparse(path: Path, side: int = SIDE, fill: int = 0, dtype: str = "uint8") -> Any:
    return zarr.create_array(path, shape=(side, side), chunks=(64, 64), dtype=dtype, fill_value=fill)


@settings(max_examples=80, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    chunk=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    side=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    data=st.data(),
)
def test_pieces_hold_all_that_is_stored(
    tmp_path_factory: pytest.TempPathFactory,
    shape: tuple[int, int],
    chunk: tuple[int, int],
    side: tuple[int, int],
    data: Any,
) -> None:
    path = tmp_path_factory.mktemp("m") / "m.zarr"
    array = zarr.create_array(path, shape=shape, chunks=chunk, dtype="uint8", fill_value=3)
    marks = st.tuples(st.integers(0, shape[0] - 1), st.integers(0, shape[1] - 1))
    for y, x in data.draw(st.lists(marks, max_size=4)):
        array[y, x] = 1
    mask = open_mask(path, relabel=data.draw(st.sampled_from([None, Relabel.parse("3=5")])))
    found = pieces_of(mask, side, remedy="")
    drawn = np.full(shape, 0 if found.beside is None else mask[found.beside][0, 0], np.uint8)
    seen = np.zeros(shape, int)
    places = [(rows.start, cols.start) for rows, cols in found.regions]
    assert places == sorted(places)
    for rows, cols in found.regions:
        assert (rows.start % side[0], cols.start % side[1]) == (0, 0)
        drawn[rows, cols] = mask[rows, cols]
        seen[rows, cols] += 1
    assert np.array_equal(drawn, mask[0 : shape[0], 0 : shape[1]])
    assert (seen.max(initial=0), seen.sum()) == (1 if len(places) else 0, found.pixels)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    downsample=st.integers(1, 75),
    fill=st.integers(0, 3),
    read=st.sampled_from([(1 << 10, 1 << 14), (8, 8), (1, 1)]),
    data=st.data(),
)
def test_a_picture_shows_the_labels_in_the_middle(
    tmp_path_factory: pytest.TempPathFactory,
    shape: tuple[int, int],
    downsample: int,
    fill: int,
    read: tuple[int, int],
    data: Any,
) -> None:
    folder = tmp_path_factory.mktemp("m")
    array = zarr.create_array(folder / "m.zarr", shape=shape, chunks=(16, 16), dtype="uint8", fill_value=fill)
    labels = np.full(shape, fill, np.uint8)
    for seed in data.draw(st.lists(st.integers(0, 99), max_size=2)):
        rng = np.random.default_rng(seed)
        y, x = int(rng.integers(shape[0])), int(rng.integers(shape[1]))
        labels[y : y + 20, x : x + 20] = rng.integers(0, 4, labels[y : y + 20, x : x + 20].shape)
    array[:] = labels
    legend = {value: Label(value, str(value), (value, 0, 0)) for value in range(256)}
    height, width = (max(1, side // downsample) for side in shape)
    with pytest.MonkeyPatch.context() as patch:
        for name, most in zip(("_ROWS", "_COLUMNS"), read, strict=True):
            patch.setattr(f"safron.io.masks.to_png.{name}", most)
        done: list[int] = []
        made = write_png(
            folder / "m.png",
            open_mask(folder / "m.zarr"),
            legend=legend,
            downsample=downsample,
            progress=done.append,
        )
    assert made == (height, width)
    assert sum(done) == labels.size
    rows, cols = (
        np.minimum(np.arange(count) * downsample + downsample // 2, side - 1)
        for count, side in zip((height, width), shape, strict=True)
    )
    picture = cv2.imread(str(folder / "m.png"), cv2.IMREAD_COLOR)
    assert picture is not None
    assert np.array_equal(picture[..., 2], labels[np.ix_(rows, cols)])


def test_regions_of_what_is_stored(tmp_path: Path) -> None:
    array = sparse(tmp_path / "m.zarr")
    array[60:70, 60:70] = 1  # four chunks, and four pieces
    array[SIDE - 40 :, SIDE - 30 :] = 2
    skip = np.arange(256) == 0
    found = [
        (shape.value, shape.area, [ring.min(axis=0).tolist() + ring.max(axis=0).tolist() for ring in shape.rings()])
        for shape in shapes(open_mask(tmp_path / "m.zarr"), left_out=skip, piece=64)
    ]  # fmt: skip
    assert found == [
        (1, 100, [[60, 60, 70, 70]]),
        (2, 1200, [[SIDE - 30, SIDE - 40, SIDE, SIDE]]),
    ]
    with pytest.raises(
        BadInput, match=rf"1125899906842624 pieces .* more than {MOST_PIECES}; .*--background"
    ):
        next(shapes(open_mask(tmp_path / "m.zarr"), left_out=np.zeros(256, bool), piece=64))


def imported(folder: Path, capfd: Any) -> None:
    array = sparse(folder / "m.zarr", fill=3)
    array[100:200, 5000:5050] = 1
    done = run_program(capfd, main, "import", folder / "m.zarr", folder / "o.zarr", "--map", "3=5")
    assert done.code == 0, done.err
    made = zarr.open_array(folder / "o.zarr", mode="r")
    assert made.shape == (SIDE, SIDE)
    kept: npt.NDArray[Any] = np.asarray(made[90:210, 4990:5060])
    assert counts(kept) == {1: 5000, 5: 120 * 70 - 5000}
    assert made[SIDE - 1, SIDE - 1] == 5


def counts(values: npt.NDArray[Any]) -> dict[int, int]:
    return {
        int(value): int(count) for value, count in zip(*np.unique(values, return_counts=True), strict=True)
    }


def given_classes(folder: Path, capfd: Any) -> None:
    array = sparse(folder / "m.zarr", dtype="uint32")
    array[100:110, 5000:5010] = 7
    (folder / "t.csv").write_text(CSV)
    done = run_program(
        capfd, main, "from-instances", folder / "m.zarr", folder / "o.zarr", "--table", folder / "t.csv"
    )
    assert done.code == 0, done.err
    made: Any = zarr.open_group(folder / "o.zarr", mode="r")
    assert counts(made["labels/class/0"][95:115, 4995:5015]) == {0: 300, 1: 100}
    assert counts(made["labels/instance/0"][95:115, 4995:5015]) == {0: 300, 7: 100}


def given_classes_where_all_has_a_number(folder: Path, capfd: Any) -> None:
    sparse(folder / "m.zarr", fill=7, dtype="uint32")
    (folder / "t.csv").write_text(CSV)
    done = run_program(
        capfd, main, "from-instances", folder / "m.zarr", folder / "o.zarr", "--table", folder / "t.csv"
    )
    assert done.code == 2
    assert "pieces of it would be read, more than" in done.error
    assert not (folder / "o.zarr").exists()


def drawn_as_polygons(folder: Path, capfd: Any) -> None:
    sparse(folder / "m.zarr")[100:110, 5000:5010] = 2
    done = run_program(capfd, main, "to-geojson", folder / "m.zarr", folder / "o.geojson")
    assert done.code == 0, done.err
    (feature,) = json.loads((folder / "o.geojson").read_text())["features"]
    assert feature["geometry"]["coordinates"][0][0] == [5000, 100]


def shown(folder: Path, capfd: Any) -> None:
    sparse(folder / "m.zarr")[0 : 1 << 10, 0 : 1 << 10] = 2
    args = ("--downsample", 1 << 21)
    done = run_program(capfd, main, "to-png", folder / "m.zarr", folder / "o.png", *args)
    assert done.code == 0, done.err
    assert struct.unpack(">II", (folder / "o.png").read_bytes()[16:24]) == (1024, 1024)


@pytest.mark.parametrize(
    "command", [imported, given_classes, given_classes_where_all_has_a_number, drawn_as_polygons, shown]
)
def test_a_huge_mask_takes_as_long_as_what_is_stored(
    tmp_path: Path, capfd: Any, command: Callable[[Path, Any], None]
) -> None:
    command(tmp_path, capfd)
