"""Another mask takes the mask's place for a while, and the render breaks off: no pixel of it comes into the slide."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import zarr
from cases import render_cli, run_cli, write_mask
from safron.engine import render
from safron.engine.scratch import render_state as state
from safron.engine.scratch.mask_watch import MaskWatch
from safron.io.errors import Failed
from safron.io.masks.mask import LabelMask
from safron.io.slides import writer as slides
from small_renders import ARGS, PATCHES, interrupt, left_over, on_patch


@pytest.fixture
def here(here: Path) -> Path:
    """A folder with two masks, of chunks so small that few are kept in memory."""
    for seed, name in enumerate(("mask", "other")):
        write_mask(f"{name}.zarr", 200, 300, seed=seed, chunk=32)
    return here


@pytest.fixture
def digest(here: Path, capfd: pytest.CaptureFixture[str]) -> str:
    """The digest of the slide where nothing goes wrong."""
    found: str = render_cli(capfd, ARGS.replace("out.tiff", "whole.tiff"))["digest"]
    Path("whole.tiff").unlink()
    return found


def exchange() -> None:
    """Let the two masks change places."""
    Path("mask.zarr").rename("third.zarr")
    Path("other.zarr").rename("mask.zarr")
    Path("third.zarr").rename("other.zarr")


def by_ctrl_c(patched: pytest.MonkeyPatch) -> Callable[[], None]:
    def stop() -> None:
        raise KeyboardInterrupt

    return stop


def by_kill(patched: pytest.MonkeyPatch) -> Callable[[], None]:
    """Nothing is done on the way out."""
    patched.setattr(state.RenderState, "close", lambda self: None)
    return by_ctrl_c(patched)


def by_failed_blocks(patched: pytest.MonkeyPatch) -> Callable[[], None]:
    def fail() -> None:
        raise RuntimeError("CUDA failure 700")

    return fail


def by_full_disk(patched: pytest.MonkeyPatch) -> Callable[[], None]:
    def fill() -> None:
        def full(file: int, data: bytes, offset: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        patched.setattr(slides.offsets, "write_at", full)

    return fill


@pytest.mark.parametrize("often", [True, False], ids=["looked at often", "hardly looked at"])
@pytest.mark.parametrize("swap", [4, 15])
@pytest.mark.parametrize("how", [by_ctrl_c, by_kill, by_failed_blocks, by_full_disk])
def test_no_pixel_of_another_mask_is_kept(
    how: Callable[[pytest.MonkeyPatch], Callable[[], None]],
    swap: int,
    often: bool,
    here: Path,
    digest: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(state, "SYNC_SECONDS", 0.0)
        # With a look after each block the other mask is seen at once; it must not be seen to be found out.
        looks = iter([True] * (swap // 4) + [False] * 99)
        patched.setattr(MaskWatch, "due", lambda self: next(looks) if often else False)
        end = how(patched)

        def act(number: int) -> None:
            if number == swap:
                exchange()
            if number >= 28:
                end()

        on_patch(patched, act)
        assert run_cli(capfd, ARGS).code in (1, 130)
    exchange()
    assert not Path("out.tiff").exists()
    report = render_cli(capfd, ARGS)
    assert report["digest"] == digest
    assert report["run"] == PATCHES
    assert left_over() == ["other.zarr", "out.tiff"]
    # Blocks run ahead of the journal, so what was made before the last check may be kept, and nothing later.
    assert report["resumed"] == 0 or (often and swap == 15)


def test_what_is_made_again_of_another_mask_is_not_taken_for_what_was_lost(
    here: Path, digest: str, capfd: pytest.CaptureFixture[str]
) -> None:
    interrupt(capfd, patch=28)
    for part in (Path("out.tiff.safron") / "levels").rglob("c.0.*"):
        part.unlink()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(state, "SYNC_SECONDS", 0.0)
        patched.setattr(MaskWatch, "due", lambda self: False)
        end = by_kill(patched)

        def act(number: int) -> None:
            if number == 1:
                exchange()
            if number == 12:
                end()

        on_patch(patched, act)
        assert run_cli(capfd, ARGS).code == 130
    assert list((Path("out.tiff.safron") / "levels").rglob("c.0.*")), "a block was made again"
    exchange()
    report = render_cli(capfd, ARGS)
    assert (report["run"], report["digest"]) == (PATCHES, digest)


@pytest.mark.parametrize("mask", ["in memory", "does not answer"])
def test_masks_that_nobody_can_look_at(
    mask: str, here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """An array of this process needs no looks; a storage that answers no more is asked again by the next run."""
    options = {"model": "identity", "tile": 64, "block": 128, "tiff_tile": 64, "workers": 1, "batch": 1}
    source = "mask.zarr" if mask == "does not answer" else zarr.open_array("mask.zarr", mode="r")[:]

    def stop(number: int) -> None:
        if number == 28:
            raise KeyboardInterrupt
        if number == 4 and mask == "does not answer":
            patched.setattr(LabelMask, "change_token", fails)

    def fails(self: LabelMask) -> str:
        raise PermissionError(errno.EACCES, "not now")

    with pytest.MonkeyPatch.context() as patched:
        on_patch(patched, stop)
        with pytest.raises(KeyboardInterrupt):
            render(source, "out.tiff", **options)
    if mask == "does not answer":
        with pytest.MonkeyPatch.context() as patched:
            on_patch(patched, lambda number: stop(min(number, 4)))
            with pytest.raises(
                Failed,
                match=r"no longer says whether its files changed; .* Run the same command again",
            ):
                render(source, "out.tiff", **options)
    made = render(source, "out.tiff", **options)
    assert (made.resumed > 0) == (mask == "in memory")
    assert made.run == PATCHES


def test_a_copy_with_other_times_is_the_same_mask(
    here: Path, digest: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """As jobs have it that stage their input anew; and a file manager has looked at the copy."""
    interrupt(capfd, patch=28)
    shutil.copytree("mask.zarr", "copy.zarr", copy_function=shutil.copyfile)
    shutil.rmtree("mask.zarr")
    Path("copy.zarr").rename("mask.zarr")
    Path("mask.zarr/.DS_Store").touch()
    report = render_cli(capfd, ARGS)
    assert (report["digest"], report["resumed"] > 0) == (digest, True)


def test_files_of_a_file_manager_are_no_change(
    here: Path, digest: str, capfd: pytest.CaptureFixture[str]
) -> None:
    def look(number: int) -> None:
        if number == 4:
            Path("mask.zarr/.DS_Store").touch()
            Path("mask.zarr/c/Thumbs.db").touch()

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(MaskWatch, "due", lambda self: True)
        on_patch(patched, look)
        assert render_cli(capfd, ARGS)["digest"] == digest
