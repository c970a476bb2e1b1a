"""A mask of nuclei is sampled over a canvas: the same for any blocks and workers, with and without interruptions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from cases import run_program
from layout_models import REGIONS, TYPES, write_model
from safron.engine import nucleus_masks, render
from safron.engine.generator.model import load_model
from safron.engine.mask_cli import main
from safron.engine.nucleus_masks import make_nuclei, prepare_codes, write_mask
from safron.engine.nucleus_plan import plan_nuclei
from safron.engine.rendering import open_runner, run
from safron.io import open_mask
from safron.io.errors import BadInput, Failed
from safron.io.legend import Label
from safron.io.masks import write, write_nuclei
from safron.io.masks.nucleus_decode import NucleusFinder, View
from safron.io.masks.write import write_labels

SIZE = (150, 190)
WANTED = ("connective", "neoplastic")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "m.onnx"
    write_model(path)
    return path


@pytest.fixture(scope="module")
def whole(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """Give classes and numbers, from the picture as one block."""
    out = tmp_path_factory.mktemp("whole") / "codes.tiff"
    tissue = np.ones(SIZE, np.uint8)
    render(
        tissue, out, model=model, style="neoplastic+connective", seed=3, overlap=24, compression="none", workers=1
    )  # fmt: skip
    picture = tifffile.imread(out, level=0)
    finder = NucleusFinder(load_model(model).card.extra["nuclei"]["codes"], (0, 2), SIZE[1], 8)
    view = View((0, 0), np.s_[0 : SIZE[0], 0 : SIZE[1]], picture, np.zeros(SIZE, bool))
    finder.note(view)
    finder.settle()
    kinds, numbers = finder.paint(view)
    return np.array([1, 2, 3, 4])[kinds], numbers


def read(out: Path) -> tuple[Any, Any]:
    return tuple(
        np.asarray(zarr.open_array(out / "labels" / name / "0")[:]) for name in ("class", "instance")
    )  # type: ignore[return-value]


def small_chunks(monkeypatch: pytest.MonkeyPatch, side: int) -> None:
    for module in (write, write_nuclei, nucleus_masks):
        monkeypatch.setattr(module, "CHUNK", side)


def plan_of(model: Path, **changes: Any) -> Any:
    given: dict[str, Any] = {"size": SIZE, "model": model, "seed": 3, "device": "cpu"}
    return plan_nuclei(WANTED, **(given | changes))


@pytest.mark.parametrize(("chunk", "workers"), [(1024, 1), (48, 3)])
def test_any_block_and_worker_gives_the_whole_picture(
    model: Path, whole: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int, workers: int
) -> None:
    small_chunks(monkeypatch, chunk)
    out = tmp_path / "n.zarr"
    counts = make_nuclei(plan_of(model), out, workers=workers)
    labels, numbers = read(out)
    kinds, want = whole
    np.testing.assert_array_equal(numbers, want)
    np.testing.assert_array_equal(labels, np.array([0, 1, 2, 0, 4])[kinds])
    assert sum(counts.values()) == want.max() > 5
    assert [*tmp_path.iterdir()] == [out]
    mask = open_mask(out)
    assert mask.mpp == 0.5
    assert "instances" in mask.beside


class Counting:
    """A model that counts its patches."""

    def __init__(self, model: Any) -> None:
        self.model, self.made = model, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def __call__(self, labels: Any, *args: Any, **planes: Any) -> Any:
        self.made += len(labels)
        return self.model(labels, *args, **planes)


def test_a_command_that_is_interrupted_goes_on(
    model: Path, whole: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sample(out: Path, progress: Callable[[int], None] | None = None, **changes: Any) -> int:
        plan = plan_of(model, **changes)
        counting = Counting(plan.model)
        prepared = prepare_codes(replace(plan, model=counting), out, workers=1, block=64, tiff_tile=64)
        if prepared is not None:
            with open_runner(prepared) as (prepared, runner):
                run(prepared, runner, progress=progress)
        return counting.made

    done: list[int] = []

    def stop(count: int) -> None:
        done.append(count)
        if sum(done) > 60:
            raise KeyboardInterrupt

    out = tmp_path / "n.zarr"
    with pytest.raises(KeyboardInterrupt):
        sample(out, stop)
    with pytest.raises(BadInput, match=r"begun with other inputs \(--seed\)"):
        sample(out, seed=4)
    assert sample(out) < sample(tmp_path / "uninterrupted.zarr") - 20
    assert not sample(out)  # the picture is complete

    def full(*args: Any, **options: Any) -> None:
        raise Failed("disk full")

    with monkeypatch.context() as broken:
        broken.setattr(nucleus_masks, "write_nuclei", full)
        with pytest.raises(Failed):
            write_mask(plan_of(model), out)
    make_nuclei(plan_of(model), out)
    np.testing.assert_array_equal(read(out)[1], whole[1])


def test_overwrite_starts_over(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "n.zarr"
    assert prepare_codes(plan_of(model), out, workers=1) is not None
    other = plan_of(model, seed=4, steps=2)
    make_nuclei(other, out, overwrite=True, workers=1)
    assert dict(zarr.open_group(out).attrs)["safron"]["seed"] == 4  # type: ignore[index, call-overload]
    with pytest.raises(BadInput, match="exists"):
        make_nuclei(other, out)


def test_regions_have_names_and_another_pixel_size(model: Path, tmp_path: Path) -> None:
    tissue = np.ones((75, 95), np.uint8)
    tissue[:, 60:] = 0
    tissue[40:, :60] = 2
    path = tmp_path / "tissue.zarr"
    write_labels(
        path, lambda y, x: tissue[y, x], height=75, width=95, mpp=1.0, labels=(*REGIONS[:2], Label(2, "Tumor", (1, 2, 3))),
        workers=1,
    )  # fmt: skip
    out = tmp_path / "n.zarr"
    make_nuclei(plan_of(model, size=None, tissue=path, classes="types", steps=2), out, workers=1)
    labels, numbers = read(out)
    assert labels.shape == SIZE
    assert (labels[:, 120:] == 0).all()
    assert not numbers[:, 120:].any()
    assert numbers[:, :119].any()
    assert {*np.unique(labels).tolist()} <= {0, 1, 2, 4}
    legend = dict(zarr.open_array(out / "labels/class/0").attrs)["labels"]
    assert [label["name"] for label in legend] == ["background", "tissue", *TYPES]  # type: ignore[union-attr, index, call-overload]


FAILS = [
    ("--types nosuch --size 64,64 --model m.onnx", "knows neoplastic, inflammatory, connective"),
    ("--types , --size 64,64 --model m.onnx", "give some of these"),
    ("--types connective --model m.onnx", "give either --size W,H or --tissue MASK"),
    ("--types connective --size 0,9 --model m.onnx", "must be two whole numbers"),
    ("--types connective --size 5000000000,9 --model m.onnx", "at most 4294967295 pixels"),
    ("--types connective --size 4000000000,4000000000 --model m.onnx", "a side may have 30000000 pixels"),
    ("--types connective --size 9000000,9000000 --model m.onnx", "free"),
    ("--types connective --size 64,64 --model nuclei", "makes no masks: its card must have nuclei"),
    ("--types connective --size 64,64 --model absent.onnx", "absent.onnx"),
    ("--types connective --size 64,64 --model m.onnx --steps 9", "--steps 9"),
    ("--types connective --size 64,64 --model m.onnx --classes other.json", "other.json"),
    ("--types connective --size 64,64 --model m.onnx --map 0=1", "give --tissue"),
    ("--types connective --tissue glands.zarr --model m.onnx", "knows no region 'gland'"),
    (
        "--types connective --tissue plain.zarr --model m.onnx",
        "its labels have no names; 'nuclei-masks' has regions 0 background, 1",
    ),
    ("--types connective --tissue half.zarr --model m.onnx", "label 2 is not a region"),
    ("--types connective --tissue glands.zarr --map 2=9 --model m.onnx", "label 9 is not a region"),
    ("--types connective --size 64,64 --model odd.onnx", "types and codes must be one or more"),
]


@pytest.fixture(scope="module")
def folder(model: Path) -> Path:
    here = model.parent
    write_model(here / "odd.onnx", nuclei={"types": ["one"], "codes": []})
    labels = [Label(1, "tissue", (1, 2, 3)), Label(2, "gland", (4, 5, 6))]
    for name, legend in (("glands", labels), ("half", labels[:1]), ("plain", [])):
        write_labels(
            here / f"{name}.zarr", lambda y, x: np.full((64, 64), 2, np.uint8), height=64, width=64, labels=legend, workers=1
        )  # fmt: skip
    return here


@pytest.mark.parametrize(("args", "says"), FAILS, ids=[says for _, says in FAILS])
def test_bad_input_is_one_line(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, args: str, says: str
) -> None:  # fmt: skip
    monkeypatch.chdir(folder)
    outcome = run_program(capfd, main, "nuclei", tmp_path / "n.zarr", *args.split())
    assert outcome.code == 2, outcome
    assert says in outcome.err
    if not outcome.err.startswith("Usage"):
        assert len(outcome.err.splitlines()) == 1, outcome.err
    assert not [*tmp_path.iterdir()]


def test_from_the_command_line(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    out = tmp_path / "n.zarr"
    command = "--types inflammatory --tissue glands.zarr --map 2=2 --model m.onnx --steps 2 --workers 1"
    outcome = run_program(capfd, main, "nuclei", out, *command.split())
    assert outcome.code == 0, outcome
    assert "64 x 64 pixels, 0.5 um per pixel" in outcome.out
    assert "inflammatory -> 3 inflammatory" in outcome.out
