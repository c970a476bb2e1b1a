"""Tissue has its true size: mask and generator may have different pixels, and the slide lies on the mask."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from math import floor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from cases import run_cli
from masks import blobs
from models import RampModel
from oracle import at_true_size
from safron.engine import IdentityModel, render
from safron.engine.plan.grid import PatchGrid
from safron.engine.plan.render_plan import choose_bits
from safron.engine.plan.scale import ONE, Scale, choose_scale
from safron.engine.plan.taper import Taper
from safron.io.errors import BadInput
from safron.io.masks.mask import Beside
from safron.io.masks.open import open_mask
from safron.io.masks.scaled import ScaledEdges

RATIOS = ["0.25", "0.499", "1.0", "2.0", "3.7", "8"]


def level0(path: Path) -> Any:
    return np.asarray(tifffile.imread(path, level=0))


def identity(mpp: float | None = 1.0, *, tile: int = 64) -> IdentityModel:
    """An identity generator that has a pixel size."""
    model = IdentityModel(tile=tile, context=4)
    model.card = replace(model.card, name="sized identity", mpp=mpp)
    return model


def expected(mask: Any, model: Any, ratio: str, *, overlap: int, seed: int = 0) -> Any:
    tile, taper = model.card.tile, Taper()
    scale = Fraction(ratio)
    grid = PatchGrid(
        *(-(-length * scale.numerator // scale.denominator) for length in mask.shape), tile, overlap, 4
    )
    bits = choose_bits(grid, taper, returns_uint8=model.returns_uint8)
    weights = taper.weights(tile=tile, overlap=overlap)
    return at_true_size(
        mask, model, scale=scale, tile=tile, overlap=overlap, weights=weights, bits=bits, seed=seed
    )


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("kind", ["identity", "ramp"])
def test_equals_oracle_and_is_one_slide_however_it_is_cut(tmp_path: Path, ratio: str, kind: str) -> None:
    side = 90 if float(ratio) > 2 else 260
    mask, digests = blobs(side, side + 37, cell=23), set()
    model: Any = identity() if kind == "identity" else RampModel()
    mpp = float(ratio) * model.card.mpp
    for block, workers, batch in ((None, 1, 1), (512, 3, 4)):
        out = tmp_path / f"{workers}.tiff"
        report = render(
            mask, out, model=model, mpp=mpp, overlap=12, compression="deflate", tiff_tile=64,
            block=block, workers=workers, batch=batch, seed=3,
        )  # fmt: skip
        digests.add(report.digest)
        assert (report.width, report.height, report.mpp) == (side + 37, side, mpp)
        assert report.scale == pytest.approx(float(ratio))
        assert report.run + report.painted == report.patches
    np.testing.assert_array_equal(level0(out), expected(mask, model, ratio, overlap=12, seed=3))
    assert len(digests) == 1


@pytest.mark.parametrize("ratio", ["0.125", "0.981", "1.019", "1.02", "2.7"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 77), (53, 1), (3, 2)], ids=str)
def test_narrow_masks_equal_the_oracle(tmp_path: Path, ratio: str, shape: tuple[int, int]) -> None:
    mask, model = blobs(80, 80, cell=7)[: shape[0], : shape[1]], RampModel()
    render(mask, tmp_path / "s.tiff", model=model, mpp=float(ratio), overlap=12, compression="deflate")
    drawn = "1" if abs(float(ratio) - 1) < 0.02 else ratio
    np.testing.assert_array_equal(level0(tmp_path / "s.tiff"), expected(mask, model, drawn, overlap=12))


@pytest.mark.parametrize("ratio", ["0.499", "3.7"])
def test_a_region_has_the_pixels_of_the_whole(tmp_path: Path, ratio: str) -> None:
    mask, model = blobs(150, 170, cell=23), RampModel()
    options: dict[str, Any] = {
        "model": model,
        "mpp": float(ratio) / 2,
        "compression": "lzw",
        "tiff_tile": 16,
        "overlap": 12,
    }
    render(mask, tmp_path / "whole.tiff", **options)
    render(mask, tmp_path / "part.tiff", region=(33, 21, 90, 100), **options)
    np.testing.assert_array_equal(
        level0(tmp_path / "part.tiff"), level0(tmp_path / "whole.tiff")[21:121, 33:123]
    )


def test_structures_have_their_true_size_and_place(tmp_path: Path) -> None:
    mask = np.ones((400, 500), np.uint8)
    y, x = np.mgrid[:400, :500]
    mask[(y - 180) ** 2 + (x - 260) ** 2 < 90**2] = 2
    render(mask, tmp_path / "s.tiff", model=identity(), mpp=0.499, compression="deflate")
    found = level0(tmp_path / "s.tiff")[..., 1] > 127  # label 2 is green
    assert abs(found.sum() / (mask == 2).sum() - 1) < 0.02
    rows, columns = np.nonzero(found)
    assert abs(rows.mean() - 180) < 0.5
    assert abs(columns.mean() - 260) < 0.5


@pytest.mark.parametrize(
    ("slide", "drawn", "scale"),
    [
        (1.0, 1.0, ONE),
        (1.019, 1.0, ONE),
        (None, 1.0, ONE),
        (0.5, None, ONE),
        (0.5, 1.0, Scale(1, 2)),
        (0.499, 1.0, Scale(499, 1000)),
        (0.25, 0.5, Scale(1, 2)),
        (8.0, 1.0, Scale(8, 1)),
    ],
    ids=str,
)
def test_scales(slide: float | None, drawn: float | None, scale: Scale) -> None:
    assert choose_scale(slide, drawn) == scale


@pytest.mark.parametrize("slide", [0.12, 8.1])
def test_scales_without_sense_are_refused(slide: float) -> None:
    with pytest.raises(
        BadInput, match=rf"the mask has {slide:g} um per pixel and the generator 1: .* --scale 1"
    ):
        choose_scale(slide, 1.0)


def write_mask(path: str, mpp: float | None) -> None:
    array = zarr.create_array(path, shape=(48, 48), chunks=(32, 32), dtype="uint8")
    array[12:36, 10:40] = 1
    if mpp is not None:
        array.attrs["mpp"] = mpp


@pytest.mark.parametrize(
    ("mpp", "args", "ratio", "warning"),
    [
        (1.0, "", 1.0, ""),
        (0.5, "", 0.5, ""),
        (0.95, "--scale 1", 1.0, ""),
        (None, "--mpp 0.5", 0.5, ""),
        (-1.0, "--mpp 0.5", 0.5, ""),
        (0.5, "--mpp 1", 1.0, ""),
        (0.5, "--scale 1", 1.0, "--scale 1: the mask has 0.5 um per pixel and generator 'safron-tissue' 1"),
        (None, "", 1.0, "has no pixel size; the generator's, 1 um, is used; pass the mask's with --mpp"),
    ],
    ids=str,
)
def test_plan_run_and_report_say_what_size_is_assumed(
    mpp: float | None, args: str, ratio: float, warning: str,
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    write_mask("mask.zarr", mpp)
    for more in ("--dry-run", "--report report.json"):
        outcome = run_cli(capfd, f"mask.zarr out.tiff --threads 1 --tile 64 {args} {more}")
        assert outcome.code == 0
        assert (warning in outcome.err) if warning else ("has no pixel size" not in outcome.err)
        if "dry" in more:
            assert ("resampled" in outcome.out) == (ratio != 1)
    report = json.loads(Path("report.json").read_text())
    assert report["scale"] == ratio
    assert [warning in line for line in report["warnings"]] == ([True] if warning else [])


@pytest.mark.parametrize("scale", [Scale(1, 2), Scale(2, 3), Scale(5, 8), Scale(1, 4), Scale(3, 7)], ids=str)
@pytest.mark.parametrize("shape", [(1, 4), (5, 13), (9, 2), (33, 21)])
def test_no_edge_is_lost_where_pixels_are_larger(scale: Scale, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(shape[0])
    given = (rng.random(shape) < 0.15).astype(np.int32) * -7
    height, width = (scale.drawn(side) for side in shape)
    # A last pixel that holds the centre of none takes the nearest.
    rows, columns = (
        [
            [at for at in range(side) if floor((at + Fraction(1, 2)) * scale.ratio) == place] or [side - 1]
            for place in range(scale.drawn(side))
        ]
        for side in shape
    )
    expected = np.array([[given[np.ix_(own, across)].any() for across in columns] for own in rows], np.uint8)
    seen = ScaledEdges(
        Beside(open_mask(given).plane, "edges", "m", shape), (height, width), scale.first_slide_index
    )
    np.testing.assert_array_equal(seen[0:height, 0:width], expected)
    for _ in range(9):
        (y0, y1), (x0, x1) = (sorted(rng.integers(0, side + 1, 2).tolist()) for side in (height, width))
        np.testing.assert_array_equal(seen[y0:y1, x0:x1], expected[y0:y1, x0:x1])
