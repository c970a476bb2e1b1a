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
from safron.engine.scratch.arrays import RECORD, Scratch
from safron.engine.scratch.chunk_codec import decode_chunk, encode_chunk
from safron.engine.scratch.seam_store import Index, Seams, empty_seams


def some_seams(plan: RenderPlan, index: Index) -> Seams:
    """Noise of the size that a block's seams have."""
    rng = np.random.default_rng(index)
    pixels, sums = empty_seams(plan, index)
    pixels[:] = rng.integers(0, 256, pixels.size)
    sums[:] = rng.integers(0, 1 << 15, sums.size)
    return pixels, sums


def assert_same(found: Seams, wanted: Seams) -> None:
    """Compare seams; as read from disk they may have zeros behind them."""
    for mine, theirs in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(mine[: theirs.size], theirs)
        assert not mine[theirs.size :].any()


@pytest.mark.parametrize("room", [0, 1 << 30])
def test_zarr_reads_what_was_written(room: int, tmp_path: Path) -> None:
    plan = plan_for(1300, 1700, block=512)
    scratch = Scratch(tmp_path / "scratch")
    scratch.create(plan, {})
    scratch.keep_seams(room, behind=False)
    written = {}
    for index in plan.blocks():
        written[index] = some_seams(plan, index)
        scratch.write_seams(index, *written[index])
    stored = {name: zarr.open_array(scratch.path / "seams" / name, mode="r") for name in ("pixels", "sums")}
    for index, seams in written.items():
        assert_same((np.asarray(stored["pixels"][index]), np.asarray(stored["sums"][index])), seams)
        for _ in range(2):  # from where it was written, and from where it was kept
            assert_same(scratch.read_seams(index), seams)
    rng = np.random.default_rng(0)
    level, chunk = plan.thumbnail_level, plan.block >> plan.thumbnail_level
    part = rng.integers(0, 256, (chunk, 300 >> level, 3)).astype(np.uint8)
    scratch.write_part(level, (1, 3), part)
    found = scratch.level(level)[chunk : 2 * chunk, 3 * chunk :]
    np.testing.assert_array_equal(found[:, : part.shape[1]], part[:, : found.shape[1]])
    assert scratch.has_part(level, (1, 3))
    assert not scratch.has_part(level, (0, 0)), "Zarr would read it as black"


@dataclass
class Clock:
    """A clock that a test turns on."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


Behind = tuple[Scratch, dict[Index, Seams], Clock]


@pytest.fixture
def behind(tmp_path: Path) -> Behind:
    """Scratch with room in memory for three seams, seams for it, and its clock."""
    plan, clock = plan_for(1300, 1700, block=512), Clock()
    scratch = Scratch(tmp_path / "scratch", clock=clock)
    scratch.create(plan, {})
    seams = {index: some_seams(plan, index) for index in plan.blocks()}
    largest = max(sum(part.nbytes for part in parts) for parts in seams.values())
    scratch.keep_seams(3 * largest, behind=True)
    return scratch, seams, clock


def test_seams_are_written_where_there_is_no_room(
    behind: Behind,
) -> None:
    scratch, seams, _ = behind
    made = []
    for index, parts in seams.items():
        scratch.write_seams(index, *parts)
        made.append(index)
        alone = scratch.in_memory_alone()
        assert alone.isdisjoint(scratch.stored_seams()), "each is in one place"
        assert alone | scratch.stored_seams() == set(made), "none is lost"
        assert alone == set(made[-len(alone) :]), "the oldest go first"
        assert len(alone) >= min(3, len(made))
        kept = sum(part.nbytes for each in scratch._kept.values() for part in each)
        assert kept <= scratch._room
    assert scratch.stored_seams(), "some must be written"
    for index, parts in seams.items():
        assert_same(scratch.read_seams(index), parts)


def test_seams_that_nobody_needs_are_never_written(
    behind: Behind,
) -> None:
    scratch, seams, _ = behind
    for index, parts in seams.items():
        scratch.write_seams(index, *parts)
        assert scratch.forget_seams(index), "it lay in memory alone"
        assert not scratch.forget_seams(index)
    assert not scratch.stored_seams()
    assert not scratch._kept


def test_seams_that_wait_are_written(behind: Behind) -> None:
    scratch, seams, clock = behind
    first, second, *_ = seams
    scratch.write_seams(first, *seams[first])
    clock.now += 59
    scratch.store_seams(seconds=60)
    assert not scratch.stored_seams()
    scratch.write_seams(second, *seams[second])
    clock.now += 1
    scratch.store_seams(seconds=60)
    assert scratch.stored_seams() == {first}
    assert scratch.in_memory_alone() == {second}
    scratch.store_seams()
    assert scratch.stored_seams() == {first, second}
    assert not scratch.in_memory_alone()
    assert not scratch.forget_seams(first), "it lies on disk, too"
    assert_same(scratch.read_seams(first), seams[first])


def test_seams_that_took_long_are_written_at_once(
    behind: Behind,
) -> None:
    scratch, seams, _ = behind
    cheap, dear, *_ = seams
    scratch.write_seams(cheap, *seams[cheap], seconds=0.01)
    scratch.write_seams(dear, *seams[dear], seconds=2.0)
    assert scratch.stored_seams() == {dear}
    assert scratch.in_memory_alone() == {cheap}


def test_seams_forgotten_while_they_are_written_leave_no_file(
    behind: Behind, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch, seams, _ = behind
    index = next(iter(seams))
    store = scratch._store

    def forgotten(block: Index, *parts: Any) -> None:
        assert scratch.forget_seams(block)
        store(block, *parts)

    monkeypatch.setattr(scratch, "_store", forgotten)
    scratch.write_seams(index, *seams[index])
    scratch.store_seams()
    assert not scratch.stored_seams()


def test_seams_that_a_disk_did_not_take_are_not_lost(behind: Behind, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch, seams, _ = behind
    index = next(iter(seams))

    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    scratch.write_seams(index, *seams[index])
    with monkeypatch.context() as patched:
        patched.setattr(scratch, "_write", full)
        with pytest.raises(OSError, match="No space"):
            scratch.store_seams()
    assert scratch.in_memory_alone() == {index}
    scratch.store_seams()
    assert scratch.stored_seams() == {index}


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
