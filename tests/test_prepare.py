"""Does a plan say beforehand what a render will take?"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr
from safron.engine.options import RenderOptions
from safron.engine.prepare import prepare
from safron.io.errors import BadInput


@pytest.fixture
def mask(tmp_path: Path) -> Path:
    zarr.create_array(tmp_path / "m.zarr", data=np.zeros((600, 600), np.uint8), chunks=(256, 256))
    return tmp_path / "m.zarr"


def test_a_dry_run_counts_the_memory_of_all_processes(mask: Path, tmp_path: Path) -> None:
    options = RenderOptions(model="identity", block=512, executor="processes", workers=2, memory=1 << 40)
    two = prepare(mask, tmp_path / "o.tiff", options, dry_run=True).projected_bytes
    three = prepare(mask, tmp_path / "o.tiff", replace(options, workers=3), dry_run=True).projected_bytes
    assert three - two > 60 << 20, "one process takes that much before its first block"
    with pytest.raises(BadInput, match="projected peak memory is"):
        prepare(mask, tmp_path / "o.tiff", replace(options, memory=two // 2), dry_run=True)


def test_huge_chunks_are_in_the_plan_and_not_in_the_heap(tmp_path: Path) -> None:
    """A chunk is decoded whole, whatever part of it is read; nothing of it is stored here."""
    side, plans = 12_000, []
    for chunk in (1000, side):
        path = tmp_path / f"{chunk}.zarr"
        zarr.create_array(path, shape=(side, side), chunks=(chunk, chunk), dtype="uint8")
        plans.append(prepare(path, tmp_path / "o.tiff", RenderOptions(model="identity")))
    small, large = plans
    assert large.projected_bytes - small.projected_bytes > 2 * side**2
    assert large.heap_bytes <= small.heap_bytes
