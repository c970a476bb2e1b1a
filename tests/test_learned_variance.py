"""A diffusion model that learns the variance of its steps learns it from the true bound, and from nothing else."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from cases import run_program
from masks import blobs
from safron.engine.generator.model import load_model
from safron.training.cli import main
from safron.training.config.data_sets import DataFacts
from safron.training.diffusion.export import export_run
from safron.training.diffusion.process import add_noise, linear_alphas, target_of
from safron.training.diffusion.sample import sample
from safron.training.diffusion.settings import DiffusionConfig
from safron.training.diffusion.train import KIND, Trainer, fit, make_network, open_data
from safron.training.diffusion.variance import log_variance, variance_bound
from torch.distributions import Normal, kl_divergence

torch.set_num_threads(1)  # threads that wait for each other on a busy machine take minutes

PLAIN = DiffusionConfig(widths=(8, 16), crop=32, batch=2, steps=4, context=8, rate=1e-3)
TINY = replace(PLAIN, learned_variance=True)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for name in "ab":
        labels = blobs(96, 96, labels=6, cell=12, seed=ord(name))
        image = rng.integers(120, 200, (96, 96, 3), np.uint8) - 15 * labels[..., None]
        cv2.imwrite(str(folder / f"{name}.png"), image)
        cv2.imwrite(str(folder / f"{name}.mask.png"), labels)
    return folder


def backwards(noisy: torch.Tensor, picture: torch.Tensor, time: int) -> Normal:
    """q(x_{t-1} | x_t, x_0) by Bayes: what the picture says of x_{t-1}, times what x_t says, both normal in it."""
    alphas = linear_alphas()
    before, share = alphas[time - 1], alphas[time] / alphas[time - 1]
    of_picture, of_noisy = 1 / (1 - before), share / (1 - share)
    variance = 1 / (of_picture + of_noisy)
    mean = variance * (of_picture * math.sqrt(before) * picture + of_noisy * noisy / math.sqrt(share))
    return Normal(mean, torch.full_like(mean, math.sqrt(variance)))


def drawn(time: int) -> tuple[torch.Tensor, ...]:
    """Picture of grey levels, noise, noisy picture and v of one crop, float64 [1, 3, 2, 4] each."""
    rng = np.random.default_rng(time)
    levels = torch.from_numpy(rng.integers(0, 256, (1, 3, 2, 4)))
    levels[0, 0, 0, :2] = torch.tensor([0, 255])
    picture = levels.double() / 127.5 - 1.0
    noise, v = (
        torch.from_numpy(rng.standard_normal(picture.shape)),
        torch.from_numpy(rng.uniform(-1, 1, picture.shape)),
    )
    return picture, noise, add_noise(picture, noise, torch.tensor([linear_alphas()[time]])), v


@pytest.mark.parametrize("prediction", ["epsilon", "x0", "v"])
@pytest.mark.parametrize("time", [1, 2, 40, 500, 999])
def test_a_term_is_the_divergence_of_two_normal_distributions(time: int, prediction: str) -> None:
    picture, _, noisy, v = drawn(time)
    alphas, at = linear_alphas(), torch.tensor([time])
    wrong = picture + 0.1 * torch.sin(7 * picture)
    implied = (noisy - math.sqrt(alphas[time]) * wrong) / math.sqrt(1 - alphas[time])
    made = target_of(prediction, wrong, implied, torch.tensor([alphas[time]]))
    truth, seen = backwards(noisy, picture, time), backwards(noisy, wrong, time)
    beta = 1 - alphas[time] / alphas[time - 1]
    variance = torch.exp((v + 1) / 2 * math.log(beta) + (1 - v) / 2 * torch.log(truth.variance))
    expected = kl_divergence(truth, Normal(seen.mean, variance.sqrt())).mean() / math.log(2)
    got = variance_bound(v.float(), made.float(), noisy.float(), picture.float(), at, prediction=prediction)
    assert got.shape == (1,)
    assert float(got[0]) == pytest.approx(float(expected), rel=2e-3)


def test_the_last_term_is_the_probability_of_each_grey_level() -> None:
    picture, noise, noisy, v = drawn(0)
    alpha, at = linear_alphas()[0], torch.tensor([0])
    seen = (noisy - math.sqrt(1 - alpha) * 1.2 * noise) / math.sqrt(alpha)
    step = Normal(seen, torch.exp(0.5 * log_variance(v, at)).double())
    levels = torch.arange(256).double() / 127.5 - 1
    edges = torch.cat([torch.tensor([-math.inf]), (levels[1:] + levels[:-1]) / 2, torch.tensor([math.inf])])
    shares = step.cdf(edges[1:, None, None, None, None]) - step.cdf(edges[:-1, None, None, None, None])
    torch.testing.assert_close(shares.sum(dim=0), torch.ones_like(picture))
    own = torch.round((picture + 1) * 127.5).long()
    expected = -torch.log2(shares.gather(0, own[None])[0].clamp(min=1e-12)).mean()
    got = variance_bound(
        v.float(), 1.2 * noise.float(), noisy.float(), picture.float(), at, prediction="epsilon"
    )
    assert float(got[0]) == pytest.approx(float(expected), rel=1e-2)


def test_v_lies_between_the_two_variances() -> None:
    alphas, at = linear_alphas(), torch.tensor([0, 1, 500])
    betas = 1 - alphas / np.append(1.0, alphas[:-1])
    least = betas[1:] * (1 - alphas[:-1]) / (1 - alphas[1:])
    for v, variances in ((1.0, betas[[0, 1, 500]]), (-1.0, least[[0, 0, 499]])):
        got = log_variance(torch.full((3, 1, 1, 1), v), at).exp()[:, 0, 0, 0]
        np.testing.assert_allclose(got.numpy(), variances, rtol=1e-4)


def test_the_bound_leaves_the_prediction_alone(data: Path) -> None:
    trainer = Trainer(TINY)
    torch.nn.init.normal_(trainer.network.out.weight, std=0.01)
    source = open_data(data, TINY, DataFacts(), None)
    _, bound = trainer.losses(source, trainer.random())
    assert bound is not None
    bound.backward()  # type: ignore[no-untyped-call]
    slopes = trainer.network.out.weight.grad
    assert slopes is not None
    assert slopes.shape[0] == 24
    assert not slopes[:12].any()
    assert slopes[12:].abs().max() > 0


def test_training_lowers_both_parts_of_the_loss(data: Path) -> None:
    trainer = Trainer(replace(TINY, steps=200, rate=3e-3, batch=4))
    source = open_data(data, TINY, DataFacts(), None)

    def parts() -> Any:
        with torch.no_grad():
            pairs = [trainer.losses(source, np.random.default_rng(seed)) for seed in range(12)]
        return np.array([[float(simple), float(bound)] for simple, bound in pairs if bound is not None]).mean(
            0
        )

    before = parts()
    for _ in range(60):
        told = trainer.step(source)
    after = parts()
    assert (after < 0.8 * before).all(), (before, after)
    assert told["loss"] == pytest.approx(told["simple"] + 0.001 * told["vlb"], rel=1e-4)


def test_the_exported_file_is_that_of_the_prediction_alone(data: Path, tmp_path: Path) -> None:
    run = fit(data, tmp_path / "run", TINY)
    card = export_run(run, tmp_path / "m.onnx", steps=4, tile=64)
    assert card["sampler"]["prediction"] == "epsilon"
    config, _, state = KIND.load(run)
    network = make_network(config)
    network.load_state_dict(state["average"])
    torch.nn.init.normal_(network.out.weight[12:], std=1.0)  # whatever v is, nothing else changes
    plain = make_network(replace(config, learned_variance=False))
    kept = {
        name: value[:12] if name.startswith("out.") else value for name, value in state["average"].items()
    }
    plain.load_state_dict(kept)
    labels = np.ones((1, 80, 80), np.uint8)
    how: dict[str, Any] = {"steps": 2, "guidance": 1.0, "seed": 0}
    np.testing.assert_array_equal(
        sample(network, labels, config, **how),
        sample(plain, labels, replace(config, learned_variance=False), **how),
    )
    model: Any = load_model(tmp_path / "m.onnx", device="cpu")
    xt, t = torch.randn(1, 3, 80, 80), torch.full((1,), 300.0)
    got = model(labels, None, xt=xt.numpy(), t=t.numpy())
    with torch.no_grad():
        one_hot = torch.zeros(1, 6, 80, 80)
        one_hot[:, 1] = 1.0
        expected = plain(xt, t, one_hot)[:, :, 8:-8, 8:-8].permute(0, 2, 3, 1)
    np.testing.assert_allclose(got, expected.numpy(), atol=1e-4)


def test_a_run_goes_on_with_the_variance_that_it_began_with(
    data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    args = ["diffusion", data, tmp_path / "run", "--widths", "8,16", "--crop", "32", "--batch", "1"]
    for more in (["--learn-variance", "--steps", "2"], ["--resume", "--steps", "50"]):
        made = run_program(capfd, main, *args, *more)
        assert made.code == 0, made.err
    config, step, state = KIND.load(tmp_path / "run/checkpoint.pt")
    assert (config.learned_variance, step) == (True, 50)
    assert state["network"]["out.weight"].shape[0] == 24
    (entry,) = (json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines())
    assert entry["loss"] == pytest.approx(entry["simple"] + 0.001 * entry["vlb"], abs=2e-4)
