"""Masks beside images are not taken for tissue, whichever program wrote them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from safron.engine.evaluation.tile_sets import find_tiles
from safron.io.pair_names import find_masks
from safron.io.synthesis.tiles import read_tiles


def write(path: Path, value: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = np.full((64, 64, 3), (160, 90, 170), np.uint8)
    picture[8:24, 8:24] = value
    assert cv2.imwrite(str(path), picture)
    return path


def test_layouts_of_consep_and_of_tiles_with_instances(tmp_path: Path) -> None:
    images = {
        write(tmp_path / "c" / "images" / "a.png", 90),
        write(tmp_path / "t" / "train" / "images" / "b.png", 90),
    }
    masks = {
        write(tmp_path / name, 4)
        for name in ("c/class/a.png", "c/inst/a.png", "t/train/masks/b.png", "t/train/instances/b.png")
    }
    assert find_masks(images | masks) == masks
    assert len(find_tiles(tmp_path, size=64, most=9)) == 2


def test_tiles_without_labels_have_none_in_their_folder(tmp_path: Path) -> None:
    write(tmp_path / "a.png", 90)
    for name in ("a.mask.png", "a.gland.png", "a.instances.png", "a_mask.png"):
        write(tmp_path / name, 200)
    assert [name for name, _ in read_tiles([tmp_path])] == ["a.png"]


def test_numbers_of_instances_are_no_masks_to_train_on(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="training needs PyTorch: pip install 'safron[train]'")
    from safron.training.data.images import list_pairs

    for name in (
        "d/images/a.png",
        "d/masks/a.png",
        "d/instances/a.png",
        "e/a.png",
        "e/a.mask.png",
        "e/a.instances.png",
    ):
        write(tmp_path / name, 4)
    for folder in ("d", "e"):
        assert [name for name, *_ in list_pairs(tmp_path / folder, "pairs")] == ["a"]
