"""Scratch is plain Zarr, whoever writes its chunks."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from safron.engine.plan import SEAMS_KEPT
from safron.engine.scratch import RECORD, Scratch, decode_chunk, encode_chunk
from test_plan import plan_for


def test_zarr_reads_what_was_written(tmp_path: Path) -> None:
    plan = plan_for(1300, 1700, block=512)
    scratch = Scratch(tmp_path / "scratch")
    scratch.create(plan, {})
    rng = np.random.default_rng(0)
    written = {}
    for index in plan.blocks():
        pixels = rng.integers(0, 256, plan.seam_capacity[0]).astype(np.uint8)
        sums = rng.integers(0, 1 << 15, plan.seam_capacity[1]).astype(plan.blend.sum_dtype)
        scratch.write_seams(index, pixels, sums)
        written[index] = (pixels, sums)
    assert len(written) > SEAMS_KEPT, "some must come from disk"
    stored = {name: zarr.open_array(scratch.path / "seams" / name, mode="r") for name in ("pixels", "sums")}
    for index, (pixels, sums) in written.items():
        np.testing.assert_array_equal(stored["pixels"][index], pixels)
        np.testing.assert_array_equal(stored["sums"][index], sums)
        for _ in range(2):  # from where it was written, and from where it was kept
            for found, wanted in zip(scratch.read_seams(index), (pixels, sums), strict=True):
                np.testing.assert_array_equal(found, wanted)
    level, chunk = plan.thumbnail_level, plan.block >> plan.thumbnail_level
    part = rng.integers(0, 256, (chunk, 300 >> level, 3)).astype(np.uint8)
    scratch.write_part(level, (1, 3), part)
    found = scratch.level(level)[chunk : 2 * chunk, 3 * chunk :]
    np.testing.assert_array_equal(found[:, : part.shape[1]], part[:, : found.shape[1]])
    assert scratch.has_part(level, (1, 3))
    assert not scratch.has_part(level, (0, 0)), "Zarr would read it as black"


def test_the_record_of_a_finished_slide_goes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = Scratch(tmp_path / "scratch")
    scratch.create(plan_for(1300, 1700, block=512), {})
    (scratch.path / RECORD).touch()
    left = []
    rmtree = shutil.rmtree

    def watched(path: Path, **more: Any) -> None:
        if path == scratch.path:
            left.extend(item.name for item in path.iterdir())
        rmtree(path, **more)

    monkeypatch.setattr(shutil, "rmtree", watched)
    scratch.remove()
    assert left == [RECORD]
    assert not scratch.path.exists()


@pytest.mark.parametrize(
    "spoil", [lambda chunk: chunk[:-1], lambda chunk: chunk[:9] + b"x" + chunk[10:], lambda chunk: b""]
)
def test_a_damaged_chunk_is_found(spoil: object) -> None:
    chunk = encode_chunk(np.arange(1000, dtype=np.int32))
    np.testing.assert_array_equal(decode_chunk(chunk, np.dtype(np.int32)), np.arange(1000))
    with pytest.raises((ValueError, RuntimeError)):
        decode_chunk(spoil(chunk), np.dtype(np.int32))  # type: ignore[operator]
