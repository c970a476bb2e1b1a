"""Edges of single nuclei are those of the whole canvas, however it is cut."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from masks import blobs
from models import EdgeModel
from onnx_models import CARD, write_onnx
from plans import expected as whole_render
from safron.engine import render
from safron.engine.generator.card import Edges
from safron.engine.generator.planes import Noise, NucleusEdges
from safron.engine.generator.row_by_row import row_by_row
from safron.engine.plan.window import Window
from safron.io.errors import BadInput

NUCLEI = (2,)


def cells(height: int, width: int) -> tuple[Any, Any]:
    """Labels whose areas of label 2 are cut into squares with numbers far apart."""
    labels = blobs(height, width, cell=23)
    y, x = np.mgrid[:height, :width]
    numbers = (y // 5 * 1000 + x // 7 + 1).astype(np.uint32) * 70_001
    return labels, np.where(labels == 2, numbers, 0).astype(np.uint32)


def edges_of(labels: Any, numbers: Any | None, outside: int | None, far: int) -> Any:
    """Edges of the canvas and of `far` pixels around it, pixel by pixel: uint8 [h + 2 far, w + 2 far]."""
    beyond: dict[str, Any] = {"mode": "edge"} if outside is None else {"constant_values": outside}
    labels = np.pad(labels, far + 1, **beyond)
    if numbers is None:
        numbers = np.zeros_like(labels)
    else:
        numbers = np.pad(numbers, far + 1, **(beyond if outside is None else {}))
    edges = np.zeros(labels.shape, np.uint8)
    for y in range(1, labels.shape[0] - 1):
        for x in range(1, labels.shape[1] - 1):
            here = (numbers[y, x], labels[y, x] if labels[y, x] in NUCLEI else 0)
            for v, u in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                there = (numbers[v, u], labels[v, u] if labels[v, u] in NUCLEI else 0)
                edges[y, x] |= here != there
    return edges[1:-1, 1:-1]


@settings(max_examples=20, deadline=None)
@given(
    y=st.integers(-9, 30),
    x=st.integers(-9, 30),
    outside=st.sampled_from([None, 0, 2]),
    numbered=st.booleans(),
)
def test_any_window(y: int, x: int, outside: int | None, numbered: bool) -> None:
    labels, numbers = cells(31, 33)
    window = Window(y, x, 10, 12)
    found = NucleusEdges(labels, numbers if numbered else None, NUCLEI, outside).read(window)
    expected = edges_of(labels, numbers if numbered else None, outside, 30)
    assert np.array_equal(found[0], expected[window.shift(30, 30).slices()])


class Counted:
    """Counts the pixels of labels that are read."""

    def __init__(self, values: Any) -> None:
        self.values, self.shape, self.pixels = values, values.shape, 0

    def __getitem__(self, region: tuple[slice, slice]) -> Any:
        self.pixels += self.values[region].size
        return self.values[region]


@pytest.mark.parametrize("outside", [None, 0])
def test_rows_that_two_rows_of_patches_share_are_read_once(outside: int | None) -> None:
    labels, numbers = cells(200, 60)
    counted = Counted(numbers)
    source = NucleusEdges(labels, counted, NUCLEI, outside)
    (below,) = row_by_row([source], 200)
    direct = NucleusEdges(labels, numbers, NUCLEI, outside)
    for y in range(-10, 200, 30):
        window = Window(y, -5, 50, 70)
        assert np.array_equal(below.read(window), direct.read(window))
    assert counted.pixels <= 60 * (200 + 7 * 2)
    # Other columns, a window above, one far below, and one that ends above the last.
    for window in (Window(170, 3, 50, 9), Window(20, 3, 50, 9), Window(90, 3, 50, 9), Window(95, 3, 20, 9)):
        assert np.array_equal(below.read(window), direct.read(window))


def test_other_inputs_are_read_as_they_are() -> None:
    noise = Noise(3, (1, 2))
    assert row_by_row([noise], 100) == [noise]


def nucleus_model(outside: int | None) -> EdgeModel:
    model = EdgeModel(outside=outside)
    model.card = replace(model.card, edges=Edges("instances", NUCLEI))
    return model


@pytest.mark.parametrize("outside", [None, 1])
def test_a_render_equals_the_oracle(tmp_path: Path, outside: int | None) -> None:
    labels, numbers = cells(170, 190)
    model, tile, overlap = nucleus_model(outside), 64, 20
    far = tile + 4
    canvas = edges_of(labels, numbers, outside, far)
    expected = whole_render(
        labels,
        model,
        tile=tile,
        overlap=overlap,
        planes=lambda read: {"edges": canvas[read.shift(far, far).slices()][None]},
    )
    np.save(tmp_path / "l.npy", labels)
    np.save(tmp_path / "n.npy", numbers)
    digests = set()
    for block, workers, batch in ((None, 1, 1), (128, 3, 4)):
        out = tmp_path / f"{block}.tiff"
        report = render(
            tmp_path / "l.npy", out, model=model, instances=tmp_path / "n.npy", overlap=overlap, compression="none",
            block=block, workers=workers, batch=batch, tiff_tile=64,
        )  # fmt: skip
        assert np.array_equal(np.asarray(tifffile.imread(out, level=0)), expected)
        assert not any("numbers of nuclei" in warning for warning in report.warnings)
        digests.add(report.digest)
    assert len(digests) == 1


def test_numbers_and_edges_may_be_given(tmp_path: Path) -> None:
    labels, numbers = cells(100, 90)
    drawn = np.zeros((100, 90), np.uint16)
    drawn[40:50] = 300
    for name, array in (("l", labels), ("n", numbers), ("e", drawn)):
        np.save(tmp_path / f"{name}.npy", array)
    card = CARD | {"edges": {"of": "instances", "labels": [2]}}
    model = write_onnx(tmp_path / "g.onnx", card=card, edges=True)
    common: dict[str, Any] = {"model": model, "compression": "none", "tiff_tile": 64}
    made = {}
    for name, options in {
        "plain": {},
        "numbers": {"instances": tmp_path / "n.npy"},
        "edges": {"edges": tmp_path / "e.npy"},
    }.items():
        report = render(tmp_path / "l.npy", tmp_path / f"{name}.tiff", **common, **options)
        made[name] = np.asarray(tifffile.imread(tmp_path / f"{name}.tiff", level=0))[..., 0].astype(float)
        assert any("no numbers of nuclei" in text for text in report.warnings) == (name == "plain")
    tissue = labels > 0
    for name, edges in {
        "plain": edges_of(labels, None, None, 0),
        "numbers": edges_of(labels, numbers, None, 0),
        "edges": drawn > 0,
    }.items():
        assert np.array_equal(made[name][tissue], (60.0 * labels + 7.0 * edges)[tissue]), name


def test_lines_of_one_pixel_are_drawn_by_a_generator_with_larger_pixels(tmp_path: Path) -> None:
    np.save(tmp_path / "l.npy", np.ones((100, 90), np.uint8))
    card = CARD | {"mpp": 1.0, "edges": {"of": "instances", "labels": [2]}}
    model = write_onnx(tmp_path / "g.onnx", card=card, edges=True)
    made = []
    for row in (None, 40, 41):
        edges = np.zeros((100, 90), np.uint8)
        if row is not None:
            edges[row] = 255
        np.save(tmp_path / "e.npy", edges)
        render(
            tmp_path / "l.npy", tmp_path / "s.tiff", model=model, mpp=0.5, edges=tmp_path / "e.npy", compression="none", tiff_tile=64,
            overwrite=True,
        )  # fmt: skip
        made.append(np.asarray(tifffile.imread(tmp_path / "s.tiff", level=0))[..., 0].astype(int))
    without, even, odd = made
    assert (even[40:42] > without[40:42] + 3).all()
    np.testing.assert_array_equal(even, odd)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda numbers: np.roll(numbers, 25, axis=0),
            "not of the same nuclei: of the pixels .* % have both, in 16 places",
        ),
        (
            lambda numbers: 0 * numbers,
            "not of the same nuclei: of the pixels that have a number or a class of nuclei 0 % have both",
        ),
        (lambda numbers: 1 * (numbers > 0), "all its nuclei have the number 1 in 16 places"),
        (lambda numbers: numbers + 5 * (numbers > 0), None),
    ],
)
def test_numbers_of_other_nuclei_are_told_of(tmp_path: Path, change: Any, says: str | None) -> None:
    labels, numbers = (np.kron(plane, np.ones((3, 3), plane.dtype)) for plane in cells(60, 60))
    numbers[:, ::9], labels[:, ::9] = 0, np.where(labels[:, ::9] == 2, 1, labels[:, ::9])
    np.save(tmp_path / "l.npy", labels)
    np.save(tmp_path / "n.npy", change(numbers))
    card = CARD | {"edges": {"of": "instances", "labels": [2]}}
    model = write_onnx(tmp_path / "g.onnx", card=card, edges=True)
    report = render(
        tmp_path / "l.npy", tmp_path / "s.tiff", model=model, instances=tmp_path / "n.npy", tiff_tile=64, html=tmp_path / "r.html"
    )  # fmt: skip
    told = [text for text in report.warnings if "check --instances" in text]
    assert len(told) == (says is not None)
    if says is not None:
        assert re.search(says, told[0])
        assert "check --instances" in (tmp_path / "r.html").read_text()


def test_other_numbers_are_another_render(tmp_path: Path) -> None:
    labels, numbers = cells(100, 90)
    np.save(tmp_path / "l.npy", labels)
    np.save(tmp_path / "n.npy", numbers)
    card = CARD | {"edges": {"of": "instances", "labels": [2]}}
    model = write_onnx(tmp_path / "g.onnx", card=card, edges=True)
    common: dict[str, Any] = {"model": model, "tiff_tile": 64, "instances": tmp_path / "n.npy"}

    class Broken(Exception):
        pass

    def stop(*_: Any) -> None:
        raise Broken

    with pytest.raises(Broken):
        render(tmp_path / "l.npy", tmp_path / "s.tiff", progress=stop, **common)
    np.save(tmp_path / "n.npy", np.roll(numbers, 1))
    with pytest.raises(BadInput, match="edges"):
        render(tmp_path / "l.npy", tmp_path / "s.tiff", **common)


def test_a_generator_without_edges_takes_no_numbers(tmp_path: Path) -> None:
    labels, _ = cells(70, 70)
    model = write_onnx(tmp_path / "g.onnx", card=CARD)
    with pytest.raises(BadInput, match=re.escape("instances: generator 'tiny' takes no edges")):
        render(labels, tmp_path / "s.tiff", model=model, instances=tmp_path / "n.npy")
    write_onnx(tmp_path / "h.onnx", card=CARD | {"edges": {"of": "instances"}}, edges=True)
    with pytest.raises(BadInput, match="labels are for of"):
        render(labels, tmp_path / "s.tiff", model=tmp_path / "h.onnx")


def test_edges_of_a_picture_must_be_given(tmp_path: Path) -> None:
    labels, _ = cells(70, 70)
    model = write_onnx(tmp_path / "g.onnx", card=CARD | {"edges": {"of": "image"}}, edges=True)
    with pytest.raises(BadInput, match="generator 'tiny' takes edges of a real picture"):
        render(labels, tmp_path / "s.tiff", model=model)
    drawn = np.zeros((70, 70), np.uint8)
    drawn[30:40] = 1
    np.save(tmp_path / "e.npy", drawn)
    np.save(tmp_path / "l.npy", labels)
    common: dict[str, Any] = {"model": model, "compression": "none", "tiff_tile": 64}
    render(tmp_path / "l.npy", tmp_path / "s.tiff", edges=tmp_path / "e.npy", **common)
    red = np.asarray(tifffile.imread(tmp_path / "s.tiff", level=0))[..., 0].astype(float)
    assert np.array_equal(red[labels > 0], (60.0 * labels + 7.0 * drawn)[labels > 0])


def test_the_shipped_generator_draws_nuclei(tmp_path: Path) -> None:
    labels = np.ones((150, 150), np.uint8)
    labels[:, :40] = 0
    numbers = np.zeros((150, 150), np.uint16)
    y, x = np.mgrid[:150, :150]
    for number, (v, u) in enumerate([(30, 60), (30, 79), (70, 90), (110, 70), (110, 120)], 1):
        inside = (y - v) ** 2 + (x - u) ** 2 < 100
        labels[inside], numbers[inside] = 3, number * 1000
    np.save(tmp_path / "l.npy", labels)
    np.save(tmp_path / "n.npy", numbers)
    out = tmp_path / "s.tiff"
    common: dict[str, Any] = {"model": "nuclei", "mpp": 0.5, "compression": "none", "workers": 1}
    report = render(tmp_path / "l.npy", out, instances=tmp_path / "n.npy", **common)
    assert report.scale == 1
    slide = np.asarray(tifffile.imread(out, level=0)).astype(float)
    assert (slide[:, :30].mean(axis=(0, 1)).round() == [243, 240, 243]).all()
    # Lymphocytes are much darker than the tissue around them, above all in red, which haematoxylin takes.
    far = (labels == 1) & (x > 60)
    assert slide[labels == 3][:, 0].mean() < slide[far][:, 0].mean() - 50
    whole = np.where(labels == 3, 1, 0).astype(np.uint16)
    np.save(tmp_path / "one.npy", whole)
    render(tmp_path / "l.npy", tmp_path / "one.tiff", instances=tmp_path / "one.npy", **common)
    one = np.asarray(tifffile.imread(tmp_path / "one.tiff", level=0)).astype(float)
    # Without the border between the two that touch, that place alone is drawn otherwise.
    changed = np.abs(one - slide).max(axis=2) > 0
    assert changed[25:36, 66:73].any()
    assert not changed[100:, :].any()
