"""Scratch is plain Zarr, whoever writes its chunks."""

from __future__ import annotations

import errno
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from plans import plan_for
from safron.engine.plan.render_plan import RenderPlan
from safron.engine.scratch import boundary_store
from safron.engine.scratch.arrays import RECORD, Scratch
from safron.engine.scratch.boundary_store import BoundarySums, Index, empty_boundary
from safron.engine.scratch.chunk_codec import decode_chunk, encode_chunk


def some_sums(plan: RenderPlan, index: Index) -> BoundarySums:
    """Noise of the size that a block's sums have."""
    rng = np.random.default_rng(index)
    pixels, sums = empty_boundary(plan, index)
    pixels[:] = rng.integers(0, 256, pixels.size)
    sums[:] = rng.integers(0, 1 << 15, sums.size)
    return pixels, sums


def assert_same(found: BoundarySums, wanted: BoundarySums) -> None:
    """Compare sums; as read from disk they may have zeros behind them."""
    for mine, theirs in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(mine[: theirs.size], theirs)
        assert not mine[theirs.size :].any()


@pytest.mark.parametrize(("room", "large"), [(0, 8 << 20), (1 << 30, 8 << 20), (0, 100_000)])
def test_zarr_reads_what_was_written(
    room: int, large: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boundary_store, "LARGE", large)
    plan = plan_for(1300, 1700, block=512)
    scratch = Scratch(tmp_path / "scratch")
    scratch.create(plan, {})
    scratch.boundaries.keep(room, lazily=False)
    written = {}
    for index in plan.blocks():
        written[index] = some_sums(plan, index)
        scratch.boundaries.write(index, *written[index])
    stored = {
        name: zarr.open_array(scratch.path / "boundary" / name, mode="r") for name in ("pixels", "sums")
    }
    assert (stored["pixels"].nchunks > len(written)) == (large == 100_000), (
        "several chunks where one is large"
    )
    for index, sums in written.items():
        assert_same((np.asarray(stored["pixels"][index]), np.asarray(stored["sums"][index])), sums)
        for _ in range(2):  # from where it was written, and from where it was kept
            assert_same(scratch.boundaries.read(index), sums)
    rng = np.random.default_rng(0)
    level, chunk = plan.thumbnail_level, plan.block >> plan.thumbnail_level
    part = rng.integers(0, 256, (chunk, 300 >> level, 3)).astype(np.uint8)
    scratch.write_part(level, (1, 3), part)
    found = scratch.level(level)[chunk : 2 * chunk, 3 * chunk :]
    np.testing.assert_array_equal(found[:, : part.shape[1]], part[:, : found.shape[1]])
    assert scratch.has_part(level, (1, 3))
    assert not scratch.has_part(level, (0, 0)), "Zarr would read it as black"


def test_boundary_sums_in_several_chunks_are_whole_or_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boundary_store, "LARGE", 100_000)
    plan, index = plan_for(1300, 1700, block=512), (0, 0)
    scratch = Scratch(tmp_path / "scratch")
    scratch.create(plan, {})
    for lost in range(2):
        scratch.boundaries.write(index, *some_sums(plan, index))
        assert scratch.boundaries.is_whole(index)
        files = sorted((scratch.path / "boundary" / "pixels").glob("c.0.0.*"))
        assert len(files) > 2
        files[-lost].unlink()
        assert not scratch.boundaries.is_whole(index)
        assert scratch.boundaries.stored() == {index}
        scratch.boundaries.free(index)
        assert not list((scratch.path / "boundary").glob("*/c.*"))


@dataclass
class Clock:
    """A clock that a test turns on."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


Behind = tuple[Scratch, dict[Index, BoundarySums], Clock]


@pytest.fixture
def behind(tmp_path: Path) -> Behind:
    """Scratch with room in memory for three sums, sums for it, and its clock."""
    plan, clock = plan_for(1300, 1700, block=512), Clock()
    scratch = Scratch(tmp_path / "scratch", clock=clock)
    scratch.create(plan, {})
    sums = {index: some_sums(plan, index) for index in plan.blocks()}
    largest = max(sum(part.nbytes for part in parts) for parts in sums.values())
    scratch.boundaries.keep(3 * largest, lazily=True)
    return scratch, sums, clock


def test_seams_are_written_where_there_is_no_room(
    behind: Behind,
) -> None:
    scratch, sums, _ = behind
    made = []
    for index, parts in sums.items():
        scratch.boundaries.write(index, *parts)
        made.append(index)
        alone = scratch.boundaries.in_memory_only()
        assert alone.isdisjoint(scratch.boundaries.stored()), "each is in one place"
        assert alone | scratch.boundaries.stored() == set(made), "none is lost"
        assert alone == set(made[-len(alone) :]), "the oldest go first"
        assert len(alone) >= min(3, len(made))
        kept = sum(part.nbytes for each in scratch.boundaries._kept.values() for part in each)
        assert kept <= scratch.boundaries._room
    assert scratch.boundaries.stored(), "some must be written"
    for index, parts in sums.items():
        assert_same(scratch.boundaries.read(index), parts)


def test_seams_that_nobody_needs_are_never_written(
    behind: Behind,
) -> None:
    scratch, sums, _ = behind
    for index, parts in sums.items():
        scratch.boundaries.write(index, *parts)
        assert scratch.boundaries.forget(index), "it lay in memory alone"
        assert not scratch.boundaries.forget(index)
    assert not scratch.boundaries.stored()
    assert not scratch.boundaries._kept


def test_seams_that_wait_are_written(behind: Behind) -> None:
    scratch, sums, clock = behind
    first, second, *_ = sums
    scratch.boundaries.write(first, *sums[first])
    clock.now += 59
    scratch.boundaries.flush(seconds=60)
    assert not scratch.boundaries.stored()
    scratch.boundaries.write(second, *sums[second])
    clock.now += 1
    scratch.boundaries.flush(seconds=60)
    assert scratch.boundaries.stored() == {first}
    assert scratch.boundaries.in_memory_only() == {second}
    scratch.boundaries.flush()
    assert scratch.boundaries.stored() == {first, second}
    assert not scratch.boundaries.in_memory_only()
    assert not scratch.boundaries.forget(first), "it lies on disk, too"
    assert_same(scratch.boundaries.read(first), sums[first])


def test_seams_that_took_long_are_written_at_once(
    behind: Behind,
) -> None:
    scratch, sums, _ = behind
    cheap, slow, *_ = sums
    scratch.boundaries.write(cheap, *sums[cheap], seconds=0.01)
    scratch.boundaries.write(slow, *sums[slow], seconds=2.0)
    assert scratch.boundaries.stored() == {slow}
    assert scratch.boundaries.in_memory_only() == {cheap}


def test_seams_forgotten_while_they_are_written_leave_no_file(
    behind: Behind, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch, sums, _ = behind
    index = next(iter(sums))
    store = scratch.boundaries._store

    def forgotten(block: Index, *parts: Any) -> None:
        assert scratch.boundaries.forget(block)
        store(block, *parts)

    monkeypatch.setattr(scratch.boundaries, "_store", forgotten)
    scratch.boundaries.write(index, *sums[index])
    scratch.boundaries.flush()
    assert not scratch.boundaries.stored()


def test_seams_that_a_disk_did_not_take_are_not_lost(behind: Behind, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch, sums, _ = behind
    index = next(iter(sums))

    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    scratch.boundaries.write(index, *sums[index])
    with monkeypatch.context() as patched:
        patched.setattr(scratch._arrays, "write", full)
        with pytest.raises(OSError, match="No space"):
            scratch.boundaries.flush()
    assert scratch.boundaries.in_memory_only() == {index}
    scratch.boundaries.flush()
    assert scratch.boundaries.stored() == {index}


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
