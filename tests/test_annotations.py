"""QuPath's polygons become the pixels whose centres they hold, however the canvas is cut."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safron.io import json_texts
from safron.io.errors import BadInput
from safron.io.legend import Label
from safron.io.masks import geojson
from safron.io.masks.annotations import DrawingRules, read_geojson
from safron.io.masks.drawing import Coverage, Drawing, edges_of, inside

SQUARE = [[10, 10], [20, 10], [20, 20], [10, 20], [10, 10]]
HOLE = [[13, 13], [17, 13], [17, 17], [13, 17], [13, 13]]


def feature(
    coordinates: Any, name: str | None = "Gland", kind: str = "Polygon", **geometry: Any
) -> dict[str, Any]:
    properties: dict[str, Any] = {"objectType": "annotation"}
    if name is not None:
        properties["classification"] = {"name": name, "color": [0, 200, 0]}
    return {
        "type": "Feature",
        "id": "6423a977",
        "geometry": {"type": kind, "coordinates": coordinates} | geometry,
        "properties": properties,
    }


def read(folder: Path, *features: Any, document: Any = None, size: int = 40, **options: Any) -> Drawing:
    path = folder / "a.geojson"
    path.write_text(json.dumps(document or {"type": "FeatureCollection", "features": list(features)}))
    return read_geojson(path, DrawingRules(size, size, **options))


def whole(drawing: Drawing, size: int = 40) -> npt.NDArray[np.uint8]:
    return drawing.paint(slice(0, size), slice(0, size))


def crosses(points: npt.NDArray[np.float64], y: float, x: float) -> bool:
    """Even-odd by its definition, one pixel and one edge at a time."""
    odd = False
    for (xa, ya), (xb, yb) in zip(points, np.roll(points, -1, axis=0), strict=True):
        if ya > yb:
            xa, ya, xb, yb = xb, yb, xa, ya
        if ya <= y < yb and xa + (y - ya) * ((xb - xa) / (yb - ya)) <= x:
            odd = not odd
    return odd


coordinate = st.one_of(
    st.integers(-8, 30).map(float), st.floats(-8, 30, width=32), st.integers(-8, 30).map(lambda n: n + 0.5)
)
rings = st.lists(st.tuples(coordinate, coordinate), min_size=3, max_size=9).map(lambda r: np.array(r, float))


@settings(max_examples=60, deadline=None)
@given(rings)
def test_a_pixel_is_inside_if_its_centre_is(ring: npt.NDArray[np.float64]) -> None:
    expected = [[crosses(ring, y + 0.5, x + 0.5) for x in range(24)] for y in range(20)]
    np.testing.assert_array_equal(inside(edges_of([ring]), 0, 20, 0, 24), expected)


@settings(max_examples=60, deadline=None)
@given(st.lists(rings, min_size=1, max_size=3), st.integers(1, 20), st.integers(1, 24))
def test_any_cut_gives_the_same_pixels(
    shapes: list[npt.NDArray[np.float64]], height: int, width: int
) -> None:
    edges = edges_of(shapes)
    pieces = np.zeros((20, 24), bool)
    for y in range(0, 20, height):
        for x in range(0, 24, width):
            y1, x1 = min(y + height, 20), min(x + width, 24)
            pieces[y:y1, x:x1] = inside(edges, y, y1, x, x1)
    np.testing.assert_array_equal(pieces, inside(edges, 0, 20, 0, 24))


@settings(max_examples=60, deadline=None)
@given(rings, coordinate, coordinate)
def test_two_halves_share_no_pixel_and_leave_none(ring: npt.NDArray[np.float64], y: float, x: float) -> None:
    """Two polygons that share a line, drawn in opposite directions, fill their union exactly once."""
    middle = np.array([[x, y]])
    first = np.concatenate([ring[:2], middle])
    second = np.concatenate([middle, ring[1:2][::-1], ring[2:]])
    both = np.concatenate([ring[:2], ring[2:], middle])
    sides = [inside(edges_of([part]), 0, 20, 0, 24) for part in (first, second)]
    np.testing.assert_array_equal(sides[0] ^ sides[1], inside(edges_of([both]), 0, 20, 0, 24))


def test_a_square_covers_its_pixels_and_no_more(tmp_path: Path) -> None:
    expected = np.zeros((40, 40), np.uint8)
    expected[10:20, 10:20] = 2
    np.testing.assert_array_equal(whole(read(tmp_path, feature([SQUARE]))), expected)


def test_holes_stay_open(tmp_path: Path) -> None:
    labels = whole(read(tmp_path, feature([SQUARE, HOLE])))
    assert (labels[13:17, 13:17] == 0).all()
    assert np.count_nonzero(labels) == 100 - 16


def test_multipolygons(tmp_path: Path) -> None:
    far = [[30, 30], [33, 30], [33, 32], [30, 32], [30, 30]]
    labels = whole(read(tmp_path, feature([[SQUARE, HOLE], [far]], kind="MultiPolygon")))
    assert (labels[30:32, 30:33] == 2).all()
    assert np.count_nonzero(labels) == 84 + 6


def test_later_polygons_cover_earlier_ones(tmp_path: Path) -> None:
    labels = whole(
        read(tmp_path, feature([SQUARE], "stroma"), feature([HOLE]), feature([HOLE[:3]], "BACKGROUND"))
    )
    assert [np.count_nonzero(labels == value) for value in (1, 2)] == [84, 6]


def test_smaller_polygons_cover_larger_ones(tmp_path: Path) -> None:
    """A frame's area is without its hole: the frame of 84 px lies upon the square of 90."""
    other = [[10, 10], [20, 10], [20, 19], [10, 19], [10, 10]]
    shapes = feature([HOLE]), feature([SQUARE, HOLE], "stroma"), feature([other], "background")
    by_file = whole(read(tmp_path, *shapes, background=9))
    by_area = whole(read(tmp_path, *shapes, background=9, order="area"))
    assert [np.count_nonzero(by_file == value) for value in (0, 1, 2)] == [90, 10, 0]
    assert [np.count_nonzero(by_area == value) for value in (0, 1, 2)] == [0, 84, 16]


@pytest.mark.parametrize("side", [40, 7])
def test_polygons_without_a_pixel_are_counted(tmp_path: Path, side: int) -> None:
    specks = [[[y, 30.6], [y + 0.3, 30.6], [y + 0.3, 30.9]] for y in (3, 4)]
    drawing = read(
        tmp_path, feature([HOLE]), feature([HOLE[:4]], "stroma"), feature([SQUARE], "background"),
        feature([[[5, 5], [15, 5], [15, 15], [5, 15]]], "stroma"), *(feature([speck]) for speck in specks),
    )  # fmt: skip
    coverage = Coverage()
    for y in range(0, 40, side):
        for x in range(0, 40, side):
            part = slice(y, min(y + side, 40)), slice(x, min(x + side, 40))
            np.testing.assert_array_equal(drawing.paint(*part, coverage), drawing.paint(*part))
    covered, between = coverage.lost(drawing)
    assert (covered, between) == ({"Gland": 1, "stroma": 1}, {"Gland": 2})


@pytest.mark.parametrize(
    "ring", [[[5, 5]], [[5, 5], [5, 9]], [[0, 0], [0, 40], [0, 0]], [[5, 7], [9, 7], [5, 7]]]
)
def test_polygons_without_an_inside_do_not_lie_beyond_the_canvas(
    tmp_path: Path, ring: list[list[int]]
) -> None:
    drawing = read(tmp_path, feature([ring]), feature([[[40, 0], [40, 9]]]))
    assert (len(drawing.polygons), drawing.outside, whole(drawing).any()) == (1, 1, False)


def test_planes_are_counted(tmp_path: Path) -> None:
    shapes = [feature([SQUARE], plane={"c": -1, "z": z, "t": 0}) for z in (0, 7, 7)] + [feature([HOLE])]
    assert read(tmp_path, *shapes).planes == {(0, 0): 2, (7, 0): 2}


def test_nuclei_are_counted_or_drawn_upon_their_cells(tmp_path: Path) -> None:
    nucleus = {"type": "Polygon", "coordinates": [HOLE]}
    cell = feature([SQUARE], "stroma") | {"nucleusGeometry": nucleus}
    left_out = read(tmp_path, cell, feature([SQUARE]))
    assert (left_out.nuclei, np.count_nonzero(whole(left_out) == 2)) == (1, 100)
    drawn = read(tmp_path, cell, nuclei=7)
    assert (drawn.nuclei, np.bincount(whole(drawn).ravel())[[1, 7]].tolist()) == (0, [84, 16])


def test_packed_files_are_read_and_too_large_ones_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = {"type": "FeatureCollection", "features": [feature([SQUARE])]}
    path = tmp_path / "a.geojson.gz"
    path.write_bytes(gzip.compress(json.dumps(document).encode()))
    assert np.count_nonzero(whole(read_geojson(path, DrawingRules(40, 40)))) == 100
    monkeypatch.setattr(geojson, "MAX_GEOJSON_BYTES", 1 << 20)
    path.write_bytes(gzip.compress(bytes((1 << 20) + 1)))
    with pytest.raises(BadInput, match="is larger than 1 MiB"):
        read_geojson(path, DrawingRules(40, 40))


RS = "\x1e"


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("a.geojsonl", "{0}\n{1}\n"),
        ("a.ndjson", "\n{0}\r\n\n{1}"),
        ("a.geojson", "{0}\n{1}\n"),  # as ogr2ogr calls it when it is told to
        ("a.geojsons", "\x1e{0}\n\x1e{1}\n"),
        ("a.geojsonseq", "\x1e{0}\x1e{1}"),
        ("a.jsonl", "\ufeff\x1e{2}\n\x1e\n\x1e{3}\n"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_sequences_are_the_collection_of_their_records(
    tmp_path: Path, name: str, form: str, packed: bool
) -> None:
    small = [[12, 12], [18, 12], [18, 18], [12, 18], [12, 12]]
    records = feature([SQUARE], "Gland"), feature([small], "Stroma")
    text = form.format(*map(json.dumps, records), *(json.dumps(record, indent=1) for record in records))
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    drawn = whole(read_geojson(path, DrawingRules(40, 40)))
    assert np.bincount(drawn.ravel())[1:].tolist() == [36, 64]
    np.testing.assert_array_equal(drawn, whole(read(tmp_path, *records)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{0}\n{{"a": \n', r"cannot be read as GeoJSON \(record 1: Expecting value"),
        ("\x1e{0}\n\x1e{0}{0}\n", r"record 1: Extra data"),
        ('{0}\n{{"a": 1}}\n', "record 1: no GeoJSON features in it; it holds a"),
        ('{0}\n{{"geometry": {{"type": 5}}}}\n', "record 1: feature 0: its geometry must be an object"),
        ("\x1e\n", "none of its 0 objects is a polygon"),
        ("", "Expecting value"),
    ],
)
def test_a_bad_record_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "a.geojsonl"
    path.write_text(text.format(json.dumps(feature([SQUARE]))))
    with pytest.raises(BadInput, match=message) as caught:
        read_geojson(path, DrawingRules(40, 40))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("mark", ["", RS])
def test_a_sequence_may_be_larger_than_one_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mark: str
) -> None:
    record = mark + json.dumps(feature([SQUARE])) + "\n"
    monkeypatch.setattr(geojson, "MAX_GEOJSON_BYTES", 2 * len(record))
    path = tmp_path / "a.geojsonl"
    path.write_text(record * 20)
    assert len(read_geojson(path, DrawingRules(40, 40)).polygons) == 20
    path.write_text(record + mark + json.dumps(feature([SQUARE * 9])) + "\n")
    with pytest.raises(BadInput, match=r"is larger than .* bytes, the most that is read"):
        read_geojson(path, DrawingRules(40, 40))
    monkeypatch.setattr(json_texts, "MAX_SEQUENCE_BYTES", 10 * len(record))
    path.write_text(record * 20)
    with pytest.raises(BadInput, match=r"is larger than .* bytes, the most that is read"):
        read_geojson(path, DrawingRules(40, 40))


def test_a_sequence_is_read_in_the_memory_of_its_polygons(tmp_path: Path) -> None:
    """Beside each record stands what nobody asks for, so that the text is a hundred times what is kept of it."""
    path = tmp_path / "a.geojsonl"
    measured = {"measurements": {f"Nucleus: channel {number} mean": number / 7 for number in range(1000)}}
    record = feature([SQUARE])
    record["properties"] |= measured
    path.write_text((json.dumps(record) + "\n") * 500)
    tracemalloc.start()
    try:
        drawing = read_geojson(path, DrawingRules(40, 40))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(drawing.polygons) == 500
    assert peak < path.stat().st_size / 10


def test_coordinates_are_read_as_json_says_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain rings become arrays without Python numbers; whatever is odd is read as before."""
    rings = [
        "[[1,2],[30,2],[30,20],[1,2]]",
        "[ [1.5, -2] ,\n [3e1, 2E0], [30.25, 20] ]",
        "[[1,2,7],[30,2,7],[30,20,7]]",
        "[[5000000000,2],[30,2],[30,20]]",
    ]
    for number, ring in enumerate(rings):
        for kind, coordinates in (
            ("Polygon", f"[{ring}, {rings[0]}]"),
            ("MultiPolygon", f"[[{ring}],[{ring}]]"),
        ):
            path = tmp_path / f"{number}{kind}.geojson"
            geometry = f'{{"coordinates": {coordinates}, "type": "{kind}", "plane": {{"z": 2}}}}'
            path.write_text(
                f'{{"features": [{{"geometry": {geometry}, "properties": {{"name": "\u00e9"}}}}], "more": [1]}}',
                "utf-8",
            )
            found = geojson.read_objects(path)
            with monkeypatch.context() as plain:
                plain.setattr(geojson, "_parsed", json_texts.parse_json)
                wanted = geojson.read_objects(path)
            assert found.planes == wanted.planes
            assert len(found.shapes) == len(wanted.shapes) > 0
            for one, other in zip(found.shapes, wanted.shapes, strict=True):
                assert one.name == other.name == "\u00e9"
                for here, there in zip(one.rings, other.rings, strict=True):
                    np.testing.assert_array_equal(here, there)


@pytest.mark.parametrize(
    "ring", ["[[1,2],[3],[4,5,6]]", "[[1,2],[NaN,2],[3,4]]", "[[1,2],[01,2],[3,4]]", "[]", "7"]
)
def test_rings_that_are_none_are_refused(tmp_path: Path, ring: str) -> None:
    path = tmp_path / "a.geojson"
    path.write_text(f'{{"features": [{{"geometry": {{"type": "Polygon", "coordinates": [{ring}]}}}}]}}')
    with pytest.raises(BadInput, match=r"a\.geojson"):
        read_geojson(path, DrawingRules(40, 40))


def test_large_json_of_another_form_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(geojson, "MAX_JSON_BYTES", 10)
    path = tmp_path / "a.geojson"
    path.write_text(json.dumps([feature([SQUARE])]))
    with pytest.raises(BadInput, match="and no FeatureCollection that keeps to JSON"):
        read_geojson(path, DrawingRules(40, 40))
    path.write_text(json.dumps({"features": [feature([SQUARE])]}))
    assert np.count_nonzero(whole(read_geojson(path, DrawingRules(40, 40)))) == 100


def test_ellipses_are_those_of_their_bounding_box(tmp_path: Path) -> None:
    diamond = [[5, 20], [20, 10], [35, 20], [20, 30], [5, 20]]
    labels = whole(read(tmp_path, feature([diamond], isEllipse=True)))
    ys, xs = np.mgrid[:40, :40] + 0.5
    np.testing.assert_array_equal(labels > 0, ((xs - 20) / 15) ** 2 + ((ys - 20) / 10) ** 2 <= 1)


def test_all_forms_of_a_file(tmp_path: Path) -> None:
    one = feature([SQUARE])
    expected = whole(read(tmp_path, one))
    named = {**one, "properties": {"name": "gland", "color": [255, 0, 0]}}
    older = {**one, "properties": {"classification": {"name": "Gland", "colorRGB": -3670016}}}
    text = {**one, "properties": {"classification": "Gland"}}
    several = {**one, "geometry": {"type": "GeometryCollection", "geometries": [one["geometry"]]}}
    for document in ([one], one, [named], [older], [text], [several]):
        np.testing.assert_array_equal(whole(read(tmp_path, document=document)), expected)
    nested = {**one, "properties": {"classification": {"names": ["Gland", "Positive"]}}}
    np.testing.assert_array_equal(whole(read(tmp_path, nested, labels={"gland: positive": 2})), expected)
    assert read(tmp_path, older).legend[-1] == Label(2, "Gland", (200, 0, 0))
    bare = {"type": "MultiPolygon", "coordinates": [[SQUARE]]}
    np.testing.assert_array_equal(whole(read(tmp_path, document=bare, labels={"unclassified": 2})), expected)
    unnamed = feature([SQUARE], None)
    np.testing.assert_array_equal(whole(read(tmp_path, unnamed, labels={"unclassified": 2})), expected)


def test_labels_background_and_what_is_left_out(tmp_path: Path) -> None:
    line = feature([[1, 1], [5, 5]], "Measure", "LineString")
    away = feature([[[50, 50], [60, 50], [60, 60], [50, 50]]])
    drawing = read(
        tmp_path, feature([SQUARE], "Tumor"), feature([HOLE], "Region*"), line, line, away,
        labels={"tumor": 7}, ignore=["region*"], background=3,
    )  # fmt: skip
    assert np.bincount(whole(drawing).ravel()).tolist() == [0, 0, 0, 1500, 0, 0, 0, 100]
    assert drawing.skipped == {"LineString": 2}
    assert drawing.outside == 1


def test_downsample_keeps_the_place(tmp_path: Path) -> None:
    labels = whole(read(tmp_path, feature([SQUARE]), downsample=2.0), 40)
    assert labels[5:10, 5:10].all()
    assert np.count_nonzero(labels) == 25


def test_blocks_across_cells_of_the_index(tmp_path: Path) -> None:
    ring = [[1000, 1500], [5000, 900.5], [4100, 4700], [2500, 3000], [1000, 1500]]
    drawing = read(
        tmp_path, feature([ring]), feature([[[2040, 2040], [2060, 2040], [2050, 2060]]], "stroma"), size=5000
    )
    expected = drawing.paint(slice(0, 5000), slice(0, 5000))
    assert np.count_nonzero(expected == 1) == 200
    for y in range(0, 5000, 1700):
        for x in range(0, 5000, 2048):
            rows, cols = slice(y, min(y + 1700, 5000)), slice(x, min(x + 2048, 5000))
            np.testing.assert_array_equal(drawing.paint(rows, cols), expected[rows, cols])


def test_polygons_far_beyond_the_canvas_cost_nothing(tmp_path: Path) -> None:
    huge = [[-1e12, -1e12], [1e12, -1e12], [1e12, 1e12], [-1e12, 1e12]]
    assert (whole(read(tmp_path, feature([huge]))) == 2).all()


def test_unknown_classes_are_listed_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(
        BadInput,
        match=r"no label is known for 'Tumor' \(2\), 'Fat' \(1\); known are .*gland=2; add them to the labels",
    ):
        read(tmp_path, feature([SQUARE], "Tumor"), feature([SQUARE], "Tumor"), feature([SQUARE], "Fat"))


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"a": 1}, "no GeoJSON features"),
        ([1], "no GeoJSON features"),
        (3, "no GeoJSON features"),
        ({"name": "a", "elements": []}, "no GeoJSON features in it; it holds name, elements"),
        (feature([[[1, 2], [3, "x"]]]), "feature 0: each ring of its polygon must be a list of corners"),
        (feature([[[1, 2], [float("nan"), 1]]]), "feature 0: each ring .*finite numbers"),
        (feature([[[]]]), "feature 0: each ring"),
        (feature([5]), "feature 0: each ring"),
        (feature([[["1", "2"], ["3", "4"], ["5", "9"]]]), "feature 0: each ring"),
        (feature([[[True, False], [True, True], [False, True]]]), "feature 0: each ring"),
        (feature([[[-1e308, 0], [1e308, 1e308], [0, 9]]]), "feature 0: each ring .*at most 1e.15"),
        (feature([["ab"]]), "feature 0: each ring"),
        (feature(5), "feature 0: the coordinates of its Polygon must be a list"),
        (
            [feature([SQUARE]), {"geometry": {"coordinates": []}}],
            "feature 1: its geometry must be an object with a type",
        ),
        (feature([SQUARE], plane=5), "feature 0: its plane must be an object, not 5"),
        (feature([SQUARE], plane={"z": "a"}), "feature 0: z and t of its plane must be whole numbers"),
        (
            {"geometry": {"type": "Polygon"}, "properties": []},
            r"feature 0: its properties must be an object, not \[\]",
        ),
        ({"geometry": {"type": "GeometryCollection"}}, "feature 0: the geometries of its GeometryCollection"),
        (
            {"labels": [{"value": 300}], "features": []},
            "a.geojson, labels: .*value 300 must be a whole number, 0 to 255",
        ),
        ({"type": "Feature", "geometry": None, "properties": None}, "none of its 1 objects is a polygon"),
        ({"type": "FeatureCollection", "features": []}, "none of its 0 objects"),
        (feature([[[90, 90], [95, 90], [95, 95]]]), "all its polygons lie beyond a canvas of 40 x 40 pixels"),
    ],
)
def test_bad_files_are_refused_in_one_line(tmp_path: Path, document: Any, message: str) -> None:
    with pytest.raises(BadInput, match=message) as caught:
        read(tmp_path, document=document)
    assert "\n" not in str(caught.value)


def test_no_file_and_no_json(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="No such file"):
        read_geojson(tmp_path / "none.geojson", DrawingRules(9, 9))
    (tmp_path / "x.geojson").write_text("<xml>")
    with pytest.raises(
        BadInput, match=r"cannot be read as GeoJSON \(Expecting value.*; mend it, or export it again"
    ):
        read_geojson(tmp_path / "x.geojson", DrawingRules(9, 9))
