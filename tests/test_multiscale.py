"""The multi-scale GAN: a coarse image of the whole canvas, refined patch by patch, trained, exported and rendered in two steps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from masks import blobs
from safron.engine import render
from safron.engine.generator.model import load_model
from safron.io.errors import BadInput
from safron.io.whole_image import read_image
from safron.training.config.settings import PRESETS, override, preset
from safron.training.data import draw_batch, open_source
from training_cases import pair

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

from safron.training import discriminators, networks, train  # noqa: E402
from safron.training.export import export_checkpoint, export_fresh  # noqa: E402

TINY = replace(preset("multiscale", "tiny"), steps=3, epochs=0, bfloat16=False, batch=2)


def test_it_is_pix2pix_with_an_image_beside_the_labels() -> None:
    pix2pix, multiscale = PRESETS["pix2pix"], PRESETS["multiscale"]
    model = replace(multiscale.model, name="pix2pix", coarse=0)
    assert replace(multiscale, model=model) == pix2pix
    with torch.device("meta"):
        first = networks.make_generator(multiscale.model).down[0]
        judge = discriminators.make_discriminator(multiscale).layers[0]
    assert (first.in_channels, judge.in_channels) == (6, 9), (
        "labels as colours; labels, coarse and judged image"
    )


def test_a_coarse_image_is_what_the_first_step_makes(tmp_path: Path) -> None:
    """Means of squares, enlarged as the engine enlarges a drawing of coarser pixels."""
    pair(tmp_path, "a", seed=1, size=(64, 64), grain=10)
    source = open_source(tmp_path, TINY)
    sample = source.read(0, (3, 5), 32)
    coarse = sample.coarse(4)
    assert coarse is not None
    means = sample.image.reshape(8, 4, 8, 4, 3).mean(axis=(1, 3))
    # Between the centres of two coarse pixels lie four pixels at 1/8, 3/8, 5/8 and 7/8 of the way.
    row = means[0, 2] + (means[0, 3] - means[0, 2]) * np.arange(1, 8, 2)[:, None] / 8
    np.testing.assert_allclose(coarse[:, 0, 10:14].T, row, atol=1)
    assert sample.coarse(0) is None
    batch = draw_batch(source, TINY, 0)
    assert batch.initial is not None
    assert batch.initial.shape == (2, 3, 16, 16)
    shown = np.rint((batch.images[0] + 1) * 127.5).mean(axis=(1, 2))
    assert np.abs(batch.initial[0].mean(axis=(1, 2)) - shown).max() < 2, "of the same window, turned alike"


def test_trained_exported_and_rendered_in_two_steps(tmp_path: Path) -> None:
    for name in "ab":
        pair(tmp_path, name, seed=ord(name), size=(64, 64), grain=10)
    checkpoint = train.fit(tmp_path, tmp_path / "run", TINY, train.Schedule(3))
    card = export_checkpoint(checkpoint, tmp_path / "fine.onnx")
    assert (card["initial"], card["context"]) == ({}, 0)
    assert (tmp_path / "run" / "sheet-000003.png").exists()
    low = override(preset("pix2pix", "tiny"), {"model": {"mpp": 4.0}}, "test")
    export_fresh(low, tmp_path / "low.onnx")
    mask, common = blobs(70, 90, seed=2), {"mpp": 1.0, "threads": 1, "overlap": 0, "compression": "deflate"}
    render(mask, tmp_path / "low.tiff", model=tmp_path / "low.onnx", **common)
    fine = {"model": tmp_path / "fine.onnx", "image": tmp_path / "low.tiff", **common}
    report = render(mask, tmp_path / "fine.tiff", **fine)
    assert report.digest == render(mask, tmp_path / "again.tiff", **fine, block=1024, workers=1).digest
    drawn, image = read_image(tmp_path / "fine.tiff"), read_image(tmp_path / "low.tiff")
    patch = np.s_[16:32, 32:48]
    model = load_model(tmp_path / "fine.onnx", device="cpu", threads=1)
    alone = model(mask[patch][None], None, initial=np.moveaxis(image[patch], -1, 0)[None])[0]
    np.testing.assert_allclose(drawn[patch], np.clip(np.rint(alone), 0, 255), atol=1)
    other = cv2.GaussianBlur(image, (0, 0), 5)
    cv2.imwrite(str(tmp_path / "other.png"), other[..., ::-1])
    assert (
        render(mask, tmp_path / "o.tiff", **{**fine, "image": tmp_path / "other.png"}).digest != report.digest
    )


def test_a_coarse_image_must_fit() -> None:
    with pytest.raises(BadInput, match=r"model\.coarse is 3; give a divisor of 16 px"):
        override(TINY, {"model": {"coarse": 3}}, "test")
    with pytest.raises(BadInput, match="the seamless network refines no image: give 0"):
        override(preset("safron-seamless", "tiny"), {"model": {"coarse": 2}}, "test")
