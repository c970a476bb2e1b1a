"""Edges of a slide read in pieces are those of the whole picture."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from cases import run_program
from safron.io import open_mask
from safron.io.masks import cli, image_edges
from safron.io.masks.canny import Canny, canny
from safron.io.masks.image_edges import write_edges


def picture(height: int, width: int) -> Any:
    """Blobs, and a spiral that fades: weak edges far from the strong ones that they hang together with."""
    rng = np.random.default_rng(0)
    image = cv2.resize(
        rng.integers(132, 138, (9, 11, 3), np.uint8), (width, height), interpolation=cv2.INTER_CUBIC
    )
    turn = np.linspace(0, 6 * np.pi, 400)
    points = np.stack([width / 2 + turn * 5 * np.cos(turn), height / 2 + turn * 5 * np.sin(turn)], axis=1)
    for number, (one, other) in enumerate(itertools.pairwise(points)):
        shade = min(100, 20 + number)
        cv2.line(image, one.astype(int).tolist(), other.astype(int).tolist(), (shade, shade, shade), 5)
    return image


@pytest.mark.parametrize("chunk", [32, 80])
def test_pieces_equal_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    image = picture(230, 250)
    cv2.imwrite(str(tmp_path / "s.png"), image[..., ::-1])
    settings = Canny(low=3.0, high=20.0)
    expected = canny(image, settings)
    # The spiral's weak end is an edge only because its strong middle is.
    alone = canny(image[:60], settings)
    assert alone.sum() < 0.5 * expected[:60].sum()
    monkeypatch.setattr("safron.io.masks.write.CHUNK", chunk)
    monkeypatch.setattr(image_edges, "CHUNK", chunk)
    write_edges(tmp_path / "s.png", tmp_path / "e.zarr", settings, block=chunk, workers=3)
    assert np.array_equal(open_mask(tmp_path / "e.zarr")[0:230, 0:250], expected)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["e.zarr", "s.png"]


def test_a_picture_without_edges(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "s.png"), np.full((40, 50, 3), 200, np.uint8))
    assert write_edges(tmp_path / "s.png", tmp_path / "e.zarr", Canny())[:2] == (40, 50)
    assert not open_mask(tmp_path / "e.zarr")[0:40, 0:50].any()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("grey.png",), "it has no colours"),
        (("none.svs",), "none.svs"),
        (("s.png", "--high", "129"), "129.0 is not in the range 0<x<=128"),
        (("s.png", "--sigma", "101"), "101.0 is not in the range 0<x<=100"),
        (("s.png", "--low", "20"), "--low 20: must not be above --high 14"),
    ],
)
def test_what_is_refused(tmp_path: Path, capfd: Any, arguments: tuple[str, ...], says: str) -> None:
    cv2.imwrite(str(tmp_path / "grey.png"), np.zeros((40, 50), np.uint8))
    cv2.imwrite(str(tmp_path / "s.png"), np.zeros((40, 50, 3), np.uint8))
    name, *more = arguments
    done = run_program(capfd, cli.main, "edges", tmp_path / name, tmp_path / "e.zarr", *more)
    assert done.code == 2
    assert says in done.error


def test_a_picture_cut_short(tmp_path: Path, capfd: Any) -> None:
    cv2.imwrite(str(tmp_path / "s.png"), np.arange(90 * 90 * 3, dtype=np.uint8).reshape(90, 90, 3))
    (tmp_path / "s.png").write_bytes((tmp_path / "s.png").read_bytes()[:70])
    done = run_program(capfd, cli.main, "edges", tmp_path / "s.png", tmp_path / "e.zarr")
    assert done.code == 1
    assert "s.png: cannot read " in done.error
    assert "--debug" not in done.error
    assert not (tmp_path / "e.zarr").exists()
