"""benchmarks/edges.py: by tile, in blocks, and what is there is not made again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("torch", reason="training needs PyTorch: pip install 'safron[train]'")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two tiles of 500 pixels."""
    rng = np.random.default_rng(0)
    for name in ("train_1", "train_2"):
        numbers = np.zeros((500, 500), np.uint16)
        numbers[100:120, 300:330] = 7
        planes = {"images": rng.integers(0, 255, (500, 500, 3), np.uint8), "inst": numbers}
        for part, array in (planes | {"class": (numbers > 0).astype(np.uint8)}).items():
            (tmp_path / part).mkdir(exist_ok=True)
            assert cv2.imwrite(str(tmp_path / part / f"{name}.png"), array)
    return tmp_path


def test_tiles_are_read_whole_or_in_blocks(folder: Path, load_bench: Callable[[str], Any]) -> None:
    edges = load_bench("edges")
    whole, blocks = edges.read(folder, ["train_1"]), edges.read(folder, ["train_1", "train_2"], 250)
    assert [mask.shape for mask in whole.masks] == [(500, 500)]
    assert len(blocks) == 8
    assert [int(mask.sum()) for mask in blocks.masks] == [0, 600, 0, 0] * 2
    assert np.array_equal(np.hstack(blocks.images[:2]), whole.images[0][:250])


def test_tiles_to_test_on_are_in_no_other_part(load_bench: Callable[[str], Any]) -> None:
    edges = load_bench("edges")
    assert not {*edges.TESTED} & {*edges.VALIDATED}


def test_the_table_has_what_is_there(load_bench: Callable[[str], Any]) -> None:
    edges = load_bench("edges")
    names = [*edges.SHOWN, *(f"background_{name}" for name in edges.SHOWN), "boundary_f1"]
    found = {
        f"unet, initial, seed {seed}": dict.fromkeys(names, value) for seed, value in ((0, 0.5), (1, 0.7))
    }
    found["unet, +G0 nuclei, seed 0"] = dict.fromkeys(names, 0.25)
    lines = edges.table(found, ["unet", "segnet"], ["initial", "+G0 nuclei", "+G1 nuclei"])
    assert len(lines) == 4
    assert lines[2].startswith("| unet | initial | 2 | 0.600 +- 0.141 |")
    assert lines[3].startswith("| unet | +G0 nuclei | 1 | 0.250 |")


def test_results_go_on(tmp_path: Path, load_bench: Callable[[str], Any]) -> None:
    kind, file = load_bench("results").Results, tmp_path / "scores.json"
    first = kind(file, 1.0)
    assert first.wants("a")
    first.keep("a", {"dice": 0.5})
    again = kind(file, 1.0)
    assert again.found == {"a": {"dice": 0.5}}
    assert again.wants("b")
    assert not again.wants("a")
    assert not kind(file, 0.0).wants("b")
