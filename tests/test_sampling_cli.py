"""Samplers on the command line: the plan, the status, and one line for whatever is wrong."""

from __future__ import annotations

import re
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from cases import ExpectFail, check_fail, render_cli, run_cli
from disks import small_disk
from masks import blobs
from safron.engine import render
from safron.engine.generator.model import load_model
from safron.engine.preparation.options import RenderOptions
from safron.engine.preparation.prepare import prepare
from safron.engine.rendering import open_runner, run
from safron.engine.scratch import render_state
from safron.engine.scratch.pass_state import PassState
from safron.engine.status import render_status
from safron.engine.viewing.unfinished import UnfinishedPicture
from safron.io.errors import Failed
from sampler_models import CARD, MixModel, write_sampler
from sampler_oracle import expected

ARGS = (
    "mask.zarr s.tiff --model m.onnx --overlap 12 --block 128 --tiff-tile 64 --mpp 1 --device cpu --workers 1"
)


@pytest.fixture
def _files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    zarr.create_array("mask.zarr", shape=(150, 200), chunks=(64, 64), dtype="uint8")[:] = blobs(150, 200)
    write_sampler(Path("m.onnx"))


@pytest.mark.usefixtures("_files")
def test_from_the_command_line(capfd: pytest.CaptureFixture[str]) -> None:
    plan = run_cli(capfd, f"{ARGS} --steps 3 --guidance 2 --dry-run")
    assert (plan.code, plan.err) == (0, "")
    (line,) = (line for line in plan.out.splitlines() if line.startswith("sampler"))
    for text in ("ddim, 3 steps, guidance 2, two calls a patch: 3 passes", "float16, 0.4 MB of scratch"):
        assert text in line
    whole = render_cli(capfd, f"{ARGS} --steps 3 --guidance 2 --compression none")
    assert f"{whole['patches']} patches in all" in line
    assert whole["generated"] + whole["filled"] == whole["patches"]
    assert {"xt", "step", "scratch"} <= whole["stages"].keys()
    model = load_model("m.onnx", device="cpu")
    model.card = replace(model.card, sampler=model.card.sampler.with_steps(3, 2.0))
    mask = np.asarray(zarr.open_array("mask.zarr", mode="r")[:])
    grid = np.asarray(tifffile.imread("s.tiff", level=0))
    np.testing.assert_array_equal(grid, expected(mask, model, seed=0, state="float16"))


@pytest.mark.usefixtures("_files")
@pytest.mark.parametrize(
    ("state", "says"),
    [
        ("float16", "MB of scratch\n"),
        ("float32", "24 bytes per pixel: of a canvas this small two may be held\n"),
    ],
)
def test_scratch_is_what_the_plan_says_at_most(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, state: str, says: str
) -> None:
    monkeypatch.setattr(render_state, "SYNC_SECONDS", 0.0)
    assert says in run_cli(capfd, f"{ARGS} --state {state} --dry-run").out
    most, folder = [0], Path("s.tiff.safron")

    def look(count: int) -> None:
        chunks = [*folder.glob("passes/*/state/c.*"), *folder.glob("**/boundary/*/c*")]
        most.append(sum(path.stat().st_size for path in chunks))

    mask = np.asarray(zarr.open_array("mask.zarr", mode="r")[:])
    options = RenderOptions(
        model=MixModel(), state=state, overlap=12, block=64, tiff_tile=64, workers=1, scale="1"
    )  # type: ignore[arg-type]
    prepared = prepare(mask, "s.tiff", options)
    planned = prepared.scratch_bytes
    with open_runner(prepared) as (prepared, runner):
        run(prepared, runner, progress=look)
    itemsize = {"float16": 2, "float32": 4}[state]
    assert 0.8 * 3 * itemsize * mask.size < max(most) <= planned


FAILS = [
    ExpectFail("more steps than the card", f"{ARGS} --steps 9", ("--steps 9", "has 4 steps; give 1 to 4")),
    ExpectFail("no steps", f"{ARGS} --steps 0", ("--steps", "0")),
    ExpectFail("a generator that is no sampler", f"{ARGS} --model identity --steps 2", ("has no steps",)),
    ExpectFail("too little memory", f"{ARGS} --memory 10MB", ("--memory allows",)),
]
CARDS = [
    ("no steps", {"times": [], "alphas": []}, "times and alphas must be one or more"),
    ("more times than alphas", {"times": [9, 5, 3, 2, 1]}, "as many, not 5 and 4"),
    ("falling alphas", {"alphas": [0.9, 0.5, 0.3, 0.1]}, "alphas must rise"),
    ("noise alone", {"alphas": [0.0, 0.3, 0.6, 0.95]}, "predict v or x0"),
    ("unknown prediction", {"prediction": "score"}, "'score'"),
    ("unknown kind", {"kind": "euler"}, "'euler'"),
    ("a field that is no field", {"betas": [1]}, "betas"),
    ("more steps than times", {"steps": 5}, "steps 5 must be at most 4"),
    ("a range of three", {"range": [1, 2, 3]}, "range [1, 2, 3] must be 2 values, each a finite number"),
    ("guidance without a null label", {"guidance": 2.0, "null_label": None}, "needs a null_label"),
]


@pytest.mark.usefixtures("_files")
@pytest.mark.parametrize("case", FAILS, ids=lambda case: case.what)
def test_bad_options_are_one_line(capfd: pytest.CaptureFixture[str], case: ExpectFail) -> None:
    check_fail(run_cli(capfd, case.args), case)


@pytest.mark.usefixtures("_files")
@pytest.mark.parametrize(("what", "changes", "says"), CARDS, ids=[case[0] for case in CARDS])
def test_bad_cards_are_one_line(
    capfd: pytest.CaptureFixture[str], what: str, changes: dict[str, Any], says: str
) -> None:
    write_sampler(Path("m.onnx"), card={"sampler": CARD["sampler"] | changes})
    check_fail(run_cli(capfd, ARGS), ExpectFail(what, ARGS, ("generator card", says)))


@pytest.mark.usefixtures("_files")
def test_the_card_says_how_many_steps_are_usual(capfd: pytest.CaptureFixture[str]) -> None:
    write_sampler(Path("m.onnx"), card={"sampler": CARD["sampler"] | {"steps": 2}})
    assert "ddim, 2 steps" in run_cli(capfd, f"{ARGS} --dry-run").out
    assert "ddim, 4 steps" in run_cli(capfd, f"{ARGS} --steps 4 --dry-run").out


@pytest.mark.usefixtures("_files")
def test_a_running_picture_larger_than_the_free_disk_is_refused(capfd: pytest.CaptureFixture[str]) -> None:
    with small_disk(Path("disk"), "size=64k"):
        case = ExpectFail("", "", ("disk: about", "MiB are needed, 0 MiB are free; free space"))
        check_fail(run_cli(capfd, f"{ARGS} --scratch disk"), case)
        assert not list(Path("disk").iterdir())


@pytest.mark.usefixtures("_files")
def test_graphs_that_do_not_fit_the_sampler_are_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    write_sampler(Path("m.onnx"), spare="time")
    check_fail(
        run_cli(capfd, ARGS), ExpectFail("", ARGS, ("input 't' must be tensor(float), found no such input",))
    )
    write_sampler(Path("m.onnx"), output="image")
    check_fail(run_cli(capfd, ARGS), ExpectFail("", ARGS, ("output 'prediction' is missing",)))
    write_sampler(Path("m.onnx"), gain=1000.0)
    check_fail(run_cli(capfd, ARGS), ExpectFail("", ARGS, ("predicted values", "at most 63")))


def stop_after_the_first_pass(capfd: pytest.CaptureFixture[str]) -> None:
    """Let all blocks of the first pass be finished and kept, and no more."""

    def fail(self: PassState, before: tuple[int, int]) -> tuple[int, int]:
        raise Failed("no more")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(PassState, "complete", fail)
        stopped = run_cli(capfd, ARGS)
    assert (stopped.code, stopped.error) == (1, "safron-render: error: no more")


@pytest.mark.usefixtures("_files")
def test_status_counts_all_passes_and_scratch_of_other_steps_is_refused(
    capfd: pytest.CaptureFixture[str],
) -> None:
    stop_after_the_first_pass(capfd)
    (done, whole), *_ = re.findall(r"(\d+) of (\d+) patches", run_cli(capfd, "--status s.tiff").out)
    assert 0 < int(done) < int(whole) / 2
    refused = run_cli(capfd, f"{ARGS} --steps 2")
    assert refused.code == 2
    assert "holds an unfinished render with other inputs (sampler)" in refused.error
    assert render_cli(capfd, ARGS)["patches"] == int(whole)


@pytest.mark.usefixtures("_files")
def test_the_view_of_a_render_in_work_shows_the_running_picture(capfd: pytest.CaptureFixture[str]) -> None:
    stop_after_the_first_pass(capfd)
    assert ": pass 1 of 4, 0 of 4 blocks, " in run_cli(capfd, "--status s.tiff").out
    stored = np.asarray(zarr.open_array("s.tiff.safron/passes/0/state", mode="r")[:]).astype(np.float32)
    colors = np.clip(np.rint((stored + 1) * 127.5), 0, 255).astype(np.uint8).transpose(1, 2, 0)
    picture = UnfinishedPicture(Path("s.tiff"))
    with closing(picture):
        shown = picture.tile(0, 0, 0)
        assert shown is not None
        assert shown.there is not None
        assert shown.there.all()
        np.testing.assert_array_equal(shown.rgb, colors)
        coarse = picture.tile(2, 0, 0)
        assert coarse is not None
        rows = np.minimum(np.arange(38) * 4 + 2, 149)
        np.testing.assert_array_equal(coarse.rgb, colors[rows, 2::4])
        assert picture.progress()["step"] == 1
        assert picture.progress()["steps"] == 4
        Path("s.tiff.safron/passes/0/state/c.0.1.1").unlink()  # as a pass frees it
        there = picture.tile(0, 0, 0).there  # type: ignore[union-attr]
        expected = np.full((150, 200), 255)
        expected[64:128, 64:128] = 0
        np.testing.assert_array_equal(there, expected)


@pytest.mark.usefixtures("_files")
def test_finished_blocks_hide_the_running_picture(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(render_state, "SYNC_SECONDS", 0.0)
    done: list[int] = []

    def stop(count: int) -> None:
        done.append(count)
        if sum(done) > 40 and render_status("s.tiff").blocks >= 2:
            raise KeyboardInterrupt

    mask = np.asarray(zarr.open_array("mask.zarr", mode="r")[:])
    how: dict[str, Any] = {"overlap": 4, "tile": 32, "block": 64, "tiff_tile": 64, "mpp": 1.0, "workers": 1}
    how |= {"compression": "none", "model": MixModel(), "device": "cpu"}
    with pytest.raises(KeyboardInterrupt):
        render(mask, "s.tiff", progress=stop, **how)
    with closing(UnfinishedPicture(Path("s.tiff"))) as picture:
        status, early = picture.progress(), picture.tile(0, 0, 0)
        blocks = picture.finished(0, 0, 0)
    assert (status["step"], status["steps"]) == (3, 3)
    assert early is not None
    assert blocks is not None
    assert blocks.there is not None
    assert early.there is not None
    render(mask, "s.tiff", **how)
    late, finished = tifffile.imread("s.tiff", level=0), blocks.there == 255
    assert 0 < finished.sum() < finished.size
    np.testing.assert_array_equal(early.rgb[finished], late[finished])
    waiting = ~finished & (early.there == 255)
    assert waiting.any()
    assert (early.rgb[waiting] != late[waiting]).mean() > 0.5  # there is noise in it yet


@pytest.mark.usefixtures("_files")
def test_a_torn_chunk_of_the_running_picture_is_made_again(capfd: pytest.CaptureFixture[str]) -> None:
    digest = render_cli(capfd, ARGS)["digest"]
    Path("s.tiff").unlink()
    stop_after_the_first_pass(capfd)
    chunk = Path("s.tiff.safron/passes/0/state/c.0.1.1")
    chunk.write_bytes(chunk.read_bytes()[:-9])
    assert render_cli(capfd, ARGS)["digest"] == digest


@pytest.mark.usefixtures("_files")
def test_a_damaged_record_of_a_pass_says_what_to_do(capfd: pytest.CaptureFixture[str]) -> None:
    digest = render_cli(capfd, ARGS)["digest"]
    Path("s.tiff").unlink()
    for text in ("x", '{"attributes": {"safron": {"format": 6}}}'):
        stop_after_the_first_pass(capfd)
        Path("s.tiff.safron/passes/0/zarr.json").write_text(text)
        damaged = run_cli(capfd, ARGS)
        assert damaged.code == 2
        assert "passes/0/zarr.json: " in damaged.error
        assert damaged.error.endswith(": pass --fresh or --overwrite")
        assert render_cli(capfd, f"{ARGS} --fresh")["digest"] == digest
        Path("s.tiff").unlink()


@pytest.mark.usefixtures("_files")
@pytest.mark.parametrize("lost", ["state/c.0.1.1", "state/zarr.json"])
def test_a_running_picture_that_got_lost_is_told_in_one_line(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    complete = PassState.complete

    def lose(self: PassState, before: tuple[int, int]) -> tuple[int, int]:
        (self.scratch.path / lost).unlink()
        return complete(self, before)

    monkeypatch.setattr(PassState, "complete", lose)
    outcome = run_cli(capfd, ARGS)
    assert outcome.code == 1
    assert "the sampler's running picture is missing or damaged in part" in outcome.error
    assert "start over with --fresh" in outcome.error
