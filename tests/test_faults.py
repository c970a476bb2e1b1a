"""Disks, masks, permissions and clocks that change during a render; runs that end between two steps; starting over."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from cases import ExpectFail, check_fail, contents, render_cli, run_cli
from safron.engine import RenderOptions, RenderReport, rendering
from safron.engine.plan.render_plan import RenderPlan
from safron.engine.preparation.output_paths import check_paths
from safron.engine.scratch import render_state as state
from safron.engine.scratch.arrays import Scratch
from safron.engine.scratch.boundary_store import BoundaryStore
from safron.engine.scratch.journal import read_journal
from safron.io.errors import BadInput
from safron.io.masks.mask import LabelMask
from safron.io.masks.open import open_mask
from safron.io.remote import Target
from safron.io.slides import writer as slides
from small_renders import (
    ARGS,
    BLOCKS,
    PATCHES,
    interrupt,
    left_over,
    on_patch,
    write_small_mask,
)

both = pytest.mark.parametrize("workers", [1, 3])


# The mask


@both
def test_a_mask_that_changes_during_a_render_is_noticed(
    workers: int,
    masked: Path,
    digest: str,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    args = ARGS + f"--workers {workers}"
    shutil.copytree("mask.zarr", "copy.zarr")
    once = threading.Lock()

    def change(number: int) -> None:
        if number >= 20 and once.acquire(blocking=False):
            write_small_mask("other.zarr", seed=1)
            for path in Path("other.zarr").rglob("c/*/*"):
                shutil.copyfile(path, Path("mask.zarr") / path.relative_to("other.zarr"))

    with pytest.MonkeyPatch.context() as patched:
        on_patch(patched, change)
        outcome = run_cli(capfd, args)
    case = ExpectFail("", "", ("mask mask.zarr: its files changed during the render", "--fresh"), code=1)
    check_fail(outcome, case)
    assert not Path("out.tiff").exists()
    check_fail(run_cli(capfd, args), ExpectFail("", "", ("other inputs (mask content)",)))
    for path in Path("copy.zarr").rglob("c/*/*"):
        shutil.copy2(path, Path("mask.zarr") / path.relative_to("copy.zarr"))
    report = render_cli(capfd, args)
    assert (report["run"], report["digest"]) == (PATCHES, digest), "nothing of the other mask is in it"


def test_blocks_from_before_the_last_check_are_kept(
    masked: Path, digest: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    chunk = Path("mask.zarr/c/1/2")
    times = chunk.stat()

    def change(number: int) -> None:
        if number == 30:
            os.utime(chunk)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(state, "SYNC_SECONDS", 0.0)
        patched.setattr(rendering.MaskWatch, "due", lambda self: True)
        on_patch(patched, change)
        assert run_cli(capfd, ARGS).code == 1
    os.utime(chunk, ns=(times.st_atime_ns, times.st_mtime_ns))
    report = render_cli(capfd, ARGS)
    assert 0 < report["resumed"] < BLOCKS
    assert report["digest"] == digest


@both
def test_a_damaged_chunk_costs_its_blocks_and_no_others(
    workers: int, masked: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    chunk = Path("mask.zarr/c/1/2")
    whole = chunk.read_bytes()
    args = f"{ARGS} --overlap 0 --workers {workers}"
    chunk.write_bytes(whole[: len(whole) // 2])
    outcome = run_cli(capfd, args)
    case = ExpectFail(
        "",
        "",
        (
            "4 blocks failed 3 times each: ",
            ", 44 x 128 px",
            "cannot read chunk c/1/2",
            "tries these again",
        ),
        code=1,
    )
    check_fail(outcome, case)
    chunk.write_bytes(whole)
    # Its time is another now, so the mask is not what it was, as far as can be told without reading it.
    check_fail(run_cli(capfd, args), ExpectFail("", "", ("other inputs (mask content)",)))


@pytest.mark.parametrize(
    "spoil", [Path.unlink, lambda file: file.write_bytes(b""), lambda file: file.write_bytes(b"damage")]
)
def test_a_lost_part_of_a_level_is_rendered_again(
    spoil: Callable[[Path], Any],
    masked: Path,
    digest: str,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Zarr would read it as black."""
    finish = rendering.finish_levels

    def spoiled(plan: RenderPlan, scratch: Scratch, writer: slides.SlideWriter) -> Any:
        spoil(scratch.path / "levels" / str(plan.thumbnail_level) / "c.1.1.0")
        return finish(plan, scratch, writer)

    with monkeypatch.context() as patch:
        patch.setattr(rendering, "finish_levels", spoiled)
        failing = run_cli(capfd, ARGS)
    words = ("a part of it is missing or damaged (", "run the same command again")
    check_fail(failing, ExpectFail("", "", words, code=1))
    assert render_cli(capfd, ARGS)["digest"] == digest


def test_a_block_that_fails_three_times_is_named_and_rendered_by_the_next_run(
    masked: Path, digest: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    block_task = rendering.block_task
    tries: list[tuple[int, int]] = []

    def fail(job: Any, index: tuple[int, int]) -> Any:
        if index == (0, 1):
            tries.append(index)
            raise RuntimeError("CUDA failure 700: an illegal memory access")
        return block_task(job, index)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(rendering, "block_task", fail)
        outcome = run_cli(capfd, ARGS)
    says = ("1 block failed 3 times each: (0, 1) at x=128, y=0, 128 x 128 px: CUDA failure 700",)
    check_fail(outcome, ExpectFail("", "", says, code=1))
    assert len(tries) == 3
    made = on_patch(monkeypatch)
    report = render_cli(capfd, ARGS)
    assert (report["resumed"], report["digest"]) == (BLOCKS - 1, digest)
    assert len(made) < 6, "the inner patches of one block, and the warm-up"


def test_a_store_that_does_not_answer_has_not_changed(tmp_path: Path) -> None:
    zarr.save_array(str(tmp_path / "mask.zarr"), np.zeros((8, 8), np.uint8))
    watch = rendering.MaskWatch(open_mask(tmp_path / "mask.zarr"))

    def fails(mask: LabelMask) -> str:
        raise PermissionError(errno.EACCES, "not now")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(LabelMask, "change_token", fails)
        assert watch.changed() is None
    assert watch.changed() is False
    shutil.rmtree(tmp_path / "mask.zarr")
    assert watch.changed(), "a deleted mask has changed"


# Disks and permissions


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (errno.ENOSPC, "disk full"),
        (errno.EDQUOT, "disk full (Disk quota exceeded)"),
        (errno.EACCES, "Permission denied"),
    ],
    ids=["disk", "quota", "permissions"],
)
@both
def test_a_full_disk_ends_a_render_at_once(
    workers: int, number: int, says: str, masked: Path, digest: str, capfd: pytest.CaptureFixture[str]
) -> None:
    write = slides.offsets.write_at
    calls: list[int] = []

    def full(file: int, data: bytes, offset: int) -> None:
        calls.append(1)
        if len(calls) > 12:
            raise OSError(number, os.strerror(number))
        write(file, data, offset)

    args = f"{ARGS} --workers {workers}"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(state, "SYNC_SECONDS", 0.0)
        patched.setattr(slides.offsets, "write_at", full)
        check_fail(run_cli(capfd, args), ExpectFail("", "", (says, "run the same command again"), code=1))
    report = render_cli(capfd, args)
    assert report["resumed"] > 0
    assert report["digest"] == digest


@both
def test_boundary_sums_that_could_not_be_written_once_are_written_later(
    workers: int, masked: Path, digest: str, capfd: pytest.CaptureFixture[str]
) -> None:
    flush, calls = BoundaryStore.flush, []

    def broken(self: BoundaryStore, *, seconds: float = 0.0) -> None:
        calls.append(seconds)
        if len(calls) == 3:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        flush(self, seconds=seconds)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(state, "SYNC_SECONDS", 0.0)
        patched.setattr(BoundaryStore, "flush", broken)
        report = render_cli(capfd, f"{ARGS} --workers {workers}")
    assert len(calls) > 3
    assert (report["run"], report["digest"]) == (PATCHES, digest)


def test_an_interrupt_while_boundary_sums_are_released_and_the_disk_is_full(
    masked: Path, digest: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """The journal must not name the last block that needed boundary sums without naming these."""
    release = state.RenderState._release_boundaries

    def interrupted(self: state.RenderState, block: tuple[int, int]) -> None:
        if block == (1, 1):
            raise KeyboardInterrupt
        release(self, block)

    def full(self: BoundaryStore, *, seconds: float = 0.0) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(state, "SYNC_SECONDS", 60.0)
        patched.setattr(state.RenderState, "_release_boundaries", interrupted)
        patched.setattr(BoundaryStore, "flush", full)
        assert run_cli(capfd, ARGS).code == 130
    lines = {(entry.kind, entry.index) for entry in read_journal(Path("out.tiff.safron/journal.jsonl"))}
    assert ("block", (0, 0)) in lines, "blocks that need no released sums are kept"
    assert ("block", (1, 1)) not in lines or ("boundary", (0, 0)) in lines
    report = render_cli(capfd, ARGS)
    assert (report["run"], report["digest"]) == (PATCHES, digest)


@both
def test_permissions_that_are_lost_during_a_render(
    workers: int, masked: Path, digest: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Boundary sums cannot be written any more; the folder is locked against root, too."""
    folder = Path("out.tiff.safron/boundary/pixels")

    def lock(number: int) -> None:
        if number == 6 and subprocess.run(["chattr", "+i", folder], capture_output=True).returncode:
            pytest.skip("folders cannot be locked here")

    args = f"{ARGS} --workers {workers}"
    try:
        with pytest.MonkeyPatch.context() as patched:
            on_patch(patched, lock)
            patched.setattr(rendering, "boundary_room", lambda plan: 0)
            outcome = run_cli(capfd, args)
    finally:
        subprocess.run(["chattr", "-i", folder], check=False)
    case = ExpectFail("", "", ("Operation not permitted; mend it and run the same command again",), code=1)
    check_fail(outcome, case)
    report = render_cli(capfd, args)
    assert report["digest"] == digest


# Clocks


def test_no_clock_is_compared(masked: Path, digest: str, capfd: pytest.CaptureFixture[str]) -> None:
    """A render is resumed from files of a host whose clock is years ahead or behind."""
    interrupt(capfd)
    for number, path in enumerate(sorted(Path().rglob("out.tiff*"))):
        for inner in (path, *path.rglob("*")):
            os.utime(inner, (4e9, 4e9) if number % 2 else (1.0, 1.0))
    report = render_cli(capfd, ARGS)
    assert report["resumed"] > 0
    assert report["digest"] == digest


# Ends between two steps


@dataclass(frozen=True)
class Step:
    """A moment around the one when the slide gets its name, at which Ctrl-C is pressed.

    Attributes
    ----------
    when : the test's name.
    place : owner and name of a function that is called then.
    but_first : whether Ctrl-C comes after the function has done its work.
    at : says from the function's first two arguments whether this is the call.
    named, reported : whether slide and report have their names then.
    """

    when: str
    place: tuple[Any, str]
    but_first: bool = False
    at: Callable[[Any, Any], bool] = lambda first, second: True
    named: bool = True
    reported: bool = False

    @property
    def says(self) -> str:
        return "out.tiff is finished; " if self.reported else "the same command continues"

    def press(self, patched: pytest.MonkeyPatch) -> None:
        function = getattr(*self.place)

        def interrupted(first: Any, second: Any = None, *args: Any, **more: Any) -> Any:
            now = self.at(first, second)
            given = (first,) if second is None else (first, second, *args)
            result = None if now and not self.but_first else function(*given, **more)
            if now:
                raise KeyboardInterrupt
            return result

        patched.setattr(*self.place, interrupted)


def deletes(name: str) -> Callable[[Path, Any], bool]:
    """Whether a folder of this name is deleted after the slide has its own."""
    return lambda path, _: path.name == name and Path("out.tiff").exists()


PUBLISH, RMTREE = (slides.SlideWriter, "publish"), (shutil, "rmtree")
STEPS = (
    Step("before the name", PUBLISH, named=False),
    Step("after the name", PUBLISH, but_first=True),
    Step("before the report", (RenderReport, "write")),
    Step("before the report's name", (slides.files, "publish"), at=lambda part, out: out.name == "r.json"),
    Step("while scratch is deleted", RMTREE, at=deletes("levels"), reported=True),
    Step("before scratch's record is deleted", RMTREE, at=deletes("out.tiff.safron"), reported=True),
)


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.when)
def test_killed_around_the_moment_when_the_slide_gets_its_name(
    step: Step, masked: Path, digest: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    args = ARGS + "--preview p.png --report r.json"
    with pytest.MonkeyPatch.context() as patched:
        step.press(patched)
        outcome = run_cli(capfd, args)
    assert outcome.code == 130
    assert step.says in outcome.error
    assert Path("out.tiff").exists() == step.named
    assert Path("r.json").exists() == step.reported, "whole or not at all"
    made = on_patch(monkeypatch)
    outcome = run_cli(capfd, args)
    assert outcome.code == 0
    assert len(made) == 1, "the warm-up"
    if step.named:
        assert (
            outcome.error
            == "safron-render: warning: out.tiff: an earlier run finished it but was killed before it could report that"
        )
    assert json.loads(Path("r.json").read_text())["digest"] == digest
    assert left_over() == ["out.tiff", "p.png", "r.json"]
    assert run_cli(capfd, "--validate out.tiff").code == 0


def test_a_report_on_a_disk_in_memory_appears_whole_or_not_at_all(
    masked: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A folder below /dev holds files like any other."""
    memory = Path("/dev/shm")
    if not (memory.is_dir() and os.access(memory, os.W_OK)):
        pytest.skip("no /dev/shm here")
    (step,) = (step for step in STEPS if step.when == "before the report's name")
    with tempfile.TemporaryDirectory(dir=memory) as folder, pytest.MonkeyPatch.context() as patched:
        step.press(patched)
        assert run_cli(capfd, ARGS + f"--report {folder}/r.json").code == 130
        assert list(Path(folder).iterdir()) == []


def test_a_run_that_only_cleans_up_overwrites_no_other_file(
    masked: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def killed(*args: Any) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(RenderReport, "write", killed)
        assert run_cli(capfd, ARGS + "--report r.json").code == 130
    for name in ("r.json", "other.json", "p.png"):
        Path(name).write_text("mine")
    for more, says in (("--report other.json", "other.json: exists"), ("--preview p.png", "p.png: exists")):
        check_fail(run_cli(capfd, ARGS + more), ExpectFail("", "", (says,)))
        assert Path(more.split()[1]).read_text() == "mine"
    assert run_cli(capfd, ARGS + "--report r.json").code == 0
    assert Path("r.json").read_text() != "mine"


@pytest.mark.parametrize("linked", [False, True])
def test_a_report_whose_disk_is_full_is_written_by_the_same_command(
    linked: bool,
    masked: Path,
    digest: str,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    args = ARGS + "--report r.json"
    if linked:
        Path("r.json").symlink_to("there.json")
        args += " --overwrite"

    def full(self: Any) -> str:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(RenderReport, "json", full)
        outcome = run_cli(capfd, args)
    check_fail(outcome, ExpectFail("", "", ("--report r.json: No space left", "the slide is finished"), 1))
    made = on_patch(monkeypatch)
    assert run_cli(capfd, args).code == 0
    assert len(made) == 1, "the warm-up"
    assert json.loads(Path("r.json").read_text())["digest"] == digest
    assert not Path("out.tiff.safron").exists()
    assert not Path("r.json").is_symlink(), "a link is replaced, not followed"
    assert not Path("there.json").exists()


def test_a_finished_slide_is_not_taken_for_that_of_other_inputs(
    masked: Path, digest: str, capfd: pytest.CaptureFixture[str]
) -> None:
    publish = slides.SlideWriter.publish

    def publish_and_die(self: Any, *args: Any, **more: Any) -> None:
        publish(self, *args, **more)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(slides.SlideWriter, "publish", publish_and_die)
        assert run_cli(capfd, ARGS).code == 130
    other = ARGS + "--quality 80"
    check_fail(run_cli(capfd, other), ExpectFail("", "", ("out.tiff: exists already; pass --overwrite",)))
    report = render_cli(capfd, other + " --overwrite")
    assert (report["resumed"], report["run"]) == (0, PATCHES)
    assert report["digest"] != digest
    assert left_over() == ["out.tiff"]


def test_boundary_sums_that_a_crash_left_behind_are_deleted_by_the_next_run(
    masked: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(state, "SYNC_SECONDS", 0.0)
        patched.setattr(BoundaryStore, "free", lambda self, block: None)
        interrupt(capfd, patch=34)
    before = Scratch(Path("out.tiff.safron")).boundaries.stored()
    interrupt(capfd, patch=1)
    after = Scratch(Path("out.tiff.safron")).boundaries.stored()
    assert after < before
    assert (0, 0) in before - after


# Starting over


def test_fresh_starts_over_and_replaces_no_slide(
    masked: Path, digest: str, capfd: pytest.CaptureFixture[str]
) -> None:
    for first in (ARGS, ARGS + "--quality 80"):
        interrupt(capfd, first)
        report = render_cli(capfd, ARGS + "--fresh")
        assert (report["resumed"], report["run"], report["digest"]) == (0, PATCHES, digest)
        before = contents(masked)
        check_fail(run_cli(capfd, ARGS + "--fresh"), ExpectFail("", "", ("out.tiff: exists already",)))
        assert contents(masked) == before
        Path("out.tiff").unlink()


def test_fresh_deletes_nothing_that_is_not_ours(masked: Path, capfd: pytest.CaptureFixture[str]) -> None:
    Path("out.tiff.part").write_text("a download")
    check_fail(
        run_cli(capfd, ARGS + "--fresh"), ExpectFail("", "", ("is not an unfinished slide; move it away",))
    )
    assert Path("out.tiff.part").read_text() == "a download"


# How far is it?


def test_status(masked: Path, capfd: pytest.CaptureFixture[str]) -> None:
    none = ExpectFail("", "", ("--status out.tiff: there is no finished or unfinished render of it",))
    check_fail(run_cli(capfd, "--status out.tiff"), none)
    interrupt(capfd)
    before = contents(masked)
    outcome = run_cli(capfd, "--status out.tiff")
    assert outcome.code == 0
    assert f" of {BLOCKS} blocks, " in outcome.out
    assert f" of {PATCHES} patches (" in outcome.out
    assert "interrupted; the same command continues" in outcome.out
    assert contents(masked) == before, "looking changes nothing"
    assert run_cli(capfd, "--status out.tiff --report s.json --quiet").out == ""
    status = json.loads(Path("s.json").read_text())
    assert (status["state"], status["all_blocks"], status["all_patches"]) == ("interrupted", BLOCKS, PATCHES)
    assert run_cli(capfd, "--status out.tiff --report s.json").code == 0, "an earlier status is replaced"
    Path("other.json").write_text("{}")
    for name in ("other.json", "out.tiff.part"):
        kept = Path(name).read_bytes()
        assert run_cli(capfd, f"--status out.tiff --report {name}").code == 2
        assert Path(name).read_bytes() == kept
    Path("other.json").unlink()
    assert 0 < status["patches"] < PATCHES
    assert status["written_bytes"] <= Path("out.tiff.part").stat().st_size
    seen: list[str] = []

    def ask(number: int) -> None:
        if not seen:
            seen.append(subprocess.run(
                [Path(sys.executable).with_name("safron-render"), "--status", "out.tiff"],
                capture_output=True, text=True, check=False,
            ).stdout)  # fmt: skip

    with pytest.MonkeyPatch.context() as patched:
        on_patch(patched, lambda number: ask(number) if number else None)
        assert run_cli(capfd, ARGS).code == 0
    assert f"running, process {os.getpid()} on " in seen[0]
    assert run_cli(capfd, "--status out.tiff").out.startswith("out.tiff: finished, ")


@pytest.mark.parametrize("region", ["0,0,300,200", "100,50,123,77", "37,9,60,190"])
def test_status_counts_as_the_plan_does(region: str, masked: Path, capfd: pytest.CaptureFixture[str]) -> None:
    args = f"{ARGS} --region {region}"
    report = render_cli(capfd, args.replace("out.tiff", "whole.tiff"))
    interrupt(capfd, args, patch=1)
    run_cli(capfd, "--status out.tiff --report s.json")
    status = json.loads(Path("s.json").read_text())
    assert (status["all_patches"], status["all_blocks"]) == (report["patches"], report["blocks"])


def test_targets() -> None:
    assert Target.of("a/b.tiff").part == Path("a/b.tiff.part")
    assert Target.of("file:///a/b.tiff").local == Path("/a/b.tiff")
    first, second = (Target.of(f"s3://{bucket}/b.tiff", folder=Path("/fast")) for bucket in "xy")
    assert first.file_name == second.file_name == "b.tiff"
    assert first.local.parent == Path("/fast")
    assert first.local != second.local, "slides of one name share nothing"


@pytest.mark.parametrize(
    ("out", "scratch"),
    [("s3://a/m.zarr/x.tiff", None), ("s3://a/x.tiff", "s3://a/m.zarr"), ("x.tiff", "s3://a/m.zarr/y")],
)
def test_nothing_is_put_into_a_mask_at_an_address(masked: Path, out: str, scratch: str | None) -> None:
    with pytest.raises(BadInput, match=r"lies in the mask s3://a/m.zarr/?; choose another folder"):
        check_paths("s3://a/m.zarr/", Target.of(out, folder=scratch), RenderOptions(scratch=scratch))


def test_a_preview_leaves_alone_what_lies_beside_it(masked: Path, capfd: pytest.CaptureFixture[str]) -> None:
    Path("p.png.part").write_text("half a download")
    assert run_cli(capfd, ARGS + "--preview p.png").code == 0
    assert Path("p.png.part").read_text() == "half a download"
    assert left_over() == ["out.tiff", "p.png", "p.png.part"]
