"""A sampler's slide equals the oracle bit for bit, for any blocks, workers and kills."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import tifffile
import zarr
from masks import blobs
from safron.engine.rendering import render
from safron.engine.scratch import boundary_store, render_state
from safron.engine.scratch.mask_watch import MaskWatch
from safron.engine.scratch.shared_arrays import SharedArrays
from safron.engine.system import large_arrays
from safron.engine.virtual.slide import VirtualSlide
from safron.io.errors import BadInput
from sampler_models import Killed, MixModel
from sampler_oracle import expected

SMALL: dict[str, Any] = {
    "overlap": 12,
    "compression": "none",
    "block": 128,
    "tiff_tile": 64,
    "workers": 1,
    "seed": 7,
}


def level0(path: Path) -> Any:
    return np.asarray(tifffile.imread(path, level=0))


@pytest.mark.parametrize("size", [(1, 1), (64, 64), (130, 257), (300, 70)], ids=str)
def test_equals_the_oracle(tmp_path: Path, size: tuple[int, int]) -> None:
    mask, model = blobs(*size), MixModel(noise=True)
    report = render(mask, tmp_path / "s.tiff", model=model, state="float32", **SMALL)
    np.testing.assert_array_equal(level0(tmp_path / "s.tiff"), expected(mask, model))
    assert report.generated + report.filled == report.patches
    assert not (tmp_path / "s.tiff.safron").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"prediction": "x0", "eta": 1.0},
        {"prediction": "v", "eta": 0.5, "clip": False},
        {"prediction": "epsilon", "guidance": 1.5, "null_label": 1, "range": (0.0, 1.0)},
        {"steps": 1},
        {"steps": 5, "last_alpha": 0.99},
    ],
    ids=str,
)
@pytest.mark.parametrize("taper", ["flat", "cosine"])
def test_equals_the_oracle_for_every_kind_of_step(tmp_path: Path, changes: Any, taper: str) -> None:
    mask, model = blobs(150, 200, cell=70), MixModel(**changes)
    render(mask, tmp_path / "s.tiff", model=model, state="float32", taper=taper, **SMALL)
    np.testing.assert_array_equal(level0(tmp_path / "s.tiff"), expected(mask, model, taper=taper))


def test_half_precision_equals_the_oracle_that_rounds(tmp_path: Path) -> None:
    mask, model = blobs(150, 200), MixModel()
    render(mask, tmp_path / "s.tiff", model=model, **SMALL)
    np.testing.assert_array_equal(level0(tmp_path / "s.tiff"), expected(mask, model, state="float16"))


def test_any_blocks_and_workers_give_the_same_slide(tmp_path: Path) -> None:
    mask, digests = blobs(150, 230), set()
    for number, changes in enumerate([{}, {"block": 256}, {"workers": 3, "block": 64}, {"batch": 5}]):
        made = render(mask, tmp_path / f"{number}.tiff", model=MixModel(), **(SMALL | changes))
        digests.add(made.digest)
    assert len(digests) == 1


@pytest.mark.usefixtures("forked")
def test_worker_processes_give_the_same_slide(tmp_path: Path) -> None:
    mask = tmp_path / "mask.zarr"
    zarr.create_array(mask, shape=(200, 260), chunks=(64, 64), dtype="uint8")[:] = blobs(200, 260)
    alone = render(mask, tmp_path / "a.tiff", model=MixModel(eta=1.0), **SMALL)
    both = render(
        mask,
        tmp_path / "b.tiff",
        model=MixModel(eta=1.0),
        **(SMALL | {"workers": 2, "executor": "processes"}),
    )
    assert alone.digest == both.digest


@pytest.mark.parametrize("tile", [16, 48, 64])
def test_chunks_of_any_side_are_stored_whole(tmp_path: Path, tile: int) -> None:
    """Rows of chunks are stored as soon as the steps of their pixels, 32 rows at a time, are taken."""
    mask, model = blobs(150, 230), MixModel()
    how = SMALL | {
        "tiff_tile": tile,
        "block": 144 if tile == 48 else 128,
        "state": "float32",
        "compression": "deflate",
    }
    render(mask, tmp_path / "s.tiff", model=model, **how)
    np.testing.assert_array_equal(level0(tmp_path / "s.tiff"), expected(mask, model))


def test_memory_that_a_thread_keeps_is_that_of_one_block_and_large_parts_are_outside_of_the_heap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the heap, which is reserved without them, grows with the canvas."""
    mapped: list[int] = []
    kept: list[int] = []
    inner, zeros = large_arrays._mapped, large_arrays.zeros

    def note(nbytes: int) -> Any:
        mapped.append(nbytes)
        return inner(nbytes)

    def of_block(count: int, dtype: Any, **how: bool) -> Any:
        kept.append(count * np.dtype(dtype).itemsize)
        return zeros(count, dtype, least=1 << 17, **how)

    monkeypatch.setattr(large_arrays, "_mapped", note)
    monkeypatch.setattr(large_arrays, "zeros", of_block)
    monkeypatch.setattr(boundary_store, "_LEAST_MAPPED", 1)
    model = MixModel()
    render(blobs(300, 300), tmp_path / "s.tiff", model=model, **(SMALL | {"workers": 2}))
    large = [size for size in kept if size >= 1 << 17]
    # Sums of 128 x 128 pixels in each of two threads, not of each of 9 blocks and 3 passes; all else that is kept is smaller.
    assert set(large) == {4 * 3 * 128 * 128}
    assert 1 <= len(large) <= 2
    assert len(kept) <= 2 * 8
    # And the boundary sums of each block that has some.
    assert 3 * 4 <= len(mapped) - len(large) <= 3 * 16
    np.testing.assert_array_equal(
        level0(tmp_path / "s.tiff"), expected(blobs(300, 300), model, state="float16")
    )


def test_without_the_c_extension_the_slide_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mask = blobs(100, 130)
    compiled = render(mask, tmp_path / "a.tiff", model=MixModel(), **SMALL)
    monkeypatch.setattr("safron.engine.blending.dense.compiled", None)
    plain = render(mask, tmp_path / "b.tiff", model=MixModel(), **SMALL)
    assert compiled.digest == plain.digest


def test_scratch_in_an_object_store_gives_the_same_slide(tmp_path: Path) -> None:
    mask = blobs(100, 130)
    here = render(mask, tmp_path / "a.tiff", model=MixModel(), **SMALL)
    there = render(mask, tmp_path / "b.tiff", model=MixModel(), scratch="memory://scratch", **SMALL)
    assert here.digest == there.digest
    assert not fsspec.filesystem("memory").find("/scratch")


def test_a_region_is_a_canvas_of_its_own_with_the_labels_around_it(tmp_path: Path) -> None:
    mask = blobs(150, 200)
    made = render(mask, tmp_path / "s.tiff", model=MixModel(), region=(30, 20, 100, 90), **SMALL)
    assert (made.width, made.height) == (100, 90)
    assert made.generated + made.filled == made.patches


def test_at_another_scale(tmp_path: Path) -> None:
    """The running picture has the generator's pixels, the slide those of the mask."""
    mask, digests = blobs(150, 200), set()
    for block in (128, 256):
        made = render(
            mask, tmp_path / f"{block}.tiff", model=MixModel(), mpp=2.0, **(SMALL | {"block": block})
        )
        digests.add(made.digest)
    assert (made.width, made.height) == (200, 150)
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("kill", "at_once"), [((9, 24, 19, 27, 13), True), ((51, 38), False)], ids=["at once", "lazily"]
)
def test_killed_in_the_middle_of_steps_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kill: tuple[int, ...], at_once: bool
) -> None:
    """Each trial is killed a little later, so that kills fall into every pass, and into its boundary patches and blocks.

    What is finished is brought to disk, and what is no longer needed is deleted, at once or after a second.
    """
    monkeypatch.setattr(render_state, "SYNC_SECONDS", 0.0 if at_once else 1.0)
    mask, whole, options = blobs(200, 300), MixModel(steps=4), SMALL | {"batch": 1}
    undisturbed = render(mask, tmp_path / "whole.tiff", model=whole, **options)
    counts, trials = tmp_path / "count", 0
    counts.touch()
    for more in kill:
        pid = os.fork()
        if not pid:
            render(
                mask,
                tmp_path / "s.tiff",
                model=Killed(counts, counts.stat().st_size + more, like=whole),
                **(options | {"workers": 1 + trials % 2}),
            )
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
        trials += 1
    made = render(mask, tmp_path / "s.tiff", model=Killed(counts, like=whole), **options)
    assert made.digest == undisturbed.digest
    assert (made.patches, made.generated) == (undisturbed.patches, undisturbed.generated)
    # Each trial has a warm-up of two patches.
    again = counts.stat().st_size - undisturbed.generated - 2 * (trials + 1)
    assert 0 < again < trials * (20 if at_once else max(kill))


# In blocks of 256 most chunks lie under no boundary patches, and go as soon as their block is in the journal.
@pytest.mark.parametrize(("height", "width", "block", "times"), [(640, 256, 64, 1.5), (1024, 1024, 256, 1.3)])
def test_the_running_picture_is_deleted_as_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, height: int, width: int, block: int, times: float
) -> None:
    """Scratch holds little more than one of them, and the journal does not wait for a second."""
    monkeypatch.setattr(render_state, "SYNC_BYTES", block * block * 6)
    monkeypatch.setattr(MaskWatch, "due", lambda watch: True)
    most, passes = 0, set()
    scratch = tmp_path / "s.tiff.safron"

    def look(count: int) -> None:
        nonlocal most
        chunks = list(scratch.glob("passes/*/state/c.*"))
        passes.update(path.parts[-3] for path in chunks)
        most = max(most, len(chunks) * 64 * 64)

    mask = np.pad(blobs(150, 150), ((0, height - 150), (0, width - 150)), "wrap")
    options = SMALL | {"block": block}
    render(mask, tmp_path / "s.tiff", model=MixModel(steps=3), progress=look, **options)
    assert passes == {"0", "1"}
    assert mask.size < most < times * mask.size


def bytes_below(folder: Path | os.DirEntry[str]) -> int:
    """Size of all files; `Path.glob` takes ten times as long."""
    with os.scandir(folder) as entries:
        return sum(bytes_below(entry) if entry.is_dir() else entry.stat().st_size for entry in entries)


@pytest.mark.parametrize("side", [640, 768, 1024])
@pytest.mark.parametrize("workers", [1, 2])
def test_scratch_in_float32_stays_below_16_bytes_a_pixel_at_every_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, side: int, workers: int
) -> None:
    """After every file that is written: the block is chosen for that, and what was read is deleted block by block."""
    scratch, write = tmp_path / "s.tiff.safron", SharedArrays.write
    most = at_most = 0
    other = 64 << 10  # what records grow by between two looks is less

    def look(arrays: SharedArrays, name: str, data: bytes, **how: Any) -> None:
        """Count all files, unless there cannot be more than ever before by what was written since."""
        nonlocal most, at_most
        write(arrays, name, data, **how)
        at_most += len(data)
        if at_most + other > most:
            with suppress(OSError):
                at_most = bytes_below(scratch)
                most = max(most, at_most)

    monkeypatch.setattr(SharedArrays, "write", look)
    monkeypatch.setattr(render_state, "SYNC_BYTES", 64 * 64 * 12)
    monkeypatch.setattr(MaskWatch, "due", lambda watch: True)
    options = SMALL | {"block": None, "state": "float32", "workers": workers}
    mask = np.pad(blobs(150, 150), ((0, side - 150), (0, side - 150)), "wrap")
    render(mask, tmp_path / "s.tiff", model=MixModel(steps=3), **options)
    assert 12 < most / mask.size < 16


def test_a_slide_that_is_generated_as_it_is_read_takes_no_sampler() -> None:
    with pytest.raises(BadInput, match="is a sampler, whose picture is made in passes over the whole slide"):
        VirtualSlide(blobs(100, 130), model=MixModel())
