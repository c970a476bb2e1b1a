"""A diffusion model is trained, goes on, and comes out as a sampler that the engine runs."""

from __future__ import annotations

import json
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import zarr
from cases import render_cli, run_program
from masks import blobs
from safron.engine.generator.model import load_model
from safron.engine.generator.sampler import Sampler
from safron.io.errors import BadInput
from safron.training.cli import main
from safron.training.config.data_sets import DataFacts
from safron.training.diffusion.export import export_run
from safron.training.diffusion.network import SemanticUNet, condition_of, one_hot_of
from safron.training.diffusion.process import add_noise, linear_alphas, sampling_times, target_of
from safron.training.diffusion.running import Running
from safron.training.diffusion.sample import ddim, sample
from safron.training.diffusion.settings import NUCLEI, NULL_LABEL, DiffusionConfig
from safron.training.diffusion.train import KIND, Trainer, fit
from training_cases import tile

torch.set_num_threads(1)  # threads that wait for each other on a busy machine take minutes

TINY = DiffusionConfig(widths=(8, 16), crop=32, batch=2, steps=4, context=8, rate=1e-3, prediction="v")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for name in "ab":
        labels = blobs(64, 64, labels=6, cell=12, seed=ord(name))
        image = rng.integers(120, 200, (64, 64, 3), np.uint8) - 15 * labels[..., None]
        cv2.imwrite(str(folder / f"{name}.png"), image)
        cv2.imwrite(str(folder / f"{name}.mask.png"), labels)
    return folder


@pytest.fixture(scope="module")
def checkpoint(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit(data, tmp_path_factory.mktemp("run"), TINY)


def test_a_run_that_stops_goes_on_as_if_it_had_not(data: Path, checkpoint: Path, tmp_path: Path) -> None:
    fit(data, tmp_path, replace(TINY, steps=2))
    with pytest.raises(BadInput, match="add --resume"):
        fit(data, tmp_path, TINY)
    with pytest.raises(BadInput, match="other settings"):
        fit(data, tmp_path, replace(TINY, rate=1.0), Running(resume=True))
    # The last fifth of a run has a lower rate, so a run of 2 steps is not the first half of one of 4: go on from 1.
    fit(data, tmp_path, TINY, Running(resume=True))
    config, step, state = KIND.load(tmp_path / "checkpoint.pt")
    assert (config, step) == (TINY, 4)
    assert (tmp_path / "sheet-000004.png").exists()
    whole = KIND.load(checkpoint)[2]["network"]
    assert state["network"].keys() == whole.keys()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_finishes_the_step_and_saves(
    name: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken, step = [], Trainer.step

    def stopped(self: Trainer, trained: Any) -> float:
        taken.append(self.done)
        if len(taken) == 2:
            signal.raise_signal(signal.Signals[name])
        return step(self, trained)

    monkeypatch.setattr(Trainer, "step", stopped)
    with pytest.raises(KeyboardInterrupt):
        fit(data, tmp_path, TINY)
    assert KIND.load(tmp_path / "checkpoint.pt")[1] == 2
    assert not [*tmp_path.glob("sheet-*")], "it would take a while"
    fit(data, tmp_path, TINY, Running(resume=True))


def test_the_same_settings_give_the_same_weights(data: Path, checkpoint: Path, tmp_path: Path) -> None:
    again = KIND.load(fit(data, tmp_path, TINY))[2]["average"]
    first = KIND.load(checkpoint)[2]["average"]
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_what_is_predicted_leads_back_to_the_picture() -> None:
    picture, noise = torch.rand(2, 3, 4, 4) * 2 - 1, torch.randn(2, 3, 4, 4)
    alpha = torch.tensor([0.3, 0.3])
    noisy = add_noise(picture, noise, alpha)
    for prediction in ("epsilon", "x0", "v"):
        made = ddim(noisy, target_of(prediction, picture, noise, alpha), prediction, 0.3, 1.0)
        torch.testing.assert_close(made, picture)


@pytest.mark.parametrize("norm", ["pixel", "group"])
def test_only_the_group_norm_lets_a_corner_see_the_other(norm: Any) -> None:
    torch.manual_seed(0)
    network = SemanticUNet(6, (8, 16), 1, norm).eval()
    for parameter in network.parameters():  # zeros at the start would hide everything
        torch.nn.init.normal_(parameter, std=0.2)
    x, labels = torch.randn(1, 3, 160, 160), one_hot_of(torch.ones(1, 160, 160, dtype=torch.uint8), 6)
    other = x.clone()
    other[..., 120:, 120:] += 1.0
    t = torch.tensor([500.0])
    with torch.no_grad():
        moved = (network(x, t, labels) - network(other, t, labels)).abs()[..., :8, :8].max()
    assert (float(moved) > 1e-4) == (norm == "group")


def test_the_null_label_is_no_label() -> None:
    labels = torch.tensor([[[0, 5, NULL_LABEL]]], dtype=torch.uint8)
    assert one_hot_of(labels, 6).sum(dim=1).tolist() == [[[1.0, 1.0, 0.0]]]


def test_where_there_is_no_label_there_is_no_edge() -> None:
    labels = torch.tensor([[[0, 5, NULL_LABEL]]], dtype=torch.uint8)
    assert condition_of(labels, torch.ones(1, 1, 1, 3), 6)[0, 6].tolist() == [[1.0, 1.0, 0.0]]


def test_touching_nuclei_are_told_apart(
    data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for number in range(3):
        tile(tmp_path / "data", f"train_{number}", number)
    config, facts = replace(TINY, nuclei=NUCLEI), DataFacts(data_set="consep")
    with pytest.raises(BadInput, match="has no numbers of nuclei"):
        fit(data, tmp_path / "none", config)
    run = fit(tmp_path / "data", tmp_path / "run", config, facts=facts)
    card = export_run(run, tmp_path / "m.onnx", steps=4, usual=2, guidance=1.0, tile=64)
    assert card["edges"] == {"of": "instances", "labels": [*NUCLEI]}
    model: Any = load_model(tmp_path / "m.onnx", device="cpu")
    labels, xt, t = (
        np.full((1, 80, 80), 2, np.uint8),
        np.ones((1, 3, 80, 80), np.float32),
        np.ones(1, np.float32),
    )
    edges = np.zeros((1, 1, 80, 80), np.uint8)
    edges[..., 40:42] = 1
    alone, apart = (model(labels, None, xt=xt, t=t, edges=plane) for plane in (0 * edges, edges))
    near, far = (np.abs(alone - apart)[:, :, part].max() for part in (slice(30, 34), slice(60, None)))
    assert near > 10 * far, "the network sees beyond its context, but ever less"
    numbers = np.ones((96, 96), np.uint16)
    numbers[:, 48:] = 2
    np.save(tmp_path / "numbers.npy", numbers)
    np.save(tmp_path / "labels.npy", np.full((96, 96), 2, np.uint8))
    args = f"{tmp_path}/labels.npy {tmp_path}/s.tiff --instances {tmp_path}/numbers.npy --model {tmp_path}/m.onnx"
    assert "edges" in render_cli(capfd, f"{args} --mpp 0.5 --device cpu --workers 1")["stages"]


def test_schedule_is_that_of_diffusers() -> None:
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDIMScheduler(
        num_train_timesteps=1000, timestep_spacing="trailing", prediction_type="v_prediction"
    )
    np.testing.assert_allclose(linear_alphas(), scheduler.alphas_cumprod.numpy(), rtol=2e-5)
    scheduler.set_timesteps(8)
    assert scheduler.timesteps.tolist() == sampling_times(8)


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize(
    ("prediction", "theirs"), [("epsilon", "epsilon"), ("x0", "sample"), ("v", "v_prediction")]
)
def test_the_engines_step_is_that_of_diffusers(prediction: Any, theirs: str, eta: float) -> None:
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDIMScheduler(
        num_train_timesteps=1000, timestep_spacing="trailing", prediction_type=theirs, clip_sample=True
    )
    scheduler.set_timesteps(5)
    times = sampling_times(5)
    sampler = Sampler(
        "ddim", prediction, tuple(map(float, times)), tuple(linear_alphas()[times].tolist()), eta=eta
    )
    x, made, fresh = (
        torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in range(3)
    )
    for number in (1, 3):
        step = sampler.step(number)
        expected = scheduler.step(
            made, times[number], x, eta=eta, variance_noise=fresh if eta else None
        ).prev_sample
        ours = step.advance(x.numpy(), made.numpy(), fresh.numpy() if eta else None)
        np.testing.assert_allclose(ours, expected.numpy(), atol=2e-4)


def test_a_sample_has_the_size_of_its_labels(checkpoint: Path) -> None:
    config, _, state = KIND.load(checkpoint)
    network = SemanticUNet(6, config.widths, config.blocks, config.norm)
    network.load_state_dict(state["average"])
    image = sample(network, np.ones((2, 32, 32), np.uint8), config, steps=2, guidance=1.0, seed=0)
    assert (image.shape, image.dtype) == ((2, 32, 32, 3), np.uint8)


def test_the_exported_file_is_a_sampler_that_renders(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    made = run_program(
        capfd,
        main,
        "export-diffusion",
        checkpoint,
        "m.onnx",
        "--steps",
        "5",
        "--tile",
        "64",
        "--licence",
        "CC0",
    )
    assert (made.code, made.err) == (0, "")
    assert "parity" in made.out
    model: Any = load_model("m.onnx", device="cpu")
    assert model.card.name == checkpoint.parent.name, "not that of the one that ships"
    assert model.card.sampler.times == tuple(map(float, sampling_times(5)))
    assert (model.card.alignment, model.card.context, model.card.licence) == (4, 8, "CC0")
    mask = blobs(130, 150, labels=6)
    zarr.create_array("mask.zarr", shape=mask.shape, chunks=(64, 64), dtype="uint8")[:] = mask
    args = "mask.zarr s.tiff --model m.onnx --mpp 0.5 --tiff-tile 64 --block 128 --device cpu --workers 1 --steps 2"
    report = render_cli(capfd, f"{args} --guidance 1.5")
    assert report["generated"] + report["filled"] == report["patches"]


def test_a_card_beside_the_file_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "m.json").write_text(json.dumps({}))
    with pytest.raises(BadInput, match="would be read with"):
        export_run(checkpoint, tmp_path / "m.onnx")
    with pytest.raises(BadInput, match="multiple of 4"):
        export_run(checkpoint, tmp_path / "n.onnx", tile=63)


def test_commands_say_in_one_line_what_is_wrong(
    data: Path, checkpoint: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for args, says in (
        (["diffusion", data, tmp_path / "run", "--widths", "5"], "two multiples of 8"),
        (["diffusion", data, tmp_path / "run", "--crop", "30"], "multiples of 4"),
        (["diffusion", data, tmp_path / "run", "--resume"], "(no such file) is not a checkpoint of"),
        (["export-diffusion", data / "a.png", tmp_path / "m.onnx"], "is not a checkpoint"),
        (["export-diffusion", checkpoint, tmp_path / "m.onnx", "--usual-steps", "21"], "must be at most 20"),
    ):
        outcome = run_program(capfd, main, *args)
        assert (outcome.code, outcome.out) == (2, "")
        assert says in outcome.error
