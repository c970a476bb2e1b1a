"""Scratch that something damaged between two runs: what it still proves is gone on with, the rest is made again."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cases import ExpectFail, check_fail, render_cli, run_cli
from safron.engine.scratch import render_state as state
from safron.engine.scratch.chunk_codec import decode_chunk, encode_chunk
from safron.engine.scratch.journal import Entry, Journal, read_journal
from small_renders import ARGS, PATCHES, interrupt, undisturbed_digest, write_small_mask

SCRATCH = Path("out.tiff.safron")
JOURNAL = SCRATCH / "journal.jsonl"
INDEX = SCRATCH / "index.bin"


@pytest.fixture
def here(here: Path) -> Path:
    """A folder with a mask, to work in."""
    write_small_mask("mask.zarr")
    return here


@pytest.fixture
def unfinished(here: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """A render that was interrupted late; the digest of the slide where nothing goes wrong."""
    digest = undisturbed_digest(capfd)
    monkeypatch.setattr(state, "SYNC_SECONDS", 0.0)
    interrupt(capfd, patch=32)
    return digest


# The index


def flip_index() -> None:
    damaged = bytearray(INDEX.read_bytes())
    damaged[32 + 3] ^= 1  # in the offset of the first tile
    INDEX.write_bytes(damaged)


def cut_index() -> None:
    os.truncate(INDEX, 32 + 5 * 32)


@pytest.mark.parametrize("damage", [flip_index, cut_index])
def test_blocks_whose_tiles_the_index_lost_are_made_again(
    damage: Callable[[], None], unfinished: str, capfd: pytest.CaptureFixture[str]
) -> None:
    blocks = sum(entry.kind == "block" for entry in read_journal(JOURNAL))
    damage()
    report = render_cli(capfd, ARGS)
    assert (report["run"], report["digest"]) == (PATCHES, unfinished)
    assert 0 <= report["resumed"] < blocks
    if damage is flip_index:
        assert report["resumed"] == blocks - 1, "one tile costs one block"


# The journal

ENTRIES = [
    Entry(kind, (0, number), 3, 1, 500 + number) for number in range(3) for kind in ("boundary", "block")
]


def test_a_journal_is_read_up_to_the_first_damage(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path, ENTRIES[:2])
    journal.append(ENTRIES[2:])
    journal.close()
    whole = path.read_bytes()
    assert list(read_journal(path)) == ENTRIES
    ends = [number for number, byte in enumerate(whole) if byte == ord("\n")]
    for place in range(0, len(whole), 3):
        line = sum(end < place for end in ends)
        for damaged in (
            whole[:place],
            whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :],
            whole[:place] + bytes([whole[place] ^ 128]) + whole[place + 1 :],
            whole[:place] + whole[place + 1 :],
        ):
            path.write_bytes(damaged)
            assert list(read_journal(path)) == ENTRIES[:line], damaged
    lines = whole.splitlines(keepends=True)
    for gone in range(len(lines)):
        path.write_bytes(b"".join(lines[:gone] + lines[gone + 1 :]))
        assert list(read_journal(path)) == ENTRIES[:gone]


def test_a_journal_goes_on_after_a_write_that_was_broken_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path, ENTRIES[:1])

    def interrupted(file: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", interrupted)
        with pytest.raises(KeyboardInterrupt):
            journal.append(ENTRIES[1:4])
    journal.append(ENTRIES[1:2])
    journal.close()
    assert list(read_journal(path))[:2] == ENTRIES[:2]
    journal = Journal(path, read_journal(path))
    journal.append(ENTRIES[4:])
    journal.close()
    assert list(read_journal(path))[-2:] == ENTRIES[4:]


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[text.index(b"\n") + 1 :],
        lambda text: text.replace(b'"run": ', b'"run": 1', 1),
        lambda text: text.replace(b'"index": [0, 0]', b'"index": [9, 0]', 1),
        lambda text: text.replace(b'"painted"', b'"pain?ed"', 1),
    ],
    ids=["a line is gone", "another count", "another block", "another word"],
)
def test_a_damaged_journal_costs_work_and_nothing_else(
    damage: Callable[[bytes], bytes], unfinished: str, capfd: pytest.CaptureFixture[str]
) -> None:
    JOURNAL.write_bytes(damage(JOURNAL.read_bytes()))
    report = render_cli(capfd, ARGS)
    assert (report["run"], report["digest"]) == (PATCHES, unfinished)


def leave_seams_of_another_mask(capfd: pytest.CaptureFixture[str]) -> None:
    """As a run does that is ended after its mask was exchanged: they are whole, and the journal does not name them."""
    interrupt(capfd, patch=12)
    written = list((SCRATCH / "boundary").glob("*/c.*"))
    assert written
    for path in written:
        dtype = np.dtype(np.uint8 if path.parent.name == "pixels" else np.uint16)
        path.write_bytes(encode_chunk(decode_chunk(path.read_bytes(), dtype)[::-1].copy()))
    JOURNAL.write_bytes(b"")


@pytest.mark.parametrize(("seconds", "foreign"), [(0.0, False), (60.0, False), (60.0, True)])
def test_a_journal_that_ends_anywhere_is_gone_on_with(
    seconds: float,
    foreign: bool,
    here: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Seams that were never written count with the last block that needed them, wherever the journal is torn."""
    digest = undisturbed_digest(capfd)
    monkeypatch.setattr(state, "SYNC_SECONDS", seconds)
    if foreign:
        leave_seams_of_another_mask(capfd)
    interrupt(capfd, patch=34)  # in the last block
    whole = here.with_name(f"{here.name}-whole")
    shutil.copytree(here, whole)
    lines = (here / JOURNAL).read_bytes().splitlines(keepends=True)
    assert len(lines) > 8
    for kept in range(len(lines) + 1):
        shutil.rmtree(here / SCRATCH, ignore_errors=True)
        shutil.copytree(whole / SCRATCH, SCRATCH)
        shutil.copy(whole / "out.tiff.part", "out.tiff.part")
        JOURNAL.write_bytes(b"".join(lines[:kept]))
        report = render_cli(capfd, ARGS)
        assert (report["run"], report["digest"]) == (PATCHES, digest)
        Path("out.tiff").unlink()


def test_blocks_whose_seams_have_no_line_are_made_again(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Else their patches would be missing from the counts, in every run that follows."""
    digest = undisturbed_digest(capfd)
    interrupt(capfd, patch=34)  # in the last block
    entries = list(read_journal(JOURNAL))
    seams = [entry for entry in entries if entry.kind == "boundary"]
    Journal(JOURNAL, [entry for entry in entries if entry.kind == "block"]).close()
    assert seams
    report = render_cli(capfd, ARGS)
    assert (report["run"], report["digest"]) == (PATCHES, digest)


def test_a_journal_of_an_older_version_is_refused(unfinished: str, capfd: pytest.CaptureFixture[str]) -> None:
    about = json.loads((SCRATCH / "zarr.json").read_text())
    about["attributes"]["safron"]["format"] = 2
    (SCRATCH / "zarr.json").write_text(json.dumps(about))
    check_fail(run_cli(capfd, ARGS), ExpectFail("", "", ("other inputs (scratch format)", "--overwrite")))


# What says how arrays are stored


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def change(file: Path) -> None:
    about = json.loads(file.read_text())
    about["shape"][0] += 1
    file.write_text(json.dumps(about))


@pytest.mark.parametrize("damage", [cut, change, Path.unlink])
@pytest.mark.parametrize("array", ["levels/*", "boundary/pixels", "boundary/sums"])
def test_damaged_arrays_are_one_line_that_says_what_to_do(
    array: str, damage: Callable[[Path], None], unfinished: str, capfd: pytest.CaptureFixture[str]
) -> None:
    (file,) = SCRATCH.glob(f"{array}/zarr.json")
    damage(file)
    says = (f"{file}: ", "pass --fresh or --overwrite")
    check_fail(run_cli(capfd, ARGS), ExpectFail("", "", says))
    report = render_cli(capfd, ARGS + "--fresh")
    assert (report["resumed"], report["digest"]) == (0, unfinished)
