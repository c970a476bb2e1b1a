"""Files of nuclei that other programs write: their pixels come back, and what is no nucleus is left out with a word."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from cases import run_program
from safron.engine import render
from safron.io.errors import BadInput
from safron.io.masks import cli, contours
from safron.io.masks.contours import sides_of_pixels
from safron.io.masks.drawing import edges_of, inside
from safron.io.masks.open import open_mask
from safron.io.masks.polygons import read_polygons
from safron.io.tiles import cli as tiles


def blobs(seed: int, side: int = 90) -> npt.NDArray[np.int32]:
    """Number filled blobs that hang together by sides or corners, some of one pixel or one pixel wide."""
    noise = np.random.default_rng(seed).standard_normal((side, side)).astype(np.float32)
    smooth = np.asarray(cv2.GaussianBlur(noise, (0, 0), 1.1))
    numbers = np.zeros((side, side), np.int32)
    found, _ = cv2.findContours((smooth > 0.05).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    for number, contour in enumerate(found, 1):
        cv2.drawContours(numbers, [contour], 0, number, cv2.FILLED)
    return numbers


def contour_of(pixels: npt.NDArray[np.bool_]) -> npt.NDArray[Any]:
    """Find a contour as HoVer-Net and CellViT do."""
    return np.asarray(
        cv2.findContours(pixels.astype(np.uint8), cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[0][0][:, 0]
    )


@pytest.mark.parametrize("seed", range(4))
def test_contours_give_back_their_pixels(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contours, "SHEET", 64)  # several sheets, and one blob that fits on none
    numbers = blobs(seed)
    count = int(numbers.max())
    assert count > 20
    pixels = [numbers == number for number in range(1, count + 1) if (numbers == number).any()]
    for one, rings in zip(pixels, sides_of_pixels([contour_of(one) for one in pixels]), strict=True):
        if np.ptp(np.nonzero(one), axis=1).max() < 61:
            np.testing.assert_array_equal(inside(edges_of(rings), 0, 90, 0, 90), one)


def test_contours_that_name_no_pixels_stay_as_they_are() -> None:
    for given in (
        [[0.5, 1], [3, 1], [3, 4]],
        [[0, 0], [5000, 0], [5000, 5000]],
        [[np.nan, 1], [2, 2], [3, 1]],
    ):
        (rings,) = sides_of_pixels([np.array(given, float)])
        np.testing.assert_array_equal(rings, [given])


def test_a_mask_of_hovernet_is_what_it_found(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    numbers = blobs(9)
    found = [number for number in np.unique(numbers) if number]
    nuc = {str(number): {"contour": contour_of(numbers == number).tolist(), "type": None} for number in found}
    (tmp_path / "a.json").write_text(json.dumps({"mag": None, "nuc": nuc}))
    out = tmp_path / "m.zarr"
    done = run_program(
        capfd, cli.main, "from-polygons", tmp_path / "a.json", out, "--size", "90,90", "--classes", "nuclei"
    )
    assert done.code == 0
    assert f"{len(found)} nucleus -> 2 epithelial" in done.out
    drawn = open_mask(out).beside["instances"][0:90, 0:90]
    np.testing.assert_array_equal(drawn > 0, numbers > 0)
    assert len(np.unique(drawn)) == len(found) + 1


def square(x: int, y: int, side: int) -> list[list[int]]:
    return [[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]


def feature(*rings: Any, kind: str = "detection", **more: Any) -> dict[str, Any]:
    geometry = {"type": "Polygon", "coordinates": list(rings)} | more.pop("plane", {})
    return {
        "type": "Feature",
        "geometry": geometry,
        "properties": {"objectType": kind, "classification": {"name": "Tumor"}},
    } | more


def write(path: Path, *features: Any) -> Path:
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def test_an_annotation_around_cells_is_no_nucleus(tmp_path: Path) -> None:
    nucleus = {"type": "Polygon", "coordinates": [square(12, 12, 5)]}
    cell = feature(square(10, 10, 10), kind="cell", nucleusGeometry=nucleus)
    path = write(tmp_path / "a.geojson", feature(square(0, 0, 90), kind="annotation"), cell)
    found = read_polygons(path)
    assert found.boxes.tolist() == [[12, 12, 17, 17]]
    assert found.notes == (
        "1 annotation beside cells or detections left out; draw them beneath the nuclei with --regions",
    )
    beneath = read_polygons(path, regions=True)
    assert beneath.boxes.tolist() == [[0, 0, 90, 90]]
    assert beneath.notes == ("1 cell or detection beside annotations left out; give them as NUCLEI",)
    alone = read_polygons(write(tmp_path / "b.geojson", feature(square(0, 0, 9), kind="annotation")))
    assert (len(alone), alone.notes) == (1, ())


def test_cells_without_a_nucleus_are_told_of(tmp_path: Path) -> None:
    nucleus = {"type": "Polygon", "coordinates": [square(12, 12, 5)]}
    cells = [
        feature(square(10, 10, 10), kind="cell", nucleusGeometry=nucleus),
        feature(square(30, 10, 10), kind="cell", nucleusGeometry=None),
    ]
    found = read_polygons(write(tmp_path / "a.geojson", *cells))
    assert found.boxes.tolist() == [[12, 12, 17, 17], [10, 30, 20, 40]]
    assert found.notes == ("1 cell has no outline of its nucleus and is drawn whole",)


def test_parts_of_a_detection_are_one_nucleus(tmp_path: Path) -> None:
    parts = [[square(1, 1, 4)], [square(8, 8, 3)]]
    both = feature() | {"geometry": {"type": "MultiPolygon", "coordinates": parts}}
    assert read_polygons(write(tmp_path / "a.geojson", both)).boxes.tolist() == [[1, 1, 11, 11]]
    both["properties"]["objectType"] = "annotation"  # all nuclei of a class, as CellViT writes them
    assert len(read_polygons(write(tmp_path / "b.geojson", both))) == 2


def test_what_is_no_polygon_is_counted(tmp_path: Path) -> None:
    point = feature() | {"geometry": {"type": "Point", "coordinates": [1, 1]}}
    # Its hole is no nucleus either.
    line = feature([[1, 1], [5, 5]], square(20, 20, 9))
    other_plane = feature(square(1, 1, 4), plane={"plane": {"z": 3, "t": 0}})
    path = write(
        tmp_path / "a.geojson",
        point,
        feature() | {"geometry": None},
        line,
        feature(square(1, 1, 4)),
        other_plane,
    )
    found = read_polygons(path)
    assert found.boxes.tolist() == [[1, 1, 5, 5]] * 2
    assert found.notes == (
        "1 x Point left out: only polygons have an inside",
        "1 x no geometry left out: only polygons have an inside",
        "1 outline of fewer than three corners left out",
        "objects lie in 2 planes (z 0, 3), and all are drawn on one canvas; export one plane to draw it alone",
    )
    with pytest.raises(BadInput, match="no polygon with three corners or more; 1 x Point left out"):
        read_polygons(write(tmp_path / "b.geojson", point))


def test_nuclei_beyond_the_canvas_make_no_mask(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "a.geojson", feature(square(500, 500, 9)))
    done = run_program(capfd, cli.main, "from-polygons", path, tmp_path / "m.zarr", "--size", "90,90")
    assert done.code == 2
    assert (
        "all its polygons lie beyond a canvas of 90 x 90 pixels; check the size, or pass --downsample"
        in done.err
    )
    assert not (tmp_path / "m.zarr").exists()


def test_a_nucleus_without_a_contour_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"nuc": {"7": {"type": 1}}}')
    with pytest.raises(BadInput, match="nucleus 7 has no contour"):
        read_polygons(tmp_path / "a.json")


def test_numbers_that_a_program_leaves_out_are_told_of(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    touching = [feature(square(x, 8, 10)) for x in range(0, 300, 10)]
    write(Path("a.geojson"), *touching)
    assert run_program(capfd, cli.main, "from-polygons", "a.geojson", "m.zarr", "--mpp", "1").code == 0
    left = "m.zarr: its numbers of nuclei are left out"
    for command, out in (("import", "o.zarr"), ("to-geojson", "o.geojson"), ("to-png", "o.png")):
        done = run_program(capfd, cli.main, command, "m.zarr", out)
        assert (done.code, left in done.err) == (0, True), command
        done = run_program(capfd, cli.main, command, "o.zarr", f"2{out}")
        assert left not in done.err, command
    report = render("m.zarr", "s.tiff", model="identity", labels_out="l.ome.zarr")
    assert any(
        "--labels-out: the numbers of nuclei of mask m.zarr are not written" in said
        for said in report.warnings
    )
    cut = "s.tiff", "m.zarr", "t", "--size", "16", "--gap", "0", "--min-tissue", "0"
    done = run_program(capfd, tiles.main, *cut)
    assert f"{left}; pass --instances m.zarr/labels/instance" in done.err
    done = run_program(capfd, tiles.main, *cut, "--overwrite", "--instances", "m.zarr/labels/instance")
    assert (done.code, left in done.err) == (0, False), done.err


def test_advice_on_classes_names_options_of_the_command(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "a.geojson", feature(square(1, 1, 9)))
    numbers, table = tmp_path / "n.npy", tmp_path / "t.csv"
    np.save(numbers, np.ones((9, 9), np.uint16))
    table.write_text("number,class\n1,Mitosis\n")
    (tmp_path / "c.json").write_text('{"classes": {"Stroma": "tissue"}}')
    classes = "--classes", tmp_path / "c.json"
    done = run_program(
        capfd, cli.main, "from-polygons", tmp_path / "a.geojson", tmp_path / "m.zarr", *classes
    )
    assert done.err.endswith(
        "'Tumor'; known are Stroma; add them to a table for --classes, or leave them out with --ignore\n"
    )
    done = run_program(
        capfd, cli.main, "from-instances", numbers, tmp_path / "m.zarr", "--table", table, *classes
    )
    assert done.err.endswith("'Mitosis'; known are Stroma; add them to a table for --classes\n")


def test_numbers_with_fractions_are_not_told_to_become_8_bit(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tifffile.imwrite(tmp_path / "n.tif", np.ones((9, 9), np.float32))
    np.save(tmp_path / "n.npy", np.ones((9, 9), np.float32))
    (tmp_path / "t.csv").write_text("number,class\n1,Mitosis\n")
    for name in ("n.tif", "n.npy"):
        done = run_program(
            capfd,
            cli.main,
            "from-instances",
            tmp_path / name,
            tmp_path / "m.zarr",
            "--table",
            tmp_path / "t.csv",
        )
        assert done.code == 2
        assert "and numbers of nuclei of any size: convert it" in done.err
