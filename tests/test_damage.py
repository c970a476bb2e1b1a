"""Scratch that was damaged between two runs: verified blocks are kept, the others are rendered again."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import ExpectFail, check_fail, contents, render_cli, run_cli
from safron.engine.report import RenderReport
from safron.engine.scratch import render_state as state
from safron.engine.scratch.chunk_codec import decode_chunk, encode_chunk
from safron.engine.scratch.journal import Entry, Journal, read_journal
from safron.engine.scratch.records import checked, with_checksum
from small_renders import ARGS, PATCHES, interrupt, undisturbed_digest, write_small_mask

SCRATCH = Path("out.tiff.safron")
JOURNAL = SCRATCH / "journal.jsonl"
INDEX = SCRATCH / "index.bin"


Capture = pytest.CaptureFixture[str]
Make = Callable[[Capture], None]
_laid: dict[Make, tuple[Path, str]] = {}  # folders that were made, and their digests


@pytest.fixture
def lay(
    here: Path, tmp_path_factory: pytest.TempPathFactory, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Make], str]:
    """Lays out what a function leaves beside the mask, which is made once and copied; gives the digest of the slide where nothing goes wrong."""

    def laid(make: Make) -> str:
        if make not in _laid:
            folder = tmp_path_factory.mktemp("made")
            with monkeypatch.context() as patch:
                patch.chdir(folder)
                write_small_mask("mask.zarr")
                digest = undisturbed_digest(capfd)
                make(capfd)
            _laid[make] = folder, digest
        folder, digest = _laid[make]
        shutil.copytree(folder, here, dirs_exist_ok=True)
        return digest

    return laid


@pytest.fixture
def unfinished(lay: Callable[[Make], str], monkeypatch: pytest.MonkeyPatch) -> str:
    """A render that was interrupted late; the digest of the slide where nothing goes wrong."""
    monkeypatch.setattr(state, "SYNC_SECONDS", 0.0)
    return lay(interrupt_late)


def interrupt_late(capfd: Capture) -> None:
    interrupt(capfd, patch=32)


# The index


def flip_index() -> None:
    damaged = bytearray(INDEX.read_bytes())
    damaged[32 + 3] ^= 1  # in the offset of the first tile
    INDEX.write_bytes(damaged)


def cut_index() -> None:
    os.truncate(INDEX, 32 + 5 * 32)


@pytest.mark.parametrize("damage", [flip_index, cut_index])
def test_blocks_whose_tiles_the_index_lost_are_rendered_again(
    damage: Callable[[], None], unfinished: str, capfd: pytest.CaptureFixture[str]
) -> None:
    blocks = sum(entry.kind == "block" for entry in read_journal(JOURNAL))
    damage()
    report = render_cli(capfd, ARGS)
    assert (report["run"], report["digest"]) == (PATCHES, unfinished)
    assert 0 <= report["resumed"] < blocks
    if damage is flip_index:
        assert report["resumed"] == blocks - 1, "one tile costs one block"


@pytest.mark.parametrize("name", ["index.bin", "levels/0/c.0.0.0", "boundary/sums/c.0.0.0"])
def test_a_folder_in_the_place_of_a_file_is_named(
    name: str, unfinished: str, capfd: pytest.CaptureFixture[str]
) -> None:
    file = SCRATCH / name
    file.unlink()
    file.mkdir()
    outcome = run_cli(capfd, ARGS)
    assert outcome.code == 2
    assert outcome.error.endswith(f"{name}: is a folder in the place of a file: pass --fresh or --overwrite")
    (file.parent / ".snapshot").mkdir()  # of a file server: no reason to stop
    file.rmdir()
    assert render_cli(capfd, f"{ARGS} --fresh")["digest"] == unfinished


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


def test_a_journal_continues_after_an_interrupted_write(
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
    ids=["a lost line", "another count", "another block", "another word"],
)
def test_a_damaged_journal_costs_work_and_nothing_else(
    damage: Callable[[bytes], bytes], unfinished: str, capfd: pytest.CaptureFixture[str]
) -> None:
    JOURNAL.write_bytes(damage(JOURNAL.read_bytes()))
    report = render_cli(capfd, ARGS)
    assert (report["run"], report["digest"]) == (PATCHES, unfinished)


def leave_boundary_sums_of_another_mask(capfd: pytest.CaptureFixture[str]) -> None:
    """As a run that ends after its mask was exchanged: they are whole, and the journal does not name them."""
    interrupt(capfd, patch=12)
    written = list((SCRATCH / "boundary").glob("*/c.*"))
    assert written
    for path in written:
        dtype = np.dtype(np.uint8 if path.parent.name == "pixels" else np.uint16)
        path.write_bytes(encode_chunk(decode_chunk(path.read_bytes(), dtype)[::-1].copy()))
    JOURNAL.write_bytes(b"")


@pytest.mark.parametrize(("seconds", "foreign"), [(0.0, False), (60.0, False), (60.0, True)])
def test_a_journal_that_ends_anywhere_is_resumed(
    seconds: float,
    foreign: bool,
    masked: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Boundary sums that were never written count with the last block that needed them, wherever the journal is torn."""
    digest = undisturbed_digest(capfd)
    monkeypatch.setattr(state, "SYNC_SECONDS", seconds)
    if foreign:
        leave_boundary_sums_of_another_mask(capfd)
    interrupt(capfd, patch=34)  # in the last block
    whole = masked.with_name(f"{masked.name}-whole")
    shutil.copytree(masked, whole)
    lines = (masked / JOURNAL).read_bytes().splitlines(keepends=True)
    assert len(lines) > 8
    for kept in range(len(lines) + 1):
        shutil.rmtree(masked / SCRATCH, ignore_errors=True)
        shutil.copytree(whole / SCRATCH, SCRATCH)
        shutil.copy(whole / "out.tiff.part", "out.tiff.part")
        JOURNAL.write_bytes(b"".join(lines[:kept]))
        report = render_cli(capfd, ARGS)
        assert (report["run"], report["digest"]) == (PATCHES, digest)
        Path("out.tiff").unlink()


def test_blocks_whose_boundaries_have_no_line_are_rendered_again(
    masked: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Otherwise their patches would be missing from the counts of all later runs."""
    digest = undisturbed_digest(capfd)
    interrupt(capfd, patch=34)  # in the last block
    entries = list(read_journal(JOURNAL))
    boundaries = [entry for entry in entries if entry.kind == "boundary"]
    Journal(JOURNAL, [entry for entry in entries if entry.kind == "block"]).close()
    assert boundaries
    report = render_cli(capfd, ARGS)
    assert (report["run"], report["digest"]) == (PATCHES, digest)


def test_a_journal_of_an_older_version_is_refused(unfinished: str, capfd: pytest.CaptureFixture[str]) -> None:
    about = json.loads((SCRATCH / "zarr.json").read_text())
    about["attributes"]["safron"]["format"] = 2
    (SCRATCH / "zarr.json").write_text(json.dumps(about))
    check_fail(run_cli(capfd, ARGS), ExpectFail("", "", ("other inputs (scratch format)", "--overwrite")))


# All of scratch, and the record of a finished slide


@pytest.fixture
def finished(lay: Callable[[Make], str]) -> str:
    """A slide that has its name, and whose run was killed before it wrote its report; the digest."""
    return lay(kill_last)


def kill_last(capfd: Capture) -> None:
    def killed(*args: Any) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(RenderReport, "write", killed)
        assert run_cli(capfd, FINISHED).code == 130


FINISHED = ARGS + "--preview p.png --report r.json"
RECORD = SCRATCH / "finished.json"


def flip(data: bytes, chance: random.Random) -> bytes:
    place = chance.randrange(len(data))
    return data[:place] + bytes([data[place] ^ 1 << chance.randrange(8)]) + data[place + 1 :]


def cut_off(data: bytes, chance: random.Random) -> bytes:
    return data[: chance.randrange(len(data))]


def shift(data: bytes, chance: random.Random) -> bytes:
    return bytes(chance.randrange(256) for _ in range(chance.randrange(1, 9))) + data


def double(data: bytes, chance: random.Random) -> bytes:
    return data + data


def nest(data: bytes, chance: random.Random) -> bytes:
    return b"[" * 100_000


def other_value(data: bytes, chance: random.Random) -> bytes:
    """A value of another type, or a path, in JSON that is otherwise whole."""
    try:
        found = json.loads(data)
    except ValueError:
        return b"{}\n" + data
    inside = found
    while isinstance(inside, dict) and inside and chance.random() < 0.7:
        key = chance.choice(sorted(inside))
        if not isinstance(inside[key], dict):
            break
        inside = inside[key]
    if isinstance(inside, dict) and inside:
        new = chance.choice(
            [None, [], {}, -1, 1e300, "/etc/passwd", ["../mine.txt", "../mine.txt"], True, 2**70]
        )
        inside[chance.choice(sorted(inside))] = new
    return json.dumps(found).encode()


def as_link(path: Path) -> None:
    path.unlink()
    path.symlink_to(Path("mine.txt").absolute())


DAMAGES = (flip, cut_off, shift, double, nest, other_value, other_value)


def mine() -> dict[str, bytes | None]:
    """All that is not ours to change."""
    return {name: data for name, data in contents(Path()).items() if name.startswith(("mine", "mask"))}


@pytest.mark.parametrize("seed", range(30))
def test_scratch_damaged_anyhow_is_one_line_or_costs_work(
    seed: int, unfinished: str, capfd: pytest.CaptureFixture[str]
) -> None:
    chance = random.Random(seed)
    Path("mine.txt").write_text("mine")
    before = mine()
    file = chance.choice(
        sorted(path for path in SCRATCH.rglob("*") if path.is_file() and path.stat().st_size)
    )
    if seed % 10 == 9:
        as_link(file)
    else:
        file.write_bytes(chance.choice(DAMAGES)(file.read_bytes(), chance))
    outcome = run_cli(capfd, ARGS + "--report r.json")
    assert mine() == before
    if outcome.code:
        check_fail(outcome, ExpectFail("", "", (str(SCRATCH),)))
        assert "--fresh" in outcome.error or "--overwrite" in outcome.error
        outcome = run_cli(capfd, ARGS + "--report r.json --fresh")
    assert (outcome.code, outcome.err) == (0, "")
    assert json.loads(Path("r.json").read_text())["digest"] == unfinished
    assert mine() == before
    assert not SCRATCH.exists()


@pytest.mark.parametrize("seed", range(30))
def test_a_damaged_record_of_a_finished_slide_moves_no_file(
    seed: int, finished: str, capfd: pytest.CaptureFixture[str]
) -> None:
    chance = random.Random(seed)
    Path("mine.txt").write_text("mine")
    before, slide = mine(), Path("out.tiff").read_bytes()
    RECORD.write_bytes(DAMAGES[seed % len(DAMAGES)](RECORD.read_bytes(), chance))
    outcome = run_cli(capfd, FINISHED)
    assert mine() == before
    if outcome.code == 0:  # what was changed says the same
        assert json.loads(Path("r.json").read_text())["digest"] == finished
        return
    says = ("out.tiff: exists already, and ", "finished.json", "--validate", "--overwrite")
    check_fail(outcome, ExpectFail("", "", says))
    assert Path("out.tiff").read_bytes() == slide
    report = render_cli(capfd, ARGS + "--preview p.png --overwrite")
    assert report["digest"] == finished
    assert mine() == before
    assert not SCRATCH.exists()


@pytest.mark.parametrize(
    "change",
    [
        {"preview": ["mine.txt", "out.tiff"]},
        {"report": {"options": {}}},
        {"report": {"options": {"preview": "mine.txt"}}},
        {"inputs": ["--seed"]},
        {"head": 7},
        {"size": True},
    ],
    ids=str,
)
def test_a_crafted_record_moves_no_file_and_blocks_no_run(
    change: dict[str, Any], finished: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """With a checksum that fits: anyone who can write there can make one."""
    Path("mine.txt").write_text("mine")
    RECORD.write_text(json.dumps(with_checksum(checked(json.loads(RECORD.read_text())) | change)))
    outcome = run_cli(capfd, FINISHED)
    check_fail(outcome, ExpectFail("", "", (": exists already", "--overwrite")))
    assert render_cli(capfd, ARGS + "--preview p.png --overwrite")["digest"] == finished
    assert Path("mine.txt").read_text() == "mine"


def test_a_record_does_not_name_the_preview(finished: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Another name for it than the run that finished the slide had is told, and nothing is moved there."""
    outcome = run_cli(capfd, FINISHED.replace("p.png", "other.png"))
    assert outcome.code == 0
    assert "warning: --preview other.png: not written" in outcome.err
    assert not Path("other.png").exists()


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
