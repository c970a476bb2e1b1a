"""Sets of generated tiles hold what their manifest says, and Canny's edges do not depend on the window."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from cases import run_program
from hypothesis import given, settings
from hypothesis import strategies as st
from masks import blobs
from onnx_models import CARD, write_onnx
from safron.engine import augment
from safron.engine.nucleus_tiles import Move, draw_move, label_values
from safron.io.masks.canny import Canny, candidates, canny

LABELS = [
    {"value": 0, "name": "background", "color": [255, 255, 255], "fill": [240, 241, 242]},
    {"value": 1, "name": "tissue", "color": [255, 0, 0]},
    {"value": 2, "name": "epithelial", "color": [0, 255, 0]},
    {"value": 3, "name": "nucleus", "color": [0, 0, 255]},
]


def tiles(folder: Path, *names: str, side: int = 100) -> Path:
    for number, name in enumerate(names):
        classes = blobs(side, side, seed=number, labels=5, cell=17)
        for part, array in (("class", classes), ("inst", classes.astype(np.uint16) * 300)):
            (folder / part).mkdir(parents=True, exist_ok=True)
            assert cv2.imwrite(str(folder / part / f"{name}.png"), array)
        (folder / "images").mkdir(exist_ok=True)
        grey = np.where(classes == 3, 90, 200).astype(np.uint8)
        assert cv2.imwrite(str(folder / "images" / f"{name}.png"), np.stack([grey] * 3, axis=-1))
    return folder


def model(folder: Path) -> Path:
    card = CARD | {"labels": LABELS, "edges": {"of": "instances", "labels": [2, 3]}, "mpp": 0.25}
    return write_onnx(folder / "g.onnx", card=card, edges=True)


def read(path: Path) -> Any:
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


@pytest.mark.parametrize("kind", ["G0", "G1"])
def test_a_set(tmp_path: Path, capfd: Any, kind: str) -> None:
    data, out = tiles(tmp_path / "data", "a", "b", "c"), tmp_path / "out"
    arguments = (
        "--set",
        kind,
        "--model",
        model(tmp_path),
        "--leave-out",
        "b",
        "--seed",
        "3",
        "--copies",
        "2",
    )
    done = run_program(capfd, augment.main, data, out, *arguments)
    assert done.code == 0, done.err
    about = json.loads((out / "manifest.json").read_text())
    assert [(one["source"], one["name"]) for one in about["images"]] == [
        (name, f"{name}-{kind.lower()}-{copy}") for name in "ac" for copy in (0, 1)
    ]
    assert about["generator"]["licence"] == "CC0"
    for one in about["images"]:
        classes, numbers, image = (
            read(out / part / f"{one['name']}.png") for part in ("class", "inst", "images")
        )
        move = Move(**one["move"])
        assert (move == Move()) == (kind == "G0")
        assert np.array_equal(classes, move.apply(read(data / "class" / f"{one['source']}.png")))
        assert numbers.dtype == np.uint16
        assert np.array_equal(numbers, classes.astype(np.uint16) * 300)
        labels = np.array([1, 3, 3, 2, 3])[classes]
        # The generator draws 60 times the label, and 7 more in red on edges.
        assert set(np.unique(image[..., 2].astype(int) - 60 * labels)) == {0, 7}
    again = tmp_path / "again"
    assert run_program(capfd, augment.main, data, again, *arguments).code == 0
    assert (again / "manifest.json").read_text() == (out / "manifest.json").read_text()
    refused = run_program(capfd, augment.main, data, out, *arguments)
    assert refused.code == 2
    assert "exists already; pass --overwrite" in refused.error


def test_edges_of_the_image(tmp_path: Path, capfd: Any) -> None:
    data, out = tiles(tmp_path / "data", "a"), tmp_path / "out"
    done = run_program(capfd, augment.main, data, out, "--model", model(tmp_path), "--edges", "image")
    assert done.code == 0, done.err
    labels = np.array([1, 3, 3, 2, 3])[read(data / "class" / "a.png")]
    edges = read(out / "images" / "a-g0-0.png")[..., 2].astype(int) - 60 * labels == 7
    real = canny(read(data / "images" / "a.png"), Canny())
    assert np.array_equal(edges, real)
    border = cv2.dilate((read(data / "class" / "a.png") == 3).astype(np.uint8), np.ones((5, 5), np.uint8))
    assert edges.any()
    assert not edges[border == 0].any()


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda data: (data / "inst" / "a.png").unlink(), "a.png: is missing, and class has a; add it"),
        (
            lambda data: cv2.imwrite(str(data / "class" / "a.png"), np.full((100, 100), 9, np.uint8)),
            "classes are 0 to 4",
        ),
        (
            lambda data: cv2.imwrite(str(data / "inst" / "a.png"), np.zeros((9, 9), np.uint16)),
            "different sizes",
        ),
    ],
)
def test_damaged_tiles(tmp_path: Path, capfd: Any, spoil: Any, says: str) -> None:
    data = tiles(tmp_path / "data", "a")
    spoil(data)
    done = run_program(capfd, augment.main, data, tmp_path / "out", "--model", model(tmp_path))
    assert done.code == 2
    assert says in done.error
    assert not (tmp_path / "out").exists()


def test_a_generator_of_glands_makes_no_nuclei(tmp_path: Path, capfd: Any) -> None:
    data, other = tiles(tmp_path / "data", "a"), write_onnx(tmp_path / "g.onnx", card=CARD)
    done = run_program(capfd, augment.main, data, tmp_path / "out", "--model", other)
    assert done.code == 2
    assert "has no label 'miscellaneous', and none called nucleus" in done.error


def test_moves_keep_the_size_and_differ() -> None:
    plane = np.arange(60 * 50).reshape(60, 50)
    moves = [draw_move(plane.shape, [0, number]) for number in range(20)]
    assert len({*moves}) == 20
    assert Move() not in moves
    for move in moves:
        moved = move.apply(plane)
        assert moved.shape == ((50, 60) if move.turns % 2 else (60, 50))
        assert 1 <= move.scale <= 1.5
    assert np.array_equal(Move(turns=1).apply(plane), np.rot90(plane))


def test_labels_by_name() -> None:
    from safron.engine.generator.card import parse_card

    card = parse_card(json.dumps(CARD | {"labels": LABELS}), source="x")
    assert label_values(card).tolist() == [1, 3, 3, 2, 3]


@settings(max_examples=15, deadline=None)
@given(y=st.integers(0, 40), x=st.integers(0, 40), height=st.integers(1, 40), width=st.integers(1, 40))
def test_candidates_of_any_window(y: int, x: int, height: int, width: int) -> None:
    rng = np.random.default_rng(0)
    image = cv2.resize(rng.integers(0, 255, (20, 20, 3), np.uint8), (80, 80), interpolation=cv2.INTER_CUBIC)
    chosen = Canny()
    around = np.pad(image, ((chosen.margin,) * 2, (chosen.margin,) * 2, (0, 0)), mode="edge")
    whole = candidates(around, chosen)
    assert set(np.unique(whole)) == {0, 1, 2}
    reach = 2 * chosen.margin
    window = around[y : y + height + reach, x : x + width + reach]
    assert np.array_equal(candidates(window, chosen), whole[y : y + height, x : x + width])


def test_edges_are_where_opencv_finds_them() -> None:
    image = np.full((80, 80, 3), 200, np.uint8)
    cv2.circle(image, (40, 40), 20, (90, 60, 140), -1)
    found = canny(image, Canny())
    grey = cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (0, 0), 1.4)
    theirs = cv2.Canny(grey, 40, 80, L2gradient=True) > 0
    near = np.ones((3, 3), np.uint8)
    assert 80 < found.sum() < 200
    assert cv2.dilate(found, near)[theirs].all()
    assert cv2.dilate(theirs.astype(np.uint8), near)[found > 0].all()


@pytest.mark.parametrize(("part", "there"), [("class", "inst"), ("inst", "class")])
def test_a_tile_that_lacks_a_file_is_not_dropped(tmp_path: Path, capfd: Any, part: str, there: str) -> None:
    data = tiles(tmp_path / "data", "a", "b")
    (data / part / "b.png").unlink()
    (data / "images" / ".DS_Store").write_text("")
    given = [data, tmp_path / "out", "--model", model(tmp_path)]
    done = run_program(capfd, augment.main, *given)
    assert done.code == 2
    assert (
        f"b.png: is missing, and {there} has b; add it, or leave the tile out with --leave-out b" in done.err
    )
    done = run_program(capfd, augment.main, *given, "--leave-out", "b")
    assert done.code == 0, done.err


def test_pixel_size_and_licence_of_the_tiles_are_kept(tmp_path: Path, capfd: Any) -> None:
    data, made = tiles(tmp_path / "data", "a"), model(tmp_path)
    about = data / "dataset.json"

    def said(*more: str) -> tuple[Any, Any]:
        done = run_program(capfd, augment.main, data, tmp_path / "o", "--model", made, "--overwrite", *more)
        assert done.code == 0, done.err
        plain, whole = (
            json.loads((tmp_path / "o" / name).read_text()) for name in ("dataset.json", "manifest.json")
        )
        assert plain["mpp"] == whole["mpp"]
        return plain, whole

    assert said()[0]["mpp"] == 0.25
    about.write_text('{"mpp": 0.5, "licence": "CC BY", "name": "ours"}')
    plain, whole = said()
    assert (plain["mpp"], plain["licence"]) == (0.5, "images: CC0; labels: CC BY")
    assert whole["licence_of_labels"] == "CC BY"
    assert said("--mpp", "0.4")[0]["mpp"] == 0.4
    about.write_text('{"mpp": "half"}')
    done = run_program(capfd, augment.main, data, tmp_path / "p", "--model", made)
    assert done.code == 2
    assert "dataset.json" in done.err


def test_numbers_of_other_nuclei_are_refused(tmp_path: Path, capfd: Any) -> None:
    data = tiles(tmp_path / "data", "a")
    cv2.imwrite(str(data / "inst" / "a.png"), np.zeros((100, 100), np.uint16))
    done = run_program(capfd, augment.main, data, tmp_path / "o", "--model", model(tmp_path))
    assert done.code == 2
    assert "inst/a.png and class/a.png are not of the same nuclei" in done.err
    assert "0 % have both; restore them, or leave the tile out with --leave-out a" in done.err
