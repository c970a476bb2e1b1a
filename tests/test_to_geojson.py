"""Regions become polygons that are drawn back to the same pixels, however the mask is cut."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from masks import blobs
from safron.io.errors import BadInput
from safron.io.legend import Label
from safron.io.masks import drawing, geojson
from safron.io.masks.annotations import DrawingRules, read_geojson
from safron.io.masks.cli import main
from safron.io.masks.open import open_mask
from safron.io.masks.region_shapes import Shape, shapes
from safron.io.masks.to_geojson import legend_of, own_legend, write_geojson
from safron.io.masks.write import write_labels

NOTHING = np.zeros(256, bool)
small = st.tuples(st.integers(1, 12), st.integers(1, 12)).flatmap(
    lambda shape: arrays(np.uint8, shape, elements=st.integers(0, 2))
)


def found(
    labels: npt.NDArray[np.uint8], piece: int, left_out: Sequence[int] = (0,), **options: Any
) -> list[tuple[Shape, list[npt.NDArray[np.int64]]]]:
    skip = np.isin(np.arange(256), left_out)
    return [
        (shape, [*shape.rings()])
        for shape in shapes(open_mask(labels), left_out=skip, piece=piece, **options)
    ]


def regions(labels: npt.NDArray[np.uint8]) -> list[tuple[int, frozenset[tuple[int, int]]]]:
    """Sets of pixels joined by their sides, by a flood from each pixel."""
    left = {(int(y), int(x)) for y, x in np.ndindex(labels.shape)}
    all_of_them = []
    while left:
        todo = [left.pop()]
        value, held = labels[todo[0]], {todo[0]}
        while todo:
            y, x = todo.pop()
            for place in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                if place in left and labels[place] == value:
                    left.remove(place)
                    held.add(place)
                    todo.append(place)
        all_of_them.append((int(value), frozenset(held)))
    return all_of_them


@settings(max_examples=150, deadline=None)
@given(small, st.integers(1, 13))
def test_shapes_are_the_regions(labels: npt.NDArray[np.uint8], piece: int) -> None:
    """Each polygon holds the pixels of one region by the even-odd rule, and is as OGC asks: no ring meets itself."""
    drawn = []
    ys, xs = np.mgrid[: labels.shape[0], : labels.shape[1]] + 0.5
    for shape, rings in found(labels, piece, left_out=()):
        odd = np.zeros(labels.shape, bool)
        for ring in rings:
            after = np.roll(ring, -1, axis=0)
            assert ((ring == after).sum(axis=1) == 1).all(), (
                "a side that is neither level nor upright, or empty"
            )
            along = (after - ring != 0)[:, 0]
            assert (along != np.roll(along, 1)).all(), "a corner that is none"
            assert max(Counter(map(tuple, ring.tolist())).values()) == 1, "a ring that meets itself"
            for (xa, ya), (_, yb) in zip(ring.tolist(), after.tolist(), strict=True):
                odd ^= (min(ya, yb) < ys) & (ys < max(ya, yb)) & (xs > xa)
        held = frozenset((int(y), int(x)) for y, x in np.argwhere(odd))
        assert len(held) == shape.area
        drawn.append((shape.value, held))
    assert Counter(drawn) == Counter(regions(labels))


@settings(max_examples=40, deadline=None)
@given(small, st.integers(1, 6))
def test_any_cut_gives_the_same_rings(labels: npt.NDArray[np.uint8], piece: int) -> None:
    def canonical(size: int) -> Counter[Any]:
        rings = (
            (shape.value, ring.tolist()) for shape, all_of_it in found(labels, size) for ring in all_of_it
        )
        turned = ((value, ring.index(min(ring)), ring) for value, ring in rings)
        return Counter((value, tuple(map(tuple, ring[at:] + ring[:at]))) for value, at, ring in turned)

    assert canonical(piece) == canonical(64)


@settings(max_examples=60, deadline=None)
@given(small, st.sampled_from([".geojson", ".geojson.gz"]), st.integers(0, 2))
def test_drawn_back_it_is_the_same_mask(
    tmp_path_factory: pytest.TempPathFactory, labels: npt.NDArray[np.uint8], ending: str, background: int
) -> None:
    path = tmp_path_factory.mktemp("g") / f"m{ending}"
    mask = open_mask(labels)
    write_geojson(path, mask, legend=legend_of(mask, {}), left_out=(background,))
    if (labels == background).all():
        return
    height, width = labels.shape
    drawn = read_geojson(path, DrawingRules(height, width, background=background))
    np.testing.assert_array_equal(drawn.paint(slice(0, height), slice(0, width)), labels)


def test_only_the_edges_at_hand_are_looked_at(monkeypatch: pytest.MonkeyPatch, here: Path) -> None:
    labels = blobs(300, 400)
    write_geojson(Path("m.geojson"), open_mask(labels), legend=legend_of(open_mask(labels), {}))
    monkeypatch.setattr(drawing, "MANY", 8)
    monkeypatch.setattr(drawing, "TALL", 2)
    read = read_geojson(Path("m.geojson"), DrawingRules(*labels.shape))
    largest = max(read.polygons, key=lambda polygon: len(polygon.edges))
    assert largest.edges.dtype == np.int32
    assert 0 < len(largest.edges_at(100, 110)) < len(largest.edges) / 4
    for y in range(0, 300, 30):
        for x in range(0, 400, 80):
            part = read.paint(slice(y, y + 30), slice(x, x + 80))
            np.testing.assert_array_equal(part, labels[y : y + 30, x : x + 80])


def test_a_file_too_large_to_be_read_back_is_said(
    monkeypatch: pytest.MonkeyPatch, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    zarr.save_array("m.zarr", blobs(500, 700))
    monkeypatch.setattr(geojson, "MAX_GEOJSON_BYTES", 1 << 10)
    for name in ("m.geojson", "m.geojson.gz"):
        assert run("to-geojson", "m.zarr", name) == 0
        assert f"{name}: is larger than the 0 MiB, unpacked" in capsys.readouterr().err


def test_a_large_region_crosses_pieces_and_keeps_its_holes() -> None:
    labels = np.ones((300, 400), np.uint8)
    labels[50:150, 60:350] = 0
    labels[100:120, 100:140] = 2
    labels[200, 200] = 2
    by_value = {(shape.value, shape.area): len(rings) for shape, rings in found(labels, 64)}
    assert by_value == {(1, 300 * 400 - 100 * 290 - 1): 3, (2, 800): 1, (2, 1): 1}


def test_small_regions_and_holes_are_left_out() -> None:
    labels = np.ones((40, 40), np.uint8)
    labels[3, 3], labels[10:20, 10:20] = 2, 2
    kept = [(shape.value, len(rings)) for shape, rings in found(labels, 16, min_area=5)]
    assert sorted(kept) == [(1, 2), (2, 1)]


def run(*args: object) -> int:
    with pytest.raises(SystemExit) as caught:
        main([str(arg) for arg in args])
    assert isinstance(caught.value.code, int)
    return caught.value.code


def test_a_label_has_one_name(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    zarr.save_array("m.zarr", blobs(50, 70))
    assert run("to-geojson", "m.zarr", "m.geojson", "--label", "Tumor=2", "--label", "Fat=2") == 2
    assert "--label Fat=2: label 2 is called Tumor already; give it one name" in capsys.readouterr().err
    assert not Path("m.geojson").exists()


def test_the_command_names_classes_as_qupath_reads_them(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    zarr.save_array("m.zarr", blobs(500, 700))
    assert run("to-geojson", "m.zarr", "m.geojson.gz", "--label", "Tumor=2", "--min-area", "3") == 0
    assert "Tumor" in capsys.readouterr().out
    features = json.loads(gzip.decompress(Path("m.geojson.gz").read_bytes()))["features"]
    classes = {json.dumps(feature["properties"]["classification"]) for feature in features}
    assert '{"name": "label 1", "color": [86, 180, 233]}' in classes
    assert {feature["properties"]["objectType"] for feature in features} == {"annotation"}
    rings = features[0]["geometry"]["coordinates"]
    assert rings[0][0] == rings[0][-1]
    assert run("to-geojson", "m.zarr", "m.geojson.gz") == 2
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize("classified", [True, False])
def test_names_and_colours_of_qupath_come_back(here: Path, classified: bool) -> None:
    ring = [[2, 2], [30, 2], [30, 20], [2, 20], [2, 2]]
    said: dict[str, Any] = {"name": "Tumor", "color": [1, 2, 3]}
    drawn = {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"classification": said} if classified else said,
    }
    Path("a.geojson").write_text(json.dumps([drawn]))
    assert run("from-geojson", "a.geojson", "m.zarr", "--size", "40,30", "--label", "Tumor=7") == 0
    assert run("to-geojson", "m.zarr", "b.geojson") == 0
    (back,) = json.loads(Path("b.geojson").read_text())["features"]
    assert back["properties"]["classification"] == {"name": "Tumor", "color": [1, 2, 3]}
    assert sorted(back["geometry"]["coordinates"][0]) == sorted(ring)
    assert run("from-geojson", "b.geojson", "again.zarr", "--like", "m.zarr") == 0
    one, two = (open_mask(name) for name in ("m.zarr", "again.zarr"))
    np.testing.assert_array_equal(one[:, :], two[:, :])


def test_downsample_puts_corners_on_the_slide(here: Path) -> None:
    mask = open_mask(np.ones((3, 5), np.uint8))
    write_geojson(Path("a.geojson"), mask, legend=legend_of(mask, {}), downsample=2.5, origin=(10, 20))
    (feature,) = json.loads(Path("a.geojson").read_text())["features"]
    assert feature["geometry"]["coordinates"] == [[[20, 10], [32.5, 10], [32.5, 17.5], [20, 17.5], [20, 10]]]


def test_an_empty_mask_and_a_wrong_name(here: Path) -> None:
    mask = open_mask(np.zeros((3, 5), np.uint8))
    assert write_geojson(Path("a.geojson"), mask, legend=legend_of(mask, {})).total() == 0
    assert json.loads(Path("a.geojson").read_text()) == {"type": "FeatureCollection", "features": []}
    with pytest.raises(BadInput, match="must end in"):
        write_geojson(Path("a.json"), mask, legend=legend_of(mask, {}))


def test_labels_that_are_not_drawn_keep_their_names(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = np.zeros((30, 40), np.uint8)
    labels[5:9, 5:20] = 7
    legend = [Label(0, "Glass", (9, 9, 9), fill=(240, 240, 240)), Label(7, "Tumor", (1, 2, 3))]
    write_labels(Path("m.zarr"), lambda rows, cols: labels[rows, cols], height=30, width=40, labels=legend)
    assert run("to-geojson", "m.zarr", "a.geojson", "--label", "Fat=4") == 0
    assert "warning: --label Fat=4: the mask has no region of label 4 to draw" in capsys.readouterr().err
    assert run("from-geojson", "a.geojson", "again.zarr", "--size", "40,30") == 0
    again = open_mask("again.zarr")
    np.testing.assert_array_equal(again[:, :], labels)
    assert [label for label in own_legend(again) if label.value != 4] == legend
    assert {label.value: label.name for label in own_legend(again)}[4] == "Fat"
    assert run("from-geojson", "a.geojson", "other.zarr", "--size", "40,30", "--label", "Tumor=2") == 0
    assert np.unique(open_mask("other.zarr")[:, :]).tolist() == [0, 2]
