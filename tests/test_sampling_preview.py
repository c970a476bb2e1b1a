"""The preview of a sampler's slide shows the running picture after each pass, and in the end what it always did."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import zarr
from cases import ExpectFail, check_fail, render_cli, run_cli
from masks import blobs
from safron.engine.plan import render_plan
from safron.engine.rendering import render
from safron.io.progress import progress
from safron.io.slides.preview import is_unfinished_png, write_png, write_unfinished_png
from sampler_models import MixModel, write_sampler

SMALL: dict[str, Any] = {"overlap": 12, "block": 128, "tiff_tile": 64, "workers": 1, "seed": 7, "mpp": 1.0}
PREVIEW = Path("p.png")


@pytest.fixture
def mask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    return blobs(150, 200)


def shown_pass() -> int:
    """Number of the pass that the preview says it shows; 0 without one, or a finished one."""
    text = PREVIEW.read_bytes()[:200] if PREVIEW.exists() else b""
    found = re.search(rb"unfinished: the running picture after pass (\d) of 4", text)
    return int(found[1]) if found else 0


def picture() -> Any:
    return cv2.cvtColor(cv2.imread(str(PREVIEW)), cv2.COLOR_BGR2RGB)


def colors_after(number: int) -> Any:
    """What a pass stored, as colours: uint8 [h, w, 3]."""
    stored = np.asarray(zarr.open_array(f"s.tiff.safron/passes/{number - 1}/state", mode="r")[:])
    return (
        np.clip(np.rint((stored.astype(np.float32) + 1) * 127.5), 0, 255).astype(np.uint8).transpose(1, 2, 0)
    )


@pytest.mark.parametrize(("most", "first", "step"), [(2048, 1, 2), (100, 2, 4), (50, 6, 8)])
def test_interrupted_it_shows_the_pass_before_and_resumed_it_is_as_ever(
    mask: Any, monkeypatch: pytest.MonkeyPatch, most: int, first: int, step: int
) -> None:
    """Of a small canvas one pixel in two is read from the running picture, of a large one what blocks left beside it."""
    monkeypatch.setattr(render_plan, "PREVIEW_PIXELS", most)
    how = SMALL | {"model": MixModel(steps=4), "preview": PREVIEW}
    whole = render(mask, "s.tiff", **how)
    usual = PREVIEW.read_bytes()
    Path("s.tiff").unlink()
    PREVIEW.unlink()
    for number in (1, 3):
        expected: list[Any] = []

        def stop(count: int, number: int = number, expected: list[Any] = expected) -> None:
            if shown_pass() == number and not expected:
                expected.append(colors_after(number)[first::step, first::step])
                os.kill(os.getpid(), signal.SIGINT)

        with pytest.raises(KeyboardInterrupt):
            render(mask, "s.tiff", progress=stop, **how)
        assert shown_pass() == number
        height, width = 150 // step, 200 // step
        np.testing.assert_array_equal(picture(), expected[0][:height, :width])
    assert render(mask, "s.tiff", **how).digest == whole.digest
    assert PREVIEW.read_bytes() == usual
    assert not list(Path().glob("*.png.part"))


def test_a_picture_that_was_there_stays_until_the_slide_is_finished(
    mask: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    """It is replaced only when asked, and then by a finished one; an unfinished one is replaced unasked."""
    zarr.create_array("mask.zarr", shape=mask.shape, chunks=(64, 64), dtype="uint8")[:] = mask
    write_sampler(Path("m.onnx"))
    args = "mask.zarr s.tiff --model m.onnx --mpp 1 --device cpu --workers 1 --preview p.png"
    write_png(PREVIEW, np.zeros((5, 7, 3), np.uint8)).replace(PREVIEW)
    before, seen = PREVIEW.read_bytes(), set()
    check_fail(
        run_cli(capfd, args), ExpectFail("", "", ("--preview p.png: exists already; pass --overwrite",))
    )
    render(mask, "s.tiff", progress=lambda count: seen.add(PREVIEW.read_bytes()), preview=PREVIEW, overwrite=True,
           **SMALL | {"model": MixModel(steps=4)})  # fmt: skip
    assert seen == {before}
    assert PREVIEW.read_bytes() != before
    Path("s.tiff").unlink()
    write_unfinished_png(PREVIEW, np.zeros((5, 7, 3), np.uint8), "nothing")
    render_cli(capfd, args)
    assert not is_unfinished_png(PREVIEW)


def test_the_line_of_progress_keeps_saying_what_the_preview_shows(
    mask: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    zarr.create_array("mask.zarr", shape=mask.shape, chunks=(64, 64), dtype="uint8")[:] = mask
    write_sampler(Path("m.onnx"))
    monkeypatch.setattr("safron.io.progress.PROGRESS_SECONDS", 0.0)
    args = (
        "mask.zarr s.tiff --model m.onnx --mpp 1 --device cpu --workers 1 --batch 1 --tile 64 --preview p.png"
    )
    lines = run_cli(capfd, args).err.splitlines()
    said = [re.search(r"the preview shows pass (\d) of 4$", line) for line in lines]
    assert [int(found[1]) if found else 0 for found in said] == sorted(
        int(found[1]) if found else 0 for found in said
    )
    assert {int(found[1]) for found in said if found} == {1, 2, 3}


def test_notes_stay_until_the_next(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("safron.io.progress.PROGRESS_SECONDS", 0.0)
    with progress(3, "patches") as advance:
        advance(0)
        advance(1, "one")
        advance(1)
        advance(1, "other")
    assert [line.rpartition(": ")[2] for line in capfd.readouterr().err.splitlines()] == [
        "one",
        "one",
        "other",
    ]


@pytest.mark.parametrize("size", [(1, 1), (3, 50), (40, 9)])
def test_an_unfinished_picture_is_one_that_others_read(tmp_path: Path, size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    write_unfinished_png(tmp_path / "a.png", pixels, "a test")
    found = cv2.imread(str(tmp_path / "a.png"))
    np.testing.assert_array_equal(cv2.cvtColor(found, cv2.COLOR_BGR2RGB), pixels)
    assert is_unfinished_png(tmp_path / "a.png")
    write_png(tmp_path / "b.png", pixels).replace(tmp_path / "b.png")
    (tmp_path / "c.png").write_bytes(b"\x89PNG")
    assert not any(is_unfinished_png(tmp_path / name) for name in ("b.png", "c.png", "none.png"))
