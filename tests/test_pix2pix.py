"""The baseline of the SAFRON paper: pix2pix as published, trained, exported, and seen through by the seam measures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safron.engine.generator.model import load_model
from safron.training.config.settings import PRESETS, preset
from safron.training.data import draw_batch, open_source
from training_cases import count_macs, pair

torch = pytest.importorskip("torch")

from safron.training import discriminators, networks, train  # noqa: E402
from safron.training.export import export_fresh  # noqa: E402

FULL = PRESETS["pix2pix"]
TINY = replace(preset("pix2pix", "tiny"), steps=4, epochs=0, bfloat16=False, batch=2)


def test_the_networks_are_the_published_ones() -> None:
    with torch.device("meta"):
        generator = networks.make_generator(FULL.model)
        discriminator = discriminators.make_discriminator(FULL)
        macs = count_macs(generator, torch.zeros(1, 3, 256, 256))
    # 54.414 million in the authors' PyTorch code, where only the last layer has biases.
    layers = [*generator.down, *generator.up[:-1]]
    biases = sum(layer.bias.numel() for layer in layers)
    assert sum(value.numel() for value in generator.parameters()) - biases == 54_413_955
    # Each convolution has 4 x 4 taps, and either end has a quarter of the other's pixels.
    down, up = [3, 64, 128, 256, 512, 512, 512, 512, 512], [512, 1024, 1024, 1024, 1024, 512, 256, 128]
    out = [512, 512, 512, 512, 256, 128, 64, 3]
    expected = sum(down[i] * down[i + 1] * 16 * (128 >> i) ** 2 for i in range(8))
    assert macs == expected + sum(up[i] * out[i] * 16 * 4**i for i in range(8))
    logits, _ = discriminator(
        torch.zeros(1, 3, 256, 256, device="meta"), torch.zeros(1, 3, 256, 256, device="meta")
    )
    assert logits[0].shape == (1, 1, 30, 30), "70 x 70 pixels each"


def test_a_patch_sees_nothing_beyond_itself(tmp_path: Path) -> None:
    card = export_fresh(TINY, tmp_path / "p.onnx")
    assert (card["context"], card["tile"], card["noise_channels"]) == (0, 16, 0)
    model = load_model(tmp_path / "p.onnx")
    labels = np.random.default_rng(0).integers(0, 3, (2, 16, 16)).astype(np.uint8)
    image = np.asarray(model(labels, None))
    assert image.shape == (2, 16, 16, 3)


def test_both_networks_are_trained(tmp_path: Path) -> None:
    for name in "ab":
        pair(tmp_path, name, seed=ord(name), size=(64, 64), grain=10)
    trainer = train.Trainer(TINY)
    before = {
        name: [value.detach().clone() for value in getattr(trainer, name).parameters()]
        for name in ("generator", "discriminator")
    }
    source = open_source(tmp_path, TINY)
    for step in range(2):
        losses = trainer.step(draw_batch(source, TINY, step))
    assert set(losses) == {"discriminator", "adversarial", "pixel"}
    for name, old in before.items():
        changed = [
            not torch.equal(a, b) for a, b in zip(old, getattr(trainer, name).parameters(), strict=True)
        ]
        assert all(changed), name
