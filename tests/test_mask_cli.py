"""``safron-mask``: what it writes, what it says, and that every failure is one line and an exit code."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import click
import cv2
import numpy as np
import pytest
import pyvips
import tifffile
import zarr
from cases import exit_code
from safron.io.masks.cli import commands, main
from safron.io.masks.open import open_mask
from safron.io.masks.palette import read_palette, read_png_colours
from safron.io.masks.to_geojson import own_legend

LABELS = np.random.default_rng(0).integers(0, 3, (90, 1300), dtype=np.uint8)
COLOURS = np.array([read_palette("builtin")[value] for value in range(3)], np.uint8)[LABELS]


pytestmark = pytest.mark.usefixtures("here")


run = partial(exit_code, main)


def read(path: str) -> np.ndarray:
    mask = open_mask(path)
    return mask[0 : mask.shape[0], 0 : mask.shape[1]]


def write_geojson(name: str = "Gland") -> None:
    ring = [[10, 10], [20, 10], [20, 20], [10, 20]]
    shape = {"type": "Polygon", "coordinates": [ring]}
    line = {
        "type": "Feature",
        "geometry": {"type": "LineString", "coordinates": [[0, 0], [1, 1]]},
        "properties": {},
    }
    drawn = {"type": "Feature", "geometry": shape, "properties": {"classification": {"name": name}}}
    Path("a.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [drawn, line]}))


def test_import_of_a_colour_image(capsys: pytest.CaptureFixture[str]) -> None:
    cv2.imwrite("m.png", COLOURS[..., ::-1])
    assert run("import", "m.png", "m.zarr", "--palette", "builtin", "--mpp", "0.5") == 0
    assert capsys.readouterr().out == "m.zarr: 1300 x 90 pixels, 0.5 um per pixel\n"
    np.testing.assert_array_equal(read("m.zarr"), LABELS)


def test_import_keeps_the_sources_mpp(capsys: pytest.CaptureFixture[str]) -> None:
    tifffile.imwrite("m.tif", LABELS, resolution=(20000, 20000), resolutionunit="CENTIMETER", rowsperstrip=8)
    assert run("import", "m.tif", "m.zarr") == 0
    assert open_mask("m.zarr").mpp == 0.5
    np.testing.assert_array_equal(read("m.zarr"), LABELS)


def test_import_over_its_own_source_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    labels = LABELS.astype(np.int32)
    zarr.create_array("m.zarr", data=labels, chunks=(64, 64))
    zarr.open_group("o.zarr", mode="w").create_array("0", data=labels)
    assert run("import", "m.zarr", "m.zarr", "--overwrite") == 2
    assert "m.zarr: is IMAGE itself; give another name" in capsys.readouterr().err
    assert run("import", "o.zarr/0", "o.zarr", "--overwrite") == 2
    assert "o.zarr: would be replaced, and holds IMAGE o.zarr/0" in capsys.readouterr().err
    np.testing.assert_array_equal(zarr.open_array("m.zarr", mode="r")[:], labels)
    np.testing.assert_array_equal(zarr.open_array("o.zarr/0", mode="r")[:], labels)


def test_import_notes_oblong_pixels(capsys: pytest.CaptureFixture[str]) -> None:
    group = zarr.open_group("o.zarr", mode="w")
    group.create_array("0", data=LABELS)
    axes = [{"name": name, "type": "space", "unit": "micrometer"} for name in "yx"]
    level = {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [0.5, 1.0]}]}
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": [level]}]}
    assert run("import", "o.zarr", "m.zarr") == 0
    assert "safron-mask: warning: o.zarr: its pixels are 0.5 um high and 1 um wide" in capsys.readouterr().err


def test_import_keeps_the_names_of_labels(capsys: pytest.CaptureFixture[str]) -> None:
    """Unless other numbers stand for them; a render tells by them what the labels mean."""
    assert run("colon", "m.zarr", "--size", "64,48", "--outline", "full") == 0
    assert run("import", "m.zarr", "n.zarr") == 0
    assert [label.name for label in own_legend(open_mask("n.zarr"))] == ["background", "stroma", "gland"]
    assert run("import", "m.zarr", "o.zarr", "--map", "2=1") == 0
    assert own_legend(open_mask("o.zarr")) == []
    capsys.readouterr()
    zarr.open_array("m.zarr", mode="r+").attrs["labels"] = "stroma and glands"
    assert run("import", "m.zarr", "p.zarr") == 0
    assert "attribute labels" in capsys.readouterr().err
    assert own_legend(open_mask("p.zarr")) == []


def test_drawn_nuclei_have_names(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tile = np.full((96, 96, 3), (190, 130, 200), np.uint8)
    for y, x in rng.integers(0, 96, (40, 2)).tolist():
        cv2.circle(tile, (x, y), 5, (120, 40, 90), -1)
    cv2.imwrite("t.png", tile)
    assert run("synthesize-nuclei", "t.png", "s.zarr", "--size", "64,64") == 0
    assert [label.name for label in own_legend(open_mask("s.zarr"))] == ["tissue", "nucleus"]


def test_import_of_a_grey_image_uses_the_palette(capsys: pytest.CaptureFixture[str]) -> None:
    cv2.imwrite("m.png", LABELS * 100)
    Path("p.json").write_text('{"0": "#000000", "1": [100, 100, 100], "7": [200, 200, 200]}')
    assert run("import", "m.png", "m.zarr", "--palette", "p.json") == 0
    np.testing.assert_array_equal(read("m.zarr"), np.array([0, 1, 7])[LABELS])
    capsys.readouterr()
    assert run("import", "m.zarr", "n.zarr", "--palette", "p.json") == 2
    assert (
        "m.zarr: it holds labels, not colours (Zarr v3 array); leave the palette out"
        in capsys.readouterr().err
    )


def test_import_of_an_indexed_png() -> None:
    image = pyvips.Image.new_from_array(COLOURS)
    image.pngsave("m.png", palette=True)
    assert run("import", "m.png", "m.zarr", "--palette", "indices") == 0
    table = read_png_colours(Path("m.png"))
    np.testing.assert_array_equal(np.array([table[v] for v in sorted(table)])[read("m.zarr")], COLOURS)


def test_mpp_answers_a_pixel_size_that_is_not_understood(capsys: pytest.CaptureFixture[str]) -> None:
    tifffile.imwrite("m.tif", LABELS, resolution=(72, 72), resolutionunit="INCH")
    assert run("import", "m.tif", "m.zarr") == 0
    assert "warning: m.tif: its resolution of 72 dpi is meant for printing" in capsys.readouterr().err
    assert run("import", "m.tif", "n.zarr", "--mpp", "0.5") == 0
    assert (capsys.readouterr().err, open_mask("n.zarr").mpp) == ("", 0.5)
    write_geojson()
    assert run("from-geojson", "a.geojson", "l.zarr", "--like", "m.tif") == 0
    assert "warning: m.tif: its resolution of 72 dpi" in capsys.readouterr().err


def square(name: str, start: int, stop: int, **more: object) -> dict[str, object]:
    ring = [[start, start], [stop, start], [stop, stop], [start, stop], [start, start]]
    geometry = {"type": "Polygon", "coordinates": [ring]} | {k: v for k, v in more.items() if k == "plane"}
    properties = {"classification": {"name": name}}
    rest = {k: v for k, v in more.items() if k != "plane"}
    return {"type": "Feature", "geometry": geometry, "properties": properties} | rest


def test_nothing_drawn_is_lost_without_a_word(capsys: pytest.CaptureFixture[str]) -> None:
    Path("order.geojson").write_text(json.dumps([square("Gland", 40, 80), square("Stroma", 10, 190)]))
    assert run("from-geojson", "order.geojson", "o.zarr", "--size", "200,200") == 0
    assert (
        "warning: 1 polygon (Gland) is covered wholly by later ones; pass --order area"
        in capsys.readouterr().err
    )
    assert run("from-geojson", "order.geojson", "a.zarr", "--size", "200,200", "--order", "area") == 0
    assert capsys.readouterr().err == ""
    assert np.bincount(read("a.zarr").ravel()).tolist() == [7600, 30800, 1600]
    planes = [
        square("Stroma", 10, 190, plane={"z": 0, "t": 0}),
        square("Gland", 40, 80, plane={"z": 7, "t": 0}),
    ]
    Path("plane.geojson").write_text(json.dumps(planes))
    assert run("from-geojson", "plane.geojson", "p.zarr", "--size", "200,200") == 0
    assert "warning: objects lie in 2 planes (z 0, 7)" in capsys.readouterr().err
    nucleus = square("", 40, 80)["geometry"]
    Path("cell.geojson").write_text(json.dumps([square("Stroma", 10, 190, nucleusGeometry=nucleus)]))
    assert run("from-geojson", "cell.geojson", "c.zarr", "--size", "200,200") == 0
    assert (
        "warning: 1 nucleus of cells left out; safron-mask from-geojson --nuclei VALUE draws them"
        in capsys.readouterr().err
    )
    assert run("from-geojson", "cell.geojson", "n.zarr", "--size", "200,200", "--nuclei", "2") == 0
    assert capsys.readouterr().err == ""
    assert np.bincount(read("n.zarr").ravel()).tolist() == [7600, 30800, 1600]


def test_info_counts_absent_tiles(capsys: pytest.CaptureFixture[str]) -> None:
    tifffile.imwrite("m.tif", LABELS, tile=(64, 64))
    with tifffile.TiffFile("m.tif", mode="r+") as tif:
        for code in (324, 325):
            tag = tif.pages.first.tags[code]
            tag.overwrite([0, *tag.value[1:]])
    assert run("info", "m.tif") == 0
    said = capsys.readouterr()
    assert "absent  1 tile or strip\n" in said.out
    assert "1 of its 42 tiles or strips are absent; they are read as 0" in said.err


def test_from_geojson_like_a_slide(capsys: pytest.CaptureFixture[str]) -> None:
    write_geojson()
    slide = np.zeros((60, 101, 3), np.uint8)
    tifffile.imwrite(
        "s.tif", slide, resolution=(40000, 40000), resolutionunit="CENTIMETER", photometric="rgb"
    )
    assert run("from-geojson", "a.geojson", "m.zarr", "--like", "s.tif", "--downsample", "2") == 0
    said = capsys.readouterr()
    assert said.out == "m.zarr: 51 x 30 pixels, 0.5 um per pixel\n"
    assert said.err == "safron-mask: warning: 1 x LineString left out: only polygons have an inside\n"
    expected = np.zeros((30, 51), np.uint8)
    expected[5:10, 5:10] = 2
    np.testing.assert_array_equal(read("m.zarr"), expected)


def test_from_geojson_with_labels_of_ones_own() -> None:
    write_geojson("Tumor=x")
    options = ("--size", "40,30", "--label", "tumor=x=9", "--background", "1")
    assert run("from-geojson", "a.geojson", "m.zarr", *options) == 0
    assert np.bincount(read("m.zarr").ravel()).tolist() == [0, 1100] + [0] * 7 + [100]
    assert "labels" not in zarr.open_array("m.zarr", mode="r").attrs, "2 is not gland here"


def test_ellipses_and_info(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("ellipses", "small.zarr", "--size", "300,200", "--seed", "4") == 0
    assert run("ellipses", "large.zarr", "--size", "1500,1100", "--seed", "4", "--workers", "3") == 0
    np.testing.assert_array_equal(read("large.zarr")[:200, :300], read("small.zarr"))
    capsys.readouterr()
    assert run("info", "large.zarr") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:5] == [
        "mask    large.zarr (Zarr v3 array)",
        "size    1500 x 1100 pixels (width x height)",
        "dtype   uint8",
        "chunks  1024 x 1024 pixels",
        "mpp     1 um per pixel",
    ]
    names = "background", "stroma", "gland"
    share = np.bincount(read("large.zarr").ravel(), minlength=3) / 1_650_000
    assert lines[5:] == [
        f"label   {value:<3d} {100 * share[value]:7.3f} % {share[value] * 1.65:10.3f} mm2  {names[value]}"
        for value in range(3)
        if share[value]
    ]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("frob", "No such command 'frob'"),
        ("import", "Missing argument 'IMAGE'"),
        ("import none.png m.zarr", "mask none.png: there is no such file"),
        ("import . m.zarr", "this folder is not a Zarr"),
        ("import m.png m.zarr", "a palette must say which colour"),
        ("import m.png m.zarr --palette none.json", "palette none.json: No such file"),
        ("import m.png m.zarr --palette builtin --palette-tolerance 300", "300 is not in the range"),
        ("import m.png m.zarr --mpp 0", "0.0 is not in the range"),
        ("import m.png m.zarr --mpp 20000", "20000.0 is not in the range 0.001<=x<=10000.0"),
        ("import m.png m.zarr --mpp nan", "nan is not a finite number"),
        ("from-geojson a.geojson m.zarr --size 9,9 --label a=1 --label a=2", "a has the label 1 already"),
        ("ellipses m.zarr --size 9,9 --mpp nan", "nan is not a finite number"),
        ("import m.png grey.png --palette builtin --overwrite", "end its name in .zarr"),
        (
            "import wide.zarr m.zarr",
            "value 300 at row 0, column 0; labels are whole numbers from 0 to 255: translate others with safron-mask import --map",
        ),
        (
            "import three.zarr m.zarr",
            "axis c has 3 planes; a mask has one; save the plane that holds the labels as an array",
        ),
        (
            "import m.png m.zarr --palette p.json",
            "give a palette with it to safron-mask import --palette, or allow",
        ),
        ("ellipses group.zarr --size 9,9 --overwrite", "exists and is not a Zarr array of labels"),
        ("import grey.png m.zarr --palette builtin", "no colour of the palette is a grey"),
        ("import m.png m.zarr --palette indices", "is not an indexed PNG"),
        ("import a.geojson m.zarr", "draw them with safron-mask from-geojson a.geojson"),
        ("from-geojson a.geojson m.zarr --size 40,40 --order size", "'size' is not one of"),
        ("from-geojson a.geojson m.zarr --size 40,40 --nuclei 256", "256 is not in the range"),
        ("import m.png old.zarr --palette builtin", "exists already; pass --overwrite"),
        ("import m.png s3://b/m.zarr --palette builtin", "local folders"),
        ("from-geojson a.geojson m.zarr", "give either --size W,H or --like SLIDE"),
        ("from-geojson a.geojson m.zarr --size 9,9 --like m.png", "give either"),
        ("from-geojson a.geojson m.zarr --size 9", "must be two whole numbers W,H"),
        ("from-geojson a.geojson m.zarr --size 0,9", "must be two whole numbers W,H"),
        ("from-geojson a.geojson m.zarr --size 40,40 --label Gland", "must be NAME=VALUE"),
        ("from-geojson a.geojson m.zarr --size 40,40 --label Gland=256", "must be NAME=VALUE"),
        ("from-geojson a.geojson m.zarr --size 40,40 --ignore gland", "is a polygon to draw"),
        ("from-geojson a.geojson m.zarr --like none.svs", "none.svs: there is no such file"),
        ("from-geojson a.geojson m.zarr --like a.geojson", "cannot read it as a slide or image"),
        ("from-geojson none.geojson m.zarr --size 9,9", "No such file"),
        ("ellipses m.zarr", "Missing option '--size'"),
        ("ellipses no/m.zarr --size 9,9", "make it first"),
        ("ellipses m.zarr --size 9,9 --cell 3", "3 is not in the range"),
        ("info none.zarr", "there is no such file"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    args: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_geojson()
    cv2.imwrite("m.png", COLOURS)
    cv2.imwrite("grey.png", LABELS)
    zarr.create_array("old.zarr", data=LABELS)
    zarr.create_array("wide.zarr", data=np.full((9, 9), 300, np.uint16))
    zarr.create_array("three.zarr", data=np.zeros((3, 9, 9), np.uint8), dimension_names=["c", "y", "x"])
    Path("p.json").write_text('{"0": "#010203"}')
    zarr.open_group("group.zarr", mode="w")
    assert run(*args.split()) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("safron-mask: error: ")
    assert said.err.count("\n") == 1
    assert message in said.err
    assert not Path("m.zarr").exists()


def test_a_damaged_mask_is_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    zarr.create_array("m.zarr", data=LABELS, chunks=(64, 64))
    Path("m.zarr/c/1/3").write_bytes(b"?")
    assert run("info", "m.zarr") == 1
    assert "cannot read chunk c/1/3" in capsys.readouterr().err
    assert run("info", "m.zarr", "--debug") == 1
    assert "Traceback" in capsys.readouterr().err


def test_interrupted_is_exit_code_130_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("safron.io.masks.write.run_blocks", interrupt)
    assert run("ellipses", "m.zarr", "--size", "9,9") == 130
    assert list(Path().iterdir()) == []


def test_terminated_leaves_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "safron.io.masks.cli", "ellipses", "m.zarr", "--size", "60000,60000"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    while not list(tmp_path.iterdir()):
        assert process.poll() is None
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGTERM)
    _, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (130, "safron-mask: interrupted; nothing was written\n")
    assert list(tmp_path.iterdir()) == []


def test_every_command_has_an_example_and_every_option_help_and_default() -> None:
    for name, command in commands.commands.items():
        assert f"safron-mask {name} " in (command.epilog or "")
        for option in command.params:
            if isinstance(option, click.Option) and not option.is_flag:
                assert option.help, option.name
                assert option.show_default or option.required or option.name in {"size", "like"}, option.name


def test_help_loads_no_image_library() -> None:
    code = (
        "import sys; from safron.io.masks.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    )
    code += "assert not {'zarr', 'numpy', 'cv2', 'pyvips', 'rich'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
