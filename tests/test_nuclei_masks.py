"""Nuclei as polygons become labels and numbers, whatever the file and however the canvas is cut."""

from __future__ import annotations

import json
import pickle
import re
from itertools import combinations
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
from safron.io.errors import BadInput
from safron.io.masks import cli, raster
from safron.io.masks.classes import read_table, table_of
from safron.io.masks.crossing import count_crossing
from safron.io.masks.drawing import edges_of, inside
from safron.io.masks.edges import find_edges
from safron.io.masks.palette import read_palette
from safron.io.masks.polygon_mask import PolygonMask, layer_of
from safron.io.masks.polygons import PolygonSet, read_polygons
from safron.io.masks.raster import Layer

coordinate = st.one_of(
    st.integers(-8, 30).map(float), st.floats(-8, 30, width=32), st.integers(-8, 30).map(lambda n: n + 0.5)
)
rings = st.lists(st.tuples(coordinate, coordinate), min_size=3, max_size=9).map(lambda r: np.array(r, float))
shapes = st.lists(st.lists(rings, min_size=1, max_size=2), min_size=1, max_size=6)


def polygons_of(shapes: list[list[npt.NDArray[np.float64]]]) -> PolygonSet:
    flat = [ring for shape in shapes for ring in shape]
    starts = np.cumsum([0, *map(len, flat)])
    of = np.cumsum([0, *map(len, shapes)])
    return PolygonSet(np.concatenate(flat), 1.0, starts, of, np.zeros(len(shapes), np.int32), ("nucleus",))


def drawn(layer: Layer, height: int, width: int, cut: tuple[int, int]) -> npt.NDArray[np.uint32]:
    whole = np.zeros((height, width), np.uint32)
    for y in range(0, height, cut[0]):
        for x in range(0, width, cut[1]):
            rows, cols = slice(y, min(y + cut[0], height)), slice(x, min(x + cut[1], width))
            numbers = np.zeros((rows.stop - y, cols.stop - x), np.uint32)
            held, _ = layer.paint(rows, cols, numbers.astype(np.uint8), numbers)
            assert set(layer.numbers[held].tolist()) >= set(np.unique(numbers).tolist()) - {0}
            whole[rows, cols] = numbers
    return whole


@settings(max_examples=25, deadline=None)
@given(shapes, st.integers(1, 20), st.integers(1, 24))
def test_pixels_are_those_whose_centres_lie_inside(
    shapes: list[list[npt.NDArray[np.float64]]], height: int, width: int
) -> None:
    polygons = polygons_of(shapes)
    layer = Layer(polygons, np.ones(len(shapes), np.uint8), np.arange(1, len(shapes) + 1, dtype=np.uint32))
    expected = np.zeros((20, 24), np.uint32)
    for number, shape in enumerate(shapes, 1):
        expected[inside(edges_of(shape), 0, 20, 0, 24)] = number
    np.testing.assert_array_equal(drawn(layer, 20, 24, (20, 24)), expected)
    np.testing.assert_array_equal(drawn(layer, 20, 24, (height, width)), expected)


def test_large_polygons_among_small_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raster, "MOST_PIXELS", 200)
    monkeypatch.setattr(raster, "CELL", 16)
    shapes = [[square(0, 0, 3)], [square(1, 1, 18), square(6, 6, 4)], [square(7, 7, 2)], [square(17, 17, 9)]]
    layer = Layer(polygons_of(shapes), np.ones(4, np.uint8), np.array([5, 6, 7, 8], np.uint32))
    whole = drawn(layer, 40, 40, (11, 9))
    counts = {int(value): int((whole == value).sum()) for value in np.unique(whole)}
    assert counts == {0: 1600 - 5 - 304 - 4 - 81, 5: 5, 6: 304, 7: 4, 8: 81}


def square(y: float, x: float, side: float) -> npt.NDArray[np.float64]:
    return np.array([[x, y], [x + side, y], [x + side, y + side], [x, y + side]])


def npz(path: Path, **changes: Any) -> Path:
    """Two nuclei of two classes, the second with a hole, and one of nothing."""
    parts = [square(2, 2, 4), square(10, 10, 8), square(12, 12, 3)]
    arrays: dict[str, Any] = {
        "xy": np.rint(np.concatenate(parts) * 4).astype(np.int32),
        "offsets": np.array([0, 4, 8, 12], np.int32),
        "cls": np.array([1, 2, 2], np.uint8),
        "hole": np.array([0, 0, 1], np.uint8),
        "names": np.array(["background", "neoplastic", "connective"]),
        "scale": np.array(4),
    }
    np.savez(path, **(arrays | changes))
    return path


def test_npz(tmp_path: Path) -> None:
    polygons = read_polygons(npz(tmp_path / "a.npz"))
    assert polygons.count() == {"neoplastic": 1, "connective": 1}
    assert polygons.extent == (18, 18)
    mask = PolygonMask(layer_of(polygons, read_table("nuclei"), (), source="a", numbered=True), None, 1)
    labels, numbers = mask.paint(slice(0, 18), slice(0, 18))
    assert [(labels == value).sum() for value in (1, 2, 4)] == [18 * 18 - 16 - 64 + 9, 16, 64 - 9]
    assert labels[3, 3] == 2
    np.testing.assert_array_equal(numbers, np.where(labels == 2, 1, np.where(labels == 4, 2, 0)))
    assert set(mask.lost(18, 18).to_json().values()) == {0}


OUTLINE = [[1, 1], [5, 1], [5, 5], [1, 5]]
DOCUMENTS = {
    "hovernet": {
        "mag": 40,
        "nuc": {"1": {"contour": OUTLINE, "type": 1}, "2": {"contour": OUTLINE, "type": 3}},
    },
    "cellvit": {
        "type_map": {"1": "Neoplastic", "3": "Connective"},
        "cells": [{"contour": OUTLINE, "type": 1}, {"contour": OUTLINE, "type": 3}],
    },
    "cellvit-geojson": [
        {
            "type": "Feature",
            "geometry": {"type": "MultiPolygon", "coordinates": [[OUTLINE]]},
            "properties": {"classification": {"name": name}},
        }
        for name in ("Neoplastic", "Connective")
    ],
    "qupath": {
        "type": "FeatureCollection",
        "features": [
            {
                "type": "Feature",
                "geometry": {"type": "Polygon", "coordinates": [[[0, 0], [9, 0], [9, 9], [0, 9]]]},
                "nucleusGeometry": {"type": "Polygon", "coordinates": [OUTLINE]},
                "properties": {"classification": {"name": name}},
            }
            for name in ("epithelial", "Spindle")
        ],
    },
}


def test_a_name_that_stands_twice_loses_none(tmp_path: Path) -> None:
    text = json.dumps(DOCUMENTS["hovernet"])
    (tmp_path / "a.json").write_text(text.replace('"2"', '"1"'))
    with pytest.raises(BadInput, match="the name '1' stands twice in one object"):
        read_polygons(tmp_path / "a.json")
    (tmp_path / "t.json").write_text('{"classes": {"neopla": 1, "neopla": 2}}')
    with pytest.raises(BadInput, match="the name 'neopla' stands twice"):
        read_table(str(tmp_path / "t.json"))
    (tmp_path / "p.json").write_text('{"0": "#ffffff", "0": "#000000"}')
    with pytest.raises(BadInput, match=r"palette .*the name '0' stands twice"):
        read_palette(str(tmp_path / "p.json"))


@pytest.mark.parametrize("program", DOCUMENTS)
def test_files_of_other_programs(tmp_path: Path, program: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(DOCUMENTS[program]))
    polygons = read_polygons(path)
    # Contours of HoVer-Net and CellViT name pixels, the last of them too.
    end = 6 if program in ("hovernet", "cellvit") else 5
    assert polygons.boxes.tolist() == [[1, 1, end, end]] * 2
    layer = layer_of(polygons, read_table("nuclei"), (), source="a", numbered=True)
    assert layer.labels.tolist() == [2, 4]
    assert layer.numbers.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"offsets": np.array([0, 4, 4, 12])}, "offsets must rise"),
        ({"hole": np.array([1, 0, 0])}, "a hole must follow"),
        ({"cls": np.array([1, 2, 9])}, "cls must be below"),
        ({"cls": np.array([1, -1, 2])}, "not below 0"),
        ({"scale": np.array(1e-12)}, "a corner lies 7.2e+13 pixels from the origin"),
        ({"xy": np.zeros((12, 3))}, "xy (12, 3) must be [points, 2]"),
        ({"names": np.array([{}], object)}, "cannot be read as polygons"),
        ({"names": np.array("a")}, "names, <U1 (), must be a list of texts"),
        ({"cls": np.array([[1], [2], [2]])}, "cls, int64 (3, 1), must be a list of whole numbers"),
        ({"cls": np.array([1.5, 2, 2])}, "cls, float64 (3,), must be a list of whole numbers"),
        ({"offsets": np.array([0, 4.6, 8, 12])}, "offsets, float64 (4,), must be a list of whole numbers"),
    ],
)
def test_wrong_npz(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(BadInput, match=re.escape(says)):
        read_polygons(npz(tmp_path / "a.npz", **changes))


def test_names_in_npz_may_be_bytes_and_stand_there_twice(tmp_path: Path) -> None:
    polygons = read_polygons(npz(tmp_path / "a.npz", names=np.array([b"background", b"one", b"one"])))
    assert (polygons.names, polygons.classes.tolist()) == (("background", "one"), [1, 1])
    assert polygons.count() == {"one": 2}


def test_classes_without_a_label(tmp_path: Path) -> None:
    polygons = read_polygons(npz(tmp_path / "a.npz", names=np.array(["background", "Mitosis", "connective"])))
    with pytest.raises(BadInput, match="no label is known for 'Mitosis'; known are epithelial"):
        layer_of(polygons, read_table("nuclei"), (), source="a.npz", numbered=True)
    assert (
        len(layer_of(polygons, read_table("nuclei"), ("mitosis",), source="a", numbered=True).polygons) == 1
    )
    table = tmp_path / "t.json"
    table.write_text(json.dumps({"classes": {"mitosis": "miscellaneous", "connective": 9}}))
    layer = layer_of(polygons, read_table(str(table)), (), source="a", numbered=True)
    assert layer.labels.tolist() == [5, 9]
    table.write_text(json.dumps({"classes": {"mitosis": "tumour", "connective": 9}}))
    with pytest.raises(BadInput, match="'tumour' is not the name of a label"):
        layer_of(polygons, read_table(str(table)), (), source="a", numbered=True)
    assert table_of([polygons]).classes == {"background": 0, "Mitosis": 1, "connective": 2}


def test_from_polygons_writes_labels_and_instances(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    regions = npz(
        tmp_path / "tissue.npz",
        xy=square(0, 0, 80).astype(np.int32),
        offsets=np.array([0, 4]),
        cls=np.array([1]),
        hole=np.array([0]),
        names=np.array(["background", "stroma"]),
    )
    out = tmp_path / "m.zarr"
    done = run_program(
        capfd, cli.main, "from-polygons", npz(tmp_path / "a.npz"), out, "--regions", regions, "--classes", "nuclei",
        "--size", "30,24", "--mpp", "0.5",
    )  # fmt: skip
    assert done.code == 0
    assert "1 neoplastic -> 2 epithelial" in done.out
    assert "1 stroma -> 1 tissue" in done.out
    mask = open_mask(out)
    assert (mask.shape, mask.mpp, mask.plane.dtype) == ((24, 30), 0.5, np.dtype("uint8"))
    labels = mask[0:24, 0:30]
    assert [(labels == value).sum() for value in (0, 1, 2, 4)] == [24 * 30 - 400, 400 - 16 - 55, 16, 55]
    numbers = mask.beside["instances"][0:24, 0:30]
    assert numbers.dtype == np.uint16
    np.testing.assert_array_equal(numbers, np.where(labels == 2, 1, np.where(labels == 4, 2, 0)))
    told = run_program(capfd, cli.main, "info", out).out
    assert "beside  instances (uint16)" in told
    assert "epithelial" in told
    again = pickle.loads(pickle.dumps(mask))
    np.testing.assert_array_equal(again.beside["instances"][0:24, 0:30], numbers)
    # Any reader of OME-Zarr finds both.
    group = zarr.open_group(out, mode="r")
    assert group["labels"].attrs["ome"]["labels"] == ["class", "instance"]
    assert open_mask(out / "labels" / "class")[0:24, 0:30].tolist() == labels.tolist()
    # It replaces what it wrote, and nothing else.
    arguments = ("from-polygons", tmp_path / "a.npz", out, "--classes", "nuclei", "--overwrite")
    assert run_program(capfd, cli.main, *arguments).code == 0
    assert open_mask(out)[0:18, 0:18].min() == 1
    (tmp_path / "other.zarr").mkdir()
    done = run_program(
        capfd, cli.main, "from-polygons", tmp_path / "a.npz", tmp_path / "other.zarr", "--overwrite"
    )
    assert done.code == 2
    assert "is not replaced" in done.err


def test_outlines_that_cross_themselves_are_told_of(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    bow, edge = [(1, 1), (9, 9), (9, 1), (1, 9)], [(11, 1), (19, 1), (19, 9), (15, 1), (11, 9)]
    source = npz(
        tmp_path / "a.npz", xy=np.array([*bow, *edge, *square(12, 12, 4)]), offsets=np.array([0, 4, 9, 13]),
        cls=np.ones(3, np.uint8), hole=np.zeros(3), scale=np.array(1.0),
    )  # fmt: skip
    done = run_program(capfd, cli.main, "from-polygons", source, tmp_path / "m.zarr", "--size", "20,20")
    assert done.code == 0
    assert "1 outline of a nucleus crosses itself; what lies inside twice is left out" in done.err


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=4, max_size=8, unique=True))
def test_crossings_are_those_of_all_pairs_of_sides(corners: list[tuple[int, int]]) -> None:
    def side(a: Any, b: Any, c: Any) -> int:
        return int((b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]))

    sides = list(zip(corners, [*corners[1:], corners[0]], strict=True))
    true = any(
        side(a, b, c) * side(a, b, d) < 0 and side(c, d, a) * side(c, d, b) < 0
        for (a, b), (c, d) in combinations(sides, 2)
    )
    assert count_crossing(polygons_of([[np.array(corners, float)]])) == true


def test_instances_of_a_mask_may_lie_apart(tmp_path: Path) -> None:
    labels = np.kron(np.array([[0, 2], [2, 2]], np.uint8), np.ones((8, 8), np.uint8))
    numbers = np.arange(256, dtype=np.int64).reshape(16, 16) * 7_000_000_000
    np.save(tmp_path / "l.npy", labels)
    np.save(tmp_path / "n.npy", numbers)
    mask = open_mask(tmp_path / "l.npy", beside={"instances": tmp_path / "n.npy"})
    before = mask.fingerprint()
    for one in (mask, pickle.loads(pickle.dumps(mask))):
        np.testing.assert_array_equal(one.beside["instances"][0:16, 0:16], numbers)
        assert one.fingerprint() == before
    np.save(tmp_path / "n.npy", numbers + 1)
    assert mask.fingerprint() != before
    np.save(tmp_path / "n.npy", numbers[:8])
    with pytest.raises(BadInput, match="its instances are 16 x 8 pixels and its labels 16 x 16"):
        open_mask(tmp_path / "l.npy", beside={"instances": tmp_path / "n.npy"})
    in_memory = open_mask(labels, beside={"instances": numbers})
    again = pickle.loads(pickle.dumps(in_memory))
    np.testing.assert_array_equal(again.beside["instances"][2:9, 2:9], numbers[2:9, 2:9])


def test_a_table_that_is_neither_shipped_nor_a_file() -> None:
    with pytest.raises(BadInput, match=r"--classes nucleii: neither a shipped table \(nuclei.*\) nor a file"):
        read_table("nucleii")


def test_from_instances(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    numbers = np.zeros((20, 30), np.uint32)
    numbers[2:5, 3:9], numbers[10:14, 20:30] = 90_000, 7
    np.save(tmp_path / "n.npy", numbers)
    table, out = tmp_path / "t.csv", tmp_path / "m.zarr"
    table.write_text("id;class;score\n7;Spindle;0,5\n90000;epithelial;1\n5;spindle;1\n")
    arguments = ("from-instances", tmp_path / "n.npy", out, "--table", table, "--classes", "nuclei")
    done = run_program(capfd, cli.main, *arguments)
    assert done.code == 0, done.err
    mask = open_mask(out)
    assert np.array_equal(mask[0:20, 0:30], np.array([1, 4, 2])[(numbers == 7) + 2 * (numbers > 7)])
    assert np.array_equal(mask.beside["instances"][0:20, 0:30], numbers)
    assert "t.csv: 1 of its 3 numbers is not in" in done.err
    for text, says in (
        ("id,class\n7,spindle\n", "number 90000 at x=3, y=2 is not in the table"),
        ("id,class\n7,spindle\n7,spindle\n", "number 7 stands there twice"),
        ("id,class\n", "no line below"),
        ("id;class\n7;spindle\n\nx;spindle\n", "line 4 must begin with a whole number and a class"),
        ("id,class\n7,\n", "line 2 must begin with a whole number and a class, not with '7,'"),
        ("7,spindle\n9,spindle\n", "its first line begins with the number 7, which would be lost"),
    ):
        table.write_text(text)
        failed = run_program(capfd, cli.main, *arguments, "--overwrite")
        assert (failed.code, says in failed.err) == (2, True), failed.err
    assert open_mask(out).shape == (20, 30)


def test_numbers_beyond_32_bits_become_places(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "n.npy", np.array([[0, 1 << 40], [3, 1 << 40]]))
    (tmp_path / "t.csv").write_text(f"id,class\n3,a\n{1 << 40},b\n")
    out = tmp_path / "m.zarr"
    arguments = ("from-instances", tmp_path / "n.npy", out, "--table", tmp_path / "t.csv")
    assert run_program(capfd, cli.main, *arguments).code == 0
    mask = open_mask(out)
    assert mask[0:2, 0:2].tolist() == [[0, 2], [1, 2]]
    assert mask.beside["instances"][0:2, 0:2].tolist() == [[0, 2], [1, 2]]


def test_the_example_is_drawn(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = Path(__file__).parent.parent / "examples" / "nuclei"
    done = run_program(
        capfd, cli.main, "from-polygons", folder / "nuclei.npz", tmp_path / "m.zarr", "--regions", folder / "tissue.npz",
        "--classes", "nuclei", "--mpp", "0.25", "--size", "3072,3072",
    )  # fmt: skip
    assert done.code == 0
    for line in ("4644 nuclei", "2097 inflammatory -> 3", "1316 neoplastic -> 2", "1218 connective -> 4"):
        assert line in done.out
    mask = open_mask(tmp_path / "m.zarr")
    rows, cols = slice(1000, 1600), slice(1000, 1600)
    labels, numbers = mask[rows, cols], mask.beside["instances"][rows, cols]
    assert np.array_equal(numbers > 0, labels > 1)
    assert set(np.unique(labels)) == {1, 2, 3, 4}


def test_edges_where_numbers_repeat_over_labels() -> None:
    labels = np.array([[0, 2, 2, 3, 3, 1]] * 3, np.uint8)
    same = np.array([[0, 5, 5, 5, 5, 0]] * 3, np.uint32)
    assert find_edges(labels, (2, 3), same).tolist() == [[1, 1, 1, 1]]
    assert find_edges(labels, (2,), None).tolist() == [[1, 1, 1, 0]]
    assert find_edges(labels, (), None).tolist() == [[0, 0, 0, 0]]


def test_nuclei_of_a_class_of_tissue_are_told_of(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    ring = [[1, 1], [9, 1], [9, 9], [1, 1]]
    cell = {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"objectType": "cell", "classification": {"name": "Tumor"}},
    }
    Path("cells.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [cell]}))
    done = run_program(
        capfd, cli.main, "from-polygons", "cells.geojson", "m.zarr", "--classes", "nuclei", "--size", "20,20"
    )
    assert done.code == 0
    assert "class 'Tumor' (1 polygon) becomes tissue, not nuclei" in done.err


def test_a_size_beyond_any_mask_is_refused_at_once(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    done = run_program(capfd, cli.main, "colon", "m.zarr", "--size", "5000000000,5")
    assert done.code == 2
    assert "a mask has at most 4294967295 pixels a side" in done.err


def test_a_class_to_ignore_that_no_polygon_has(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ("from-polygons", npz(tmp_path / "a.npz"), tmp_path / "m.zarr", "--classes", "nuclei")
    done = run_program(capfd, cli.main, *arguments, "--ignore", "Mitosis", "--ignore", "Connective")
    assert done.code == 0
    assert "--ignore Mitosis: no polygon is of this class" in done.err
    assert "--ignore Connective" not in done.err
    assert "1 nucleus;" in done.out


def test_corners_beyond_any_mask_and_images_cut_short(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ring = [[1e14, 1e14], [2e14, 1e14], [2e14, 2e14]]
    feature = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": {}}
    (tmp_path / "far.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    done = run_program(capfd, cli.main, "from-polygons", tmp_path / "far.geojson", tmp_path / "m.zarr")
    assert (done.code, "a corner lies 2e+14 pixels from the origin" in done.err) == (2, True), done.err
    cv2.imwrite(str(tmp_path / "n.png"), np.arange(8100, dtype=np.uint16).reshape(90, 90))
    (tmp_path / "n.png").write_bytes((tmp_path / "n.png").read_bytes()[:70])
    (tmp_path / "t.csv").write_text("id,class\n1,a\n")
    arguments = ("from-instances", tmp_path / "n.png", tmp_path / "m.zarr", "--table", tmp_path / "t.csv")
    done = run_program(capfd, cli.main, *arguments)
    assert (done.code, "n.png: cannot read " in done.err) == (1, True), done.err
    assert not (tmp_path / "m.zarr").exists()
