"""A sampler's slide equals the oracle bit for bit, for any blocks, workers and kills."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from cases import ExpectFail, check_fail, render_cli, run_cli
from masks import blobs
from safron.engine.generator.model import load_model
from safron.engine.plan.fixed_point import prediction_bits
from safron.engine.plan.grid import PatchGrid
from safron.engine.plan.render_plan import Passes
from safron.engine.plan.taper import Taper
from safron.engine.rendering import render
from safron.engine.scratch import render_state
from safron.engine.scratch.pass_state import PassState
from safron.io.errors import Failed
from sampler_models import CARD, Killed, MixModel, write_sampler
from sampler_oracle import sample_whole

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


def expected(
    mask: Any, model: Any, *, taper: Any = "flat", overlap: int = 12, seed: int = 7, state: str = "float32"
) -> Any:
    tile = model.card.tile
    grid, weights = PatchGrid(*mask.shape, tile, overlap, 4), Taper(taper).weights(tile=tile, overlap=overlap)
    bits = prediction_bits(grid, Taper(taper))
    return sample_whole(
        mask, model, tile=tile, overlap=overlap, weights=weights, bits=bits, seed=seed, state=state
    )


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
    mask, digests = blobs(290, 400), set()
    for number, changes in enumerate(
        [{}, {"block": 64}, {"block": 512}, {"workers": 2}, {"batch": 5}, {"workers": 3, "block": 64}]
    ):
        made = render(mask, tmp_path / f"{number}.tiff", model=MixModel(), **(SMALL | changes))
        digests.add(made.digest)
    assert len(digests) == 1


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


def test_without_the_c_extension_the_slide_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mask = blobs(150, 200)
    compiled = render(mask, tmp_path / "a.tiff", model=MixModel(), **SMALL)
    monkeypatch.setattr("safron.engine.blending.dense.compiled", None)
    plain = render(mask, tmp_path / "b.tiff", model=MixModel(), **SMALL)
    assert compiled.digest == plain.digest


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


@pytest.mark.parametrize("kill", [(9, 24, 19, 27, 13), (51, 38)], ids=len)
@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "lazily"])
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


def test_the_running_picture_is_deleted_as_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scratch holds little more than one of them, and less than planned."""
    monkeypatch.setattr(render_state, "SYNC_SECONDS", 0.0)
    height, width, most, passes = 704, 512, 0, set()
    scratch = tmp_path / "s.tiff.safron"

    def look(count: int) -> None:
        nonlocal most
        chunks = list(scratch.glob("passes/*/state/c.*"))
        passes.update(path.parts[-3] for path in chunks)
        most = max(most, len(chunks) * 64 * 64)

    options = SMALL | {"block": 64}
    render(blobs(height, width), tmp_path / "s.tiff", model=MixModel(steps=4), progress=look, **options)
    assert passes == {"0", "1", "2"}
    plan = Passes(steps=4, channels=3, state="float16", alignment=4, content="")
    assert height * width < most < 1.5 * height * width
    assert most * 3 * 2 <= plan.state_bytes(height, width, 64)


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
    grid = np.asarray(level0(Path("s.tiff")))
    np.testing.assert_array_equal(grid, expected(mask, model, seed=0, state="float16"))


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
def test_a_torn_chunk_of_the_running_picture_is_made_again(capfd: pytest.CaptureFixture[str]) -> None:
    digest = render_cli(capfd, ARGS)["digest"]
    Path("s.tiff").unlink()
    stop_after_the_first_pass(capfd)
    chunk = Path("s.tiff.safron/passes/0/state/c.0.1.1")
    chunk.write_bytes(chunk.read_bytes()[:-9])
    assert render_cli(capfd, ARGS)["digest"] == digest


@pytest.mark.usefixtures("_files")
def test_a_running_picture_that_got_lost_is_told_in_one_line(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    complete = PassState.complete

    def lose(self: PassState, before: tuple[int, int]) -> tuple[int, int]:
        (self.scratch.path / "state/c.0.1.1").unlink()
        return complete(self, before)

    monkeypatch.setattr(PassState, "complete", lose)
    lost = run_cli(capfd, ARGS)
    assert lost.code == 1
    assert "the sampler's running picture is missing or damaged in part" in lost.error
    assert "start over with --fresh" in lost.error
