"""A generator reads more than labels: each further input is a function of the canvas position."""

from __future__ import annotations

import re
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
from safron.engine.evaluation.overlap_mismatch import measure_mismatch
from safron.engine.generator.halving import in_halves
from safron.engine.generator.onnx_model import OnnxModel
from safron.engine.generator.planes import LabelEdges, one_patch, patch_windows
from safron.engine.plan.planes import PlaneSpec
from safron.engine.plan.window import Window
from safron.io.errors import BadInput
from safron.io.masks.open import open_mask


def edges_of(mask: Any, outside: int | None, far: int) -> Any:
    """Edges of the canvas and of `far` pixels around it, pixel by pixel: uint8 [h + 2 far, w + 2 far]."""
    beyond: dict[str, Any] = {"mode": "edge"} if outside is None else {"constant_values": outside}
    labels = np.pad(mask, far + 1, **beyond)
    edges = np.zeros_like(labels)
    for y in range(1, labels.shape[0] - 1):
        for x in range(1, labels.shape[1] - 1):
            around = (labels[y - 1, x], labels[y + 1, x], labels[y, x - 1], labels[y, x + 1])
            edges[y, x] = any(other != labels[y, x] for other in around)
    return edges[1:-1, 1:-1]


@settings(deadline=None)
@given(y=st.integers(-9, 30), x=st.integers(-9, 30), outside=st.sampled_from([None, 0, 2]))
def test_edges_of_any_window_are_those_of_the_canvas(y: int, x: int, outside: int | None) -> None:
    mask = blobs(31, 33, cell=5)
    window = Window(y, x, 10, 12)
    found = LabelEdges(mask, outside).read(window)
    assert found.dtype == np.uint8
    assert np.array_equal(found[0], edges_of(mask, outside, 30)[window.shift(30, 30).slices()])


@pytest.mark.parametrize("outside", [None, 1])
def test_a_render_equals_the_oracle_however_it_is_cut(tmp_path: Path, outside: int | None) -> None:
    mask, model, tile, overlap = blobs(230, 270, cell=17), EdgeModel(outside=outside), 64, 20
    far = tile + 4
    canvas = edges_of(mask, outside, far)
    expected = whole_render(
        mask,
        model,
        tile=tile,
        overlap=overlap,
        planes=lambda read: {"edges": canvas[read.shift(far, far).slices()][None]},
    )
    digests = set()
    for block, workers, batch in ((None, 1, 1), (128, 3, 4)):
        out = tmp_path / f"{block}.tiff"
        report = render(
            mask, out, model=model, overlap=overlap, compression="none", block=block, workers=workers,
            batch=batch, tiff_tile=64,
        )  # fmt: skip
        assert np.array_equal(np.asarray(tifffile.imread(out, level=0)), expected)
        assert "edges" in report.stages
        digests.add(report.digest)
    assert len(digests) == 1


def test_an_onnx_file_reads_edges(tmp_path: Path) -> None:
    mask = blobs(100, 100, cell=9)
    model = OnnxModel(
        write_onnx(tmp_path / "g.onnx", card=CARD | {"edges": {}, "noise_channels": 1}, noise=1, edges=True)
    )
    source = LabelEdges(mask, None)
    read = Window(0, 0, 72, 72)
    edges = patch_windows(source, read, 2, 16)
    labels = np.stack([mask[:72, :72], mask[:72, 16:88]])
    noise = np.zeros((2, 1, 72, 72), np.float32)
    image = model(labels, noise, edges=edges)
    inner = (slice(None), slice(4, -4), slice(4, -4))
    assert np.array_equal(image[..., 0], 60.0 * labels[inner] + 7.0 * edges[:, 0][inner])
    assert np.array_equal(in_halves(model, labels, noise, edges=edges), image)


def test_an_onnx_file_with_edges_renders(tmp_path: Path) -> None:
    write_onnx(tmp_path / "g.onnx", card=CARD | {"edges": {"of": "labels"}}, edges=True)
    mask = blobs(150, 130, cell=9)
    report = render(mask, tmp_path / "s.tiff", model=tmp_path / "g.onnx", compression="none", tiff_tile=64)
    slide = np.asarray(tifffile.imread(tmp_path / "s.tiff", level=0)).astype(float)
    expected = 60.0 * mask + 7.0 * edges_of(mask, None, 0)
    assert np.array_equal(slide[..., 0][mask > 0], np.rint(expected)[mask > 0])
    assert "edges" in report.stages
    measured = measure_mismatch(OnnxModel(tmp_path / "g.onnx"), open_mask(mask), tile=64, overlap=20)
    assert measured is not None
    assert measured.largest == 0.0


@pytest.mark.parametrize(
    ("card", "edges", "says"),
    [
        ({"edges": {}}, False, "input 'edges' must be tensor(uint8), found no such input"),
        ({}, True, "unknown inputs ['edges']; its card names 'labels'"),
        ({"edges": {"of": "cells"}}, True, "edges.of 'cells' must be 'labels', 'instances' or 'image'"),
    ],
)
def test_card_and_graph_must_agree(tmp_path: Path, card: dict[str, Any], edges: bool, says: str) -> None:
    path = write_onnx(tmp_path / "g.onnx", card=CARD | card, edges=edges)
    with pytest.raises(BadInput, match=re.escape(says)):
        OnnxModel(path)


def test_a_vector_is_one_for_every_patch() -> None:
    class Style:
        spec = PlaneSpec("style", 3, spatial=False)

        def read(self, window: Window) -> Any:
            return np.array([1, 2, 3], np.float32)

    first = Window(-4, -4, 24, 24)
    assert patch_windows(Style(), first, 5, 16).tolist() == [[1, 2, 3]] * 5
    inputs = one_patch((Style(),), np.zeros((24, 24), np.uint8), first)
    assert inputs["style"].shape == (1, 3)
    assert Style.spec.shape(24) == (3,)


def test_made_up_values_lie_in_the_range() -> None:
    values = PlaneSpec("edges", 2, "uint8", low=0, high=1).made_up(3, 8)
    assert values.shape == (3, 2, 8, 8)
    assert values.dtype == np.uint8
    assert np.unique(values).tolist() == [0, 1]
