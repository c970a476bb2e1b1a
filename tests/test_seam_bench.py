"""Does benchmarks/seams.py look where patches overlap, at the same places in every image, and tell a fault there from one elsewhere?"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest
from safron.engine.evaluation.slide_grid import SlideGrid

GRID = SlideGrid(64, 20)
CROPS = 72


@pytest.fixture
def bench(load_bench: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = load_bench("seams")
    monkeypatch.setattr(module, "CROPS", CROPS)
    return module


def tissue(height: int = 420, width: int = 660) -> Any:
    """Grain of tissue, uint8 [y, x, 3], with a corner of glass."""
    rng = np.random.default_rng(7)
    image = cv2.GaussianBlur(rng.normal(150, 60, (height, width, 3)), (0, 0), 0.8).clip(0, 255)
    image[:200, :210] = 250
    return image.astype(np.uint8)


@pytest.fixture
def mosaic(bench: ModuleType) -> Any:
    image = tissue()
    return bench.Mosaic(np.zeros(image.shape[:2], np.uint8), image, (0, 210, 420), (0, 220, 440, 660))


@pytest.mark.parametrize("side", [76, 32])
def test_crops_are_centred_on_overlaps_inside_frames_on_tissue(
    bench: ModuleType, mosaic: Any, side: int
) -> None:
    places = bench.crop_places(mosaic, GRID, GRID.overlap / 2, side)
    assert len(places) == CROPS
    for y, x in places:
        centres = (y + side // 2) % GRID.stride, (x + side // 2) % GRID.stride
        assert GRID.overlap // 2 in centres
        assert y // 210 == (y + side - 1) // 210
        assert x // 220 == (x + side - 1) // 220
        assert (mosaic.image[y : y + side, x : x + side].mean(axis=2) < 240).mean() > 0.3
    down = [(y + side // 2) % GRID.stride == GRID.overlap // 2 for y, _ in places]
    assert CROPS / 6 < sum(down) < CROPS * 5 / 6, "both ways"


def test_a_fault_on_overlaps_shows_there_and_less_amid_patches(bench: ModuleType, mosaic: Any) -> None:
    soft = cv2.GaussianBlur(mosaic.image, (0, 0), 2)
    faulty, amid = mosaic.image.copy(), mosaic.image.copy()
    for start in range(0, 660, GRID.stride):
        faulty[:, start + 6 : start + 14] = soft[:, start + 6 : start + 14]
        faulty[start + 6 : start + 14] = soft[start + 6 : start + 14]
        amid[:, start + 28 : start + 36] = soft[:, start + 28 : start + 36]
    found = {
        name: bench.crop_distances(image, mosaic, GRID)
        for name, image in {
            "same": mosaic.image,
            "faulty": faulty,
            "amid": amid,
            "random": bench.control("random", mosaic),
        }.items()
    }
    assert found["same"]["overlaps_frechet"] == pytest.approx(0, abs=1e-6)
    for measure in ("overlaps_frechet", "narrow_frechet", "narrow_kernel"):
        assert found["random"][measure] > 3 * found["faulty"][measure] > 0
    assert found["faulty"]["narrow_frechet"] > 2 * found["faulty"]["inside_frechet"]
    assert found["amid"]["inside_frechet"] > 2 * found["amid"]["narrow_frechet"]


def test_controls_are_measured_as_generators_are_but_for_seams(
    bench: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = bench.Frames([tissue()[210:, 300:560]] * 14, [np.zeros((210, 260), np.uint8)] * 14)
    bench.show([bench.measure(name, tmp_path, frames, 64) for name in ("real", "random")])
    lines = capsys.readouterr().out.splitlines()
    made = {row["name"]: row for row in json.loads(lines[-1])}
    assert made["real"]["report"] is None
    assert made["real"]["overlaps_crops"] == CROPS
    assert made["real"]["overlaps_frechet"] < made["random"]["overlaps_frechet"] / 10
    assert any(line.startswith("random") for line in lines)
