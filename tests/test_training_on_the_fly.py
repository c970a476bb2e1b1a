"""Regions of virtual slides as training data."""

from __future__ import annotations

import pickle
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from masks import blobs
from safron.engine import VirtualSlide

torch = pytest.importorskip("torch")
from safron.training.data.on_the_fly import VirtualRegions  # noqa: E402

MASK = blobs(300, 400, seed=1)
OPEN = partial(VirtualSlide, MASK, model="identity", region=(11, 7, 300, 250))


def test_image_and_labels_belong_together_and_come_again() -> None:
    made = [list(VirtualRegions(OPEN, size=60, seed=4, count=5)) for _ in range(2)]
    assert len(made[0]) == 5
    for (image, labels), (again, labels_again) in zip(*made, strict=True):
        assert torch.equal(image, again)
        assert torch.equal(labels, labels_again)
        colors = np.array([[-1, -1, 1], [1, -1, -1], [-1, 1, -1]], np.float32)[labels.numpy()]
        np.testing.assert_array_equal(image.numpy(), np.moveaxis(colors, -1, 0))
    assert not torch.equal(made[0][0][0], made[0][1][0])
    assert not torch.equal(made[0][0][0], next(iter(VirtualRegions(OPEN, size=60, seed=5)))[0])


def test_mostly_background_is_left_out() -> None:
    regions = VirtualRegions(OPEN, size=50, count=8, wanted=0.9)
    assert all((labels != 0).float().mean() >= 0.9 for _, labels in regions)


def test_workers_share_the_regions(monkeypatch: pytest.MonkeyPatch) -> None:
    data, images = VirtualRegions(OPEN, size=50, count=5), []
    for number in (0, 1):  # as in the two processes of a DataLoader
        worker = SimpleNamespace(id=number, num_workers=2)
        monkeypatch.setattr("safron.training.data.on_the_fly.get_worker_info", lambda worker=worker: worker)
        images += [image.numpy().tobytes() for image, _ in pickle.loads(pickle.dumps(data))]
    assert len({*images}) == len(images) == 5
