"""A generator that reads guides and a style: trained on stains as they are, exported, rendered."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from masks import blobs
from safron.engine import render
from safron.engine.evaluation.overlap_mismatch import measure_mismatch
from safron.engine.generator.guides import read_guides
from safron.engine.generator.onnx_model import OnnxModel
from safron.engine.plan.window import Window
from safron.io.errors import BadInput
from safron.io.masks.open import open_mask
from safron.io.measures.style import STYLE_NAMES, measure_style
from safron.training.config.data_sets import DataFacts
from safron.training.config.settings import override, preset
from safron.training.data import Pairs, draw_batch, ebhi, open_source
from safron.training.data.cues import find_zones
from tiles import tissue
from training_cases import Bytes

torch = pytest.importorskip("torch", reason="training needs PyTorch: pip install 'safron[train]'")
pytest.importorskip("onnx", reason="export needs onnx: pip install 'safron[train]'")

from safron.training import export, networks, train  # noqa: E402  (these import torch)
from safron.training.beginning import _fit_colors, begin  # noqa: E402
from safron.training.checkpoint import load_checkpoint  # noqa: E402

TINY = replace(preset("safron-tissue", "tiny"), steps=6, bfloat16=False)
EBHI = DataFacts(data_set="ebhi")


def noisy(image: Bytes, rng: np.random.Generator) -> Bytes:
    return np.clip(image + rng.normal(0, 12, image.shape), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four drawn pairs of four slides, each of another stain."""
    path = tmp_path_factory.mktemp("pairs")
    rng = np.random.default_rng(0)
    for number in range(4):
        image = np.full((224, 224, 3), (200 - 15 * number, 120, 170), np.uint8)
        mask = np.zeros((224, 224), np.uint8)
        for center, radius in (((60, 150), 40), ((150, 60), 25), ((170, 170), 12)):
            cv2.circle(mask, center, radius, 255, -1)
        image[mask > 0] = (110, 60, 130 - 10 * number)
        image = noisy(image, rng)
        image[:50, :50] = 250 - 5 * number
        cv2.imwrite(str(path / f"{'ABCD'[number]}-1-400-001.webp"), image[..., ::-1])
        cv2.imwrite(str(path / f"{'ABCD'[number]}-1-400-001.gland.png"), mask)
    return path


@pytest.fixture(scope="module")
def source(folder: Path) -> Any:
    return open_source(folder, TINY, None, EBHI)


@pytest.fixture(scope="module")
def trained(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run")
    return train.fit(folder, out, TINY, train.Schedule(4, save_every=2), facts=EBHI)


def test_images_keep_their_stain_and_windows_have_guides_and_style(source: Any, folder: Path) -> None:
    raw, _ = ebhi.read_frame(folder / "A-1-400-001.webp", folder / "A-1-400-001.gland.png")
    assert np.array_equal(source.images[0], raw)
    sample = source.read(0, (13, 90), 72)
    expected = read_guides(source.labels[0], Window(13, 90, 72, 72), TINY.model.guide, outside=None)
    assert np.array_equal(sample.guides, expected)
    assert np.array_equal(sample.style, measure_style(raw))
    assert sample.cues.shape == sample.trust.shape == (3, 72, 72)
    batch = draw_batch(source, TINY, 0)
    assert (batch.guides.shape, batch.style.shape) == ((2, 3, 72, 72), (2, 9))


def test_guides_turn_with_the_labels(source: Any) -> None:
    for step in range(6):
        batch = draw_batch(source, TINY, step)
        for labels, guides in zip(batch.labels, batch.guides, strict=True):
            assert np.array_equal(guides[0] > 0, labels == 2)


def test_a_gland_has_a_middle_and_an_epithelium(source: Any) -> None:
    labels = source.labels[0]
    middle, rim, stroma = (zone.member for zone in find_zones(labels, preset("safron-tissue").model.guide))
    assert np.array_equal(middle | rim, labels == 2)
    assert not (middle & rim).any()
    assert np.array_equal(stroma, labels == 1)
    assert middle[150, round(60 * 299 / 224)]
    assert rim[150 - 36, round(60 * 299 / 224)]


def test_pairs_of_another_pixel_size_are_brought_to_the_generator_s(folder: Path) -> None:
    config = override(TINY, {"model": {"mpp": 0.8}}, "test")
    pairs = open_source(folder, config, None, EBHI)
    assert isinstance(pairs, Pairs)
    assert pairs.zoom == 1.0
    assert pairs.labels[0].shape == (280, 373)
    assert pairs.read(0, (0, 0), 72).guides.shape == (3, 72, 72)


def test_the_discriminator_may_begin_alone(source: Any) -> None:
    config = replace(TINY, generator_delay=1)
    trainer = train.Trainer(config)
    before = [weight.detach().clone() for weight in trainer.generator.parameters()]
    assert set(trainer.step(draw_batch(source, config, 0))) == {"discriminator"}
    pairs = list(zip(before, trainer.generator.parameters(), strict=True))
    assert all(torch.equal(old, new) for old, new in pairs)
    assert {"discriminator", "adversarial", "anchor"} <= set(trainer.step(draw_batch(source, config, 1)))
    assert any(not torch.equal(old, new) for old, new in pairs)


def test_guides_and_style_reach_the_picture(trained: Path) -> None:
    kept = load_checkpoint(trained)
    network = networks.make_generator(kept.config.model).eval()
    network.load_state_dict(kept.state["generator"])
    rng = np.random.default_rng(0)
    one_hot = torch.zeros(1, 3, 72, 72)
    one_hot[:, 2] = 1
    noise = torch.from_numpy(rng.standard_normal((1, 6, 72, 72), np.float32))
    guides, style = torch.zeros(1, 3, 72, 72), network.style.center[None].clone()
    with torch.no_grad():
        first = network(one_hot, noise, guides, style)
        assert not torch.equal(network(one_hot, noise, guides + 0.5, style), first)
        style[0, 3] += 3 * network.style.spread[3]
        assert not torch.equal(network(one_hot, noise, guides, style), first)


def test_resume_is_exact(folder: Path, tmp_path: Path, trained: Path) -> None:
    train.fit(folder, tmp_path, TINY, train.Schedule(2, save_every=9), facts=EBHI)
    broken = train.fit(folder, tmp_path, TINY, train.Schedule(4, save_every=9), resume=True)
    one, two = load_checkpoint(trained), load_checkpoint(broken)
    assert one.metadata["styles"] == two.metadata["styles"]
    for key, value in one.state["average"].items():
        assert torch.equal(value, two.state["average"][key]), key


@pytest.mark.parametrize("float16", [False, True])
def test_an_exported_generator_renders_in_any_style_without_a_seam(
    trained: Path, tmp_path: Path, float16: bool
) -> None:
    out = tmp_path / "tissue.onnx"
    card = export.export_checkpoint(trained, out, float16=float16)
    assert card["guides"] == {"classes": [2], "radius": 8}
    assert card["style"]["numbers"] == list(STYLE_NAMES)
    assert set(card["style"]["named"]) == {"pale", "dark", "pink", "blue"}
    assert card["overlap_mismatch"] == 0.0
    mask = blobs(150, 170, cell=19)
    measured = measure_mismatch(OnnxModel(out), open_mask(mask), tile=64, overlap=20)
    assert measured is not None
    assert measured.largest == 0.0
    digests = set()
    for style in ("default", "dark"):
        slide = tmp_path / f"{style}.tiff"
        report = render(mask, slide, model=out, tile=64, style=style, tiff_tile=64, overlap=20)
        digests.add(report.digest)
        assert {"guides", "style"} <= set(report.stages)
    assert len(digests) == 2


def test_the_default_style_is_measured_on_tissue_alone(trained: Path, tmp_path: Path) -> None:
    """As `--style` is, in the same words; any other picture has nine numbers, too."""
    out = tmp_path / "own.onnx"
    rng = np.random.default_rng(1)
    mask = (rng.random((256, 256)) < 0.5).astype(np.uint8)
    pictures = {
        "white": (np.full((256, 256, 3), 255, np.uint8), "has 0 pixels of stained tissue"),
        "grey": (rng.integers(60, 200, (256, 256, 1), np.uint8).repeat(3, axis=2), "shows one stain alone"),
        "mask": (np.array([[230, 130, 180], [110, 80, 150]], np.uint8)[mask], "has 2 colours, as a mask"),
    }
    for name, (picture, says) in pictures.items():
        path = tmp_path / f"{name}.png"
        cv2.imwrite(str(path), picture[..., ::-1])
        with pytest.raises(BadInput) as refused:
            export.export_checkpoint(trained, out, default_style=path)
        assert str(refused.value).startswith(f"--default-style {path}: {says}")
        assert not out.exists()
    image = tissue(120)
    cv2.imwrite(str(tmp_path / "tissue.png"), image[..., ::-1])
    card = export.export_checkpoint(trained, out, default_style=tmp_path / "tissue.png")
    assert card["style"]["default"] == pytest.approx(measure_style(image).tolist(), abs=1e-4)


def test_a_run_starts_with_the_weights_of_another_generator(source: Any, tmp_path: Path) -> None:
    old_config = replace(preset("safron-seamless", "tiny"), bfloat16=False)
    torch.manual_seed(1)
    old = networks.make_generator(old_config.model).eval()
    for weight in old.parameters():
        torch.nn.init.normal_(weight, std=0.1)  # equal biases would be one in the file
    exported = tmp_path / "old.onnx"
    export.export(old, old_config, exported, steps=0, trained_on="nothing")
    config = override(TINY, {"model": {"style": False}}, "test")
    new, average = (networks.make_generator(config.model).eval() for _ in range(2))
    begin(new, average, config, source, exported)
    rng = np.random.default_rng(0)
    labels = torch.from_numpy(rng.integers(0, 3, (1, 72, 72)).astype(np.uint8))
    noise = rng.standard_normal((1, 5, 72, 72), np.float32)
    gland = noise[:, 3:4].clip(-networks.NOISE_LIMIT, networks.NOISE_LIMIT) / 2**0.5
    further = np.concatenate([noise[:, :3], gland, gland, noise[:, 4:]], axis=1)
    one_hot = networks.one_hot_labels(labels, 3)
    with torch.no_grad():
        expected = old(one_hot, torch.from_numpy(noise))
        for network in (new, average):
            found = network(one_hot, torch.from_numpy(further), torch.rand(1, 3, 72, 72))
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_a_run_starts_with_the_average_of_another_run(trained: Path, source: Any) -> None:
    kept = load_checkpoint(trained)
    network, average = (networks.make_generator(kept.config.model) for _ in range(2))
    begin(network, average, kept.config, source, trained)
    for part in (network, average):
        state = part.state_dict()
        assert all(torch.equal(state[name], value) for name, value in kept.state["average"].items())
    other = override(kept.config, {"model": {"guide_radius": 16}}, "test")
    with pytest.raises(BadInput, match="its model has other settings"):
        begin(network, average, other, source, trained)


def test_the_effect_of_a_style_on_colours_is_fitted() -> None:
    torch.manual_seed(0)
    network = networks.make_generator(TINY.model).eval()
    styles = torch.zeros(40, 9)
    styles[::2, 3] = 1.0
    reference = torch.rand(40, 64, 3) * 200 + 30
    own = reference * torch.where(styles[:, 3:4, None] > 0, 0.5, 0.9)
    network.style.set_range(styles)
    with torch.no_grad():
        network.full2.weight.zero_()
        network.full2.bias.copy_(torch.atanh(torch.tensor([100.0, 60.0, 140.0]) / 127.5 - 1))
    _fit_colors(network, reference, own, styles)
    # Over nothing but the last bias, the picture is one colour of the reference stain in the style asked for.
    inputs = (torch.zeros(1, 3, 44, 44), torch.zeros(1, 6, 44, 44), torch.zeros(1, 3, 44, 44))
    for index, share in ((0, 0.5), (1, 0.9)):
        with torch.no_grad():
            image = networks.to_rgb(network(*inputs, styles[index : index + 1]))
        expected = share * np.array([100, 60, 140])
        np.testing.assert_allclose(image.numpy(), np.broadcast_to(expected, image.shape), atol=15)


def test_what_cannot_be_started_from_is_said(source: Any, tmp_path: Path) -> None:
    (tmp_path / "no.onnx").write_bytes(b"no")
    network = networks.make_generator(TINY.model)
    with pytest.raises(BadInput, match=r"no\.onnx: cannot be read"):
        begin(network, network, TINY, source, tmp_path / "no.onnx")
    wide = override(TINY, {"model": {"widths": [4, 4, 16, 4, 4]}}, "test")
    export.export_fresh(
        replace(
            preset("safron-seamless", "tiny"),
            model=replace(wide.model, guides=(), style=False, noise_scales=(1, 1, 8, 32, 32)),
        ),
        tmp_path / "wide.onnx",
    )
    with pytest.raises(BadInput, match="of the same widths"):
        begin(network, network, TINY, source, tmp_path / "wide.onnx")


def test_the_paper_s_network_takes_neither_guides_nor_a_style() -> None:
    for change in ({"guides": [2]}, {"style": True}):
        with pytest.raises(BadInput, match="neither guides nor a style"):
            override(preset("safron", "tiny"), {"model": change}, "test")
    with pytest.raises(BadInput, match="label values, each once"):
        override(TINY, {"model": {"guides": [7]}}, "test")
