"""Procedural masks of colon: a pixel depends on the seed and its place, and a grade is seen in shape and lumen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import zarr
from cases import run_program
from safron.io.errors import BadInput
from safron.io.masks.cli import main
from safron.io.masks.colon import GRADES, Colon

FULL: dict[str, Any] = {"outline": "full", "diameter": 40}


@pytest.mark.parametrize("grade", range(len(GRADES)))
@pytest.mark.parametrize(("height", "width"), [(9, 500), (97, 131), (301, 303)])
def test_any_chunking_gives_the_same_pixels(grade: int, height: int, width: int) -> None:
    colon = Colon(3, grade=grade, diameter=30, overlap=1.0, lumens=True)
    expected = colon.paint(slice(0, 200), slice(0, 500))
    for y in range(0, 200, height):
        for x in range(0, 500, width):
            rows, cols = slice(y, min(y + height, 200)), slice(x, min(x + width, 500))
            np.testing.assert_array_equal(colon.paint(rows, cols), expected[rows, cols])


@pytest.mark.parametrize(("height", "width"), [(9, 200), (97, 71)])
@pytest.mark.parametrize("grade", [0, 3])
def test_nuclei_are_the_same_in_any_chunks(grade: int, height: int, width: int) -> None:
    colon = Colon(3, grade=grade, diameter=90, lumens=True, cellularity=0.9, stroma=0.4)
    expected = colon.paint(slice(0, 200), slice(0, 200))
    assert {1, 2, 4} <= {*np.unique(expected).tolist()}
    for y in range(0, 200, height):
        for x in range(0, 200, width):
            rows, cols = slice(y, min(y + height, 200)), slice(x, min(x + width, 200))
            np.testing.assert_array_equal(colon.paint(rows, cols), expected[rows, cols])


def test_nuclei_stand_where_their_cells_are() -> None:
    part, common = slice(0, 800), {"outline": "full", "diameter": 100.0, "stroma": 0.2}

    def found(grade: int, cellularity: float) -> tuple[Any, Any]:
        glands = Colon(2, grade=grade, **common).paint(part, part) == 2
        return Colon(2, grade=grade, cellularity=cellularity, **common).paint(part, part), glands

    nuclei, glands = found(0, 1.0)
    assert {*np.unique(nuclei).tolist()} == {1, 2, 3, 4}
    assert np.mean(glands[nuclei == 2]) > 0.95
    assert np.mean(glands[nuclei == 4]) < 0.15
    half = np.mean(found(0, 0.5)[0] == 2)
    assert half == pytest.approx(np.mean(nuclei == 2) / 2, rel=0.15)
    # How deep in its gland an epithelial nucleus lies, in nuclei: less and less in a row.
    depths = []
    for grade in (0, 2):
        nuclei, glands = found(grade, 1.0)
        depth = cv2.distanceTransform(glands.astype(np.uint8), cv2.DIST_L2, 5)
        depths.append(float(np.mean(depth[nuclei == 2] > 17)))
    assert depths[0] < 0.05 < depths[1]


def roundness(labels: Any) -> float:
    """Median over glands of 4 pi area / perimeter^2, which is 1 for a disc."""
    outlines, _ = cv2.findContours((labels == 2).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    found = [
        4 * np.pi * cv2.contourArea(line) / cv2.arcLength(line, closed=True) ** 2
        for line in outlines
        if cv2.contourArea(line) > 100
    ]
    return float(np.median(found))


def test_a_higher_grade_is_less_round_and_has_fewer_lumens() -> None:
    part = slice(0, 1200)
    masks = [Colon(1, grade=grade, lumens=True, **FULL).paint(part, part) for grade in range(4)]
    solid = [Colon(1, grade=grade, **FULL).paint(part, part) for grade in range(4)]
    round_ = [roundness(labels) for labels in solid]
    assert round_ == sorted(round_, reverse=True)
    assert round_[0] > 0.8
    assert round_[3] < 0.7
    glands = [np.mean(labels == 2) for labels in solid]
    assert 0.5 < glands[0] < 0.7
    assert glands == sorted(glands, reverse=True)
    lumen = [np.mean(labels == 0) / share for labels, share in zip(masks, glands, strict=True)]
    assert lumen[0] > lumen[2] > lumen[3]
    assert all(0 not in labels for labels in solid)


def test_density_stroma_overlap_and_outline_do_what_they_say() -> None:
    part = slice(0, 1800)

    def share(label: int, **options: Any) -> float:
        return float(np.mean(Colon(5, **(FULL | options)).paint(part, part) == label))

    usual = share(2, stroma=0.0)
    assert share(2, stroma=0.0, density=0.5) == pytest.approx(usual / 2, rel=0.1)
    assert share(2, stroma=0.5) == pytest.approx(usual / 2, rel=0.25)
    assert share(2, density=0.0) == 0
    assert share(2, stroma=0.0, overlap=0.5, grade=2) > share(2, stroma=0.0, grade=2)
    assert share(0) == 0
    assert 0.05 < share(0, outline="island") < 0.5


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"grade": 4}, r"grade 4: must be 0 \(healthy\) to 3"),
        ({"diameter": 8}, "give at least 16"),
        ({"density": 1.5}, "density 1.5: must be 0 to 1"),
        ({"stroma": float("nan")}, "stroma nan: must be 0 to 1"),
        ({"cellularity": 2}, "cellularity 2: must be 0 to 1"),
    ],
)
def test_numbers_out_of_range_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(BadInput, match=says):
        Colon(0, **options)


def test_the_command_writes_what_paint_gives(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    args = ("colon", "c.zarr", "--size", "300,200", "--seed", "7", "--grade", "2", "--diameter", "40")
    assert run_program(capfd, main, *args, "--lumens").code == 0
    assert run_program(capfd, main, "colon", "n.zarr", *args[2:], "--cellularity", "0.7").code == 0
    nuclei = Colon(7, grade=2, diameter=40, cellularity=0.7).paint(slice(0, 200), slice(0, 300))
    np.testing.assert_array_equal(np.asarray(zarr.open_array("n.zarr", mode="r")[:]), nuclei)
    array = zarr.open_array("c.zarr", mode="r")
    expected = Colon(7, grade=2, diameter=40, lumens=True).paint(slice(0, 200), slice(0, 300))
    np.testing.assert_array_equal(np.asarray(array[:]), expected)
    names = [label["name"] for label in zarr.open_array("n.zarr", mode="r").attrs["labels"]]
    assert names[:5] == ["background", "tissue", "epithelial", "inflammatory", "spindle"]
    assert run_program(capfd, main, *args, "--lumens", "--overwrite").err == ""
    beside = ("colon", "e.zarr", "--size", "400,400", "--seed", "1", "--diameter", "180")
    assert "all of it is background" in run_program(capfd, main, *beside).error
    assert not np.asarray(zarr.open_array("e.zarr", mode="r")[:]).any()
    assert run_program(capfd, main, *beside, "--overwrite", "--outline", "full").err == ""
    again = run_program(capfd, main, *args)
    assert again.code == 2
    assert "--overwrite" in again.error
