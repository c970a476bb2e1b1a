"""A mask model is trained, goes on, and comes out as a sampler."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cases import run_program
from layout_models import REGIONS, TINY, TYPES, write_data, write_model
from masks import cells
from safron.engine.generator.model import load_model
from safron.engine.nucleus_plan import read_codes
from safron.io.errors import BadInput
from safron.io.masks.nucleus_code import circle, measure_depth
from safron.training.cli import main
from safron.training.diffusion.running import Running
from safron.training.layouts.data import Layouts, make_planes, read_meanings
from safron.training.layouts.train import KIND, Trainer, fit

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def planes(data: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("planes") / "planes.npy"
    make_planes(*data, TINY, path, lambda line: None)
    return path


def test_planes_hold_depth_type_and_region(planes: Path) -> None:
    types, numbers = cells(1, side=96)
    depth, kinds, regions = np.load(planes)
    np.testing.assert_array_equal(depth, measure_depth(numbers))
    np.testing.assert_array_equal(kinds, np.where(types > 0, 1 + types % 3, 0))
    assert np.unique(regions).tolist() == [1, 2]


def test_meanings_are_those_of_the_masks(data: tuple[Path, Path]) -> None:
    config = read_meanings(*data)
    assert config.types == TYPES
    assert [label.name for label in config.labels] == [label.name for label in REGIONS]
    assert [label.fill for label in config.labels] == [(0, 128, 128), None, None]
    with pytest.raises(BadInput, match="0 background, 1 tissue, then regions"):
        read_meanings(data[0], data[0] / "labels" / "instance" / "0")
    with pytest.raises(BadInput, match="does not name the labels of nuclei"):
        read_meanings(data[0] / "labels" / "instance" / "0", None)
    with pytest.raises(BadInput, match="no numbers of nuclei"):
        make_planes(data[1], None, TINY, data[0].parent / "no.npy", lambda line: None)


def test_crops_stay_out_of_the_rows_that_are_held_out() -> None:
    planes = np.zeros((3, 96, 64), np.uint8)
    planes[0] = np.arange(96)[:, None]  # rows, where depths would be
    planes[1:] = 1
    rng = np.random.default_rng(0)
    trained, held = (Layouts(planes, TINY, held_out=held) for held in (False, True))
    rows = np.unique(trained.draw(rng, 60).pictures[..., 0])
    assert {*rows.tolist()} <= {*range(48), *range(72, 96)}
    assert len(rows) > 60
    assert {*np.unique(held.draw(rng, 20).pictures[..., 0]).tolist()} <= {*range(48, 72)}
    crops = trained.draw(rng, 2)
    np.testing.assert_array_equal(crops.types, [[1, 0, 0], [1, 0, 0]])
    with pytest.raises(BadInput, match="leaves no crop of 16 pixels"):
        Layouts(planes[:, :, :8], TINY)


def test_a_run_that_stops_goes_on_as_if_it_had_not(data: tuple[Path, Path], tmp_path: Path) -> None:
    fit(*data, tmp_path / "whole", TINY)
    fit(*data, tmp_path / "two", replace(TINY, steps=3))
    with pytest.raises(BadInput, match="add --resume"):
        fit(*data, tmp_path / "two", TINY)
    with pytest.raises(BadInput, match="other settings"):
        fit(*data, tmp_path / "two", replace(TINY, rate=0.1), Running(resume=True))
    trainer = Trainer(replace(TINY, steps=99))
    layouts = Layouts(np.load(tmp_path / "whole" / "planes.npy"), TINY)
    first = [trainer.step(layouts) for _ in range(2)]
    state = json.loads(json.dumps(trainer.done)), trainer.state()
    kept = [{k: v.clone() for k, v in trainer.network.state_dict().items()}]
    more = trainer.step(layouts)
    other = Trainer(replace(TINY, steps=99))
    assert [other.step(layouts) for _ in range(2)] == first
    other.load(state[1] | {"network": kept[0]}, state[0])
    assert other.step(layouts) == more
    fit(*data, tmp_path / "two", TINY, Running(resume=True))
    config, step, _ = KIND.load(tmp_path / "two" / "checkpoint.pt")
    assert (config, step) == (TINY, 4)
    assert (tmp_path / "two" / "sheet-000004.png").exists()


def test_the_exported_model_says_what_it_makes(tmp_path: Path) -> None:
    card = write_model(tmp_path / "m.onnx")
    assert card["parity_max_abs"] < 1e-4
    assert card["overlap_mismatch"] < 0.2
    loaded = load_model(tmp_path / "m.onnx", device="cpu").card
    codes = read_codes(loaded)
    assert codes.types == TYPES
    np.testing.assert_allclose(codes.codes, circle(3), atol=1e-6)
    assert loaded.style is not None
    assert loaded.style.named["neoplastic+connective"] == (1, 0, 1)
    assert len(loaded.style.named) == 7


def test_from_the_command_line(
    data: tuple[Path, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    short = ("--steps", "2", "--crop", "8", "--batch", "1", "--threads", "1")
    made = run_program(capfd, main, "mask-model", data[0], run, "--regions", data[1], *short)
    assert made.code == 0, made.err
    assert KIND.load(run / "checkpoint.pt")[0].types == TYPES
    out = run_program(
        capfd, main, "export-mask-model", run / "checkpoint.pt", tmp_path / "m.onnx", "--steps", "3"
    )
    assert out.code == 0, out.err
    assert "parity" in out.out
    assert load_model(tmp_path / "m.onnx", device="cpu").card.name == "run", "not that of the one that ships"
    wrong = run_program(capfd, main, "export-mask-model", data[0], tmp_path / "n.onnx")
    assert wrong.code == 2
    assert "(a folder, not a file) is not a checkpoint of a mask model" in wrong.err
