"""The networks are those of the papers: their parameters are counted, and each learns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import pytest

torch = pytest.importorskip("torch")

import training_cases  # noqa: E402, F401 # one thread
from safron.training.segmentation import networks  # noqa: E402
from safron.training.segmentation.deeplab import DeepLab, ResNet  # noqa: E402
from safron.training.segmentation.networks import SEGMENTERS, FCN8s, SegNet, UNet  # noqa: E402
from safron.training.segmentation.options import Segmenter  # noqa: E402


def count(make: Callable[[], Any]) -> int:
    """Number of parameters; nothing is allocated."""
    with torch.device("meta"):
        network = make()
    return sum(value.numel() for value in network.parameters())


def test_parameters_are_as_many_as_in_the_papers() -> None:
    assert count(lambda: UNet(1, channels=1)) == 31_030_593, "the figure that all reproductions give"
    # VGG-16 has 138,357,544, of which its last layer, of 1000 classes, has 4,097,000.
    classes = 21
    scores = sum(channels * classes + classes for channels in (256, 512, 4096))
    enlarging = classes * classes * (2 * 4 * 4 + 16 * 16)
    assert count(lambda: FCN8s(classes)) == 138_357_544 - 4_097_000 + scores + enlarging
    assert round(count(lambda: SegNet(12)) / 1e6, 1) == 29.4, "29.45 million in the paper, with biases"
    # Without the layer of 1000 classes: 11,689,512 - 513,000 and 25,557,032 - 2,049,000.
    assert count(lambda: ResNet(18)) == 11_176_512
    assert count(lambda: ResNet(50)) == 23_508_032
    assert count(lambda: networks.UNet(1, (16, 32, 64, 128), norm=True)) < 500_000


def test_every_segmenter_can_be_named() -> None:
    assert set(SEGMENTERS) == set(get_args(Segmenter))
    assert all(count(lambda make=make: make(2)) > 100_000 for make in SEGMENTERS.values())


NARROW: dict[str, Callable[[], Any]] = {
    "unet": lambda: UNet(2, (4, 8, 8)),
    "small-unet": lambda: UNet(2, (4, 8, 8), norm=True),
    "fcn8s": lambda: FCN8s(2, width=4, fully=8),
    "segnet": lambda: SegNet(2, width=4),
    "deeplab18": lambda: DeepLab(2, 18, width=4),
    "deeplab50": lambda: DeepLab(2, 50, width=4),
}


@pytest.mark.parametrize("name", NARROW)
def test_logits_have_the_size_of_the_image_and_every_weight_learns(name: str) -> None:
    torch.manual_seed(0)
    network = NARROW[name]()
    images = torch.rand(2, 3, 64, 96)
    assert 64 % network.stride == 0
    logits = network(images)
    assert logits.shape == (2, 2, 64, 96)
    (logits * torch.randn_like(logits)).sum().backward()
    still = [key for key, value in network.named_parameters() if value.grad is None or not value.grad.any()]
    # ReLU leaves single narrow layers of the deep networks without a gradient now and then, not many.
    assert len(still) <= len(list(network.parameters())) // 10, still


@pytest.mark.parametrize("name", ["unet", "segnet", "deeplab18"])
def test_a_segmenter_learns_to_tell_two_colours(name: str) -> None:
    torch.manual_seed(0)
    network = NARROW[name]()
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    masks = (torch.rand(2, 2, 2, generator=torch.Generator().manual_seed(1)) > 0.5).long()
    masks = masks.repeat_interleave(32, 1).repeat_interleave(32, 2)
    images = masks[:, None].float().expand(-1, 3, -1, -1) * 1.2 - 0.6
    first = last = 0.0
    for _ in range(25):
        loss = torch.nn.functional.cross_entropy(network(images), masks)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        last = float(loss.detach())
        first = first or last
    assert last < 0.5 * first
