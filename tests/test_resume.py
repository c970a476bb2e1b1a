"""A render that is interrupted, killed or out of disk loses nothing, and the same command finishes it."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from cases import ExpectFail, check_fail, contents, render_cli, run_cli
from disks import remount, small_disk
from safron.engine.generator.model import IdentityModel
from safron.engine.scratch import arrays, lock
from safron.engine.scratch import render_state as state
from safron.engine.scratch.arrays import Scratch
from safron.engine.scratch.journal import read_journal
from safron.engine.scratch.lock import run_lock
from safron.io.errors import BadInput
from safron.io.slides.writer import SlideWriter
from slow_renders import Nursery, SlowRender
from small_renders import (
    ARGS,
    BLOCKS,
    PATCHES,
    interrupt,
    left_over,
    on_patch,
    write_small_mask,
)

SCRATCH = Path("out.tiff.safron")


def journaled(scratch: Path = SCRATCH) -> tuple[int, int]:
    """Patches and blocks that the journal lists as finished; an interrupted sync may list one twice."""
    journal = Scratch(scratch).journal
    entries = read_journal(journal) if journal.exists() else ()
    finished = {(entry.kind, entry.index): entry.run + entry.painted for entry in entries}
    return sum(finished.values()), sum(kind == "block" for kind, _ in finished)


def finish(
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    digest: str,
    args: str = ARGS,
) -> None:
    """Run the same command again: it does the rest, and makes the slide of an undisturbed run."""
    patches, blocks = journaled()
    assert blocks > 0
    made = on_patch(monkeypatch)
    report = render_cli(capfd, args)
    assert len(made) == PATCHES - patches + 1, "every patch once, and the warm-up"
    assert (report["resumed"], report["blocks"]) == (blocks, BLOCKS)
    assert report["run"] + report["painted"] == report["patches"] == PATCHES
    assert report["digest"] == digest
    assert run_cli(capfd, "--validate out.tiff").code == 0


# Signals


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize(
    ("by", "workers"), [(signal.SIGINT, 1), (signal.SIGTERM, 3)], ids=["SIGINT", "SIGTERM"]
)
def test_a_signal_keeps_finished_blocks(
    by: signal.Signals,
    workers: int,
    masked: Path,
    nursery: Nursery,
    digest: str,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with SlowRender(nursery, f"{ARGS} --workers {workers}", seconds=0.04) as render:
        render.wait_for(lambda: journaled()[1] >= 2)
        seen = render.made
        render.send(by)
        assert render.ended() == (
            130,
            "",
            "safron-render: interrupted; finished blocks are kept, the same command continues\n",
        )
        made = render.made - 1
    assert left_over() == ["out.tiff.part", "out.tiff.safron"]
    most = 15  # patches of one task
    assert made - journaled()[0] <= workers * most, "at most the blocks in flight are lost"
    assert made + 1 - seen <= 3 * workers, "they stop at once"
    finish(capfd, monkeypatch, digest)
    assert left_over() == ["out.tiff"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
def test_a_killed_render_holds_no_lock_and_loses_no_block(
    masked: Path,
    nursery: Nursery,
    digest: str,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with SlowRender(nursery, ARGS, seconds=0.04) as render:
        render.wait_for(lambda: journaled()[1] >= 2)
        second = ExpectFail("", "", ("another render of it is running", f"(process {render.pid} on "))
        for more in ("", "--overwrite", "--seed 1", "--overwrite --seed 1", "--scratch ."):
            check_fail(run_cli(capfd, f"{ARGS} {more}"), second)
        render.send(signal.SIGKILL)
        assert render.ended() == (-signal.SIGKILL, "", "")
    assert left_over() == ["out.tiff.part", "out.tiff.safron", "out.tiff.safron.lock"]
    # What a crash may leave behind the last whole entry and the last whole tile.
    with (SCRATCH / "journal.jsonl").open("ab") as journal, Path("out.tiff.part").open("ab") as part:
        journal.write(b'{"kind": "block", "index": [0, 3], "ru')
        part.write(b"half a tile")
    finish(capfd, monkeypatch, digest)
    assert left_over() == ["out.tiff"]


def test_a_second_render_is_refused_while_the_first_ends_well(
    masked: Path, nursery: Nursery, digest: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with SlowRender(nursery, ARGS + "--report r.json", seconds=0.04) as render:
        render.wait_for(lambda: render.made >= 2)
        check_fail(run_cli(capfd, ARGS), ExpectFail("", "", ("out.tiff: another render of it is running",)))
        code, _, err = render.ended()
        assert (code, err) == (0, "")
    assert json.loads(Path("r.json").read_text())["digest"] == digest
    assert left_over() == ["out.tiff", "r.json"]


# The same command, and others


@pytest.mark.parametrize("patch", [1, 7, 20, 34])
def test_the_same_command_continues(
    patch: int,
    masked: Path,
    digest: str,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    interrupt(capfd, patch=patch)
    before = journaled()
    interrupt(capfd, patch=1)
    assert journaled() == before
    made = on_patch(monkeypatch)
    report = render_cli(capfd, ARGS)
    assert (len(made), report["resumed"]) == (PATCHES - before[0] + 1, before[1])
    assert (report["run"], report["digest"]) == (PATCHES, digest)


@pytest.mark.parametrize(
    "more", ["--workers 3", "--threads 2 --memory 3GiB", "--preview p.png", "--overwrite"]
)
def test_what_decides_no_pixel_may_change(
    more: str,
    masked: Path,
    digest: str,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    interrupt(capfd)
    finish(capfd, monkeypatch, digest, f"{ARGS} {more}")


OTHERS = [
    ("--seed 1", "--seed"),
    ("--tile 32", "--tile"),
    ("--overlap 10", "--overlap"),
    ("--taper linear", "--taper"),
    ("--block 256", "--block"),
    ("--tiff-tile 128", "--tiff-tile"),
    ("--quality 80", "--quality"),
    ("--compression none", "--compression"),
    ("--chroma 444", "--chroma"),
    ("--flavor generic", "--flavor"),
    ("--level-count 2", "--level-count"),
    ("--mpp 0.25", "--mpp"),
    ("--region 0,0,200,200", "--region"),
    ("--model safron-seamless --tile 64 --overlap 20 --scale 1 --quiet", "--model"),
]


def test_scratch_of_other_inputs_is_refused_by_their_names(
    masked: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(capfd)
    before = contents(masked)
    for more, name in OTHERS:
        outcome = run_cli(capfd, f"{ARGS} {more}")
        check_fail(
            outcome, ExpectFail("", "", ("unfinished render with other inputs", "--overwrite to start over"))
        )
        names = outcome.error.partition("other inputs (")[2].partition(")")[0].split(", ")
        assert name in names, outcome.error
        assert "mask content" not in names, "the mask is the same, whatever is drawn of it"
        # A generator of another kind also has another runtime.
        expected = {name, "--runtime"} if name == "--model" else {name}
        assert {found for found in names if found.startswith("--")} <= expected, outcome.error
    assert contents(masked) == before


def test_scratch_of_another_mask_is_refused(masked: Path, capfd: pytest.CaptureFixture[str]) -> None:
    interrupt(capfd)
    shutil.rmtree("mask.zarr")
    write_small_mask("mask.zarr", seed=1)
    check_fail(run_cli(capfd, ARGS), ExpectFail("", "", ("other inputs (mask content);",)))


def test_overwrite_starts_over_where_inputs_differ(masked: Path, capfd: pytest.CaptureFixture[str]) -> None:
    interrupt(capfd)
    report = render_cli(capfd, ARGS + "--quality 80 --overwrite")
    assert (report["resumed"], report["run"]) == (0, PATCHES)
    assert report["digest"] == render_cli(capfd, ARGS.replace("out", "other") + "--quality 80")["digest"]


def test_slides_of_one_name_share_no_scratch(
    masked: Path, digest: str, capfd: pytest.CaptureFixture[str]
) -> None:
    Path("fast").mkdir()
    for folder in ("a", "b"):
        Path(folder).mkdir()
        interrupt(capfd, ARGS.replace("out.tiff", f"{folder}/out.tiff") + "--scratch fast")
    for folder in ("a", "b"):
        report = render_cli(capfd, ARGS.replace("out.tiff", f"{folder}/out.tiff") + "--scratch fast")
        assert report["resumed"] > 0
        assert report["digest"] == digest
    assert not list(Path("fast").iterdir())


def test_an_existing_slide_stays_until_the_new_one_is_whole(
    masked: Path, digest: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("out.tiff").write_text("a slide that took a week")
    interrupt(capfd, ARGS + "--overwrite")
    assert Path("out.tiff").read_text() == "a slide that took a week"
    finish(capfd, monkeypatch, digest, ARGS + "--overwrite")


def test_a_render_stays_on_its_kind_of_device(masked: Path, capfd: pytest.CaptureFixture[str]) -> None:
    interrupt(capfd, ARGS + "--batch 1")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(IdentityModel, "device", "cuda:0")
        check_fail(run_cli(capfd, ARGS + "--batch 1"), ExpectFail("", "", ("other inputs (--device);",)))


# Damage


def damage_part_missing() -> None:
    Path("out.tiff.part").unlink()


def damage_scratch_missing() -> None:
    shutil.rmtree(SCRATCH)


def damage_scratch_torn() -> None:
    (SCRATCH / "zarr.json").write_text('{"zarr_format": 3, ')


@pytest.mark.parametrize("damage", [damage_part_missing])
def test_without_its_other_half_a_render_starts_over(
    damage: Callable[[], None], masked: Path, digest: str, capfd: pytest.CaptureFixture[str]
) -> None:
    interrupt(capfd)
    damage()
    report = render_cli(capfd, ARGS)
    assert (report["resumed"], report["run"], report["digest"]) == (0, PATCHES, digest)
    assert left_over() == ["out.tiff"]


def damage_part_cut() -> None:
    os.truncate("out.tiff.part", 100)


def damage_index_missing() -> None:
    (SCRATCH / "index.bin").unlink()


def damage_journal_missing() -> None:
    (SCRATCH / "journal.jsonl").unlink()


@pytest.mark.parametrize(
    "damage",
    [
        damage_part_cut,
        damage_scratch_missing,
        damage_scratch_torn,
        damage_index_missing,
        damage_journal_missing,
    ],
)
def test_with_a_broken_half_it_starts_over_when_told_to(
    damage: Callable[[], None], masked: Path, digest: str, capfd: pytest.CaptureFixture[str]
) -> None:
    interrupt(capfd)
    damage()
    check_fail(run_cli(capfd, ARGS), ExpectFail("", "", ("out.tiff", "--overwrite")))
    report = render_cli(capfd, ARGS + "--overwrite")
    assert (report["resumed"], report["run"], report["digest"]) == (0, PATCHES, digest)


def test_torn_boundary_sums_are_made_again(
    masked: Path, digest: str, capfd: pytest.CaptureFixture[str]
) -> None:
    interrupt(capfd)
    sums = [path for path in (SCRATCH / "boundary").rglob("c.*") if path.is_file()]
    assert sums
    for path in sums:
        path.write_bytes(path.read_bytes()[:-9])
    report = render_cli(capfd, ARGS)
    assert report["resumed"] > 0
    assert (report["run"], report["digest"]) == (PATCHES, digest)


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: os.truncate(path, 0)], ids=["gone", "empty"])
@pytest.mark.parametrize("part", ["levels", "boundary"])
def test_a_lost_chunk_is_made_again(
    damage: Callable[[Path], None], part: str, masked: Path, digest: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """A power cut may take files that were not flushed; Zarr reads a missing chunk as black."""
    interrupt(capfd)
    chunks = [path for path in (SCRATCH / part).rglob("c.*") if path.is_file()]
    assert chunks
    for path in chunks:
        damage(path)
    report = render_cli(capfd, ARGS)
    assert (report["run"], report["digest"]) == (PATCHES, digest)


@pytest.mark.parametrize("gone", ["zarr.json", "journal.jsonl"])
def test_a_crash_while_scratch_is_deleted(
    gone: str, masked: Path, digest: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Part of an old scratch is neither resumed nor in the way."""
    interrupt(capfd)

    def crash(*args: Any, **more: Any) -> None:
        (SCRATCH / gone).unlink(missing_ok=True)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(shutil, "rmtree", crash)
        assert run_cli(capfd, ARGS + "--overwrite --seed 1").code == 130
    report = render_cli(capfd, ARGS)
    assert (report["run"], report["digest"]) == (PATCHES, digest)


def test_a_preview_does_not_stand_in_the_way_of_the_same_command(
    masked: Path, digest: str, capfd: pytest.CaptureFixture[str]
) -> None:
    def full(*args: Any, **more: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(SlideWriter, "publish", full)
        assert run_cli(capfd, ARGS + "--preview p.png").code == 1
    report = render_cli(capfd, ARGS + "--preview p.png")
    assert (report["resumed"], report["digest"]) == (BLOCKS, digest)
    assert left_over() == ["out.tiff", "p.png"]


def test_a_broken_preview_leaves_the_render_to_be_continued(
    masked: Path, digest: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bytes = Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        if "p.png" not in path.name:
            return write_bytes(path, data)
        path.touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        says = ("error: --preview p.png: disk full", "free space and run the same command again")
        check_fail(run_cli(capfd, ARGS + "--preview p.png"), ExpectFail("", "", says, code=1))
    assert left_over() == ["out.tiff.part", "out.tiff.safron"]
    report = render_cli(capfd, ARGS + "--preview p.png")
    assert (report["resumed"], report["digest"]) == (BLOCKS, digest)


# Full disks


def test_a_disk_that_fills_up_during_a_render(
    masked: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "SYNC_SECONDS", 0.0)  # else the whole slide is written at its end
    # Noise in full colour takes five times what stained tissue takes, so the plan fits the disk and the slide does not.
    more = "--quality 100 --chroma 444 --compression jpeg --scratch fast"
    Path("fast").mkdir()
    digest = render_cli(capfd, f"{ARGS} {more}".replace("out.tiff", "whole.tiff"))["digest"]
    with small_disk(masked / "disk", "size=128k"):
        args = f"{ARGS} {more}".replace("out.tiff", "disk/out.tiff")
        check_fail(
            run_cli(capfd, args),
            ExpectFail("", "", ("disk/out.tiff.part: disk full", "run the same command again"), code=1),
        )
        assert [path.name for path in Path("disk").iterdir()] == ["out.tiff.part"]
        remount(masked / "disk", "size=8m")
        report = render_cli(capfd, args)
        assert 0 < report["resumed"] < BLOCKS
        assert (report["run"], report["digest"]) == (PATCHES, digest)


@pytest.mark.parametrize("workers", [1, 3])
def test_scratch_that_fills_up_during_a_render(
    workers: int, masked: Path, digest: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with small_disk(masked / "disk", "size=64m"):

        def fill(number: int) -> None:
            if number == 18:
                with Path("disk/other.bin").open("ab", buffering=0) as file, suppress(OSError):
                    while True:
                        file.write(bytes(4096))

        with pytest.MonkeyPatch.context() as patched:
            on_patch(patched, fill)
            outcome = run_cli(capfd, f"{ARGS} --scratch disk --workers {workers}")
        check_fail(outcome, ExpectFail("", "", ("disk full", "run the same command again"), code=1))
        assert not Path("out.tiff").exists()
        Path("disk/other.bin").unlink()
        report = render_cli(capfd, ARGS + "--scratch disk")
        assert (report["run"], report["digest"]) == (PATCHES, digest)
        assert not list(Path("disk").iterdir())


# The lock itself


def test_one_lock_at_a_time(tmp_path: Path) -> None:
    out, refused = tmp_path / "out.tiff", []

    def attempt() -> None:
        with pytest.raises(BadInput, match=rf"process {os.getpid()} on "):
            run_lock(out).__enter__()
        refused.append(True)

    with run_lock(out):
        with run_lock(tmp_path / "other.tiff"):
            attempt()
        thread = threading.Thread(target=attempt)
        thread.start()
        thread.join()
    assert len(refused) == 2
    assert not list(tmp_path.iterdir())
    with run_lock(out):
        pass


def test_the_lock_is_given_back_after_a_failure(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), run_lock(tmp_path / "out.tiff"):
        raise ZeroDivisionError
    with run_lock(tmp_path / "out.tiff"):
        pass


@pytest.mark.skipif(sys.platform == "win32", reason="Windows deletes no open file")
def test_a_lock_on_a_deleted_file_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The holder deletes the file as it ends; a process that opened it before must not take that one for the lock."""
    take, tries = lock._lock, []

    def late(file: int) -> None:
        take(file)
        tries.append(file)
        if len(tries) == 1:
            (tmp_path / "out.tiff.safron.lock").unlink()

    monkeypatch.setattr(lock, "_lock", late)
    with run_lock(tmp_path / "out.tiff"):
        assert len(tries) == 2
        with pytest.raises(BadInput):
            run_lock(tmp_path / "out.tiff").__enter__()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows locks otherwise")
def test_a_drive_without_locks_is_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    asked = []

    def none(*args: Any) -> None:
        asked.append(args)
        raise OSError(errno.ENOTSUP, "no locks here")

    monkeypatch.setattr(fcntl, "flock", none)
    with run_lock(tmp_path / "out.tiff"), run_lock(tmp_path / "out.tiff"):
        assert len(asked) == 2, "both asked, and neither keeps the other out"


def test_what_is_said_of_a_render_that_was_hardly_begun_is_what_its_status_says(
    here: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scratch holds a render from its last write on; before that there are files, and nothing that could be continued."""
    write_small_mask("mask.zarr")

    def interrupted(plan: Any) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(arrays, "glimpse_level", interrupted)
        outcome = run_cli(capfd, ARGS)
    assert outcome.code == 130
    assert SCRATCH.exists()
    assert outcome.err == (
        "safron-render: interrupted; nothing is finished yet; the same command starts again, or delete "
        f"{SCRATCH.absolute()}\n"
    )
    status = run_cli(capfd, "--status out.tiff")
    assert status.code == 2
    assert "there is no finished or unfinished render of it" in status.err
    assert run_cli(capfd, ARGS).code == 0
    assert not SCRATCH.exists()
