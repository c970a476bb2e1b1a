"""Is the paper's recipe built as published: its networks, its stitching, its losses, and is each of its parts trained?"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import run_program
from disks import small_disk
from safron.io.errors import BadInput, Failed
from safron.training import cli
from safron.training.config.data_sets import DataFacts
from safron.training.config.settings import PRESETS, RENAMED, override, preset
from safron.training.data import Pairs, draw_batch, open_source
from safron.training.data.cues import measure_cues
from training_cases import count_macs, image_of, labels_of, one_line, pair, write

torch = pytest.importorskip("torch", reason="training needs PyTorch: pip install 'safron[train]'")

from safron.training import discriminators, losses, networks, sample_sheet, stitch, train  # noqa: E402  (these import torch)
from safron.training.checkpoint import load_checkpoint, save_checkpoint  # noqa: E402
from safron.training.config.stopping import own_folder  # noqa: E402

PAPER = PRESETS["safron"]
TINY = replace(preset("safron", "tiny"), steps=20, epochs=0, bfloat16=False)
RECIPES = {
    "tile": TINY,
    "patch": override(TINY, {"discriminator_input": "patch"}, "test"),
    "no skips": override(TINY, {"model": {"skips": False}}, "test"),
    "no overlap": override(TINY, {"model": {"overlap": 0}}, "test"),
    "seamless": override(preset("safron-seamless", "tiny"), {"bfloat16": False, "steps": 20}, "test"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two drawn slides of two images each."""
    path = tmp_path_factory.mktemp("pairs")
    for seed, name in enumerate(("a_1", "a_2", "b_1", "b_2")):
        pair(path, name, seed, size=(96, 120), grain=12)
    return path


# The networks, as published


def test_generator_has_the_published_cost() -> None:
    with torch.device("meta"):
        network = networks.make_generator(PAPER.model)
        macs = count_macs(network, torch.zeros(1, 3, 296, 296))
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(54.8e6, rel=1e-3)
    # The paper counts 56.25 GFLOP, two to a multiply-add; the authors' code leaves a norm out of the count.
    assert 2 * macs == pytest.approx(56.4e9, rel=2e-3)
    assert networks.make_generator(TINY.model)(torch.zeros(2, 3, 24, 24)).shape == (2, 3, 16, 16)


def test_discriminator_gives_a_map_of_20_by_20() -> None:
    with torch.device("meta"):
        discriminator = discriminators.TileDiscriminator(
            3, PAPER.discriminator_base, PAPER.discriminator_levels
        )
        (logits,), features = discriminator(torch.zeros(1, 3, 728, 728), torch.zeros(1, 3, 728, 728))
    assert logits.shape == (1, 1, 20, 20)
    assert [feature.shape[-1] for feature in features] == [364, 182, 91, 45, 22, 21]
    assert sum(p.numel() for p in discriminator.parameters()) == pytest.approx(11.2e6, rel=5e-3)
    assert PAPER.tile_side == 728


def test_a_logit_sees_286_pixels() -> None:
    # Wider than a patch: each logit has a seam in view.
    discriminator = discriminators.TileDiscriminator(3, 1, PAPER.discriminator_levels)
    discriminator.norms = torch.nn.ModuleList(
        torch.nn.Identity() for _ in discriminator.norms
    )  # norms see everything
    image = torch.zeros(1, 3, 728, 728, requires_grad=True)
    (logits,), _ = discriminator(torch.zeros(1, 3, 728, 728), image)
    logits[0, 0, 10, 10].backward()
    assert image.grad is not None
    rows = torch.nonzero(image.grad.abs().sum(dim=(0, 1, 3))).flatten()
    assert int(rows[-1] - rows[0]) + 1 == 286


def test_settings_are_the_papers() -> None:
    assert (PAPER.pixel_weight, PAPER.anchor_weight, PAPER.feature_weight) == ((100, 100), (0, 0), (0, 0))
    assert (PAPER.generator_rate, PAPER.discriminator_rate, PAPER.betas[0]) == (1e-4, 1e-4, 0.5)
    assert (PAPER.batch, PAPER.epochs, PAPER.cooldown, PAPER.ema) == (1, 100, 0, 0)
    assert (PAPER.stride, PAPER.grid, PAPER.adversarial, PAPER.discriminator_input) == (236, 3, "log", "tile")


def test_patches_depend_on_no_other_when_rendered() -> None:
    # In training they share their norms; a rendered patch must not change with its batch, nor from call to call.
    torch.manual_seed(0)
    network = networks.make_generator(TINY.model).eval()
    patches = torch.randn(3, 3, 24, 24)
    with torch.no_grad():
        together, alone = network(patches), network(patches[:1])
    assert torch.allclose(together[:1], alone, atol=1e-6)


def test_no_skips_leaves_only_the_bottleneck() -> None:
    with_skips, without = (
        sum(p.numel() for p in networks.make_generator(config.model).parameters())
        for config in (TINY, RECIPES["no skips"])
    )
    assert without < with_skips


# Stitching


def oracle_join(patches: Any, stride: int, count: int) -> tuple[Any, Any]:
    """The mean at each pixel, and how many patches cover it, in plain loops."""
    side = patches.shape[-1] + (count - 1) * stride
    total, covered = np.zeros((patches.shape[1], side, side)), np.zeros((side, side))
    for index, patch in enumerate(patches):
        y, x = (index // count) * stride, (index % count) * stride
        for row in range(patch.shape[-2]):
            for column in range(patch.shape[-1]):
                total[:, y + row, x + column] += patch[:, row, column]
                covered[y + row, x + column] += 1
    return total / covered, covered


@pytest.mark.parametrize(("side", "stride", "count"), [(6, 4, 3), (5, 5, 2), (7, 3, 3), (4, 4, 1)])
def test_stitching_and_its_gradient_equal_the_oracle(side: int, stride: int, count: int) -> None:
    torch.manual_seed(0)
    patches = torch.randn(count * count, 2, side, side, dtype=torch.float64, requires_grad=True)
    tile = stitch.join(patches, stride, count)
    expected, covered = oracle_join(patches.detach().numpy(), stride, count)
    np.testing.assert_allclose(tile[0].detach().numpy(), expected, atol=1e-12)
    upstream = torch.randn_like(tile)
    tile.backward(upstream)
    assert patches.grad is not None
    # Each patch gets the tile's gradient under it, shared by all that cover the pixel.
    shared = upstream[0].numpy() / covered
    for index in range(count * count):
        y, x = (index // count) * stride, (index % count) * stride
        np.testing.assert_allclose(
            patches.grad[index].numpy(), shared[:, y : y + side, x : x + side], atol=1e-12
        )
    assert torch.autograd.gradcheck(lambda p: stitch.join(p, stride, count), (patches,))


def test_cut_undoes_join() -> None:
    tile = torch.randn(2, 3, 14, 14)
    assert torch.allclose(stitch.join(stitch.cut(tile, 6, 4), 4, 3), tile, atol=1e-6)


def test_a_training_tile_is_what_rendering_stitches() -> None:
    torch.manual_seed(0)
    network = networks.make_generator(TINY.model).eval()
    labels = np.random.default_rng(0).integers(3, size=(48, 48)).astype(np.uint8)
    one_hot = networks.one_hot_labels(torch.from_numpy(labels)[None], 3)
    with torch.no_grad():
        tile, patches = stitch.TileGenerator(network, TINY)(one_hot, torch.zeros(1, 0, 48, 48))
    assert patches.shape == (9, 3, 16, 16)
    windows = [labels[y : y + 24, x : x + 24] for y in (0, 12, 24) for x in (0, 12, 24)]
    with torch.no_grad():
        alone = [network(networks.one_hot_labels(torch.from_numpy(window)[None], 3))[0] for window in windows]
    expected, _ = oracle_join(np.stack([patch.numpy() for patch in alone]), 12, 3)
    assert np.abs(tile[0].numpy() - expected).max() < 1e-5
    drawn = sample_sheet.stitch(network, labels, np.zeros((0, 48, 48), np.float32), TINY, tile=16)
    assert np.abs(drawn - (expected.transpose(1, 2, 0) + 1) * 127.5).max() < 1e-2


# Losses


def test_log_loss_is_the_mean_of_400_cross_entropies() -> None:
    real, fake = torch.randn(1, 1, 20, 20), torch.randn(1, 1, 20, 20)
    loss = losses.LogLoss()
    expected = -(torch.log(torch.sigmoid(real)).mean() + torch.log(1 - torch.sigmoid(fake)).mean())
    assert torch.allclose(loss.discriminator([real], [fake]), expected, atol=1e-5)
    assert torch.allclose(loss.generator([fake]), -torch.log(torch.sigmoid(fake)).mean(), atol=1e-5)


# The loop, for each recipe


@pytest.mark.parametrize("name", RECIPES)
def test_a_step_changes_both_networks(folder: Path, name: str) -> None:
    config = RECIPES[name]
    source = open_source(folder, config)
    trainer = train.Trainer(config)
    before = [
        [p.detach().clone() for p in net.parameters()] for net in (trainer.generator, trainer.discriminator)
    ]
    result = trainer.step(draw_batch(source, config, 0))
    assert all(np.isfinite(value) for value in result.values())
    for net, weights in zip((trainer.generator, trainer.discriminator), before, strict=True):
        assert any(not torch.equal(a, b) for a, b in zip(weights, net.parameters(), strict=True))


def test_loss_goes_down_on_one_tile(folder: Path) -> None:
    config = replace(TINY, steps=1000, generator_rate=2e-3)
    batch = draw_batch(open_source(folder, config), config, 0)
    trainer = train.Trainer(config)
    pixels = [trainer.step(batch)["pixel"] for _ in range(60)]
    assert np.mean(pixels[-5:]) < 0.6 * np.mean(pixels[:5])


def test_equal_images_have_equal_features(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Of real and generated images alike, taken after the discriminator's step: else 11 to 28 % of the loss came of that step.
    config = replace(RECIPES["seamless"], discriminator_rate=0.1)
    batch = draw_batch(open_source(folder, config), config, 0)
    trainer = train.Trainer(config)
    real = trainer._tensors(batch)[2]
    monkeypatch.setattr(trainer, "tiles", lambda one_hot, noise: (real.clone().requires_grad_(), real))
    assert trainer.step(batch)["feature"] == 0


def test_dropout_ends_where_norms_freeze(folder: Path) -> None:
    config = replace(TINY, steps=2, freeze_norms=0.5)
    trainer = train.Trainer(config)
    assert config.freeze_dropout
    batch = draw_batch(open_source(folder, config), config, 0)
    trainer.step(batch)
    assert trainer.generator.dropout.training
    trainer.step(batch)
    assert not trainer.generator.dropout.training
    # Runs of version 0.1 go on as they began.
    trainer = train.Trainer(replace(config, freeze_norms=0.0, freeze_dropout=False))
    trainer.step(batch)
    assert trainer.generator.dropout.training


def test_a_view_of_pix2pix_for_patches() -> None:
    discriminator = discriminators.TileDiscriminator(3, 1, 3)
    discriminator.norms = torch.nn.ModuleList(torch.nn.Identity() for _ in discriminator.norms)
    image = torch.zeros(1, 3, 256, 256, requires_grad=True)
    (logits,), _ = discriminator(torch.zeros(1, 3, 256, 256), image)
    assert logits.shape == (1, 1, 30, 30)
    logits[0, 0, 15, 15].backward()
    assert image.grad is not None
    rows = torch.nonzero(image.grad.abs().sum(dim=(0, 1, 3))).flatten()
    assert int(rows[-1] - rows[0]) + 1 == 70


def test_norms_freeze_late_in_the_run(folder: Path) -> None:
    config = replace(TINY, steps=2, freeze_norms=0.5)
    source = open_source(folder, config)
    trainer = train.Trainer(config)
    name = "down_norm.0.running_mean"
    states = [trainer.generator.state_dict()[name].clone()]
    for step in range(2):
        trainer.step(draw_batch(source, config, step))
        states.append(trainer.generator.state_dict()[name].clone())
    assert not torch.equal(states[0], states[1])
    assert torch.equal(states[1], states[2])


@pytest.mark.parametrize("name", ["tile", "patch", "seamless"])
def test_resume_is_exact(folder: Path, tmp_path: Path, name: str) -> None:
    config = replace(RECIPES[name], steps=4)
    straight = train.fit(folder, tmp_path / "straight", config, train.Schedule(4))
    train.fit(folder, tmp_path / "broken", config, train.Schedule(2))
    broken = train.fit(folder, tmp_path / "broken", config, train.Schedule(4), resume=True)
    one, two = load_checkpoint(straight), load_checkpoint(broken)
    for part in ("generator", "discriminator"):
        for key, value in one.state[part].items():
            assert torch.equal(value, two.state[part][key]), (part, key)


def as_version_01(path: Path, **settings: Any) -> None:
    """Rewrite a checkpoint as version 0.1 wrote it, with its names and without what it did not have."""
    kept = torch.load(path, weights_only=True)
    about = json.loads(kept["about"])
    old = {new: name for name, new in RENAMED.items()}
    plain = {old.get(name, name): value for name, value in about["config"].items()}
    for name in ("freeze_dropout", "epoch_stride"):
        del plain[name]
    said = ("images", "slides", "data", "torch", "device", "precision", "processes")
    about["metadata"] = {name: value for name, value in about["metadata"].items() if name in said}
    about |= {"format": 1, "config": plain | {"grid_phase": False, "diffaugment": []} | settings}
    state = {name.replace("discriminator", "judges"): part for name, part in kept["state"].items()}
    torch.save({"about": json.dumps(about), "state": state}, path)


def test_runs_of_version_01_go_on(folder: Path, tmp_path: Path) -> None:
    config = replace(TINY, steps=4, freeze_norms=0.25, freeze_dropout=False, epoch_stride=200)
    config = override(config, {"image_mpp": 1.0, "model": {"mpp": 1.0}}, "what that version wrote down")
    slides = DataFacts(slide_of="(.*)_")  # in that version what precedes the last - or _
    straight = train.fit(folder, tmp_path / "straight", config, train.Schedule(4), facts=slides)
    path = train.fit(folder, tmp_path / "old", config, train.Schedule(2), facts=slides)
    assert load_checkpoint(path).metadata["slides"] == 1
    as_version_01(path)
    assert load_checkpoint(path).config == config
    # What that version did not have is not asked for: it had neither of the two.
    asked = replace(config, freeze_dropout=True, epoch_stride=11)
    train.fit(folder, tmp_path / "old", asked, train.Schedule(4), resume=True)
    one, two = load_checkpoint(straight), load_checkpoint(path)
    assert (one.config, one.step) == (two.config, two.step)
    for part in ("generator", "discriminator"):
        for key, value in one.state[part].items():
            assert torch.equal(value, two.state[part][key]), (part, key)
    for name, value in (("grid_phase", True), ("diffaugment", ["color"]), ("judge", "classes")):
        as_version_01(
            train.fit(folder, tmp_path / name, config, train.Schedule(1), facts=slides), **{name: value}
        )
        with pytest.raises(BadInput, match=f"{RENAMED.get(name, name)} is .* removed in 0.2") as problem:
            train.fit(folder, tmp_path / name, config, train.Schedule(4), resume=True)
        one_line(problem)


def test_a_run_of_version_01_on_frames_goes_on_when_they_are_named(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for seed, name in enumerate(("A-1-400-001", "B-1-400-001", "C-1-400-001")):
        labels = labels_of(224, 224, seed)
        write(tmp_path / "ebhi" / f"{name}.png", image_of(labels, grain=12))
        write(tmp_path / "ebhi" / f"{name}.gland.png", (labels == 2) * np.uint8(255))
    # Its preset enlarged the frames.
    small = override(TINY, {"image_mpp": 1.0, "model": {"mpp": 0.95}}, "test")
    facts = DataFacts("ebhi")
    straight = train.fit(tmp_path / "ebhi", tmp_path / "straight", small, train.Schedule(2), facts=facts)
    path = train.fit(tmp_path / "ebhi", tmp_path / "old", small, train.Schedule(1), facts=facts)
    as_version_01(path)
    settings = tmp_path / "settings.json"
    settings.write_text('{"bfloat16": false}')
    words = (tmp_path / "ebhi", tmp_path / "old", "--resume", "--steps", "2", "--device", "cpu")
    outcome = run_program(capfd, cli.main, *words)
    assert (outcome.code, "--data-set glands or ebhi" in outcome.error) == (2, True)
    again = ("--preset", "safron", "--size", "tiny", "--config", settings, "--data-set", "ebhi")
    outcome = run_program(capfd, cli.main, *words, *again)
    assert outcome.code == 0, outcome.err
    assert "0.95 um per pixel" in outcome.err
    one, two = (load_checkpoint(file) for file in (straight, path))
    assert (two.step, two.config.model.mpp, two.metadata["data_set"]) == (2, 0.95, "ebhi")
    for key, value in one.state["generator"].items():
        assert torch.equal(value, two.state["generator"][key]), key


def test_a_card_does_not_repeat_what_version_01_guessed(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    from safron.training.export import export_checkpoint

    path = train.fit(folder, tmp_path, TINY, train.Schedule(1), facts=DataFacts(name="EBHI-Seg"))
    as_version_01(path)  # where any mask called *.gland.png was of EBHI-Seg
    card = export_checkpoint(path, tmp_path / "x.onnx")
    assert (card["licence"], card["trained_on"]) == (
        "unknown",
        "data that nobody named: 3 images of 3 slides",
    )
    told = {"licence": "CC BY 4.0, Shi et al.", "trained_on": "EBHI-Seg"}
    card = export_checkpoint(path, tmp_path / "y.onnx", card=told)
    assert told.items() <= card.items()


def test_float16_scales_its_loss(folder: Path) -> None:
    config = replace(RECIPES["seamless"], float16=True)
    source = open_source(folder, config)
    trainer = train.Trainer(config)
    assert trainer.scaler.get_scale() > 1
    before = [p.detach().clone() for p in trainer.generator.parameters()]
    # Steps whose gradients overflow are left out, and the scale is halved.
    for step in range(16):
        result = trainer.step(draw_batch(source, config, step))
    assert all(np.isfinite(value) for value in result.values())
    assert any(not torch.equal(a, b) for a, b in zip(before, trainer.generator.parameters(), strict=True))
    assert trainer.checkpoint({}).state["scaler"]["scale"] == trainer.scaler.get_scale()


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("safron-seamless", {"patch": 16}),
        ("safron-seamless", {"patch": 24, "discriminator_network": "pix2pix", "discriminator_levels": 3}),
        ("safron", {"grid": 1, "discriminator_levels": 2}),
        (
            "safron",
            {
                "model": {"levels": 1, "tile": 2, "overlap": 1, "context": 0},
                "grid": 6,
                "discriminator_levels": 1,
            },
        ),
    ],
)
def test_the_least_that_the_rules_let_through_is_trained(name: str, changes: dict[str, Any]) -> None:
    config = override(replace(preset(name, "tiny"), bfloat16=False), {"anchor_cell": 2} | changes, "test")
    # A smaller pair would be refused, and this one must do for a sheet, too.
    labels = labels_of(config.least_side, config.least_side)
    images = (image_of(labels, grain=12),)
    source = Pairs(images, (labels,), *measure_cues(images, (labels,)), ("a",))
    trainer = train.Trainer(config)
    assert all(np.isfinite(value) for value in trainer.step(draw_batch(source, config, 0)).values())
    assert sample_sheet.draw_sheet(trainer.average, source, config).size


def test_an_epoch_is_all_tiles_at_a_stride(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Three images of 96 x 120 are trained on; windows of 48 px every 48 px, the last at the edge: 2 x 3 in each.
    config = replace(TINY, epochs=2, epoch_stride=48, batch=3)
    path = train.fit(folder, tmp_path, config, train.Schedule(config.steps, show=True))
    assert (load_checkpoint(path).step, load_checkpoint(path).config.steps) == (12, 12)
    line, last = capsys.readouterr().err.splitlines()
    assert last.startswith("12/12 steps")
    for words in (
        "(read as pairs, by its folders): 3 images of 3 slides, each image a slide of its own",
        "held out: 1 image of 1 slide",
        "18 tiles of 40 px at an unknown pixel size (one each 48 px)",
        "12 steps are 2 epochs",
        "labels: background, stroma, gland; cpu, float32",
    ):
        assert words in line
    # Fewer tiles than fit into a batch still make a step.
    config = replace(TINY, epochs=1, epoch_stride=48, batch=25)
    assert load_checkpoint(train.fit(folder, tmp_path / "few", config, train.Schedule(9))).step == 1


def test_a_resumed_run_keeps_its_length_in_steps(folder: Path, tmp_path: Path) -> None:
    # Version 0.1 counted an epoch otherwise; its runs go on with the steps that they were begun with.
    config = replace(TINY, epochs=2, epoch_stride=48)
    kept = train.Trainer(replace(config, steps=3)).checkpoint({})
    save_checkpoint(tmp_path / "checkpoint.pt", kept)
    path = train.fit(folder, tmp_path, config, train.Schedule(config.steps), resume=True)
    assert load_checkpoint(path).step == 3
    longer = replace(config, epochs=1, batch=1)
    assert load_checkpoint(train.fit(folder, tmp_path, longer, train.Schedule(9), resume=True)).step == 12


def test_sheet_shows_masks_tissue_and_seams(folder: Path) -> None:
    source = open_source(folder, TINY)
    network = networks.make_generator(TINY.model)
    drawn = sample_sheet.draw_sheet(network, source, TINY)
    assert drawn.shape == (4 * 40 + 3 * sample_sheet.GAP, 4 * 40 + 3 * sample_sheet.GAP, 3)
    assert network.training  # as it was
    lowest = drawn[3 * (40 + sample_sheet.GAP) :, :40]
    assert (lowest[12] == sample_sheet.EDGE).all()
    assert (lowest[:, 15] == sample_sheet.EDGE).all()


# Several processes


WORKERS = """
import json, sys
from pathlib import Path
import torch
import torch._dynamo  # optimizers import it, each process for itself
from safron.training import train
from safron.training.config.settings import config_from_json
from safron.training.distributed import join_team
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

def work(data, out, settings):
    torch.set_num_threads(1)
    with join_team("cpu") as (team, device):
        for name, plain in json.loads(settings).items():
            config = config_from_json(plain)
            hardware = train.Hardware(device, team)
            train.fit(Path(data), Path(out, name), config, train.Schedule(config.steps), hardware=hardware)

here = {"rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0", "run_id": "two"}
elastic_launch(LaunchConfig(1, 1, 2, start_method="fork", **here), work)(*sys.argv[1:])
"""
"""What torchrun does, but processes fork when all is imported; else importing PyTorch three times takes most of the time."""


def test_two_processes_agree_with_one(folder: Path, tmp_path: Path) -> None:
    # Dropout draws other numbers in each process, so the paper's network goes without. It takes one step: biases in front
    # of a norm have no gradient but rounding, which Adam blows up to whole steps from then on.
    configs = {
        "paper": replace(override(TINY, {"model": {"dropout": 0.0}}, "test"), batch=2, steps=1),
        "seamless": replace(RECIPES["seamless"], steps=3),
    }
    script = tmp_path / "workers.py"
    script.write_text(WORKERS)
    settings = json.dumps({name: config.to_json() for name, config in configs.items()})
    words = (str(script), str(folder), str(tmp_path / "two"), settings)
    ran = subprocess.run(
        [sys.executable, *words],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr
    for name, config in configs.items():
        alone = train.fit(folder, tmp_path / "one" / name, config, train.Schedule(config.steps))
        one, two = (load_checkpoint(path) for path in (alone, tmp_path / "two" / name / "checkpoint.pt"))
        assert (two.step, two.metadata["processes"]) == (config.steps, 2)
        for part in ("generator_adam", "discriminator_adam"):
            # The first moment is the mean of the gradients so far, over all processes.
            mine, theirs = (
                torch.cat([moments["exp_avg"].flatten() for moments in kept.state[part]["state"].values()])
                for kept in (one, two)
            )
            assert (mine - theirs).abs().max() < 1e-5 * mine.abs().max(), (name, part)
    for part in ("generator", "average", "discriminator"):
        for key, value in one.state[part].items():
            assert torch.allclose(value, two.state[part][key], atol=1e-5), (part, key)


# What goes wrong


@pytest.mark.parametrize(
    ("save_every", "says"), [(2, "the last checkpoint is kept"), (6, "no checkpoint was written")]
)
def test_nan_loss_stops_and_keeps_the_last_checkpoint(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save_every: int, says: str
) -> None:
    config = replace(TINY, steps=6)
    original = losses.PixelLoss.__call__
    calls = []

    def spoiled(self: Any, real: Any, fake: Any) -> Any:
        calls.append(1)
        return original(self, real, fake) * (float("nan") if len(calls) == 4 else 1)

    monkeypatch.setattr(losses.PixelLoss, "__call__", spoiled)
    with pytest.raises(Failed, match=f"generator became nan at step 4; {says}") as problem:
        train.fit(folder, tmp_path, config, train.Schedule(6, save_every=save_every))
    one_line(problem)
    if save_every > 4:
        assert not (tmp_path / "checkpoint.pt").exists()
        return
    kept = load_checkpoint(tmp_path / "checkpoint.pt")
    assert kept.step == 2
    assert all(torch.isfinite(p).all() for p in kept.state["generator"].values())


def test_weights_that_are_not_finite_are_never_saved(folder: Path) -> None:
    trainer = train.Trainer(TINY)
    with torch.no_grad():
        next(trainer.generator.parameters()).fill_(float("inf"))
    with pytest.raises(Failed, match="no longer finite"):
        trainer.checkpoint({})


def test_a_full_disk_keeps_the_checkpoint_that_was_there(folder: Path, tmp_path: Path) -> None:
    trainer = train.Trainer(TINY)
    with small_disk(tmp_path / "disk", "size=1m") as disk:
        path = disk / "checkpoint.pt"
        save_checkpoint(path, trainer.checkpoint({}))
        before = path.read_bytes()
        (disk / "ballast").write_bytes(bytes(1024 * 1024 - 2 * len(before)))
        trainer.done = 7
        with pytest.raises(Failed, match="cannot save step 7") as problem:
            save_checkpoint(path, trainer.checkpoint({}))
        assert "make room" in one_line(problem)
        assert path.read_bytes() == before
        assert sorted(entry.name for entry in disk.iterdir()) == [
            "ballast",
            "checkpoint.json",
            "checkpoint.pt",
        ]


def test_two_runs_in_one_folder_are_refused(folder: Path, tmp_path: Path) -> None:
    with (
        own_folder(tmp_path),
        pytest.raises(BadInput, match="another process trains into this folder") as problem,
    ):
        train.fit(folder, tmp_path, TINY, train.Schedule(1))
    one_line(problem)
    train.fit(folder, tmp_path, TINY, train.Schedule(1))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_finishes_the_step_and_saves(
    name: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    number, step = signal.Signals[name], train.Trainer.step

    def stopped(self: train.Trainer, batch: Any) -> dict[str, float]:
        if self.done == 2:
            signal.raise_signal(number)
            signal.raise_signal(number)  # a terminal sends it to a whole group
        return step(self, batch)

    monkeypatch.setattr(train.Trainer, "step", stopped)
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        train.fit(folder, tmp_path, TINY, train.Schedule(20))
    assert load_checkpoint(tmp_path / "checkpoint.pt").step == 3
    assert signal.getsignal(number) is before


def test_a_batch_must_be_shared_evenly() -> None:
    from safron.training.distributed import Team

    assert Team(1, 2).share(4) == slice(2, 4)
    with pytest.raises(BadInput, match="a batch of 1 cannot be shared by 2 processes"):
        Team(0, 2).share(1)
